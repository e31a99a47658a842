"""A development cloud of real parts: Keystone and one Glance per region, on SQLite and files."""

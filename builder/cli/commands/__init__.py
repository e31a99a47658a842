"""The commands, one module per noun; each is imported only when one of its commands is chosen."""

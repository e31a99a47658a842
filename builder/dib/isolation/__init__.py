"""Keep a build apart from its machine: namespaces, limits, the work directory, and the door to root."""

"""One build on a developer's machine, by the daemon's configuration and engine, and a boot of the result."""

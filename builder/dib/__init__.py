"""Making an image on this machine: diskimage-builder in a sandbox, conversion, hashes, files."""

"""Installs the system packages that a project's bindep file names, from the image's cache or the mirrors."""

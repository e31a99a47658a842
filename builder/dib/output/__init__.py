"""Make the files of a build from its raw image, hash them, and look after them once they are published."""

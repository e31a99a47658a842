"""Keeps downloaded files on the building machine, by their checksums, and lays them out for an image."""

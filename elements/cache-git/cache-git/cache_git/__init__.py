"""Keeps bare copies of git repositories on the building machine and lays them out for an image."""

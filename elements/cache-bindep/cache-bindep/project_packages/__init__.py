"""Finds out, on the building machine, which system packages the cached repositories ask for."""

"""The log of a build: written, masked, read for reasons, compressed and pruned."""

"""Whole installations in simulated time: the real workers, on a store, clouds and an engine in memory."""

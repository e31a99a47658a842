"""Metrics for whoever watches a daemon from outside, and the one door to statsd."""

"""Tells those whom the configuration names how builds end, however often they have to be told."""

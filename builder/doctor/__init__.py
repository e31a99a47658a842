"""Looks at all that imagepool depends on, changes nothing, and says what to do about what it finds."""

"""Decisions, pure: from (Config, Snapshot, now) to actions with reasons. No I/O, no clock, no log."""

"""When a schedule ticks: cron expressions, read in UTC, around a given moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from croniter import croniter


def last_tick(cron: str, now: datetime) -> datetime:
    """The newest tick at or before `now`; ValueError when the expression never ticks or is none."""
    # get_prev looks strictly before its start, and a tick that is now has happened.
    return _tick(croniter(cron, now.astimezone(UTC) + timedelta(microseconds=1)).get_prev(datetime))


def next_tick(cron: str, now: datetime) -> datetime:
    """The first tick after `now`; ValueError when the expression never ticks or is none."""
    return _tick(croniter(cron, now.astimezone(UTC)).get_next(datetime))


def _tick(tick: datetime) -> datetime:
    return tick.replace(fold=0)  # croniter marks some UTC times as repeated, which no UTC time is

"""Turn values into short text that is safe to show on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

from builder.model import Failure
from builder.shown import progress, size, visible

__all__ = ["duration", "iso", "moment", "one_line", "progress", "rest", "size", "summary", "visible"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def one_line(text: str, limit: int | None = None) -> str:
    """The text on one line: white space runs become one space, the rest is made `visible`.

    With a `limit`, at most that many characters, the last one being "…" when something was cut.
    """
    line = visible(" ".join(text.split()))
    if limit is not None and len(line) > limit:
        return line[: limit - 1].rstrip() + "…"
    return line


def summary(failure: Failure | None) -> str | None:
    """`Failure.summary`, None without one."""
    return None if failure is None else failure.summary


def duration(seconds: float) -> str:
    """Seconds in the two units that matter: `41s`, `12m 5s`, `3h 12m`, `5d 2h`."""
    sign, whole = ("-", round(-seconds)) if seconds < 0 else ("", round(seconds))
    if whole < _MINUTE:
        return f"{sign}{whole}s"
    if whole < _HOUR:
        return f"{sign}{whole // _MINUTE}m {whole % _MINUTE}s"
    if whole < _DAY:
        return f"{sign}{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"
    return f"{sign}{whole // _DAY}d {whole % _DAY // _HOUR}h"


def rest(left: float, over: float) -> str:
    """How long something still takes: `about 40s left`, `about to end`, `2m 3s longer than ever`."""
    if over > 0:
        return f"{duration(over)} longer than ever"
    if left <= 0:
        return "about to end"
    # Nobody knows it to the second; to the next five is as near as it gets.
    return f"about {duration(max(5.0, 5 * round(left / 5)))} left"


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second: `2026-01-31T14:14:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(when: datetime) -> str:
    """A time for people, in UTC: `2026-01-31 14:14:00 UTC`."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

"""Decides which of the events that wait for a target is sent, and when; pure.

A target that took the last one gets them in order, one by one, without a pause. One that did not is left
alone for a while, and is tried with another then: what it will never take keeps nothing else from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from builder.notify.outbox import Notice, Standing

#: The wait after a first failure, which doubles with each further one, and the longest.
FIRST: Final = timedelta(seconds=10)
LONGEST: Final = timedelta(hours=1)
#: Tries with one event. The waits between them come to half a day.
TRIES: Final = 20
#: No wait is longer, with its jitter: what is to come later than that was written by a broken clock.
_FARTHEST: Final = 2 * LONGEST


def choose(notices: Sequence[Notice], standing: Standing, now: datetime) -> Notice | None:
    """The one to send now, None when none is due: the one with the fewest tries, of these the oldest."""
    due = [each for each in notices if _when(each, standing, now) <= now]
    return min(due, key=lambda each: (each.tries, each.filed, each.event), default=None)


def next_due(notices: Sequence[Notice], standing: Standing, now: datetime) -> datetime | None:
    """When the first of them can be sent, None when there are none."""
    return min((_when(each, standing, now) for each in notices), default=None)


def _when(notice: Notice, standing: Standing, now: datetime) -> datetime:
    times = (notice.due, standing.due or notice.due)
    return max((time for time in times if time - now <= _FARTHEST), default=now)

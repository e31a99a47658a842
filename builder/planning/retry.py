"""How long to wait after failures, and which failures waiting can't cure."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Final

from builder.config.model import RetryPolicy
from builder.model import Build, FailureClass, Upload

#: Jitter added to a wait, as the part of it that it is at most.
JITTER: Final = 0.25

#: So many builds in a row whose daemon went away are no accident any more: something in them kills it.
INTERRUPTIONS: Final = 5

#: The same again would come out the same: only a human or the next tick gets another try.
INCURABLE: Final = frozenset({FailureClass.CONFIG, FailureClass.TOOL, FailureClass.CANCELLED})


def delay(policy: RetryPolicy, failures: int, seed: str) -> timedelta | None:
    """How long to wait after `failures` (1 or more) in a row; None when the limit is reached.

    The jitter comes from `seed`, such as the id of what failed last: different things spread out,
    and one thing has the same answer each time it's asked, on every machine.
    """
    if failures >= policy.limit:
        return None
    # A float has room for any power of two that is asked here; a timedelta has not.
    growing = policy.first.total_seconds() * 2.0 ** min(failures - 1, 500)
    seconds = min(growing, policy.longest.total_seconds())
    return timedelta(seconds=seconds * (1 + JITTER * _fraction(f"{seed} {failures}")))


def counts(record: Build | Upload) -> bool:
    """Whether a failed record counts as a failure: a daemon that died says nothing of the work."""
    return _class(record) is not FailureClass.INTERRUPTED


def curable(record: Build | Upload) -> bool:
    """Whether doing the same again may come out better."""
    return _class(record) not in INCURABLE


def _class(record: Build | Upload) -> FailureClass:
    return record.reason.failure_class if record.reason else FailureClass.UNKNOWN


def _fraction(seed: str) -> float:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6]) / 2**48

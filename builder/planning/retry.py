"""How long to wait after failures, and which failures waiting can't cure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from builder.config.model import RetryPolicy
from builder.model import Build, FailureClass, Upload

#: Jitter added to a wait, as the part of it that it is at most.
JITTER: Final = 0.25

#: So many builds in a row whose daemon went away are no accident any more: something in them kills it.
INTERRUPTIONS: Final = 5

#: The same again would come out the same: only a human, the next tick or the next build gets another try.
INCURABLE: Final = frozenset({FailureClass.CONFIG, FailureClass.TOOL, FailureClass.CANCELLED})


def delay(policy: RetryPolicy, failures: int, seed: str) -> timedelta | None:
    """How long to wait after `failures` (1 or more) in a row; None when the limit is reached.

    The jitter comes from `seed`, such as the id of what failed last: different things spread out,
    and one thing has the same answer each time it's asked, on every machine.
    """
    if failures >= policy.limit:
        return None
    return backoff(policy.first, policy.longest, failures, seed)


def delay_after(policy: RetryPolicy, streak: Sequence[Build]) -> timedelta | None:
    """How long to wait after these failures in a row, newest first; None when no other try is due by itself.

    An image that does not do what it must is built once more, after the longest wait: what is wrong came
    from outside, such as a package, and goes from there, or it stays until somebody mends it.
    """
    last = streak[0]
    if failure_class(last) is not FailureClass.TEST:
        return delay(policy, len(streak), last.id) if curable(last) else None
    again = len(streak) > 1 and failure_class(streak[1]) is FailureClass.TEST
    if again or len(streak) >= policy.limit:
        return None
    return backoff(policy.longest, policy.longest, 1, last.id)


def backoff(first: timedelta, longest: timedelta, nth: int, seed: str) -> timedelta:
    """The n-th wait (1 or more): `first`, doubled each time, at most `longest`, and the jitter on top."""
    # A float has room for any power of two that is asked here; a timedelta has not.
    growing = first.total_seconds() * 2.0 ** min(nth - 1, 500)
    seconds = min(growing, longest.total_seconds())
    return timedelta(seconds=seconds * (1 + JITTER * _fraction(f"{seed} {nth}")))


def counts(record: Build | Upload) -> bool:
    """Whether a failed record counts as a failure: a daemon that died says nothing of the work."""
    return failure_class(record) is not FailureClass.INTERRUPTED


def curable(record: Build | Upload) -> bool:
    """Whether doing the same again may come out better.

    Of uploads only what is no trouble of the provider (`breakers.trips`) is judged by this.
    """
    return failure_class(record) not in INCURABLE


def failure_class(record: Build | Upload) -> FailureClass:
    """Whose trouble a failed record was; UNKNOWN when it does not say, as nodepool's don't."""
    return record.reason.failure_class if record.reason else FailureClass.UNKNOWN


def _fraction(seed: str) -> float:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6]) / 2**48

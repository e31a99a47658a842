"""Holds uploads to so many bytes per second, to one provider and to all of them together.

Each limit is a queue without an end: whoever wants to send books the time that its bytes take,
behind all that others have booked, and waits for its turn. So threads that send blocks of one
size get equal shares, nobody looks at a clock in between, and a limit that nobody uses is free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from builder.config.model import Provider

#: Seconds of bandwidth that may be caught up after a pause: a thread that comes a little late, since
#: the system let it wait, must not make the whole slower than its limit.
BURST: Final = 0.25
#: Seconds of bandwidth that a block is at most, so that bytes go on moving however low the limit is.
BLOCK_SECONDS: Final = 0.5
BLOCK_LEAST: Final = 4096


class Throttle(Protocol):
    """Who may send how fast, as a body asks before every block."""

    def block(self, wanted: int, /) -> int:
        """Bytes that should be asked for at a time, at most `wanted`."""

    def wait(self, count: int, stop: threading.Event, /) -> None:
        """Return once so many bytes may leave, or at once when `stop` is set."""


class Limiter:
    """The limits of one process, shared by all its threads; safe to use from any of them."""

    def __init__(self, total: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`total`: bytes per second for all providers together, None for no limit."""
        self._clock = clock
        self._lock = threading.Lock()
        self._total = _Bucket(total, clock)
        self._buckets: dict[str, _Bucket] = {}

    def set_total(self, total: int | None) -> None:
        """Another limit for all together; those who wait now still wait by the old one."""
        self._total.set_rate(total)

    def of(self, provider: Provider) -> Throttle:
        """What uploads to a provider wait by; its `bandwidth` holds for all of them from now on."""
        with self._lock:
            bucket = self._buckets.setdefault(provider.name, _Bucket(None, self._clock))
        bucket.set_rate(provider.bandwidth)
        return _Both(bucket, self._total)


class _Bucket:
    """One limit: until when its time is booked."""

    def __init__(self, rate: int | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.rate = rate
        self._booked = clock() - BURST

    def set_rate(self, rate: int | None) -> None:
        with self._lock:
            if rate != self.rate:
                self.rate = rate
                self._booked = min(self._booked, self._clock())

    def wait(self, count: int, stop: threading.Event) -> None:
        """Return when it is the turn of these bytes."""
        with self._lock:
            if not self.rate:
                return
            now = self._clock()
            seconds = count / self.rate
            turn = max(self._booked, now - BURST)
            self._booked = turn + seconds
        if turn > now and stop.wait(turn - now):
            with self._lock:
                # They never leave: what was booked for them is free again.
                self._booked -= seconds


class _Both:
    """The limits of one provider and of all. The provider's comes first: whoever waits for a slow
    region must not have booked what others could use meanwhile."""

    def __init__(self, own: _Bucket, total: _Bucket) -> None:
        self._limits = (own, total)

    def block(self, wanted: int, /) -> int:
        rates = [limit.rate for limit in self._limits if limit.rate]
        if not rates:
            return wanted
        return min(wanted, max(BLOCK_LEAST, int(min(rates) * BLOCK_SECONDS)))

    def wait(self, count: int, stop: threading.Event, /) -> None:
        for limit in self._limits:
            limit.wait(count, stop)

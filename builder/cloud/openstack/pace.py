"""Keeps requests a time apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Lets requests begin at least `interval` seconds after one another; 0 is no limit.

    `clock` (seconds) and `sleep` are there for tests.
    """

    def __init__(
        self,
        interval: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free = 0.0

    def wait(self) -> None:
        """Return when the next request may begin."""
        if self._interval <= 0:
            return
        with self._lock:
            now = self._clock()
            mine = max(now, self._free)
            self._free = mine + self._interval
        # Not under the lock: each has a place of its own by now.
        if mine > now:
            self._sleep(mine - now)

"""Keeps requests a time apart."""

from __future__ import annotations

import threading
import time


class Pace:
    """Lets requests begin at least `interval` seconds after one another; 0 is no limit."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._free = 0.0

    def wait(self) -> None:
        """Return when the next request may begin."""
        if self._interval <= 0:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._free)
            self._free = mine + self._interval
        # Not under the lock: each has a place of its own by now.
        if mine > now:
            time.sleep(mine - now)

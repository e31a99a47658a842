"""Waits before a server is asked again."""

from __future__ import annotations

import random
import time


def wait(attempt: int, backoff: float) -> None:
    """Wait before a try, which is the first, 0, or a later one.

    The second comes after `backoff` seconds, give or take a half, for others failed at the same moment; the
    third after twice that, and so on.
    """
    if attempt:
        time.sleep(backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))

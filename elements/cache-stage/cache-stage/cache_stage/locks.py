"""Lets one build at a time work on an entry of a cache."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(lock: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock file; yields its descriptor, or -1 when it must not wait and another has it.

    A program that gets the descriptor holds it too, as long as it lives.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield -1
        else:
            yield descriptor
    finally:
        os.close(descriptor)

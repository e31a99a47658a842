"""Counts the uploads of one daemon, and says who may start another one.

`upload-workers` bounds the uploads whose bytes move. One that has moved none for a while (its region
hangs, Glance works on it, its build is not ready yet) keeps its thread and its share of its provider,
but gives its place to another: so regions that hang delay nobody else, however many they are. Threads
are bounded all the same, by the sum of all providers' `max-uploads`.

A region that is slow but moves keeps its place. So that one alone can't take all of them, the last free
place is only for providers that have none.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

#: Without a byte for so long, an upload has no place.
QUIET: Final = timedelta(seconds=5)


@dataclass(kw_only=True)
class _Upload:
    provider: str
    moved: datetime  #: when it last moved a byte, or began


class Places:
    """The uploads that are under way here. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploads: dict[str, _Upload] = {}

    def enter(self, name: str, provider: str, now: datetime) -> None:
        """An upload begins."""
        with self._lock:
            self._uploads[name] = _Upload(provider=provider, moved=now)

    def moved(self, name: str, now: datetime) -> None:
        """It has moved bytes."""
        with self._lock:
            if upload := self._uploads.get(name):
                upload.moved = now

    def leave(self, name: str) -> None:
        """It has ended."""
        with self._lock:
            self._uploads.pop(name, None)

    def sharing(self, provider: str) -> int:
        """How many uploads to a provider are under way, moving or not."""
        with self._lock:
            return sum(1 for upload in self._uploads.values() if upload.provider == provider)

    def is_free(self, provider: str, places: int, now: datetime) -> bool:
        """Whether an upload to a provider may begin, of `places` in all."""
        moving = self._moving(now)
        if len(moving) >= places:
            return False
        return provider not in {upload.provider for upload in moving} or len(moving) < places - 1

    def full(self, places: int, now: datetime) -> bool:
        """Whether no upload at all may begin, of `places` in all."""
        return len(self._moving(now)) >= places

    def next_look(self, now: datetime) -> datetime | None:
        """When the next upload gives its place up unless it moves; None when none has one."""
        return min((upload.moved + QUIET for upload in self._moving(now)), default=None)

    def _moving(self, now: datetime) -> list[_Upload]:
        with self._lock:
            return [upload for upload in self._uploads.values() if now < upload.moved + QUIET]

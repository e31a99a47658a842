"""Keeps the builds of this machine that are done but for the last word on their records.

Two ways lead here: a session was lost and somebody else holds the image by now, so that the last word has
to wait; or the daemon died between publishing the files and that word. Neither is a reason to throw hours
of work away.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType

from builder.model import Build


@dataclass(frozen=True, kw_only=True)
class Open:
    """A build without a last word.

    `hold` keeps the janitor of this process away from it, until it is closed.
    """

    record: Build  #: the last word, when it is `known`; else what is on record
    known: bool  #: otherwise its files have to be looked at first
    hold: ExitStack


class Unsettled:
    """All of them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Open] = {}

    def add(self, open_build: Open) -> None:
        """One more."""
        with self._lock:
            self._open[open_build.record.id] = open_build

    def discard(self, build_id: str) -> None:
        """It is settled: whoever wants may clean up after it."""
        with self._lock:
            settled = self._open.pop(build_id, None)
        if settled is not None:
            settled.hold.close()

    def all(self) -> Mapping[str, Open]:
        """By build id."""
        with self._lock:
            return MappingProxyType(dict(self._open))

    def images(self) -> frozenset[str]:
        """Whose images they are: this machine begins no build of these, which would be a second one."""
        return frozenset(each.record.image for each in self.all().values())

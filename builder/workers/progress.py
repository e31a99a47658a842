"""The record of work in progress: phases, their seconds and bytes, written as they happen.

A write of progress that fails is let go: the next one, or the last word, carries the same facts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Generic, TypeVar

from builder.cloud.base import CloudImage
from builder.errors import ConflictError, StoreUnavailableError
from builder.model import Build, BuildPhase, Upload, UploadPhase

LOG = logging.getLogger(__name__)
Record = TypeVar("Record", Build, Upload)

#: Seconds between two writes of the bytes sent; phases are written at once.
PAUSE = 2.0


class Progress(Generic[Record]):
    """Keeps `record` current, here and in the store."""

    def __init__(
        self, record: Record, write: Callable[[Record], Record], clock: Callable[[], datetime]
    ) -> None:
        """`write` is the store's update of such a record; it returns the record with its new version."""
        self.record: Record = record
        self._write: Callable[[Record], Record] = write
        self._clock = clock
        self._since = record.started or record.state_time
        self._written = time.monotonic()

    def phase(self, phase: BuildPhase | UploadPhase) -> None:
        """The next phase begins, and the one before it is timed."""
        if phase == self.record.phase:
            return
        self.record = replace(self.timed(), phase=phase)
        self._since = self._clock()
        LOG.info("%s of %s: %s", self.record.id, self.record.image, phase)
        self.try_write()

    def timed(self) -> Record:
        """The record with the time of the phase that ends now."""
        record: Record = self.record
        if record.phase is None:
            return record
        seconds: float = record.timings.get(record.phase, 0.0) + (self._clock() - self._since).total_seconds()
        return replace(record, timings={**record.timings, record.phase: round(seconds, 3)})

    def try_write(self) -> None:
        """Write the record as it is now, if the store takes it."""
        self._written = time.monotonic()
        try:
            self.record = self._write(self.record)
        except (StoreUnavailableError, ConflictError) as error:
            LOG.info("progress of %s is not on record: %s", self.record.id, error.message)


class BuildProgress(Progress[Build]):
    """What a build has to tell besides: bytes of the phase that runs."""

    def phase(self, phase: BuildPhase | UploadPhase) -> None:
        """The next phase begins; its bytes are not known yet."""
        if phase != self.record.phase:
            self.record = replace(self.record, bytes_done=0, bytes_total=0)
        super().phase(phase)

    def bytes(self, done: int, total: int) -> None:
        """So much of the phase is done; written at most every PAUSE seconds."""
        self.record = replace(self.record, bytes_done=done, bytes_total=total)
        if time.monotonic() - self._written >= PAUSE:
            self.try_write()


class UploadProgress(Progress[Upload]):
    """What an upload has to tell besides: the cloud's id, and bytes."""

    def named(self, name: str) -> None:
        """What the cloud's image will be called: from now on there may be one of that name."""
        self.record = self._write(replace(self.record, external_name=name))

    def created(self, image: CloudImage) -> None:
        """The cloud has an image. This write must succeed, or it could be lost from sight."""
        self.record = replace(self.record, external_id=image.id)
        self.record = self._write(self.record)

    def sent(self, count: int) -> None:
        """So many bytes left in all; written at most every PAUSE seconds."""
        self.record = replace(self.record, sent=count)
        if time.monotonic() - self._written >= PAUSE:
            self.try_write()

"""The record of work in progress: phases, their seconds and bytes, written as they happen.

A write of progress that fails is let go: the next one, or the last word, carries the same facts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Generic, TypeVar

from builder.cloudimage import CloudImage
from builder.dib.output.hashing import Disk
from builder.errors import ConflictError, StoreUnavailableError
from builder.model import (
    Artifact,
    BootResult,
    BudgetCheck,
    Build,
    BuildPhase,
    ImageFormat,
    Upload,
    UploadPhase,
    UploadState,
    Withholding,
)
from builder.store.base import Store
from builder.ways import Way

LOG = logging.getLogger(__name__)
Record = TypeVar("Record", Build, Upload)

#: Seconds between two writes of the bytes sent.
PAUSE = 2.0
#: Seconds after a write in which an upload's next phase is no reason for another: a small image goes
#: through all of them in a second, and each write costs ZooKeeper and all who watch it more than the phase.
QUICK = 0.5
#: Seconds for which a write that must succeed is tried while the store is away.
PATIENCE = 15.0


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

    @property
    def name(self) -> str:
        """What a log calls it."""
        return self.record.id

    def phase(self, phase: BuildPhase | UploadPhase) -> None:
        """The next phase begins, and the one before it is timed."""
        if phase == self.record.phase:
            return
        self.record = replace(self.timed(), phase=phase)
        self._since = self._clock()
        LOG.info("%s of %s: %s", self.name, self.record.image, phase)
        self._tell()

    def _tell(self) -> None:
        """The phase is another."""
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
            LOG.info("progress of %s is not on record: %s", self.name, error.message)


class BuildProgress(Progress[Build]):
    """What a build has to tell besides: bytes of the phase that runs, and what is made by now."""

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

    def disk(self, disk: Disk) -> None:
        """What is in all files of the build; the first of them takes it onto the record."""
        self.record = replace(self.record, raw_sha256=disk.sha256, raw_size=disk.size)

    def tested(self, result: BootResult) -> None:
        """What came of booting the image; the next write takes it onto the record."""
        self.record = replace(self.record, test=result)

    def judged(
        self, measures: Mapping[str, float], checks: tuple[BudgetCheck, ...], hold: Withholding | None
    ) -> None:
        """What was measured, what came of its budgets, and the word that holds it, if one does; the next
        write takes it onto the record."""
        held = hold is not None and self.record.quarantine is None
        words = (*self.record.withheld, hold) if hold is not None and held else self.record.withheld
        self.record = replace(self.record, measures=measures, budgets=checks, withheld=words)

    def artifact(self, artifact: Artifact) -> None:
        """A file is there to be uploaded, while others may still be made."""
        self.record = replace(self.record, artifacts=(*self.record.artifacts, artifact))
        self.try_write()


class UploadProgress(Progress[Upload]):
    """What an upload has to tell besides: the cloud's ids, the way the bytes take, and how many went.

    It is a `transfer.Listener`.
    """

    def __init__(
        self,
        record: Upload,
        store: Store,
        clock: Callable[[], datetime],
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_moved` is called whenever bytes have moved."""
        super().__init__(record, self._update, clock)
        self._store = store
        self._on_moved = on_moved
        self._told = True  #: the phase is on record

    @property
    def name(self) -> str:
        """Unique among all uploads, as the id alone is not."""
        return self.record.name

    def try_write(self) -> None:
        # A request would wait for as long as the session lives, and the bytes with it.
        if self._store.connected:
            super().try_write()

    def look(self) -> None:
        """Write a phase that has lasted and is not on record; called several times a second."""
        if not self._told:
            self._tell()

    def named(self, name: str) -> None:
        """What the cloud's image will be called; on record with the way, before there is an image."""
        self.record = replace(self.record, external_name=name)

    def created(self, image: CloudImage) -> None:
        """The cloud has an image. This write must succeed, or it could be lost from sight."""
        self._insist(replace(self.record, external_id=image.id))

    def part(self, image_format: ImageFormat, image: CloudImage) -> None:
        """The cloud has an image of a part; on record as `created` is."""
        self._insist(replace(self.record, parts={**self.record.parts, str(image_format): image.id}))

    def task(self, task_id: str) -> None:
        """The cloud makes an image that has no properties yet, so this write must succeed as well."""
        self._insist(replace(self.record, task=task_id))

    def way(self, way: Way, fallbacks: tuple[str, ...]) -> None:
        """The way that is tried now, and why those before it came to nothing. With this on record, whoever
        cleans up knows that there may be several images."""
        self._insist(replace(self.record, way=way, fallbacks=fallbacks, sent=0))

    def sent(self, count: int) -> None:
        """So many bytes left in all; written at most every PAUSE seconds."""
        self._on_moved()
        self.record = replace(self.record, sent=count)
        if time.monotonic() - self._written >= PAUSE:
            self.try_write()

    def _tell(self) -> None:
        self._told = time.monotonic() - self._written >= QUICK
        if self._told:
            self.try_write()

    def _insist(self, record: Upload) -> None:
        """Write what must be on record, with patience for a store that is away for a moment.

        The record is kept here even if that fails: whoever finishes it then knows what there may be.
        """
        self.record = record
        give_up, seen = time.monotonic() + PATIENCE, -1
        while True:
            try:
                self.record = self._write(record)
            except StoreUnavailableError:
                if time.monotonic() >= give_up:
                    raise
                seen = self._store.wait(seen, 1.0)
            else:
                self._written, self._told = time.monotonic(), True
                return

    def _update(self, record: Upload) -> Upload:
        """Write the record, also over a write of our own whose answer was lost."""
        try:
            return self._store.update_upload(record)
        except ConflictError:
            current = self._store.get_upload(record.image, record.build_id, record.provider, record.id)
            if current.state is not UploadState.UPLOADING:
                raise  # somebody found us dead and took over
            return self._store.update_upload(replace(record, extra=current.extra, version=current.version))

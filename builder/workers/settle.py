"""Write how a piece of work ended, however long ZooKeeper is away and whatever happened to the claim.

Hours of work hang on the last write of a build or an upload, so it is not given up because a
session was lost. The rule: the record is ours to finish as long as it says `building` or `uploading`;
whoever found us dead and took over has changed that under the claim. So: hold the claim (take it again
when it was lost), read, compare, write naming the version just read.

A build has one more chance: when all that was done about it meanwhile is a note that it was interrupted,
its files are here and nobody has made a newer one, that note is wrong, and the build is taken back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Generic, TypeVar

from builder.errors import ConflictError, ImagepoolError, NotFoundError, StoreUnavailableError
from builder.model import Build, BuildState, Snapshot, Upload, UploadState
from builder.planning.promotion import behind
from builder.store.base import Claim, Store

LOG = logging.getLogger(__name__)
Record = TypeVar("Record", Build, Upload)

#: Seconds to wait for the store between two tries; a change of the store ends the wait at once.
PAUSE = 5.0
#: Seconds for which who holds an image may be ourselves: a session that came back brings its old lock along,
#: which is on its way out.
DOUBT = 1.0
#: Seconds by which a time may change on its way through a record.
CLOCK_GRAIN = 0.001


class Ending(Enum):
    """What became of the last word on a record."""

    WRITTEN = "written"  #: it is on record
    OVERRULED = "overruled"  #: somebody else took the work over, or removed its record
    TAKEN = "taken"  #: of a build: another holds the image; it is decided when they let it go
    UNKNOWN = "unknown"  #: the daemon had to stop first; it may or may not have arrived


@dataclass(frozen=True, kw_only=True)
class _Work(Generic[Record]):
    """What is to be finished, and how its store is asked about it."""

    final: Record
    claim_again: Callable[[], Claim | None]
    read: Callable[[], Record]
    ours: Callable[[Record], bool]  #: whether what is on record is still ours to finish
    placed: Callable[[Record], Record]  #: the final one as it is to stand among others
    write: Callable[[Record, Record], Ending]  #: the final one over the record just read
    #: The final one as it is now that the claim was lost for a while; None when there is no telling.
    recheck: Callable[[], Record | None]
    taken: Ending | None  #: what it comes to while another holds the claim; None: it is waited for


def anybodys(snapshot: Snapshot) -> bool:
    """A tree that is not looked at any closer."""
    return True


class Settler:
    """Finishes records in one store, until the daemon has to stop."""

    def __init__(
        self,
        store: Store,
        stopping: threading.Event,
        patience: float = 10.0,
        at_home: Callable[[Snapshot], bool] = anybodys,
    ) -> None:
        """`patience`: seconds to go on trying once the daemon stops. `at_home`: whether a tree is ours; that
        one of others has no such record tells nothing."""
        self._store = store
        self._stopping = stopping
        self._patience = patience
        self._at_home = at_home

    def finish_build(self, final: Build, claim: Claim) -> Ending:
        """Write the last word on a build; TAKEN when somebody else holds the image meanwhile."""
        record = _Work(
            final=final,
            claim_again=lambda: self._store.claim_image(final.image),
            read=lambda: self._store.get_build(final.image, final.id),
            ours=lambda known: _is_open(known, final),
            placed=lambda final: final,
            write=self._write_build,
            recheck=lambda: final,
            taken=Ending.TAKEN,
        )
        return self._finish(record, claim)

    def finish_upload(
        self, final: Upload, claim: Claim, recheck: Callable[[], Upload | None] | None = None
    ) -> Ending:
        """Write the last word on an upload.

        `recheck` is asked under a claim that had to be taken again, for somebody may have deleted the image
        meanwhile and died before they could note it: the last word now, None when it can't be told yet.
        """
        record = _Work(
            final=final,
            claim_again=lambda: self._store.claim_uploads(final.image, final.build_id, final.provider),
            read=lambda: self._store.get_upload(final.image, final.build_id, final.provider, final.id),
            ours=lambda known: known.state is UploadState.UPLOADING,
            placed=self._placed_upload,
            write=self._write_upload,
            recheck=recheck or (lambda: final),
            taken=None,
        )
        return self._finish(record, claim)

    def _finish(self, record: _Work[Record], claim: Claim) -> Ending:
        seen, give_up, taken = -1, None, None
        while True:
            ending = self._guarded_try(record, claim)
            if ending is Ending.TAKEN:
                taken = taken or time.monotonic() + DOUBT
                if time.monotonic() >= taken:
                    return ending
            elif ending is not None:
                return ending
            if self._stopping.is_set():
                give_up = give_up or time.monotonic() + self._patience
                if time.monotonic() >= give_up:
                    LOG.warning("stopping without a word on %s; the next start finds it", record.final.id)
                    return Ending.UNKNOWN
            pause = DOUBT if taken or self._stopping.is_set() else PAUSE
            seen = self._store.wait(seen, pause)

    def _guarded_try(self, record: _Work[Record], claim: Claim) -> Ending | None:
        """What one try came to; None when there has to be another."""
        try:
            return self._try(record, claim)
        except NotFoundError:
            if not (self._store.connected and self._at_home(self._store.snapshot())):
                LOG.warning("the result of %s waits for the tree it belongs to", record.final.id)
                return None
            LOG.warning("the record of %s is gone; our result comes too late", record.final.id)
            return Ending.OVERRULED
        except (ConflictError, StoreUnavailableError) as error:
            LOG.info("the result of %s can't be written yet: %s", record.final.id, error.message)
            return None

    def _try(self, record: _Work[Record], claim: Claim) -> Ending | None:
        """One try under the claim, or under a new one when that is lost."""
        if claim.valid:
            return self._write(record, claim, record.final)
        # After a long silence the session may live on, and its old lock would keep us out for ever.
        claim.release()
        again = record.claim_again()
        if again is None:
            known = self._look(record)
            return known if isinstance(known, Ending) else record.taken
        with again:
            final = self._recheck(record)
            return None if final is None else self._write(record, again, final)

    def _recheck(self, record: _Work[Record]) -> Record | None:
        try:
            return record.recheck()
        except StoreUnavailableError:
            raise
        except ImagepoolError as error:
            LOG.info("the result of %s can't be checked again yet: %s", record.final.id, error.message)
            return None

    def _write(self, record: _Work[Record], held: Claim, final: Record) -> Ending | None:
        """Under a claim: what is on record decides, and if it is ours to finish, finish it."""
        final = record.placed(final)
        known = self._look(record)
        if isinstance(known, Ending):
            return known
        if not held.valid:
            return None  # the session ended while we read: by now the work may be somebody else's
        return record.write(known, final)

    def _look(self, record: _Work[Record]) -> Ending | Record:
        """The ending that is on record already, or the record while it is still ours to finish."""
        final = record.final
        current = record.read()
        moment = abs((_end(current) - _end(final)).total_seconds())
        if current.state is final.state and moment < CLOCK_GRAIN:
            return Ending.WRITTEN  # by the try before, whose answer was lost
        if not record.ours(current):
            LOG.warning("%s is %s already; our result comes too late", final.id, current.state)
            return Ending.OVERRULED
        return current

    # -- what is written --------------------------------------------------------------------------

    def _write_build(self, known: Build, final: Build) -> Ending:
        if known.state is BuildState.BUILDING:
            self._store.update_build(final.over(known))
            return Ending.WRITTEN
        if any(_came_after(other, final) for other in self._store.list_builds(final.image)):
            LOG.warning("build %s was taken for lost, and a newer one is ready: it goes", final.id)
            return Ending.OVERRULED
        self._store.update_build(known.adopted(final))
        LOG.info("build %s of %s was taken for lost, but is whole: it is ready", final.id, final.image)
        return Ending.WRITTEN

    def _placed_upload(self, final: Upload) -> Upload:
        """A ready one stands behind all that may serve there: there is no moment at which nodepool's launcher
        takes it before the promoter lets it serve."""
        if final.state is not UploadState.READY:
            return final
        records = self._store.snapshot().image(final.image)
        return replace(final, state_time=behind(records, final, final.state_time))

    def _write_upload(self, known: Upload, final: Upload) -> Ending:
        self._store.update_upload(replace(final, version=known.version, extra=known.extra))
        return Ending.WRITTEN


def _end(record: Build | Upload) -> datetime:
    """When it ended. The time of its state is no sign: that of a ready upload is moved when it takes over."""
    return record.ended or record.state_time


def _is_open(known: Build, final: Build) -> bool:
    lost = known.interrupted and final.state is BuildState.READY
    return known.state is BuildState.BUILDING or lost


def _came_after(other: Build, final: Build) -> bool:
    """Whether another build became ready since this one began. Until its claim was lost nobody else could
    build the image, so that one is of after that, whatever the clocks of two machines say of beginnings."""
    ready = other.state is BuildState.READY and other.id != final.id
    return ready and max(other.began, other.state_time) > final.began

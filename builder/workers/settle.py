"""Write how a piece of work ended, however long ZooKeeper is away and whatever happened to the claim.

Hours of work hang on the last write of a build or an upload, so it is not given up because a
session was lost. The rule: the record is still ours to finish as long as it says `building` or
`uploading`; whoever found us dead and took over has changed that under the claim. So: hold the
claim (take it again when it was lost), read, compare, write naming the version just read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

from builder.errors import ConflictError, NotFoundError, StoreUnavailableError
from builder.model import Build, BuildState, Upload, UploadState
from builder.store.base import Claim, Store

LOG = logging.getLogger(__name__)
Record = TypeVar("Record", Build, Upload)

#: Seconds to wait for the store between two tries; a change of the store ends the wait at once.
PAUSE = 5.0
#: Seconds by which a time may change on its way through a record.
CLOCK_GRAIN = 0.001


class Ending(Enum):
    """What became of the last word on a record."""

    WRITTEN = "written"  #: it is on record
    OVERRULED = "overruled"  #: somebody else took the work over, or removed its record
    UNKNOWN = "unknown"  #: the daemon had to stop first; it may or may not have arrived


@dataclass(frozen=True, kw_only=True)
class _Work(Generic[Record]):
    """What is to be finished, and how its store is asked about it."""

    final: Record
    open_state: BuildState | UploadState
    claim_again: Callable[[], Claim | None]
    read: Callable[[], Record]
    write: Callable[[Record], Record]  #: over the record just read, which it gets


class Settler:
    """Finishes records in one store, until the daemon has to stop."""

    def __init__(self, store: Store, stopping: threading.Event, patience: float = 10.0) -> None:
        """`patience`: seconds to go on trying once the daemon stops."""
        self._store = store
        self._stopping = stopping
        self._patience = patience

    def finish_build(self, final: Build, claim: Claim) -> Ending:
        """Write the last word on a build."""
        record = _Work(
            final=final,
            open_state=BuildState.BUILDING,
            claim_again=lambda: self._store.claim_image(final.image),
            read=lambda: self._store.get_build(final.image, final.id),
            # Wishes for its uploads may have come while it was built.
            write=lambda known: self._store.update_build(
                replace(final, version=known.version, wishes=known.wishes)
            ),
        )
        return self._finish(record, claim)

    def finish_upload(self, final: Upload, claim: Claim) -> Ending:
        """Write the last word on an upload."""
        record = _Work(
            final=final,
            open_state=UploadState.UPLOADING,
            claim_again=lambda: self._store.claim_uploads(final.image, final.build_id, final.provider),
            read=lambda: self._store.get_upload(final.image, final.build_id, final.provider, final.id),
            write=lambda known: self._store.update_upload(replace(final, version=known.version)),
        )
        return self._finish(record, claim)

    def _finish(self, record: _Work[Record], claim: Claim) -> Ending:
        seen, give_up = -1, None
        while True:
            try:
                ending = self._try(record, claim)
            except NotFoundError:
                LOG.warning("the record of %s is gone; our result comes too late", record.final.id)
                return Ending.OVERRULED
            except (ConflictError, StoreUnavailableError) as error:
                LOG.info("the result of %s can't be written yet: %s", record.final.id, error.message)
                ending = None
            if ending is not None:
                return ending
            if self._stopping.is_set():
                give_up = give_up or time.monotonic() + self._patience
                if time.monotonic() >= give_up:
                    LOG.warning("stopping without a word on %s; the next start finds it", record.final.id)
                    return Ending.UNKNOWN
            seen = self._store.wait(seen, 1.0 if self._stopping.is_set() else PAUSE)

    def _try(self, record: _Work[Record], claim: Claim) -> Ending | None:
        """One try under the claim, or under a new one when that is lost; None while another has it."""
        if claim.valid:
            return self._write(record, claim)
        # After a long silence the session may live on, and its old lock would keep us out for ever.
        claim.release()
        again = record.claim_again()
        if again is None:
            known = self._look(record)
            return known if isinstance(known, Ending) else None
        with again:
            return self._write(record, again)

    def _write(self, record: _Work[Record], held: Claim) -> Ending | None:
        """Under a claim: what is on record decides, and if it is ours to finish, finish it."""
        known = self._look(record)
        if isinstance(known, Ending):
            return known
        if not held.valid:
            return None  # the session ended while we read: by now the work may be somebody else's
        record.write(known)
        return Ending.WRITTEN

    def _look(self, record: _Work[Record]) -> Ending | Record:
        """The ending that is on record already, or the record while it still says work goes on."""
        final = record.final
        current = record.read()
        moment = abs((current.state_time - final.state_time).total_seconds())
        if current.state is final.state and moment < CLOCK_GRAIN:
            return Ending.WRITTEN  # by the try before, whose answer was lost
        if current.state is not record.open_state:
            LOG.warning("%s is %s already; our result comes too late", final.id, current.state)
            return Ending.OVERRULED
        return current

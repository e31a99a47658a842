"""Write how a piece of work ended, however long ZooKeeper is away and whatever happened to the claim.

Hours of work hang on the last write of a build or an upload, so it is not given up because a
session was lost. The rule: the record is still ours to finish as long as it says `building` or
`uploading`; whoever found us dead and took over has changed that under the claim. So: hold the
claim (take it again when it was lost), read, compare, write naming the version just read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from builder.errors import ConflictError, NotFoundError, StoreUnavailableError
from builder.model import Build, BuildState, Upload, UploadState
from builder.store.base import Claim, Store

LOG = logging.getLogger(__name__)
Record = TypeVar("Record", Build, Upload)

#: Seconds to wait for the store between two tries; a change of the store ends the wait at once.
PAUSE = 5.0


class Settler:
    """Finishes records in one store, until the daemon has to stop."""

    def __init__(self, store: Store, stopping: threading.Event, patience: float = 10.0) -> None:
        """`patience`: seconds to go on trying once the daemon stops."""
        self._store = store
        self._stopping = stopping
        self._patience = patience

    def finish_build(self, final: Build, claim: Claim) -> Build | None:
        """Write the last word on a build; None when somebody else had it meanwhile."""
        return self._finish(
            final,
            claim,
            claim_again=lambda: self._store.claim_image(final.image),
            read=lambda: self._store.get_build(final.image, final.id),
            write=self._store.update_build,
            open_state=BuildState.BUILDING,
        )

    def finish_upload(self, final: Upload, claim: Claim) -> Upload | None:
        """Write the last word on an upload; None when somebody else had it meanwhile."""
        return self._finish(
            final,
            claim,
            claim_again=lambda: self._store.claim_uploads(final.image, final.build_id, final.provider),
            read=lambda: self._store.get_upload(final.image, final.build_id, final.provider, final.id),
            write=self._store.update_upload,
            open_state=UploadState.UPLOADING,
        )

    def _finish(
        self,
        final: Record,
        claim: Claim,
        *,
        claim_again: Callable[[], Claim | None],
        read: Callable[[], Record],
        write: Callable[[Record], Record],
        open_state: BuildState | UploadState,
    ) -> Record | None:
        held: Claim | None = claim
        waited = 0.0
        seen = -1
        while True:
            try:
                if held is None or not held.valid:
                    held = claim_again()
                current = read()
                if current.state is not open_state:
                    LOG.warning("%s is %s already; our result comes too late", final.id, current.state)
                    return None
                if held is not None:
                    return write(replace(final, version=current.version))
            except NotFoundError:
                LOG.warning("the record of %s is gone; our result comes too late", final.id)
                return None
            except (ConflictError, StoreUnavailableError) as error:
                LOG.info("the result of %s can't be written yet: %s", final.id, error.message)
            finally:
                if held is not None and held is not claim:
                    held.release()
                    held = None
            if self._stopping.is_set():
                waited += 1.0
                if waited > self._patience:
                    LOG.warning("stopping without a word on %s; the next start finds it", final.id)
                    return None
            seen = self._store.wait(seen, 1.0 if self._stopping.is_set() else PAUSE)

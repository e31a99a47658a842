"""Tell why a build or an upload ends before it is done: the daemon stops, somebody cancelled it, its
builder died.

A daemon that is about to stop lets work end that can end in time. What can't, as far as there is any
telling, is cut at once: whoever takes it over begins the sooner.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, Generic, TypeVar

from builder.errors import StoreUnavailableError
from builder.model import (
    Build,
    BuildPhase,
    BuildState,
    Cancellation,
    Failure,
    FailureClass,
    ImageRecords,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadPhase,
    UploadState,
)
from builder.planning.estimate import estimate
from builder.planning.words import withheld
from builder.workers.base import World

#: In these a build is nearly done; in all others it may take hours, and nobody knows how many.
_LATE: Final = frozenset({BuildPhase.CONVERT, BuildPhase.HASH, BuildPhase.MANIFEST, BuildPhase.PUBLISH})
#: Seconds between two looks at the store: it is asked many times a second, and not always from memory.
PAUSE = 1.0
Wish = TypeVar("Wish", Cancellation, UploadCancellation)


class _Stop(ABC, Generic[Wish]):
    """Whether one piece of work shall stop; called from any thread."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._look_again = 0.0
        self._wish: Wish | None = None
        self._until = math.inf
        self._judge_again = 0.0
        self._late = False

    def __call__(self) -> Failure | None:
        """Why it shall stop, None to go on."""
        if self._world.draining.is_set() and self._too_late():
            return interrupted("; it could not have ended within the `shutdown-grace`")
        if self._world.stopping.is_set():
            return interrupted()
        wish = self._cancellation()
        return None if wish is None else cancelled(wish)

    def _too_late(self) -> bool:
        """Whether it can't end in the time that the daemon still has."""
        with self._lock:
            now = time.monotonic()
            self._until = min(self._until, now + self._world.config().shutdown_grace.total_seconds())
            if not self._late and now >= self._judge_again:
                self._judge_again = now + PAUSE
                left = self._left()
                self._late = left is not None and now + left > self._until
            return self._late

    @abstractmethod
    def _left(self) -> float | None:
        """Seconds until it is done; None when it may be done at any moment, for all that is known."""

    @abstractmethod
    def _find(self, snapshot: Snapshot) -> Wish | None:
        """The wish that this work ends, if there is one."""

    def _cancellation(self) -> Wish | None:
        with self._lock:
            now = time.monotonic()
            if self._wish is None and now >= self._look_again:
                self._look_again = now + PAUSE
                self._wish = self._look()
            return self._wish

    def _look(self) -> Wish | None:
        try:
            return self._find(self._world.recent.snapshot(self._world.store))
        except StoreUnavailableError:
            return None  # nobody can wish anything through it either


class BuildStop(_Stop[Cancellation]):
    """Whether one build shall stop; called by the engine from any of its threads."""

    def __init__(self, world: World, build: Callable[[], Build], records: ImageRecords) -> None:
        """`build` gives its record as it is now; `records` has the builds before it."""
        super().__init__(world)
        self._build = build
        self._records = records

    def _left(self) -> float | None:
        build = self._build()
        known = estimate(build, self._records, self._world.clock())
        if known is not None:
            return known.known_left
        return None if build.phase in _LATE else math.inf

    def _find(self, snapshot: Snapshot) -> Cancellation | None:
        build = self._build()
        wish = snapshot.image(build.image).cancellation
        return wish if wish is not None and wish.build_id == build.id else None


class UploadStop(_Stop[UploadCancellation]):
    """Whether one upload shall stop."""

    def __init__(self, world: World, upload: Callable[[], Upload]) -> None:
        """`upload` gives its record as it is now, the time of the phase that runs included."""
        super().__init__(world)
        self._upload = upload

    def _left(self) -> float | None:
        upload = self._upload()
        if upload.phase != UploadPhase.SEND or upload.size is None or upload.rate is None:
            return None
        return (upload.size - upload.sent) / upload.rate

    def __call__(self) -> Failure | None:
        return super().__call__() or self._withheld()

    def _withheld(self) -> Failure | None:
        """That its build is no longer to go there: nobody cancelled it for good, so it is due again at once
        when that word is taken back."""
        upload = self._upload()
        try:
            records = self._world.recent.snapshot(self._world.store).image(upload.image)
        except StoreUnavailableError:
            return None
        build = records.build(upload.build_id)
        word = None if build is None else build.withheld_from(upload.provider)
        if word is None:
            return None
        message = withheld(upload.build_id, word)
        return Failure(failure_class=FailureClass.INTERRUPTED, message=message)

    def _find(self, snapshot: Snapshot) -> UploadCancellation | None:
        upload = self._upload()
        wishes = snapshot.image(upload.image).upload_cancellations
        return next((wish for wish in wishes if wish.upload == upload.name), None)


def interrupted(further: str = "") -> Failure:
    """The reason of what the daemon's own end cut short, and `further` why; it is due again at once."""
    return Failure(failure_class=FailureClass.INTERRUPTED, message=f"the daemon was stopped{further}")


def severity(failure: Failure) -> int:
    """At which level a log tells of it: a restart, or somebody's wish, is nothing to be woken for."""
    levels = {FailureClass.CANCELLED: logging.INFO, FailureClass.INTERRUPTED: logging.WARNING}
    return levels.get(failure.failure_class, logging.ERROR)


def cancelled(wish: Cancellation | UploadCancellation, further: str = "") -> Failure:
    """The reason of a build or an upload that somebody ended; `further` is told after who and why."""
    message = f"cancelled by {wish.by}" + (f": {wish.why}" if wish.why else "")
    return Failure(failure_class=FailureClass.CANCELLED, message=f"{message}{further}")


def abandoned(build: Build, now: datetime, wish: Cancellation | None) -> Build:
    """The record of a build whose builder went away: failed as interrupted, and so due again at once;
    or, when somebody wished (`wish`, of that build or another) that it ends, as cancelled."""
    gone = f"the builder {build.builder or 'of unknown name'} went away while it built"
    if wish is not None and wish.build_id == build.id:
        reason = cancelled(wish, f"; {gone}")
    else:
        reason = Failure(failure_class=FailureClass.INTERRUPTED, message=gone)
    reason = replace(reason, phase=build.phase)
    return build.become(BuildState.FAILED, now, ended=now, reason=reason, artifacts=())


def abandoned_upload(
    upload: Upload, now: datetime, wish: UploadCancellation | None, what_was_done: str
) -> Upload:
    """The record of an upload whose uploader went away, and of which nothing is left in its cloud: failed
    as interrupted, or as cancelled when somebody wished that; `what_was_done` says what was found there."""
    gone = f"the uploader {upload.uploader or 'of unknown name'} went away; {what_was_done}"
    if wish is not None:
        reason = cancelled(wish, f"; {gone}")
    else:
        reason = Failure(failure_class=FailureClass.INTERRUPTED, message=gone)
    return upload.become(
        UploadState.FAILED,
        now,
        ended=now,
        external_id=None,
        external_name=None,
        parts={},
        reason=replace(reason, phase=upload.phase),
    )

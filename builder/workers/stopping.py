"""Tell why a build or an upload ends before it is done: the daemon stops, somebody cancelled it, its
builder died."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import datetime
from typing import Generic, TypeVar

from builder.errors import StoreUnavailableError
from builder.model import (
    Build,
    BuildState,
    Cancellation,
    Failure,
    FailureClass,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadState,
)
from builder.workers.base import World

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

    def __call__(self) -> Failure | None:
        """Why it shall stop, None to go on."""
        if self._world.stopping.is_set():
            return Failure(failure_class=FailureClass.INTERRUPTED, message="the daemon was stopped")
        wish = self._cancellation()
        return None if wish is None else cancelled(wish)

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

    def __init__(self, world: World, build: Build) -> None:
        super().__init__(world)
        self._build = build

    def _find(self, snapshot: Snapshot) -> Cancellation | None:
        wish = snapshot.image(self._build.image).cancellation
        return wish if wish is not None and wish.build_id == self._build.id else None


class UploadStop(_Stop[UploadCancellation]):
    """Whether one upload shall stop."""

    def __init__(self, world: World, upload: Upload) -> None:
        super().__init__(world)
        self._upload = upload

    def _find(self, snapshot: Snapshot) -> UploadCancellation | None:
        wishes = snapshot.image(self._upload.image).upload_cancellations
        return next((wish for wish in wishes if wish.upload == self._upload.name), None)


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
        reason=replace(reason, phase=upload.phase),
    )

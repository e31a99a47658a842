"""Tell why a build ends before it is done: the daemon stops, somebody cancelled it, its builder died."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime

from builder.errors import StoreUnavailableError
from builder.model import Build, BuildState, Cancellation, Failure, FailureClass
from builder.workers.base import World

#: Seconds between two looks at the store: it is asked many times a second, and not always from memory.
PAUSE = 1.0


class BuildStop:
    """Whether one build shall stop; called by the engine from any of its threads."""

    def __init__(self, world: World, build: Build) -> None:
        self._world = world
        self._build = build
        self._lock = threading.Lock()
        self._look_again = 0.0
        self._wish: Cancellation | None = None

    def __call__(self) -> Failure | None:
        """Why it shall stop, None to go on."""
        if self._world.stopping.is_set():
            return Failure(failure_class=FailureClass.INTERRUPTED, message="the daemon was stopped")
        wish = self._cancellation()
        return None if wish is None else cancelled(wish)

    def _cancellation(self) -> Cancellation | None:
        with self._lock:
            now = time.monotonic()
            if self._wish is None and now >= self._look_again:
                self._look_again = now + PAUSE
                self._wish = self._look()
            return self._wish

    def _look(self) -> Cancellation | None:
        try:
            wish = self._world.store.snapshot().image(self._build.image).cancellation
        except StoreUnavailableError:
            return None  # nobody can wish anything through it either
        return wish if wish is not None and wish.build_id == self._build.id else None


def cancelled(wish: Cancellation, further: str = "") -> Failure:
    """The reason of a build that somebody ended; `further` is told after who and why."""
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
    return build.become(BuildState.FAILED, now, ended=now, reason=replace(reason, phase=build.phase))

"""The loop every worker runs: wait for a change or the next due time, decide on one snapshot, act.

A worker sleeps in `Store.wait` until the tree changes, its next due time comes or the daemon
stops: nothing is polled. What goes wrong in a pass is logged and waited out, and never ends the
thread: this is one of the three places where a broad handler is right, because a worker that
died silently would be a CI system without images the day after.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from builder.cloud.base import Cloud
from builder.config.model import Config, Provider
from builder.errors import StoreUnavailableError
from builder.model import Failure, FailureClass, Snapshot
from builder.store.base import Store

LOG = logging.getLogger(__name__)

#: After a pass that raised what nobody foresaw; long enough not to fill a disk with tracebacks.
AFTER_A_BUG = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who this daemon is: in records, locks and cloud properties."""

    hostname: str
    builder_id: str  #: of this machine's images directory; its files belong to it alone
    installation_id: str  #: of the ZooKeeper tree; cloud images carry it


class Active:
    """What this process is working on right now: build ids, upload names, providers. Thread-safe.

    It outlives a lost claim: as long as a name is here its work still runs, and the janitor of
    this process keeps its hands off whatever ZooKeeper says.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def names(self) -> frozenset[str]:
        """Everything that is being worked on."""
        with self._lock:
            return frozenset(self._names)

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold a name while the block runs; yields False, and holds nothing, when it was taken."""
        with self._lock:
            taken = name in self._names
            self._names.add(name)
        try:
            yield not taken
        finally:
            if not taken:
                with self._lock:
                    self._names.discard(name)


@dataclass(frozen=True, kw_only=True)
class World:
    """All a worker may touch; the service makes one and gives it to every worker."""

    store: Store
    identity: Identity
    config: Callable[[], Config]  #: the configuration in force, which changes at a reload
    cloud: Callable[[Provider], Cloud]
    clock: Callable[[], datetime]  #: aware UTC
    active: Active
    stopping: threading.Event


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass came to: whether it did anything, and when to look again without being woken."""

    did: bool = False
    due: datetime | None = None


def earliest(times: Iterable[datetime | None]) -> datetime | None:
    """The first of several times, of which some may be unknown; None when all are."""
    return min((t for t in times if t is not None), default=None)


def blame(failure: Failure, stopping: threading.Event) -> Failure:
    """The failure to record: what was stopped because the daemon stops was interrupted, and is
    due again at once; it is not a person's wish to cancel."""
    if failure.failure_class is FailureClass.CANCELLED and stopping.is_set():
        return replace(failure, failure_class=FailureClass.INTERRUPTED, message="the daemon was stopped")
    return failure


def unforeseen(error: Exception, phase: str | None) -> Failure:
    """What to record for an error nobody translated."""
    return Failure(
        failure_class=FailureClass.UNKNOWN, message=f"{type(error).__name__}: {error}", phase=phase
    )


class Worker(ABC):
    """One thread of one role."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.done = 0  #: builds or uploads that became ready since the start
        self.failures = 0  #: builds, uploads or clean-ups that failed since the start

    @abstractmethod
    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Decide on this snapshot and act on it, at most one long thing per call."""

    def step(self) -> Pass:
        """One pass on the configuration, snapshot and time of this moment."""
        world = self.world
        return self.act(world.config(), world.store.snapshot(), world.clock())

    def run(self) -> None:
        """Pass after pass until the daemon stops."""
        world, seen, due = self.world, -1, None
        while not world.stopping.is_set():
            seen = world.store.wait(seen, self._seconds_until(due))
            if world.stopping.is_set():
                return
            # Coming back is a change of generation, which ends the wait: no due time is needed.
            due = self._guarded_step() if world.store.connected else None

    def _guarded_step(self) -> datetime | None:
        world = self.world
        try:
            done = self.step()
        except StoreUnavailableError as error:
            LOG.warning("%s: ZooKeeper went away: %s", self.name, error.message)
            return world.clock() + timedelta(seconds=1)
        except Exception:
            LOG.exception("%s: a pass failed; the next one is in %s", self.name, AFTER_A_BUG)
            self.failures += 1
            return world.clock() + AFTER_A_BUG
        return world.clock() if done.did else done.due

    def _seconds_until(self, due: datetime | None) -> float | None:
        if due is None:
            return None
        return max(0.0, (due - self.world.clock()).total_seconds())

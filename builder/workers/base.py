"""The loop every worker runs: wait for a change or the next due time, decide on one snapshot, act.

A worker sleeps in `Store.wait` until the tree changes, its next due time comes or the daemon
stops: nothing is polled. It acts on no tree but that of its own installation. While much changes, it rests
between passes, so that deciding on a large tree takes little of the processor that moves the bytes. What
goes wrong in a pass is logged and waited out, and never ends the thread: this is one of the few places
where a broad handler is right, because a worker that died silently would be a CI system without images
the day after.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from builder.cloud.base import Cloud
from builder.cloud.transfer import Limiter
from builder.config.model import Config, Provider
from builder.errors import StoreUnavailableError
from builder.model import Failure, FailureClass, Snapshot
from builder.store.base import Store
from builder.ways import Capabilities
from builder.workers.fitness import Fitness
from builder.workers.presence import Presence
from builder.workers.unsettled import Unsettled

LOG = logging.getLogger(__name__)

#: After a pass that raised what nobody foresaw; long enough not to fill a disk with tracebacks.
AFTER_A_BUG = timedelta(seconds=30)
#: The rest after a pass, as a multiple of the processor's time that the pass took (waiting for ZooKeeper
#: takes none), and its longest in seconds.
REST, LONGEST_REST = 4.0, 2.0
#: The longest rest where somebody waits for what the next pass begins.
PROMPT_REST = 0.1
#: Seconds for which a view of the tree is recent.
RECENT = 1.0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who this daemon is: in records, locks and cloud properties."""

    hostname: str
    builder_id: str  #: of this machine's images directory; its files belong to it alone
    installation_id: str  #: of the ZooKeeper tree; cloud images carry it


class Active:
    """What this process is working on right now: build ids, upload names, "image <name>". Thread-safe.

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


class Recent:
    """The tree as it was a moment ago, for the many that ask often: not every store has it in memory.

    Thread-safe; nobody waits for a store that hangs but the one who asks it.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._asked = -math.inf
        self._snapshot = Snapshot()

    def snapshot(self, store: Store) -> Snapshot:
        """What `store` has, or had within the last second."""
        if time.monotonic() - self._asked >= RECENT and self._asking.acquire(blocking=False):
            try:
                self._asked = time.monotonic()
                self._snapshot = store.snapshot()
            finally:
                self._asking.release()
        return self._snapshot


class Offers(Protocol):
    """The artifact server: where clouds can fetch files from us."""

    def offer(self, path: Path, /) -> str:
        """The URL, which nobody can guess, at which the file can be fetched from now on."""

    def withdraw(self, url: str, /) -> None:
        """It can no longer be fetched there; no error when it could not."""


@dataclass(frozen=True, kw_only=True)
class World:
    """All a worker may touch; the service makes one and gives it to every worker."""

    store: Store
    identity: Identity
    config: Callable[[], Config]  #: the configuration in force, which changes at a reload
    cloud: Callable[[Provider], Cloud]
    #: What a provider can do; asked anew, and so with the errors of a Cloud, when it was not for a while.
    capabilities: Callable[[Provider], Capabilities]
    known_capabilities: Callable[[Iterable[Provider]], Mapping[str, Capabilities]]  #: asks nobody
    limiter: Limiter  #: of the bytes per second that uploads of this daemon may take
    offers: Offers | None = None  #: None: there is no artifact server
    clock: Callable[[], datetime]  #: aware UTC
    active: Active
    presence: Presence
    fitness: Fitness = field(default_factory=Fitness)
    unsettled: Unsettled = field(default_factory=Unsettled)
    draining: threading.Event = field(default_factory=threading.Event)  #: nothing is begun any more
    stopping: threading.Event  #: what runs is cut
    recent: Recent = field(default_factory=Recent)

    @property
    def ending(self) -> bool:
        """Whether the daemon is about to stop, in whichever way."""
        return self.draining.is_set() or self.stopping.is_set()

    def at_home(self, snapshot: Snapshot) -> bool:
        """Whether a tree is that of our installation. An emptied server, or another one, looks like a
        world without images, in which everything would have to be built and nothing kept."""
        return snapshot.installation in (None, self.identity.installation_id)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass came to: whether it did anything, and when to look again without being woken."""

    did: bool = False
    due: datetime | None = None


def earliest(times: Iterable[datetime | None]) -> datetime | None:
    """The first of several times, of which some may be unknown; None when all are."""
    return min((t for t in times if t is not None), default=None)


def unforeseen(error: Exception, phase: str | None) -> Failure:
    """What to record for an error nobody translated."""
    return Failure(
        failure_class=FailureClass.UNKNOWN, message=f"{type(error).__name__}: {error}", phase=phase
    )


class Worker(ABC):
    """One thread of one role."""

    #: Seconds; less for those whose passes somebody waits for.
    longest_rest = LONGEST_REST

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.done = 0  #: builds or uploads that became ready since the start
        self.failures = 0  #: builds, uploads, promotions or clean-ups that failed since the start
        self._counting = threading.Lock()

    @abstractmethod
    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Decide on this snapshot and act on it, at most one long thing per call."""

    def cut_off(self, now: datetime) -> datetime | None:
        """The store is away: there is nothing to decide on; when to look again, None for when it is back."""
        return None

    def count_done(self) -> None:
        """One more that became ready; from any thread."""
        with self._counting:
            self.done += 1

    def count_failure(self) -> None:
        """One more that failed; from any thread."""
        with self._counting:
            self.failures += 1

    def drain(self) -> bool:
        """Wait for what passes left running; whether any of it did something. Most leave nothing."""
        return False

    def step(self) -> Pass:
        """One pass on the configuration, snapshot and time of this moment; none on a tree of others."""
        world = self.world
        snapshot = world.store.snapshot()
        if not world.at_home(snapshot):
            return Pass()
        return self.act(world.config(), snapshot, world.clock())

    def run(self) -> None:
        """Pass after pass until the daemon is about to stop."""
        world, seen, due = self.world, -1, None
        while not world.ending:
            seen = world.store.wait(seen, self._seconds_until(due))
            if world.ending:
                return
            begun = time.thread_time()
            # Coming back is a change of generation, which ends the wait: no due time is needed.
            due = self._guarded_step() if world.store.connected else self.cut_off(world.clock())
            world.draining.wait(min(REST * (time.thread_time() - begun), self.longest_rest))

    def _guarded_step(self) -> datetime | None:
        world = self.world
        try:
            done = self.step()
        except StoreUnavailableError as error:
            LOG.warning("%s: ZooKeeper went away: %s", self.name, error.message)
            return world.clock() + timedelta(seconds=1)
        except Exception:
            LOG.exception("%s: a pass failed; the next one is in %s", self.name, AFTER_A_BUG)
            self.count_failure()
            return world.clock() + AFTER_A_BUG
        return world.clock() if done.did else done.due

    def _seconds_until(self, due: datetime | None) -> float | None:
        if due is None:
            return None
        return max(0.0, (due - self.world.clock()).total_seconds())

"""Sessions of simulated daemons on one tree: views that lag behind, outages, lost answers, and crashes.

Whatever a daemon asks of its store is a moment at which others may come first, the daemon may die (before
or after it was done), ZooKeeper may be away, or the answer may be lost although it was done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from builder.errors import StoreUnavailableError
from builder.model import Build, Snapshot, Upload
from builder.store import paths
from builder.store.base import Claim, Store
from tests.fakes.store import FakeStore, FakeTree
from tests.simulation.kernel import Kernel, Signal

if TYPE_CHECKING:
    from tests.simulation.daemon import Life

#: Seconds that a change takes to be seen by a session, at most.
LAG = 0.05
#: What is not asked of the server, or has a way of its own here.
_LOCAL = frozenset({"start", "close", "connected", "snapshot", "wait", "wake", "stand_down"})
#: What changes nothing, so that no answer to it matters once it is lost.
_READING = ("get_", "list_", "sightings", "builds_gone", "installation_id")


@dataclass
class SimTree(FakeTree):
    """The tree, which tells its sessions of changes a moment later, and a judge of each at once."""

    on_build: Callable[[Build | None, Build | None], None] = lambda before, after: None
    on_upload: Callable[[Upload | None, Upload | None], None] = lambda before, after: None
    on_asked: Callable[[str, Mapping[str, datetime]], None] = lambda image, ticks: None
    on_ticks: Callable[[str, Mapping[str, datetime]], None] = lambda image, fired: None

    def tick(self) -> int:
        number = super().tick()
        for store in self.stores:
            if isinstance(store, SimStore):
                store.something_changed()
        return number

    def _keep(self, path: str, place: paths.Place, record: Any = None) -> None:
        before = self.builds.get(path) or self.uploads.get(path) or self.notes.get(path)
        super()._keep(path, place, record)
        if isinstance(record, Build):
            self.on_build(before, record)
        elif isinstance(record, Upload):
            self.on_upload(before, record)
        elif place.kind is paths.Kind.TICKS:
            known = before or {}
            self.on_ticks(
                place.image, {entry: time for entry, time in record.items() if known.get(entry) != time}
            )

    def remove(self, path: str) -> bool:
        build, upload = self.builds.get(path), self.uploads.get(path)
        there = super().remove(path)
        if build is not None:
            self.on_build(build, None)
        if upload is not None:
            self.on_upload(upload, None)
        return there


class SimStore(FakeStore):
    """One session of one life of a daemon; `life` None: of whoever looks at it from outside."""

    def __init__(self, tree: SimTree, kernel: Kernel, life: Life | None = None) -> None:
        self._kernel = kernel
        self._life = life
        self._signal = Signal(kernel)
        self._inside = False
        self._under_way = False  #: a change is on its way to the view
        self._seen = 0
        self.lose_answers = 0  #: of so many writes to come
        self.sessions = 0  #: that were lost
        super().__init__(tree)
        self._view = self.tree.view.snapshot()

    # -- what is seen, and when -----------------------------------------------------------------

    def something_changed(self) -> None:
        """The tree is another; the session learns of it soon."""
        if self._under_way or self._life is None:
            return
        self._under_way = True
        self._kernel.later(self._kernel.random.uniform(0.0, LAG), self._deliver)

    def _deliver(self) -> None:
        self._under_way = False
        if self._open:
            self._look()
            self._seen += 1
            self._signal.fire()

    def _look(self) -> None:
        if self._reachable:
            self._view = self.tree.view.snapshot()

    def snapshot(self) -> Snapshot:
        if self._life is None:
            return self.tree.view.snapshot()
        self._life.check()
        if not self._open:
            raise StoreUnavailableError("the store is closed")
        return self._view

    def wait(self, seen: int, timeout: float | None = None) -> int:
        if self._life is not None:
            self._life.check()
        if self._seen == seen:
            self._kernel.wait([self._signal], timeout)
        return self._seen

    def wake(self) -> None:
        self._seen += 1
        self._signal.fire()

    def stand_down(self) -> None:
        if self._life is None or self._life.alive:
            super().stand_down()

    # -- what goes wrong ------------------------------------------------------------------------

    def lose_session(self) -> None:
        """The server gives the session up; another one is there as soon as the server can be reached."""
        self.sessions += 1
        super().lose_session()
        self._look()

    def end(self) -> None:
        """The daemon has died, and the server finds out."""
        FakeStore.close(self)
        if self in self.tree.stores:
            self.tree.stores.remove(self)

    def ask(self, method: str, call: Callable[[], Any]) -> Any:
        """Ask the server, if the daemon lives; see the module's words."""
        life = self._life
        if life is None:
            return call()
        life.moment(method)
        answer = call()
        if isinstance(answer, Claim):
            answer = SimClaim(answer, life)
        life.moment(method)
        if self.lose_answers and not method.startswith((*_READING, "claim")):
            self.lose_answers -= 1
            raise StoreUnavailableError("the connection broke before the answer came")
        return answer


def _asked(method: str) -> Callable[..., Any]:
    plain = getattr(FakeStore, method)

    @functools.wraps(plain)
    def asked(self: SimStore, *args: Any, **more: Any) -> Any:
        def call() -> Any:
            self._inside = True  # what a method asks of its own store is one and the same request
            try:
                answer = plain(self, *args, **more)
            finally:
                self._inside = False
            if method == "request_build" and answer is not None:
                self.tree.on_asked(answer.image, more.get("ticks", {}))
            return answer

        return call() if self._inside else self.ask(method, call)

    return asked


for _name in sorted(Store.__abstractmethods__ - _LOCAL):
    setattr(SimStore, _name, _asked(_name))


class SimClaim(Claim):
    """A lock that nobody gives back once its holder is dead: it goes with the session."""

    def __init__(self, claim: Claim, life: Life) -> None:
        self._claim = claim
        self._life = life

    @property
    def valid(self) -> bool:
        return self._claim.valid

    def release(self) -> None:
        if self._life.alive:
            self._claim.release()

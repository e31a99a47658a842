"""A process that dies at any one moment: before or after anything that it asks of its store or its clouds.

fate = Fate()
stage = Stage(root, store=MortalStore(tree, fate), clouds={"one": MortalCloud(fate)})
fate.doom(7)            it dies at the seventh moment from now on
...                     Killed; from then on it does nothing any more
fate.moments            how many there were
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from builder.store.base import Store
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore, FakeTree

#: What every store does to the tree, or asks of it: whatever may be the last thing a process does.
CALLS = frozenset(Store.__abstractmethods__ - {"start", "close", "connected", "wait", "wake", "register"})


class Killed(BaseException):
    """The process is gone: nobody catches it."""


class Fate:
    """When a process dies, of which several threads may be at work."""

    def __init__(self) -> None:
        self.moments = 0
        #: Called at each of them, to look at what there is.
        self.on_moment: Callable[[], None] = lambda: None
        self._fatal = 0
        self._dead = False
        self._lock = threading.RLock()

    def doom(self, moment: int) -> None:
        """Let it be that moment from now on, counted from one; none, if that is 0."""
        self.moments, self._fatal = 0, moment

    def pass_by(self) -> None:
        """One more moment; raises Killed at the fatal one, and at each after it."""
        with self._lock:
            self.on_moment()
            self.moments += 1
            self._dead |= self.moments == self._fatal
            if self._dead:
                raise Killed


class MortalStore(FakeStore):
    """The session of such a process."""

    def __init__(self, tree: FakeTree, fate: Fate) -> None:
        super().__init__(tree)
        self.fate = fate

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self.fate.pass_by()
            answer = found(*arguments, **named)
            self.fate.pass_by()
            return answer

        return call


class MortalCloud(FakeCloud):
    """A cloud that such a process asks; `like` has what is in it."""

    def __init__(self, fate: Fate, like: FakeCloud | None = None) -> None:
        super().__init__()
        self.fate = fate
        if like is not None:
            self.images, self.contents = like.images, like.contents

    def _begin(self, method: str, what: str) -> None:
        self.fate.pass_by()
        super()._begin(method, what)

    def _end(self, method: str) -> None:
        super()._end(method)
        self.fate.pass_by()

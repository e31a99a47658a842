"""Simulated time: tasks that run one at a time, until each of them waits for something.

A task is a greenlet, so whatever blocks in the code under test has to block here: `Kernel.shims` gives
what stands in for `time`, `threading` and `concurrent.futures.wait` in its modules. Nothing runs while
a task runs, time passes only when all of them wait, and a seed decides who comes first, so a run can
be repeated exactly.

A task has an owner, such as a daemon. When that dies, each of its tasks gets `Crash` where it waits, which
no handler of the code under test catches.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import greenlet

#: So many steps without time passing are a loop that never ends.
STANDSTILL = 500_000
#: When simulated time begins: a Monday.
EPOCH = datetime(2026, 3, 2, tzinfo=UTC)


class Crash(BaseException):
    """The daemon is gone: nothing of it does anything any more."""


class Signal:
    """Something that tasks wait for; a task may wait for several."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.waiting: list[Task] = []

    def fire(self) -> None:
        """Let all that wait for it go on."""
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            self._kernel.ready(task)


class Task:
    """One thread of execution."""

    def __init__(self, kernel: Kernel, work: Callable[[], object], owner: object, name: str) -> None:
        self.owner = owner
        self.name = name
        self.done = Signal(kernel)
        self.is_ready = False
        self.wakes = 0  #: waits so far: what was to end an earlier one is stale
        self._kernel = kernel
        self._work = work
        self.greenlet = greenlet.greenlet(self._run, parent=kernel.main)

    def _run(self) -> None:
        try:
            self._work()
        except Crash:
            pass
        finally:
            self._kernel.tasks.discard(self)
            self.done.fire()


class Kernel:
    """The clock, and the tasks."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0  #: seconds since EPOCH
        self.tasks: set[Task] = set()
        self.switches = 0
        self.thinking = 0.005  #: seconds of the processor that a pass takes
        self._thought = 0.0
        self.main = greenlet.getcurrent()
        self._ready: deque[Task] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._current: Task | None = None
        self._dead: set[object] = set()

    # -- from outside -------------------------------------------------------------------------

    def clock(self) -> datetime:
        """The true time."""
        return EPOCH + timedelta(seconds=self.now)

    def spawn(self, work: Callable[[], object], owner: object, name: str = "") -> Task:
        """Begin a task; it runs when its turn comes."""
        task = Task(self, work, owner, name)
        self.tasks.add(task)
        self.ready(task)
        return task

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something after a while; it must not wait."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._count), act))

    def kill(self, owner: object) -> None:
        """End all tasks of an owner, where they wait; the one that runs ends at its next wait."""
        self._dead.add(owner)
        for task in [task for task in self.tasks if task.owner is owner]:
            self.ready(task)

    def is_dead(self, owner: object) -> bool:
        """Whether it was killed."""
        return owner in self._dead

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> bool:
        """Let so much time pass, or less if `until` comes true; whether it did."""
        end = self.now + seconds
        moment, standing = self.now, 0
        while not until():
            moment, standing = self.now, standing + 1 if self.now == moment else 0
            if standing > STANDSTILL:
                raise AssertionError(f"time stands still at {self.clock()} while {self._names()} run")
            if self._ready:
                self._switch(self._pick())
            elif self._timers and self._timers[0][0] <= end:
                due, _, act = heapq.heappop(self._timers)
                self.now = max(self.now, due)
                act()
            else:
                self.now = end
                return until()
        return True

    def _names(self) -> str:
        return ", ".join(sorted(task.name for task in self._ready)[:10])

    # -- from within a task -------------------------------------------------------------------

    def ready(self, task: Task) -> None:
        """A task may go on."""
        if not task.is_ready and task in self.tasks:
            task.is_ready = True
            self._ready.append(task)

    def wait(self, signals: Iterable[Signal], timeout: float | None = None) -> None:
        """Wait until a signal fires or so many seconds have passed; Crash when the owner dies."""
        task = self._current
        assert task is not None, "only tasks can wait"
        self.check(task)
        signals = tuple(signals)
        task.wakes += 1
        wake = task.wakes
        for signal in signals:
            signal.waiting.append(task)
        if timeout is not None:
            self.later(max(0.0, timeout), lambda: self.ready(task) if task.wakes == wake else None)
        self.main.switch()
        task.wakes += 1
        for signal in signals:
            if task in signal.waiting:
                signal.waiting.remove(task)
        self.check(task)

    def sleep(self, seconds: float) -> None:
        """Wait for so long."""
        self.wait((), seconds)

    def give_way(self) -> None:
        """Let others that are ready go first."""
        if self._ready and self._current is not None:
            self.ready(self._current)
            self.main.switch()
            self.check(self._current)

    def check(self, task: Task | None = None) -> None:
        """Crash when the owner of the task, or of the one that runs, is dead."""
        task = task or self._current
        if task is not None and task.owner in self._dead:
            raise Crash

    @property
    def owner(self) -> object:
        """Whose task runs; None outside of all."""
        return self._current.owner if self._current is not None else None

    # -- inside -------------------------------------------------------------------------------

    def _pick(self) -> Task:
        """Mostly the one that has waited longest, as with threads."""
        if len(self._ready) > 1 and self.random.random() < 0.3:
            self._ready.rotate(-self.random.randrange(len(self._ready)))
        return self._ready.popleft()

    def _switch(self, task: Task) -> None:
        task.is_ready = False
        self._current = task
        self.switches += 1
        try:
            task.greenlet.switch()
        finally:
            self._current = None

    def _think(self) -> float:
        self._thought += self.thinking
        return self._thought

    # -- what stands in for the real ones -----------------------------------------------------

    def shims(self) -> dict[str, object]:
        """Stand-ins by the names that modules know the real ones by."""
        return {
            "time": SimpleNamespace(
                **{
                    **vars(time),
                    "monotonic": lambda: self.now,
                    "time": lambda: self.clock().timestamp(),
                    "thread_time": self._think,
                    "sleep": self.sleep,
                }
            ),
            "threading": SimpleNamespace(
                **{
                    **vars(threading),
                    "Thread": lambda **how: SimThread(self, **how),
                    "Lock": lambda: SimLock(self),
                    "Event": lambda: SimEvent(self),
                }
            ),
            "wait": self.wait_for_futures,
            "Future": _future_of(self),
        }

    def wait_for_futures(
        self, futures: Iterable[Future[Any]], timeout: float | None = None, return_when: str = FIRST_COMPLETED
    ) -> tuple[set[Future[Any]], set[Future[Any]]]:
        """`concurrent.futures.wait`, for the first that completes or fails, or for all."""
        futures = set(futures)
        signal, until = Signal(self), None if timeout is None else self.now + timeout
        for future in futures:
            future.add_done_callback(lambda _: signal.fire())
        while True:
            done = {future for future in futures if future.done()}
            enough = bool(done) if return_when == FIRST_COMPLETED else done == futures
            if return_when == FIRST_EXCEPTION:
                enough |= any(future.exception() for future in done)
            if enough or (until is not None and self.now >= until):
                return done, futures - done
            self.wait([signal], None if until is None else until - self.now)


def _future_of(kernel: Kernel) -> type[Future[Any]]:
    """A Future whose result is waited for in simulated time."""

    class SimFuture(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            kernel.wait_for_futures([self], timeout)
            return super().result(0.0)

    return SimFuture


class SimThread:
    """A thread that is a task of whoever starts it."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str = "",
        daemon: bool | None = None,
    ) -> None:
        self._kernel = kernel
        self._work = lambda: target(*args)
        self.name = name

    def start(self) -> None:
        """Begin."""
        self._kernel.spawn(self._work, self._kernel.owner, self.name)


class SimLock:
    """A lock that others may run beside."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._free = Signal(kernel)
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, or say that somebody has it."""
        while self._held:
            if not blocking:
                return False
            self._kernel.wait([self._free])
        self._held = True
        return True

    def release(self) -> None:
        """Give it back."""
        self._held = False
        self._free.fire()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimEvent:
    """A `threading.Event`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._signal = Signal(kernel)
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Set it."""
        self._is_set = True
        self._signal.fire()

    def clear(self) -> None:
        """Take that back."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set."""
        if not self._is_set:
            self._kernel.wait([self._signal], timeout)
        return self._is_set

"""Does slow work in lanes beside each other, so that what hangs in one delays no other, and paces retries."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from builder.errors import ConflictError, ImagepoolError, NotFoundError

LOG = logging.getLogger(__name__)

FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
#: After an action somebody else holds or has done: time for our snapshot to show it.
AFTER_A_MISS = timedelta(seconds=1)


class Lanes:
    """Threads of one worker, at most one for each lane's name.

    They die with the process, which is safe: a pool's threads are waited for when Python ends, and a
    cloud may hang for minutes. For the thread of that worker alone.
    """

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        """`wake` is called, from the lane's thread, when a lane has become free."""
        self._name = name
        self._wake = wake
        self._lanes: dict[str, Future[bool]] = {}
        self._ended: list[Future[bool]] = []  #: since the last drain, but for those that did nothing

    def start(self, lane: str, work: Callable[[], bool]) -> None:
        """Do `work`, which says whether it did anything, in a lane that is free."""
        if lane in self._lanes:
            self._forget(lane)
        future: Future[bool] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                LOG.exception("%s: the lane %s broke", self._name, lane)
                future.set_exception(error)

        # Not by the work itself: whoever wakes before the lane is free finds it busy, and sleeps on.
        future.add_done_callback(lambda _: self._wake())
        threading.Thread(target=run, name=f"{self._name}-{lane}", daemon=True).start()
        self._lanes[lane] = future

    def busy(self) -> frozenset[str]:
        """The lanes that are at work."""
        for lane, future in list(self._lanes.items()):
            if future.done():
                self._forget(lane)
        return frozenset(self._lanes)

    def is_busy(self, lane: str) -> bool:
        """Whether that one is at work."""
        future = self._lanes.get(lane)
        return future is not None and not future.done()

    def _forget(self, lane: str) -> None:
        """Keep of a lane that has ended no more than the next drain wants to know."""
        future = self._lanes.pop(lane)
        if future.exception() is not None or (future.result() and not self._ended):
            self._ended = [future]

    def wait_one(self, timeout: float | None = None) -> None:
        """Wait until a busy lane is free, at most `timeout` seconds; not at all when none is busy."""
        if busy := [future for future in self._lanes.values() if not future.done()]:
            wait(busy, timeout if timeout is None else max(0.0, timeout), return_when=FIRST_COMPLETED)

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any did something since the last drain. Raises as one did."""
        ended = [*self._ended, *self._lanes.values()]
        self._ended, self._lanes = [], {}
        results = [future.result() for future in ended]  # all of them, before the answer
        return any(results)


class Backoff:
    """When each action that did not work out is tried again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries: dict[str, int] = {}
        self._until: dict[str, datetime] = {}

    def missed(self, key: str, now: datetime) -> None:
        """Nothing was wrong, but there was nothing to do either."""
        with self._lock:
            self._until[key] = now + AFTER_A_MISS

    def failed(self, key: str, now: datetime) -> timedelta:
        """It failed; returns the pause before the next try."""
        with self._lock:
            tries = self._tries[key] = self._tries.get(key, 0) + 1
            longest = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(tries - 1, 16))
            pause: timedelta = longest * random.uniform(0.75, 1.25)
            self._until[key] = now + pause
            return pause

    def retain(self, keys: frozenset[str], now: datetime) -> None:
        """Forget the actions that were planned no more for as long as a pause can be.

        Not at once: while an action is claimed, by ourselves too, the plan does not show it.
        """
        with self._lock:
            for key in self._until.keys() - keys:
                if self._until[key] + LONGEST_RETRY < now:
                    del self._until[key]
                    self._tries.pop(key, None)

    def until(self, key: str) -> datetime | None:
        """When the action may be tried again, None for at once."""
        with self._lock:
            return self._until.get(key)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One action: in which lane it is done, what tells it from others, why it is done, and how.

    `do` says whether it did something; NotFoundError and ConflictError mean that somebody was quicker.
    """

    lane: str
    key: str
    reason: str
    do: Callable[[], bool]


class PacedLanes:
    """Lanes for jobs that are planned anew in each pass; one that fails is put off, ever longer.

    Once it is `ending`, no further job is begun.
    """

    def __init__(
        self,
        lanes: Lanes,
        *,
        clock: Callable[[], datetime],
        ending: Callable[[], bool],
        on_failure: Callable[[], None],
        at_once: int | None = None,
    ) -> None:
        """`at_once`: so many lanes are at work at most; None for any number."""
        self._lanes = lanes
        self._at_once = at_once
        self._clock = clock
        self._ending = ending
        self._on_failure = on_failure
        self._backoff = Backoff()

    def start(self, jobs: Iterable[Job], now: datetime) -> datetime | None:
        """Start each job that may be tried, those of one lane one after the other; returns without waiting
        for them, when the first of the others may be tried. What there is no room for is tried in the pass
        for which a lane wakes its worker when it is free."""
        jobs = tuple(jobs)
        self._backoff.retain(frozenset(job.key for job in jobs), now)
        waits = {job.key: self._backoff.until(job.key) or now for job in jobs}
        due = [job for job in jobs if waits[job.key] <= now]
        busy = self._lanes.busy()
        room = None if self._at_once is None else max(0, self._at_once - len(busy))
        for lane in sorted({job.lane for job in due} - busy)[:room]:
            batch = [job for job in due if job.lane == lane]
            self._lanes.start(lane, partial(self._work, batch))
        return min((until for until in waits.values() if until > now), default=None)

    def busy(self) -> frozenset[str]:
        """The lanes that are at work."""
        return self._lanes.busy()

    def wait_one(self, timeout: float) -> None:
        """Wait until a busy lane is free, at most `timeout` seconds; not at all when none is busy."""
        self._lanes.wait_one(timeout)

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any did something since the last drain."""
        return self._lanes.drain()

    def _work(self, batch: Sequence[Job]) -> bool:
        did = False
        for job in batch:
            if self._ending():
                break
            try:
                did |= self._do(job)
            except ImagepoolError as error:
                self._put_off(job, error.message)
            except Exception as error:
                # A lane must not die of a bug in one job: the others are somebody's disk space.
                LOG.exception("%s broke", job.key)
                self._put_off(job, f"{type(error).__name__}: {error}")
        return did

    def _do(self, job: Job) -> bool:
        try:
            done = job.do()
        except (NotFoundError, ConflictError):
            done = False  # somebody else was quicker
        if done:
            LOG.info("%s: %s", job.key, job.reason)
        else:
            self._backoff.missed(job.key, self._clock())
        return done

    def _put_off(self, job: Job, why: str) -> None:
        self._on_failure()
        pause = self._backoff.failed(job.key, self._clock())
        LOG.warning("%s failed, next try in %d s: %s", job.key, pause.total_seconds(), why)

"""Brings all repositories of a list up to date, many at a time, and says of each what became of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from cache_git.git import Git, GitError
from cache_git.listing import Repository
from cache_git.refs import Asker, Refs
from cache_git.store import Cached, DamagedError
from cache_stage import tries

#: Repositories of a server in a row that failed after all tries because it didn't answer.
_ENOUGH = 3


class End(Enum):
    """What became of a repository."""

    UNCHANGED = "unchanged"
    UPDATED = "updated"
    NEW = "new"
    OLDER = "as they were, for they could not be updated"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    """What became of a repository, and why; what is in the image of it."""

    repository: Repository
    end: End
    why: str = ""
    refs: Refs = field(default_factory=lambda: Refs({}))

    @property
    def broken(self) -> bool:
        """Whether it is not as the server has it."""
        return self.end in {End.OLDER, End.MISSING}


@dataclass(frozen=True)
class Manner:
    """How repositories are fetched."""

    place: Path  #: the cache
    jobs: int
    tries: int
    backoff: float  #: seconds before the second try; twice that before the third, and so on
    days: float  #: after which a copy is read as a whole
    offline: bool


class _Servers:
    """Which servers don't answer: those are not waited for a thousand times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent: Counter[str] = Counter()

    def answered(self, host: str) -> None:
        with self._lock:
            self._silent[host] = 0

    def silent(self, host: str) -> None:
        with self._lock:
            self._silent[host] += 1

    def given_up(self, host: str) -> bool:
        with self._lock:
            return self._silent[host] >= _ENOUGH


class Fetching:
    """One run over a list."""

    def __init__(self, manner: Manner, git: Git, stage: Path, *, say: Callable[[str], None]) -> None:
        self._manner = manner
        self._git = git
        self._stage = stage
        self._say = say
        self._asker = Asker(git)
        self._servers = _Servers()
        self._began = time.time()

    def run(self, repositories: Sequence[Repository]) -> list[Outcome]:
        """The outcome of each, in the same order; what there is of it is laid out below the stage."""
        outcomes = []
        with ThreadPoolExecutor(self._manner.jobs) as pool:
            for number, outcome in enumerate(pool.map(self._one, repositories), 1):
                outcomes.append(outcome)
                if number % 100 == 0:
                    self._say(f"{number} of {len(repositories)} repositories")
        return outcomes

    def _one(self, repository: Repository) -> Outcome:
        why = ""
        # The second time, for whoever keeps the cache small may take a copy away under our hands.
        for _ in range(2):
            cached = Cached(self._manner.place, repository, self._git)
            try:
                with cached.locked():
                    return self._laid_out(cached, repository)
            except (OSError, DamagedError) as error:
                why = f"the cache: {error}"
        return Outcome(repository, End.MISSING, why)

    def _laid_out(self, cached: Cached, repository: Repository) -> Outcome:
        end, why = self._refreshed(cached, repository)
        if end is End.MISSING:
            return Outcome(repository, end, why)
        refs = cached.refs()
        cached.lay_out(self._stage)
        cached.used()
        return Outcome(repository, end, why, refs)

    def _refreshed(self, cached: Cached, repository: Repository) -> tuple[End, str]:
        there = cached.exists() and self._good(cached, repository)
        if there and cached.asked() >= self._began:
            return End.UNCHANGED, ""  # another build has asked since we began
        why = ""
        if self._manner.offline:
            return (
                (End.UNCHANGED, "") if there else (End.MISSING, "it is not in the cache; DIB_OFFLINE is set")
            )
        for attempt in range(self._manner.tries):
            if self._servers.given_up(repository.host):
                why = why or f"{repository.host} does not answer"
                break
            tries.wait(attempt, self._manner.backoff)
            try:
                end = self._tried(cached, repository, there=there)
            except GitError as error:
                why, unreachable = str(error), error.unreachable
                there = there and self._good(cached, repository, deep=not attempt and not unreachable)
            else:
                self._servers.answered(repository.host)
                return end, ""
        else:
            if unreachable:
                self._servers.silent(repository.host)
        return (End.OLDER if there else End.MISSING), why

    def _tried(self, cached: Cached, repository: Repository, *, there: bool) -> End:
        refs = self._asker.ask(repository)
        if not there:
            cached.make(refs)
            return End.NEW
        before = cached.refs()
        if before.ids == refs.ids and before.head == (refs.branch or before.head):
            cached.unchanged()
            return End.UNCHANGED
        cached.update(refs)
        return End.UPDATED

    def _good(self, cached: Cached, repository: Repository, *, deep: bool = False) -> bool:
        try:
            cached.check(days=self._manner.days, deep=deep)
            cached.refs()
        except DamagedError as error:
            self._say(f"the copy of {repository.url} is damaged, and is made anew: {error}")
            return False
        return True

"""The two worlds in which the Store contract is tested: in memory, and a real ZooKeeper server."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

from kazoo.client import KazooClient

from builder.config.model import ZooKeeper
from builder.store.base import Store
from builder.store.zookeeper import ZooKeeperStore
from tests.fakes.store import FakeStore, FakeTree

PATIENCE = 15.0
Result = TypeVar("Result")


def eventually(condition: Callable[[], bool], what: str, *, within: float = PATIENCE) -> None:
    """Wait until `condition` holds; fail, saying `what` never came, after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened within {within:g} s: {what}")
        time.sleep(0.01)


def at_once(action: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
    """What `action` says to each of the arguments, all at the same time, as `map` hands them out."""
    calls = list(zip(*arguments, strict=True))
    gate = Barrier(len(calls), timeout=PATIENCE)

    def act(call: tuple[Any, ...]) -> Result:
        gate.wait()
        return action(*call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(act, calls))


class World(ABC):
    """One tree, and as many daemons and commands on it as a test wants."""

    def __init__(self) -> None:
        self._opened: list[Store] = []

    def daemon(self) -> Store:
        """A store of a daemon, that watches."""
        return self._keep(self._open(watch=True))

    def command(self) -> Store:
        """A store of a command, that reads once."""
        return self._keep(self._open(watch=False))

    def close(self) -> None:
        """Close every store that was opened."""
        for store in self._opened:
            store.close()

    @abstractmethod
    def expire(self, store: Store) -> None:
        """End the session of a store as the server would, and wait until it has a new one."""

    @abstractmethod
    def _open(self, *, watch: bool) -> Store: ...

    def _keep(self, store: Store) -> Store:
        self._opened.append(store)
        store.start()
        return store


class FakeWorld(World):
    """In memory."""

    def __init__(self) -> None:
        super().__init__()
        self._tree = FakeTree()

    def expire(self, store: Store) -> None:
        assert isinstance(store, FakeStore)
        store.lose_session()

    def _open(self, *, watch: bool) -> Store:
        return FakeStore(self._tree)


class RealWorld(World):
    """A chroot of a real server."""

    def __init__(self, zookeeper: ZooKeeper) -> None:
        super().__init__()
        self.zookeeper = zookeeper

    def expire(self, store: Store) -> None:
        assert isinstance(store, ZooKeeperStore)
        lost = store._session.sessions_lost
        client = store._session._client
        assert client is not None
        session = client.client_id

        def is_lost() -> bool:
            # Whoever presents the session's id and password is the session: its goodbye ends it for both. The
            # store takes it back as soon as it can, sometimes before the goodbye.
            impostor = KazooClient(self.zookeeper.hosts, client_id=session)
            impostor.start_async().wait(PATIENCE)
            impostor.stop()
            impostor.close()
            return store._session.sessions_lost > lost

        eventually(is_lost, "the store learns that its session is lost")
        eventually(lambda: store.connected, "the store has a new session")

    def _open(self, *, watch: bool) -> Store:
        return ZooKeeperStore(self.zookeeper, watch=watch)

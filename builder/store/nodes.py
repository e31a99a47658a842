"""Reads, writes and removes nodes: the few steps of which every operation of the ZooKeeperStore is made.

What ZooKeeper answers becomes our own errors here, as far as a single step can tell what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import ZnodeStat

from builder.errors import ConflictError, NotFoundError
from builder.store.base import Store
from builder.store.fields import Stored
from builder.store.session import Session

#: How often a change that somebody got in the way of is tried anew before we call it a conflict. Of those
#: who change the same node at the same time, each time one gets through.
ATTEMPTS: Final = 25

Key = TypeVar("Key")
Step = Callable[[TransactionRequest], None]


class Nodes:
    """The nodes that a session reaches."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read(self, path: str) -> Stored:
        """A node's data; NotFoundError."""
        try:
            return stored(*self._session.call(partial(_get, path)))
        except NoNodeError as error:
            raise NotFoundError(f"there is no {path}") from error

    def read_all(self, wanted: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, Stored]]:
        """What each path's node says, under the key that came with it; without nodes that are gone."""
        # All requests are under way before the first answer is waited for.
        results = [(key, self._session.submit(partial(_get, path))) for key, path in wanted]
        for key, result in results:
            try:
                yield key, stored(*self._session.answer(result))
            except NoNodeError:
                continue

    def exist(self, wanted: Iterable[str]) -> list[bool]:
        """Whether there is a node at each path."""
        results = [self._session.submit(partial(_exists, path)) for path in wanted]
        return [self._session.answer(result) is not None for result in results]

    def children(self, path: str) -> list[str]:
        """The names of the nodes below a node; none when it is gone."""
        try:
            names = self._session.call(partial(_list, path))
        except NoNodeError:
            return []
        return list(names)

    def write(self, path: str, data: bytes, version: int) -> int:
        """Write over the version that was read; the new version. ConflictError, NotFoundError."""
        # ZooKeeper takes -1 for "whatever is there".
        if version < 0:
            raise ConflictError(f"{path} was never read, so it can't be written over")
        try:
            return int(self._session.call(partial(set_data, path, data, version)).version)
        except BadVersionError as error:
            raise ConflictError(f"{path} changed since it was read") from error
        except NoNodeError as error:
            raise NotFoundError(f"there is no {path}") from error

    def create(self, path: str, data: bytes) -> None:
        """Make a node and what is missing above it; ConflictError when there is one."""
        try:
            self._session.call(lambda c: c.create_async(path, data, makepath=True))
        except NodeExistsError as error:
            raise ConflictError(f"{path} exists already") from error

    def put(self, path: str, data: bytes) -> None:
        """Write a node over whatever it says now, or make it.

        The version is named all the same: should the request be carried out late, when the answer is no
        longer waited for, it changes nothing that somebody else wrote meanwhile.
        """
        for _ in range(ATTEMPTS):
            try:
                version = self.read(path).version
            except NotFoundError:
                version = None
            try:
                if version is None:
                    self.create(path, data)
                else:
                    self.write(path, data, version)
                return
            except (ConflictError, NotFoundError):
                continue
        raise ConflictError(f"{path} keeps changing")

    def remove(self, path: str) -> None:
        """Remove a node whatever it says now; no error when it is gone. As `put`, it names the version."""
        for _ in range(ATTEMPTS):
            try:
                self.delete(path, self.read(path).version)
                return
            except NotFoundError:
                return
            except ConflictError:
                continue
        raise ConflictError(f"{path} keeps changing")

    def delete(self, path: str, version: int) -> None:
        """Remove a node of that version; no error when it is gone. ConflictError for another version."""
        try:
            self._session.call(lambda c: c.delete_async(path, version=version))
        except NoNodeError:
            return
        except BadVersionError as error:
            raise ConflictError(f"{path} changed since it was read") from error

    def ensure(self, path: str) -> None:
        """Make an empty node unless it is there, and what is missing above it."""
        self._session.call(lambda c: c.ensure_path_async(path))

    def make(self, path: str) -> bool:
        """Make an empty node unless it is there; False when its parent is gone."""
        return self._is_made(self._session.submit(partial(_create, path)))

    def _is_made(self, result: IAsyncResult) -> bool:
        """Whether there is a node now, which was to be made."""
        try:
            self._session.answer(result)
        except NodeExistsError:
            return True
        except NoNodeError:
            return False
        return True

    def make_down(self, wanted: Sequence[str]) -> bool:
        """Make empty nodes, each below the one before it, unless they are there; False when the parent of
        the first is gone."""
        # ZooKeeper does what a session asks for in its order, so nobody needs to wait in between.
        results = [self._session.submit(partial(_create, path)) for path in wanted]
        return all(map(self._is_made, results))

    def children_made(self, path: str) -> int:
        """How many nodes were ever made below a node: what ZooKeeper's sequence counts; NotFoundError."""
        stat = self._session.call(partial(_exists, path))
        if stat is None:
            raise NotFoundError(f"there is no {path}")
        # `cversion` counts every coming and going; what came and did not go is there.
        return int(stat.cversion + stat.numChildren) // 2

    def subtree(self, path: str) -> list[str]:
        """A node and all below it, children first; empty when it is gone."""
        try:
            names = self._session.call(partial(_list, path))
        except NoNodeError:
            return []
        return [node for name in names for node in self.subtree(f"{path}/{name}")] + [path]

    def commit(self, steps: Iterable[Step]) -> bool:
        """Do all steps or none; whether they were done: not when a node came, went or changed in between."""
        return self.transact(steps) is not None

    def transact(self, steps: Iterable[Step]) -> list[Any] | None:
        """Do all steps or none; ZooKeeper's answer to each, None when a node came, went or changed in
        between."""

        def send(client: KazooClient) -> IAsyncResult:
            transaction = client.transaction()
            for step in steps:
                step(transaction)
            return transaction.commit_async()

        answers = list(self._session.call(send))
        problems = [answer for answer in answers if isinstance(answer, KazooException)]
        causes = [p for p in problems if not isinstance(p, RolledBackError | RuntimeInconsistency)]
        if any(isinstance(p, _IN_BETWEEN) for p in causes):
            return None
        if problems:
            raise (causes or problems)[0]
        return answers


class Part(Store):
    """What the parts of the ZooKeeperStore have in common."""

    _session: Session
    _nodes: Nodes


_IN_BETWEEN: Final = (BadVersionError, NodeExistsError, NoNodeError, NotEmptyError)


def stored(data: bytes, stat: ZnodeStat) -> Stored:
    """What is known of a node that was read."""
    return Stored(
        data=data,
        version=stat.version,
        written_by=stat.mzxid,
        created=datetime.fromtimestamp(stat.ctime / 1000, UTC),
        modified=datetime.fromtimestamp(stat.mtime / 1000, UTC),
    )


def creating(path: str, data: bytes = b"") -> Step:
    """The step of a transaction that makes a node; what is above it has to be there."""
    return lambda transaction: transaction.create(path, data)


def setting(path: str, data: bytes, version: int) -> Step:
    """The step of a transaction that writes over the version that was read."""
    return lambda transaction: transaction.set_data(path, data, version=version)


def checking(path: str, version: int) -> Step:
    """The step of a transaction that makes sure that a node is as it was read."""
    return lambda transaction: transaction.check(path, version)


def deleting(path: str, version: int = -1) -> Step:
    """The step of a transaction that removes a node, which has none below it: of that version, or with -1
    of any, for what stands below a record says nothing by itself."""
    return lambda transaction: transaction.delete(path, version=version)


def set_data(path: str, data: bytes, version: int, client: KazooClient) -> IAsyncResult:
    """The request to write over a version; over any, if that is -1."""
    return client.set_async(path, data, version=version)


def _get(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_async(path)


def _create(path: str, client: KazooClient) -> IAsyncResult:
    return client.create_async(path, b"")


def _exists(path: str, client: KazooClient) -> IAsyncResult:
    return client.exists_async(path)


def _list(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_children_async(path)

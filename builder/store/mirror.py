"""Keeps what a Snapshot shows of the tree in memory, through watches.

Each node is read with a watch on it, and read again when that watch fires: a change costs one read
of what changed and of nothing else, and nobody polls. kazoo has no persistent recursive watch yet
(https://github.com/python-zk/kazoo/pull/715); one-time watches, set by the very request that reads,
miss nothing either, and work with every ZooKeeper server.

Nothing here waits. Requests are sent from kazoo's threads, answers arrive in one thread in the order
of the requests, so the last answer stored for a node is the newest. After each connect the whole
tree is read again, many nodes at a time (bulk.py), with new watches, for kazoo drops them all with
the connection.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import Callback, EventType, WatchedEvent

from builder.errors import StoreUnavailableError
from builder.model import Snapshot
from builder.store import paths
from builder.store.bulk import AT_ONCE, Read, Watch, read
from builder.store.fields import Stored
from builder.store.nodes import stored
from builder.store.paths import Kind, Place
from builder.store.reading import decode
from builder.store.session import Session
from builder.store.view import View

LOG = logging.getLogger(__name__)

_DATA_EVENTS: Final = frozenset({EventType.CREATED, EventType.CHANGED, EventType.DELETED})
_CHILD_EVENTS: Final = frozenset({EventType.CREATED, EventType.CHILD, EventType.DELETED})
#: From so many nodes on, one request for all of them and one for their watches cost less than one for each.
_MANY: Final = 4
_NO_CHILDREN: Final[frozenset[str]] = frozenset()


@dataclass(kw_only=True, slots=True)
class _Node:
    """What is known of one node besides the record in it, which the View has."""

    place: Place
    children: frozenset[str] = _NO_CHILDREN
    said: Stored | None = None


class Mirror:
    """The tree as last seen. `on_change` is called, from a thread of kazoo's, after every change of it.

    `watch=False` reads it once for each `connected` and then lets it grow old.
    """

    def __init__(self, session: Session, on_change: Callable[[], None], *, watch: bool) -> None:
        self._session = session
        self._on_change = on_change
        self._watch = self._on_event if watch else None
        self._changed = threading.Condition(threading.RLock())
        self._nodes: dict[str, _Node] = {}
        self._reading: set[str] = set()  #: paths read since the last connect
        self._wanted: list[Read] = []  #: what `_flush` will ask for
        self._round = 0
        self._under_way = 0
        self._answers = 0
        self._problem: KazooException | None = None
        self._synced = False
        self._news = False  #: something changed that `on_change` has not told yet
        self._view = View()

    @property
    def synced(self) -> bool:
        """Whether the whole tree was read since the last connect."""
        return self._synced

    def wait_synced(self, timeout: float) -> None:
        """Wait until the tree is read; StoreUnavailableError when it can't be, or nothing of it comes for
        `timeout` seconds: how long all of it takes depends on how much there is."""
        with self._changed:
            heard = -1
            while heard != self._answers and not (self._synced or self._problem is not None):
                heard = self._answers
                self._changed.wait_for(partial(self._is_over, heard), timeout)
            if not self._synced:
                why = repr(self._problem) if self._problem else f"no answer within {timeout:.0f} s"
                raise StoreUnavailableError(
                    f"the records in ZooKeeper ({self._session.zookeeper.hosts}) can't be read: {why}"
                )

    def _is_over(self, heard: int) -> bool:
        """Whether the reading has ended, or went on since so many answers were heard."""
        return self._synced or self._problem is not None or self._answers != heard

    def connected(self) -> None:
        """Read everything anew; what is gone meanwhile goes, what is unchanged stays."""
        with self._changed:
            self._round += 1
            self._reading = set()
            self._under_way = 0
            self._problem = None
            self._synced = False
            self._wanted = []
            for root in paths.ROOTS:
                self._visit(root)
            self._flush()

    def settle(self, timeout: float) -> bool:
        """Wait until what anybody had written before this call is in the tree; whether it is, within
        `timeout` seconds. Raises StoreUnavailableError."""
        deadline, told = time.monotonic() + timeout, threading.Event()
        self._session.call(_sync)
        # The events of these writes have arrived by now, and wait in line to be told.
        self._session.send(partial(_after_events, told.set))
        if not told.wait(deadline - time.monotonic()):
            return False
        with self._changed:
            return self._changed.wait_for(
                lambda: self._synced and not self._under_way, deadline - time.monotonic()
            )

    def nodes(self, *, uploads: bool = True) -> list[tuple[str, Stored | None]]:
        """The nodes that a Snapshot shows, as last seen, and what they say if they are records; all of them,
        or all but those of uploads."""
        without = frozenset() if uploads else paths.OF_UPLOADS
        with self._changed:
            return [
                (path, node.said)
                for path, node in self._nodes.items()
                if (node.said is not None or node.place.kind in paths.MARKS)
                and node.place.kind not in without
            ]

    def disconnected(self) -> None:
        """The tree stays as it was last seen."""
        with self._changed:
            self._round += 1
            self._synced = False

    def snapshot(self) -> Snapshot:
        """The tree as last seen; only images that changed since the last call cost anything."""
        with self._changed:
            return self._view.snapshot()

    @property
    def first_candidate(self) -> str | None:
        """The node of whoever leads, as last seen."""
        with self._changed:
            return self._view.first_candidate

    # -- requests -----------------------------------------------------------------------------

    def _visit(self, path: str) -> None:
        """Read a node that has not been read since the last connect, and so all that is below it."""
        place = paths.place(path)
        if place is None or path in self._reading:
            return
        self._reading.add(path)
        if path not in self._nodes:
            self._nodes[path] = _Node(place=place)
            if place.kind not in paths.RECORDS:
                self._view_changed(self._view.put(path, place))
        self._read(place, path)

    def _read(self, place: Place, path: str, *, data: bool = True, children: bool = True) -> None:
        """Have the next `_flush` ask for what such a node may have."""
        if data and place.kind in paths.RECORDS:
            self._wanted.append(Read(path, names=False))
        if children and place.kind not in paths.LEAVES:
            self._wanted.append(Read(path, names=True))

    def _flush(self) -> None:
        """Ask for what is wanted."""
        wanted, self._wanted = self._wanted, []
        if len(wanted) < _MANY:
            for each in wanted:
                self._send(partial(_ask, each, self._watch), partial(self._store, each))
            return
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            self._send(partial(read, some, self._watch), partial(self._store_all, some))

    def _send(
        self, operation: Callable[[KazooClient], IAsyncResult], store: Callable[[IAsyncResult], None]
    ) -> None:
        result = self._session.send(operation)
        if result is not None:
            self._under_way += 1
            result.rawlink(partial(self._arrived, self._round, store))

    def _arrived(self, number: int, store: Callable[[IAsyncResult], None], result: IAsyncResult) -> None:
        with self._changed:
            # An answer of the connection before: all it read is being read again.
            if number != self._round:
                return
            try:
                store(result)
                self._flush()
            except KazooException as error:
                # No connection: the next connect reads everything. No permission: it stays unread.
                # What is told first is why: what comes after it may be no more than the connection's end.
                self._problem = self._problem or error
                LOG.warning("can't read the records in ZooKeeper: %r", error)
            self._under_way -= 1
            self._answers += 1
            if self._under_way == 0 and not self._synced and self._problem is None:
                self._synced = self._news = True
            self._changed.notify_all()
            news, self._news = self._news, False
        if news:
            self._on_change()

    def _on_event(self, event: WatchedEvent) -> None:
        # Without a path: the connection went, and `connected` will read everything.
        place = paths.place(event.path) if event.path else None
        if place is None:
            return
        with self._changed:
            self._react(event, place)
            self._flush()
            news, self._news = self._news, False
        if news:
            self._on_change()

    def _react(self, event: WatchedEvent, place: Place) -> None:
        if event.path not in self._nodes:
            if place.kind is Kind.ROOT:
                self._visit(event.path)
        elif event.type == EventType.DELETED and place.kind is not Kind.ROOT:
            # Should there be another by now, the one above tells: its children changed as well.
            self._forget(event.path)
        else:
            self._read(
                place,
                event.path,
                data=event.type in _DATA_EVENTS,
                children=event.type in _CHILD_EVENTS,
            )

    # -- answers ------------------------------------------------------------------------------

    def _store_all(self, wanted: Sequence[Read], result: IAsyncResult) -> None:
        for each, answer in zip(wanted, result.get(), strict=True):
            self._store(each, _Said(answer))

    def _store(self, wanted: Read, result: IAsyncResult | _Said) -> None:
        path = wanted.path
        try:
            answer = result.get()
        except NoNodeError:
            self._forget(path)
            if path in paths.ROOTS:
                # It has no parent here whose children would tell when it is back.
                self._send(partial(_exists, path, self._watch), partial(self._store_root, path))
            return
        node = self._nodes.get(path)
        if node is None:
            return
        if wanted.names:
            self._store_children(path, node, answer)
        else:
            self._store_data(path, node, stored(*answer))

    def _store_data(self, path: str, node: _Node, said: Stored) -> None:
        if node.said is None or node.said.written_by != said.written_by:
            node.said = said
            self._view_changed(self._view.put(path, node.place, decode(node.place, said)))

    def _store_children(self, path: str, node: _Node, names: Iterable[str]) -> None:
        children = frozenset(f"{path}/{name}" for name in names)
        for gone in node.children - children:
            self._forget(gone)
        node.children = children
        for child in children:
            self._visit(child)

    def _store_root(self, path: str, result: IAsyncResult) -> None:
        if result.get() is not None:
            self._visit(path)

    def _forget(self, path: str) -> None:
        node = self._nodes.pop(path, None)
        self._reading.discard(path)
        if node is not None:
            self._view_changed(self._view.drop(path, node.place))
            for child in node.children:
                self._forget(child)

    def _view_changed(self, shown: bool) -> None:
        self._news = self._news or shown


@dataclass(frozen=True)
class _Said:
    """One of many answers in one, in the shape of a result of its own."""

    answer: Any

    def get(self) -> Any:
        if isinstance(self.answer, KazooException):
            raise self.answer
        return self.answer


def _ask(wanted: Read, watch: Watch | None, client: KazooClient) -> IAsyncResult:
    if wanted.names:
        return client.get_children_async(wanted.path, watch=watch)
    return client.get_async(wanted.path, watch=watch)


def _exists(path: str, watch: Watch | None, client: KazooClient) -> IAsyncResult:
    return client.exists_async(path, watch=watch)


def _sync(client: KazooClient) -> IAsyncResult:
    return client.sync_async("/")


def _after_events(tell: Callable[[], None], client: KazooClient) -> None:
    client.handler.dispatch_callback(Callback("watch", tell, ()))

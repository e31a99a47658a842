"""Keeps the tree below /nodepool/images in memory, through watches.

Each node is read with a watch on it, and read again when that watch fires: a change costs one read
of what changed and of nothing else, and nobody polls. kazoo has no persistent recursive watch yet
(https://github.com/python-zk/kazoo/pull/715); one-time watches, set by the very request that reads,
miss nothing either, and work with every ZooKeeper server.

Nothing here waits. Requests are sent from kazoo's threads, answers arrive in one thread in the order
of the requests, so the last answer stored for a node is the newest. After each connect the whole
tree is read again by pipelined requests, with new watches, for kazoo drops them all with the
connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import EventType, WatchedEvent

from builder.errors import StoreUnavailableError
from builder.model import Build, Cancellation, ImageRecords, Request, Snapshot, Upload, UploadCancellation
from builder.store import codec, notes, paths
from builder.store.base import builds_newest_first, uploads_newest_first
from builder.store.fields import RecordError, Stored
from builder.store.nodes import stored
from builder.store.paths import Kind, Place
from builder.store.session import Session

LOG = logging.getLogger(__name__)

Record = Build | Upload | Request | Cancellation | tuple[UploadCancellation, ...]
_DATA_EVENTS: Final = frozenset({EventType.CREATED, EventType.CHANGED, EventType.DELETED})
_CHILD_EVENTS: Final = frozenset({EventType.CREATED, EventType.CHILD, EventType.DELETED})
_NO_CHILDREN: Final[frozenset[str]] = frozenset()


@dataclass(kw_only=True)
class _Node:
    """What is known of one node: its children's paths, and the record in it."""

    place: Place
    children: frozenset[str] = _NO_CHILDREN
    written_by: int | None = None
    record: Record | None = None


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
        self._round = 0
        self._under_way = 0
        self._problem: KazooException | None = None
        self._synced = False
        self._news = False  #: something changed that `on_change` has not told yet
        self._stale: set[str] = set()  #: images whose records have to be put together anew
        self._snapshot = Snapshot()

    @property
    def synced(self) -> bool:
        """Whether the whole tree was read since the last connect."""
        return self._synced

    def wait_synced(self, timeout: float) -> None:
        """Wait until the tree is read; StoreUnavailableError when it can't be, in `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._synced or self._problem is not None, timeout)
            if not self._synced:
                why = repr(self._problem) if self._problem else f"no answer within {timeout:.0f} s"
                raise StoreUnavailableError(
                    f"the records in ZooKeeper ({self._session.zookeeper.hosts}) can't be read: {why}"
                )

    def connected(self) -> None:
        """Read everything anew; what is gone meanwhile goes, what is unchanged stays."""
        with self._changed:
            self._round += 1
            self._reading = set()
            self._under_way = 0
            self._problem = None
            self._synced = False
            self._visit(paths.IMAGES)

    def disconnected(self) -> None:
        """The tree stays as it was last seen."""
        with self._changed:
            self._round += 1
            self._synced = False

    def snapshot(self) -> Snapshot:
        """The tree as last seen; only images that changed since the last call cost anything."""
        with self._changed:
            if self._stale:
                images = dict(self._snapshot.images)
                for name in self._stale:
                    images.pop(name, None)
                    if paths.image(name) in self._nodes:
                        images[name] = self._image(name)
                self._snapshot = Snapshot(images=MappingProxyType(images))
                self._stale = set()
            return self._snapshot

    # -- requests -----------------------------------------------------------------------------

    def _visit(self, path: str) -> None:
        """Read a node that has not been read since the last connect, and so all that is below it."""
        place = paths.place(path)
        if place is None or path in self._reading:
            return
        self._reading.add(path)
        if path not in self._nodes:
            self._nodes[path] = _Node(place=place)
            self._touch(place)
        if place.kind in paths.RECORDS:
            self._read_data(path)
        if place.kind not in paths.LEAVES:
            self._read_children(path)

    def _read_data(self, path: str) -> None:
        self._send(partial(_get, path, self._watch), partial(self._store_data, path))

    def _read_children(self, path: str) -> None:
        self._send(partial(_list, path, self._watch), partial(self._store_children, path))

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
            except KazooException as error:
                # No connection: the next connect reads everything. No permission: it stays unread.
                self._problem = error
                LOG.warning("can't read the records in ZooKeeper: %r", error)
            self._under_way -= 1
            if self._under_way == 0 and not self._synced and self._problem is None:
                self._synced = self._news = True
            if self._synced or self._problem is not None:
                self._changed.notify_all()
            news, self._news = self._news, False
        if news:
            self._on_change()

    def _on_event(self, event: WatchedEvent) -> None:
        with self._changed:
            # Of another type than these: the connection went, and `connected` will read everything.
            place = paths.place(event.path) if event.path else None
            if place is None:
                return
            if event.path not in self._nodes:
                if place.kind is Kind.ROOT:
                    self._visit(event.path)
                return
            if event.type in _DATA_EVENTS and place.kind in paths.RECORDS:
                self._read_data(event.path)
            if event.type in _CHILD_EVENTS and place.kind not in paths.LEAVES:
                self._read_children(event.path)

    # -- answers ------------------------------------------------------------------------------

    def _store_data(self, path: str, result: IAsyncResult) -> None:
        try:
            data, stat = result.get()
        except NoNodeError:
            self._forget(path)
            return
        node = self._nodes.get(path)
        if node is None or node.written_by == stat.mzxid:
            return
        node.written_by = stat.mzxid
        node.record = decode(node.place, stored(data, stat))
        self._touch(node.place)

    def _store_children(self, path: str, result: IAsyncResult) -> None:
        try:
            names = result.get()
        except NoNodeError:
            self._forget(path)
            if path == paths.IMAGES:
                # It has no parent here whose children would tell when it is back.
                self._send(partial(_exists, path, self._watch), self._store_root)
            return
        node = self._nodes.get(path)
        if node is None:
            return
        children = frozenset(f"{path}/{name}" for name in names)
        for gone in node.children - children:
            self._forget(gone)
        node.children = children
        for child in children:
            self._visit(child)

    def _store_root(self, result: IAsyncResult) -> None:
        if result.get() is not None:
            self._visit(paths.IMAGES)

    def _forget(self, path: str) -> None:
        node = self._nodes.pop(path, None)
        self._reading.discard(path)
        if node is not None:
            self._touch(node.place)
            for child in node.children:
                self._forget(child)

    def _touch(self, place: Place) -> None:
        if place.image:
            self._stale.add(place.image)
            self._news = True

    # -- putting together ---------------------------------------------------------------------

    def _image(self, name: str) -> ImageRecords:
        nodes = list(self._below(paths.image(name)))
        kinds = {node.place.kind for node in nodes}
        records = [node.record for node in nodes]
        return ImageRecords(
            name=name,
            paused=Kind.PAUSE in kinds,
            request=next((record for record in records if isinstance(record, Request)), None),
            cancellation=next((record for record in records if isinstance(record, Cancellation)), None),
            upload_cancellations=next((record for record in records if isinstance(record, tuple)), ()),
            builds=builds_newest_first(record for record in records if isinstance(record, Build)),
            uploads=uploads_newest_first(record for record in records if isinstance(record, Upload)),
            build_claimed=Kind.IMAGE_CONTENDER in kinds,
            uploads_claimed=frozenset(
                (node.place.build_id, node.place.provider)
                for node in nodes
                if node.place.kind is Kind.UPLOADS_CONTENDER
            ),
        )

    def _below(self, path: str) -> Iterator[_Node]:
        node = self._nodes.get(path)
        if node is not None:
            yield node
            for child in node.children:
                yield from self._below(child)


def decode(place: Place, node: Stored) -> Record | None:
    """The record at a place; None, and a warning in the log, when it can't be read."""
    try:
        if place.kind is Kind.REQUEST:
            return notes.decode_request(node, image=place.image)
        if place.kind is Kind.CANCELLATION:
            return notes.decode_cancellation(node, image=place.image)
        if place.kind is Kind.UPLOAD_CANCELLATIONS:
            return notes.decode_upload_cancellations(node, image=place.image)
        if place.kind is Kind.BUILD:
            return codec.decode_build(node, image=place.image, build_id=place.build_id)
        return codec.decode_upload(
            node,
            image=place.image,
            build_id=place.build_id,
            provider=place.provider,
            upload_id=place.upload_id,
        )
    except RecordError as error:
        # A build's node may be empty by right: nodepool keeps uploads below such.
        if node.data:
            LOG.warning("skipped: %s", error)
        return None


def _get(path: str, watch: Callable[[WatchedEvent], None] | None, client: KazooClient) -> IAsyncResult:
    return client.get_async(path, watch=watch)


def _list(path: str, watch: Callable[[WatchedEvent], None] | None, client: KazooClient) -> IAsyncResult:
    return client.get_children_async(path, watch=watch)


def _exists(path: str, watch: Callable[[WatchedEvent], None] | None, client: KazooClient) -> IAsyncResult:
    return client.exists_async(path, watch=watch)

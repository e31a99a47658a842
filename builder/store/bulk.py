"""Reads many nodes with one request, and sets watches on them with another: two that kazoo does not have.

A request costs kazoo a hundred microseconds, most of them for waking threads. In a multiRead (opcode 22,
org.apache.zookeeper.MultiOperationRecord, since ZooKeeper 3.6; older servers answer with
UnimplementedError, and hang up) a node costs a few. It is on the wire what a transaction is, with reading
operations in it, each of which has an answer or an error of its own. It sets no watches, so a setWatches
(opcode 101, org.apache.zookeeper.proto.SetWatches) goes before it, with which ZooKeeper's own client brings
its watches along to another server. What changes between the two is in what is read then, and is told as
well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.exceptions import EXCEPTIONS, KazooException
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.paths import _prefix_root
from kazoo.protocol.serialization import (
    GetChildren,
    GetData,
    int_struct,
    long_struct,
    multiheader_struct,
    read_buffer,
    read_string,
    stat_struct,
    write_string,
)
from kazoo.protocol.states import WatchedEvent, ZnodeStat

Watch = Callable[[WatchedEvent], None]

#: Nodes in one request: both it and its answer stay far below a megabyte, which is what servers and clients
#: take, and others get through in between.
AT_ONCE: Final = 500
_ERROR: Final = -1
_END: Final[bytes] = multiheader_struct.pack(-1, True, -1)
#: Older than any change: ZooKeeper tells what changed since a transaction, and this one is to come.
_FROM_NOW_ON: Final[bytes] = long_struct.pack((1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Read:
    """What to read: the data of a node, or the names of those below it."""

    path: str
    names: bool


def read(wanted: Sequence[Read], watch: Watch | None, client: KazooClient) -> IAsyncResult:
    """Send the request for at most AT_ONCE nodes, with a one-time watch on each of them.

    The result is a list with the answer to each: (data, stat), names, or one of kazoo's exceptions.
    """
    # kazoo's client says nowhere in public how to send what it doesn't know, nor how to watch.
    if watch is not None:
        client._call(_SetWatches(wanted, watch, client), client.handler.async_result())
    result = client.handler.async_result()
    client._call(_MultiRead(_operation(each, client.chroot) for each in wanted), result)
    return result


def _operation(wanted: Read, chroot: str) -> Any:
    return (GetChildren if wanted.names else GetData)(_path(wanted, chroot), None)


def _path(wanted: Read, chroot: str) -> str:
    # kazoo would make a copy of each, and keep it with the watch.
    return _prefix_root(chroot, wanted.path) if chroot else wanted.path


class _MultiRead:
    """Reading operations as one request, in the shape in which kazoo's connection knows requests."""

    type: Final = 22

    def __init__(self, operations: Iterable[Any]) -> None:
        self._operations = tuple(operations)

    def serialize(self) -> bytes:
        """The request's bytes."""
        request = bytearray()
        for each in self._operations:
            request += multiheader_struct.pack(each.type, False, -1) + each.serialize()
        return bytes(request) + _END

    @staticmethod
    def deserialize(data: bytes, offset: int) -> list[Any]:
        """The answers, in the order of the operations."""
        answers: list[Any] = []
        while True:
            kind, done, _ = multiheader_struct.unpack_from(data, offset)
            offset += multiheader_struct.size
            if done:
                return answers
            answer, offset = _READ[kind](data, offset)
            answers.append(answer)


class _SetWatches:
    """Watches on the data of some nodes and on what is below some, as one request."""

    type: Final = 101

    def __init__(self, wanted: Sequence[Read], watch: Watch, client: KazooClient) -> None:
        self._data = [_path(each, client.chroot) for each in wanted if not each.names]
        self._names = [_path(each, client.chroot) for each in wanted if each.names]
        # Nobody but the Mirror watches, so one set does for all these nodes.
        self._told = {watch}
        self._client = client

    def serialize(self) -> bytes:
        """The request's bytes."""
        return _FROM_NOW_ON + b"".join(map(_strings, (self._data, (), self._names)))

    def deserialize(self, data: bytes, offset: int) -> None:
        """The answer says nothing but that from now on there may be events, which have to find whom to tell.
        kazoo's connection comes here on its own thread, on which it notes its other watches, too."""
        self._client._data_watchers.update(dict.fromkeys(self._data, self._told))
        self._client._child_watchers.update(dict.fromkeys(self._names, self._told))


def _strings(strings: Sequence[str]) -> bytes:
    length: bytes = int_struct.pack(len(strings))
    return length + b"".join(map(write_string, strings))


def _read_data(data: bytes, offset: int) -> tuple[tuple[bytes, ZnodeStat], int]:
    content, offset = read_buffer(data, offset)
    stat = ZnodeStat._make(stat_struct.unpack_from(data, offset))
    return (content or b"", stat), offset + stat_struct.size


def _read_names(data: bytes, offset: int) -> tuple[list[str], int]:
    (count,) = int_struct.unpack_from(data, offset)
    offset += int_struct.size
    names = []
    for _ in range(count):
        name, offset = read_string(data, offset)
        names.append(name)
    return names, offset


def _read_error(data: bytes, offset: int) -> tuple[KazooException, int]:
    (code,) = int_struct.unpack_from(data, offset)
    return EXCEPTIONS[code](), offset + int_struct.size


_READ: Final = {GetData.type: _read_data, GetChildren.type: _read_names, _ERROR: _read_error}

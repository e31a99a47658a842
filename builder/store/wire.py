"""How a daemon and a command on its machine talk: the question, the answer, and the nodes that follow it.

    question    one line of JSON: {"imagepool": 1, "config": FINGERPRINT, "servers": SERVERS, "uploads": BOOL}
    answer      one line of JSON: {"imagepool": 1, "images": [...], "providers": [...], "bytes": N}, and then
                the nodes, N bytes; or {"imagepool": 1, "refused": WHY}, and nothing more
    node        lengths of its path and its data, version, writing transaction, times of creation and last
                write in milliseconds (struct "!IiiqQQ"), the path, and the data as ZooKeeper has it; a node
                that says nothing but that it is there has a length of -1

What stands in a record is for the codec to read, on either side: there is no second form of it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from builder.store.fields import Stored

#: Names other ZooKeeper servers than the configuration does; whoever asks and who answers have to agree.
SERVERS_VARIABLE: Final = "IMAGEPOOL_ZOOKEEPER"
VERSION: Final = 1
#: Bytes of a question, of the line of an answer, and of all nodes: more is no daemon of ours.
MOST_ASKED, MOST_ANSWERED, MOST_NODES = 4096, 1 << 20, 1 << 29

_NODE: Final = struct.Struct("!IiiqQQ")
_NOTHING: Final = -1
_PIECE: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

Nodes = Iterable[tuple[str, Stored | None]]


class WireError(Exception):
    """What came is nothing that the other side says."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whose records are meant, and which."""

    config: str  #: `Config.fingerprint`
    servers: str = ""  #: what names other ZooKeeper servers than the configuration does, if anything
    uploads: bool = True  #: those of uploads as well, which are most


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a daemon says before the nodes, or why there are none."""

    images: tuple[str, ...] = ()  #: diskimages of the configuration, in its order
    providers: tuple[str, ...] = ()
    size: int = 0  #: of the nodes that follow, in bytes
    refused: str | None = None


def encode_question(question: Question) -> bytes:
    """The line to ask with."""
    return _line({"config": question.config, "servers": question.servers, "uploads": question.uploads})


def decode_question(line: bytes) -> Question:
    """What is asked; WireError."""
    fields = _fields(line)
    config, servers, uploads = _text(fields, "config"), _text(fields, "servers"), fields.get("uploads")
    return Question(config=config, servers=servers, uploads=uploads is not False)


def encode_answer(answer: Answer) -> bytes:
    """The line to answer with."""
    if answer.refused is not None:
        return _line({"refused": answer.refused})
    return _line({"images": answer.images, "providers": answer.providers, "bytes": answer.size})


def decode_answer(line: bytes) -> Answer:
    """What is answered; WireError."""
    fields = _fields(line)
    if "refused" in fields:
        return Answer(refused=_text(fields, "refused"))
    size = fields.get("bytes")
    if not isinstance(size, int) or not 0 <= size <= MOST_NODES:
        raise WireError(f"{size!r} is no number of bytes")
    return Answer(images=_texts(fields, "images"), providers=_texts(fields, "providers"), size=size)


def size_of(nodes: Nodes) -> int:
    """The bytes that `encode_nodes` will make of them."""
    return sum(
        _NODE.size + len(path.encode()) + (0 if said is None else len(said.data)) for path, said in nodes
    )


def encode_nodes(nodes: Nodes) -> Iterator[bytes]:
    """The nodes as they follow an answer, piece by piece: all at once may be a lot of memory."""
    left = iter(nodes)
    while some := list(islice(left, _PIECE)):
        yield b"".join(part for path, said in some for part in _encode_node(path.encode(), said))


def _encode_node(path: bytes, said: Stored | None) -> tuple[bytes, ...]:
    if said is None:
        return _NODE.pack(len(path), _NOTHING, 0, 0, 0, 0), path
    times = (_milliseconds(said.created), _milliseconds(said.modified))
    return _NODE.pack(len(path), len(said.data), said.version, said.written_by, *times), path, said.data


def decode_nodes(data: bytes) -> Iterator[tuple[str, Stored | None]]:
    """The nodes in what follows an answer; WireError."""
    at, end = 0, len(data)
    while at < end:
        try:
            path_length, length, version, written_by, created, modified = _NODE.unpack_from(data, at)
            at += _NODE.size
            path = data[at : at + path_length].decode()
            at += path_length
            content = data[at : at + max(0, length)]
            at += max(0, length)
            times = (_moment(created), _moment(modified))
        except (struct.error, ValueError, OverflowError) as error:
            raise WireError(f"broken nodes: {error}") from error
        if at > end or length < _NOTHING:
            raise WireError("broken nodes: one is longer than all of them")
        if length == _NOTHING:
            yield path, None
        else:
            yield (
                path,
                Stored(
                    data=content, version=version, written_by=written_by, created=times[0], modified=times[1]
                ),
            )


def _milliseconds(time: datetime) -> int:
    return round((time - _EPOCH) / _MILLISECOND)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps({"imagepool": VERSION, **fields}).encode() + b"\n"


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("imagepool") != VERSION:
        raise WireError("another version of imagepool, or none")
    return fields


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise WireError(f"{name} is no text")
    return value


def _texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise WireError(f"{name} is no list of texts")
    return tuple(value)

"""Asks the daemon of this machine for all records: several times as fast as to read them from ZooKeeper.

Whoever asks has to do without an answer: there is no daemon, it hangs, it works with another configuration,
it has lost ZooKeeper itself, or it is of another version. What it says is believed when it runs as root, as
ourselves, or as whom the state directory belongs to.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.model import Snapshot
from builder.store import paths, wire
from builder.store.reading import decode
from builder.store.view import View
from builder.store.wire import Question, WireError

LOG = logging.getLogger(__name__)

#: The name of the socket in the state directory.
SOCKET: Final = "socket"
#: Seconds until the daemon has to take the connection, until it has to begin to answer, and for all of the
#: answer: a daemon that hangs must not cost much of what it could have saved.
_CONNECT, _BEGIN, _ALL = 0.2, 1.0, 10.0
_CHUNK: Final = 1 << 18
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a daemon told."""

    snapshot: Snapshot
    images: tuple[str, ...]  #: diskimages of the configuration, in its order
    providers: tuple[str, ...]


def ask(state_dir: Path, question: Question) -> Told | None:
    """What the daemon with that state directory has to tell; None when there is nothing to be had from it,
    which the debug log explains."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONNECT)
            with reachable(state_dir) as path:
                connection.connect(path)
            return _ask(connection, state_dir, question)
    except FileNotFoundError:
        LOG.debug("no daemon listens in %s", state_dir)
    except (OSError, WireError) as error:
        LOG.debug("the daemon with %s gave no answer: %s", state_dir, error)
    return None


def _ask(connection: socket.socket, state_dir: Path, question: Question) -> Told | None:
    _check_owner(connection, state_dir)
    deadline = time.monotonic() + _ALL
    connection.settimeout(_BEGIN)
    connection.sendall(wire.encode_question(question))
    line, rest = receive_line(connection, wire.MOST_ANSWERED)
    answer = wire.decode_answer(line)
    if answer.refused is not None:
        LOG.debug("the daemon with %s does not answer: %s", state_dir, answer.refused)
        return None
    data = _receive(connection, rest, answer.size, deadline)
    return Told(snapshot=_snapshot(data), images=answer.images, providers=answer.providers)


def _check_owner(connection: socket.socket, state_dir: Path) -> None:
    """PermissionError when whoever listens there may be anybody."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid not in _trusted(state_dir):
        raise PermissionError(f"user {uid} listens there, who has no business with this directory")


def _trusted(state_dir: Path) -> set[int]:
    return {0, os.geteuid(), state_dir.stat().st_uid}


def receive_line(connection: socket.socket, most: int) -> tuple[bytes, bytes]:
    """A line of at most so many bytes, and what came after it; WireError, or OSError when the time is over
    that the socket has for all of it."""
    deadline = time.monotonic() + (connection.gettimeout() or _ALL)
    received = b""
    while b"\n" not in received:
        if len(received) > most:
            raise WireError("no end of the line")
        received += _some(connection, deadline, _CHUNK)
    line, _, rest = received.partition(b"\n")
    return line, rest


def _receive(connection: socket.socket, begun: bytes, size: int, deadline: float) -> bytes:
    parts, left = [begun], size - len(begun)
    while left > 0:
        part = _some(connection, deadline, min(left, _CHUNK))
        parts.append(part)
        left -= len(part)
    if left < 0:
        raise WireError("more than was announced")
    return b"".join(parts)


def _some(connection: socket.socket, deadline: float, most: int) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it takes too long")
    connection.settimeout(left)
    part = connection.recv(most)
    if not part:
        raise WireError("the connection ended too early")
    return part


def _snapshot(data: bytes) -> Snapshot:
    view = View()
    for path, said in wire.decode_nodes(data):
        place = paths.place(path)
        if place is None:
            continue
        if said is None and place.kind in paths.MARKS:
            view.put(path, place)
        elif said is not None and place.kind in paths.RECORDS:
            view.put(path, place, decode(place, said))
    return view.snapshot()


@contextmanager
def reachable(state_dir: Path) -> Iterator[str]:
    """A path of the socket that is short enough, however long the directory's is: sun_path of unix(7) has
    room for 107 bytes."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)

"""Answers commands on this machine from the daemon's own view of the tree, over a unix socket.

    <state directory>/socket     0600: the daemon's user and root may ask

An answer is as fresh as one from ZooKeeper: before it is given, whatever anybody has written is in the view,
at the cost of one request. Where that can't be had the daemon says so instead of answering with old facts,
and the command asks ZooKeeper itself.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Final, Protocol, Self

from builder.config.model import Config
from builder.errors import StoreUnavailableError
from builder.store import wire
from builder.store.asking import SOCKET, reachable, receive_line
from builder.store.fields import Stored
from builder.store.wire import Answer, Question, WireError

LOG = logging.getLogger(__name__)

#: Seconds for a command to ask, and to take the answer.
_PATIENCE: Final = 5.0
#: Seconds for the view to become as new as ZooKeeper is; commands don't wait much longer either.
_SETTLE: Final = 0.5
#: Seconds until the next try, after a command could not be let in.
_PAUSE: Final = 1.0
#: Commands that are answered at once; those on top of them are sent to ZooKeeper.
_AT_ONCE: Final = 4
_BACKLOG: Final = 64


class Source(Protocol):
    """Where the nodes come from: a ZooKeeperStore with `watch`."""

    def fresh_nodes(self, timeout: float, *, uploads: bool = True) -> list[tuple[str, Stored | None]] | None:
        """All nodes, or all but those of uploads, as they are now; None when that can't be had within
        `timeout` seconds.

        Raises StoreUnavailableError.
        """


class AnswerServer:
    """Listens from `start` to `stop` on a thread of its own, and answers each command on another."""

    def __init__(self, state_dir: Path, source: Source, config: Callable[[], Config], servers: str) -> None:
        """`config` is what is in force; `servers` names other ZooKeeper servers than it, if anything."""
        self._state_dir = state_dir
        self._source = source
        self._config = config
        self._servers = servers
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._free = threading.Semaphore(_AT_ONCE)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. Where that is impossible a warning says so: commands then ask ZooKeeper."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A daemon that was killed leaves it behind; there is none besides us that uses the directory.
            (self._state_dir / SOCKET).unlink(missing_ok=True)
            with reachable(self._state_dir) as path:
                listener.bind(path)
            # Before it listens nobody can connect.
            (self._state_dir / SOCKET).chmod(0o600)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            LOG.warning("commands on this machine are not answered: %s: %s", self._state_dir / SOCKET, error)
            return
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, args=(listener,), name="answers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; may be called twice, and before `start`."""
        listener, self._listener = self._listener, None
        if listener is None or self._thread is None:
            return
        self._stopped.set()
        (self._state_dir / SOCKET).unlink(missing_ok=True)
        # Closing alone would not wake whoever waits in `accept`.
        listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is not None:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._listener is None:
                    return
                # No file may be left to open, for instance, which passes.
                LOG.warning("commands on this machine are not answered for now: %s", error)
                self._stopped.wait(_PAUSE)
                continue
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), name="answer", daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_PATIENCE)
                question = wire.decode_question(receive_line(connection, wire.MOST_ASKED)[0])
                for part in self._answer(question):
                    connection.sendall(part)
        except (OSError, WireError) as error:
            LOG.debug("a command on this machine was not answered: %s", error)
        finally:
            self._free.release()

    def _answer(self, question: Question) -> Iterable[bytes]:
        config = self._config()
        meant = (question.config, question.servers)
        if not config.fingerprint or meant != (config.fingerprint, self._servers):
            return (wire.encode_answer(Answer(refused="its configuration is another one")),)
        try:
            nodes = self._source.fresh_nodes(_SETTLE, uploads=question.uploads)
        except StoreUnavailableError as error:
            return (wire.encode_answer(Answer(refused=error.message)),)
        if nodes is None:
            return (wire.encode_answer(Answer(refused="it does not know the latest from ZooKeeper")),)
        images, providers = tuple(config.diskimages), tuple(config.providers)
        answer = Answer(images=images, providers=providers, size=wire.size_of(nodes))
        return chain((wire.encode_answer(answer),), wire.encode_nodes(nodes))

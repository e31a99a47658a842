"""Stands between a client and a server of loopback, whatever they speak, and can keep silent.

After `take_silently(1)` nothing is ever said on the next connection; `cut()` ends all that are open.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

#: Seconds for a thread to see that its connection is gone.
_PATIENCE = 30.0


class Relay:
    """Passes on what is said on each connection, in both directions, until one side ends."""

    def __init__(self, target: int) -> None:
        """`target` is a port of loopback."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.silent = 0  #: connections that were taken silently so far
        self._to_come = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def hosts(self) -> str:
        """What a client of ZooKeeper connects to."""
        return f"127.0.0.1:{self.port}"

    def take_silently(self, connections: int) -> None:
        """Pass nothing on of so many connections that are made from now on."""
        with self._lock:
            self._to_come = connections

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # To close alone does not wake who accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(_PATIENCE)
        self._listener.close()
        self.cut()
        for thread in self._threads[1:]:
            thread.join(_PATIENCE)
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
                silently = self._to_come > 0
                if silently:
                    self._to_come -= 1
                    self.silent += 1
            if not silently:
                self._join(client)

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=_PATIENCE)
        except OSError:
            client.shutdown(socket.SHUT_RDWR)
            return
        server.settimeout(None)
        with self._lock:
            self._open.add(server)
        for source, sink in ((client, server), (server, client)):
            thread = threading.Thread(target=_pass_on, args=(source, sink), daemon=True)
            self._threads.append(thread)
            thread.start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while said := source.recv(1 << 16):
            sink.sendall(said)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)

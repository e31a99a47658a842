"""A cable to a server: TCP passed on byte by byte until a test cuts it, or lets nothing through.

`cut`: connections break, and new ones break at once. `hang`: connections stay, and nothing comes through
them, as behind a firewall that drops or a dead switch. `mend`: what waited goes on its way.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Link:
    """A way to one server, on a port of loopback of its own. Thread-safe."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._cut = self._hung = self._closed = False
        self._ends: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])

    @classmethod
    def to(cls, target: tuple[str, int]) -> Self:
        """A working link."""
        link = cls(target)
        link._spawn(link._accept)
        return link

    def cut(self) -> None:
        """Break all connections, and every new one."""
        with self._changed:
            self._cut = True
            self._changed.notify_all()
        self._break_all()

    def hang(self) -> None:
        """Let nothing through, and break nothing."""
        with self._changed:
            self._hung = True

    def mend(self) -> None:
        """Work again."""
        with self._changed:
            self._cut = self._hung = False
            self._changed.notify_all()

    def close(self) -> None:
        """The end; waits for the threads."""
        with self._changed:
            self._closed = self._cut = True
            self._changed.notify_all()
        # A blocked accept is not ended by close alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break_all()
        for thread in list(self._threads):
            thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _spawn(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._join, near)

    def _join(self, near: socket.socket) -> None:
        """Connect one client with the server, as soon as the link lets anything through."""
        with self._changed:
            self._ends.add(near)
        far = self._reach() if self._flows() else None
        if far is None:
            self._break(near)
            return
        with self._changed:
            self._ends.add(far)
        with contextlib.suppress(OSError):  # `cut` broke one of them, and both pumps see it
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._spawn(self._pump, near, far)
        self._pump(far, near)

    def _reach(self) -> socket.socket | None:
        try:
            return socket.create_connection(self._target, timeout=5.0)
        except OSError:
            return None

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what comes from one side until either is gone."""
        try:
            source.settimeout(None)
            while (data := source.recv(_CHUNK)) and self._flows():
                sink.sendall(data)
        except OSError:
            pass  # the other pump, `cut` or one of the two ends broke it
        self._break(source)
        self._break(sink)

    def _flows(self) -> bool:
        """Wait while nothing comes through; False once the link is cut."""
        with self._changed:
            self._changed.wait_for(lambda: self._cut or not self._hung)
            return not self._cut

    def _break_all(self) -> None:
        with self._changed:
            ends = list(self._ends)
        for end in ends:
            self._break(end)

    def _break(self, end: socket.socket) -> None:
        with self._changed:
            if end not in self._ends:
                return
            self._ends.discard(end)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.shutdown(socket.SHUT_RDWR)
        end.close()

"""Reads a machine's serial console: keeps it in a file, and notes when what first appeared."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.shown import plain

LOG = logging.getLogger(__name__)

#: Bytes that are kept in the file; a machine that never stops talking must not fill our disk.
LIMIT: Final = 8 << 20
#: Bytes that are remembered, the last ones.
TAIL: Final = 64 << 10

#: What is said first when the kernel is loaded or begins (a quiet one leaves that to the boot loader), and
#: when what it starts has the root file system. A kernel that is quiet leaves that to who asks for a login.
MARKERS: Final[Mapping[str, re.Pattern[bytes]]] = MappingProxyType(
    {
        "kernel": re.compile(rb"Loading Linux |Linux version \d|EFI stub: "),
        "userspace": re.compile(rb"systemd\[1\]: |Welcome to |Run /\S*init as init process|login: "),
    }
)


class Console:
    """What a machine says on its serial port, from the moment of connecting on."""

    def __init__(self, connection: socket.socket, file: Path) -> None:
        """Begin to read; the file is written anew."""
        self._connection = connection
        self._file = file.open("wb", buffering=0)
        self._left = LIMIT
        self._lock = threading.Lock()
        self._tail = b""
        self._marks: dict[str, float] = {}
        self._reader = threading.Thread(target=self._read, name="console", daemon=True)
        self._reader.start()

    def seen(self) -> Mapping[str, float]:
        """When, by the monotonic clock, each of MARKERS appeared for the first time."""
        with self._lock:
            return dict(self._marks)

    def forget(self) -> None:
        """Look for the markers anew: the machine starts again."""
        with self._lock:
            self._marks.clear()
            self._tail = b""

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last lines that say something, fit to be shown."""
        with self._lock:
            text = self._tail.decode(errors="replace")
        said = (plain(line.rsplit("\r", 1)[-1]).rstrip() for line in text.replace("\r\n", "\n").split("\n"))
        return tuple([line for line in said if line][-lines:])

    def close(self) -> None:
        """Stop reading, and close the file."""
        with contextlib.suppress(OSError):  # QEMU was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()
        self._file.close()

    def _read(self) -> None:
        while part := self._receive():
            now = time.monotonic()
            self._keep(part)
            with self._lock:
                self._tail = (self._tail + part)[-TAIL:]
                for name, pattern in MARKERS.items():
                    # A marker may come in two parts, and never has more than a few bytes.
                    if name not in self._marks and pattern.search(self._tail[-len(part) - 256 :]):
                        self._marks[name] = now

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(1 << 16)
        except OSError:
            return b""  # QEMU is gone

    def _keep(self, part: bytes) -> None:
        kept = part[: self._left]
        self._left -= len(kept)
        try:
            self._file.write(kept)
        except OSError as error:
            # Whoever does not listen any more keeps the machine from getting on.
            LOG.warning("the console of the machine is not kept any further: %s", error.strerror)
            self._left = 0

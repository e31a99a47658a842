"""The file as a cloud reads it: block by block, counted, throttled, and stoppable from outside."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from builder.cloud.transfer.bandwidth import Throttle

#: Bytes of memory that an upload takes for its file, at most.
BLOCK: Final = 1 << 20


class StoppedError(Exception):
    """Whoever still reads learns that nobody wants the bytes any more."""


class FileBody:
    """`size` bytes of a file; OSError when it can't be opened, EOFError when it is shorter.

    It is opened here and closed by whoever reads it (`closed_after`): that thread may be left
    behind, and nobody else can know when it has stopped reading.
    """

    def __init__(self, path: Path, size: int, throttle: Throttle) -> None:
        self._size = size
        self._throttle = throttle
        self._stop = threading.Event()
        self.sent = 0  #: bytes read so far
        self.waiting = False  #: for its turn by the throttle: then it is not stalled
        # No buffer of Python's: the blocks are large, and copied once less.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __len__(self) -> int:
        return self._size

    def stop(self) -> None:
        """Let the next `read`, and one that waits for its turn, raise."""
        self._stop.set()

    @contextmanager
    def closed_after(self) -> Iterator[FileBody]:
        """Close the file when the block ends."""
        try:
            yield self
        finally:
            os.close(self._file)

    def read(self, amount: int = -1, /) -> bytes:
        """The next bytes, at most a megabyte, whatever is asked for."""
        left = self._size - self.sent
        wanted = min(left, BLOCK if amount < 0 else amount, BLOCK)
        block = self._throttle.block(wanted)
        self._wait(block)
        if self._stop.is_set():
            raise StoppedError
        chunk = os.read(self._file, block)
        if not chunk and block:
            raise EOFError(f"the file ended after {self.sent} bytes, {self._size} are on record")
        self.sent += len(chunk)
        return chunk

    def _wait(self, count: int) -> None:
        self.waiting = True
        try:
            self._throttle.wait(count, self._stop)
        finally:
            self.waiting = False

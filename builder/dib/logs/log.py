"""Write the log of a build as it comes: a time on each line, no secret in it, and not without end."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.dib.logs.masking import Masker
from builder.dib.logs.reasons import Reader
from builder.process.child import LINE_LIMIT

#: Bytes of a log before lines are left out, and bytes of the last lines that are kept nevertheless.
LIMIT: Final = 64 << 20
LAST_PART: Final = 1 << 20


class LogFile:
    """A log that can be read while it grows: a UTC time on each line, each line written at once.

    What comes after `limit` bytes is left out, but for the last part of it, which is written when the
    log is closed. While it is open the file is locked (flock), so that nobody takes it for finished.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        limit: int = LIMIT,
    ) -> None:
        """Open for appending, readable for owner and group. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._stream = os.fdopen(descriptor, "ab")
        # Whoever compresses finished logs may hold it for a moment.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._clock = clock
        self._limit = limit
        self._size = 0
        self._full = False
        self._last_part: deque[bytes] = deque()
        self._last_size = 0
        self._left_out = 0
        self._lock = threading.Lock()
        self.broken: OSError | None = None

    def write(self, line: str) -> None:
        """Add a line. Never raises: a log that can't be written ends no build, `broken` tells of it."""
        data = self._stamped(line)
        with self._lock:
            # Once full it stays so: a short line must not get before the long one it came after.
            if self._full or self._size + len(data) > self._limit:
                self._set_aside(data)
            else:
                self._put(data)

    def close(self, ending: str) -> None:
        """Write the last line, which says how it ended, and close."""
        with self._lock:
            if self._left_out:
                self._put(self._stamped(f"imagepool: {self._left_out} lines were left out here"))
            for data in (*self._last_part, self._stamped(ending)):
                self._put(data)
            try:
                self._stream.close()
            except OSError as error:
                self.broken = error

    def _stamped(self, line: str) -> bytes:
        stamp = self._clock().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        return f"{stamp} | {line}\n".encode(errors="replace")

    def _put(self, data: bytes) -> None:
        self._size += len(data)
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            self.broken = error

    def _set_aside(self, data: bytes) -> None:
        if not self._full:
            self._full = True
            notice = f"this log has reached {self._limit} bytes; the last lines follow at its end"
            self._put(self._stamped(f"imagepool: {notice}"))
        self._last_part.append(data)
        self._last_size += len(data)
        while self._last_size > LAST_PART:
            self._last_size -= len(self._last_part.popleft())
            self._left_out += 1


class Output:
    """Takes what a build prints, line by line: without secrets into its log, and to its reader."""

    def __init__(self, reader: Reader, log: LogFile, mask: Masker) -> None:
        self._reader = reader
        self._log = log
        self._mask = mask
        self._waiting = ""

    def take(self, line: str) -> None:
        """Take the next line; one as long as LINE_LIMIT is only the beginning of it, the rest follows."""
        text, self._waiting = self._waiting + line, ""
        if len(line.encode(errors="surrogateescape")) >= LINE_LIMIT:
            shown, self._waiting = self._mask.begin(text)
        else:
            # The reader gets the words of dib as they are: a secret may be one of them.
            text = self._reader.bare(text)
            shown = self._mask(text)
            self._reader.feed(text, shown)
        self._log.write(shown)

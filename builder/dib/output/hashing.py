"""Hash a file, with all its hashes in one read."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.dib.limits import Limits
from builder.dib.output.sparse import extents

_CHUNK: Final = 1 << 20
#: Chunks that the slowest hash may be behind the fastest: none waits for another at each chunk, and
#: no more of a file is in memory.
_DRIFT: Final = 8
_ZEROS: Final = memoryview(bytes(_CHUNK))


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Hex digests of one file."""

    size: int  #: bytes that were hashed
    md5: str
    sha256: str
    sha512: str


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk that a guest sees, whatever the format: what `qemu-img convert -O raw` gives of any file."""

    sha256: str  #: hex digest
    size: int  #: bytes


def hash_file(
    path: Path, limits: Limits | None = None, *, on_bytes: Callable[[int], None] = lambda done: None
) -> Hashes:
    """All hashes of a file, each on a thread of its own; holes are hashed without being read.

    `on_bytes` gets the number of bytes hashed so far, on the caller's thread.
    Raises OSError, and ActionFailedError when the limits end it.
    """
    limits = limits or Limits()
    sums = [hashlib.md5(usedforsecurity=False), hashlib.sha256(), hashlib.sha512()]
    with path.open("rb", buffering=0) as stream, ExitStack() as stack:
        # One worker each keeps the chunks of a hash in order while the hashes drift apart.
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in sums]
        size = os.fstat(stream.fileno()).st_size
        ahead: deque[list[Future[None]]] = deque()
        done = 0
        for chunk in _chunks(stream.fileno(), size):
            limits.check()
            ahead.append([pool.submit(one.update, chunk) for pool, one in zip(pools, sums, strict=True)])
            if len(ahead) == _DRIFT:
                _finish(ahead.popleft())
            done += len(chunk)
            on_bytes(done)
        for updates in ahead:
            _finish(updates)
    md5, sha256, sha512 = (one.hexdigest() for one in sums)
    return Hashes(size=size, md5=md5, sha256=sha256, sha512=sha512)


def hash_disk(raw: Path, limits: Limits) -> Disk:
    """The disk that a raw image is; holes are hashed without being read.

    Raises OSError, and ActionFailedError when the limits end it.
    """
    digest = hashlib.sha256()
    with raw.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        for chunk in _chunks(stream.fileno(), size):
            limits.check()
            digest.update(chunk)
    return Disk(sha256=digest.hexdigest(), size=size)


def _finish(updates: list[Future[None]]) -> None:
    for update in updates:
        update.result()


def _chunks(descriptor: int, size: int) -> Iterator[bytes | memoryview]:
    position = 0
    for begin, end in extents(descriptor, size):
        yield from _zeros(begin - position)
        yield from _read(descriptor, begin, end)
        position = end
    yield from _zeros(size - position)


def _zeros(length: int) -> Iterator[memoryview]:
    for _ in range(length // _CHUNK):
        yield _ZEROS
    if length % _CHUNK:
        yield _ZEROS[: length % _CHUNK]


def _read(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        chunk = os.pread(descriptor, min(_CHUNK, end - begin), begin)
        if not chunk:
            raise OSError(errno.EIO, "the file became shorter while it was hashed")
        yield chunk
        begin += len(chunk)

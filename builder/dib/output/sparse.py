"""Tell where a sparse file has data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path


def extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end, in bytes, of each piece of an open file's first `size` bytes that has data.

    What lies between them is holes, which read as zeros (lseek(2), SEEK_DATA); a file system
    without holes says that all is data. Moves the file's position. Raises OSError.
    """
    position = 0
    while position < size:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole to the end
                raise
            return
        if begin >= size:
            return
        position = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        yield begin, position


def data_size(path: Path) -> int:
    """Bytes of a file that are no holes. Raises OSError."""
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        return sum(end - begin for begin, end in extents(stream.fileno(), size))

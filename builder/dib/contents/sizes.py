"""Add up what the files of an image take, by directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from builder.dib.contents.listing import Entry

FILE: Final = "sizes.json"
#: Levels of directories that are told apart.
DEPTH: Final = 3


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a directory with all below it takes. Bytes; a file with several names counts once."""

    allocated: int = 0  #: on the disk, in whole blocks, holes left out
    apparent: int = 0  #: as long as the files are
    files: int = 0  #: of any kind but directories

    def __add__(self, other: Size) -> Size:
        return Size(
            allocated=self.allocated + other.allocated,
            apparent=self.apparent + other.apparent,
            files=self.files + other.files,
        )


def by_directory(entries: Iterable[Entry]) -> Mapping[str, Size]:
    """Directory ("/", "/usr", "/usr/lib"...) to its size, by name; empty when there are no files."""
    total: dict[str, Size] = {}
    for directory, size in _own(sorted(entries, key=lambda each: each.place)).items():
        for above in _and_above(directory):
            total[above] = total.get(above, Size()) + size
    return dict(sorted(total.items()))


def _own(entries: Iterable[Entry]) -> Mapping[str, Size]:
    """What is directly in each directory; of several names of a file the first counts."""
    seen = set()
    sums: dict[str, list[int]] = {}
    for entry in entries:
        if entry.inode not in seen:
            seen.add(entry.inode)
            # A directory counts to what is in it.
            found = sums.setdefault(entry.place.rpartition("/")[0], [0, 0, 0])
            found[0] += entry.allocated
            found[1] += entry.length
            found[2] += entry.kind != "d"
    return {
        directory: Size(allocated=allocated, apparent=apparent, files=files)
        for directory, (allocated, apparent, files) in sums.items()
    }


def _and_above(directory: str) -> Iterator[str]:
    """Where a directory counts: "./usr/lib/x" in "/", "/usr", "/usr/lib" and "/usr/lib/x"."""
    parts = directory.split("/")[1:]
    for depth in range(min(len(parts), DEPTH) + 1):
        yield "/" + "/".join(parts[:depth])

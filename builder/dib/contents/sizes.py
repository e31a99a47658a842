"""Add up what the files of an image take, by directory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Levels of directories that are told apart.
DEPTH: Final = 3
_BLOCK: Final = 512
#: What disk-image-create takes away after the last hook has run (lib/img-functions, finalise_base):
#: all of /tmp, the logs of /root, and the content of the logs.
_GONE: Final = re.compile(r"\./(?:tmp/.|root/(?:.*/)?[^/]*\.log\Z)")
_EMPTIED: Final = "./var/log/"


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


@dataclass(frozen=True, kw_only=True)
class _Entry:
    inode: tuple[str, str]
    path: str  #: from ".", of a directory with a "/" at its end
    allocated: int
    apparent: int


def read(raw: Path) -> Mapping[str, Size]:
    """Directory ("/", "/usr", "/usr/lib"...) to its size, by name, from the element's directory.

    Empty when the files could not be listed. Raises OSError.
    """
    file = raw / "files"
    if not file.exists():
        return {}
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    total: dict[str, Size] = {}
    for directory, size in _by_directory(sorted(_entries(text), key=lambda each: each.path)).items():
        for above in _and_above(directory):
            total[above] = total.get(above, Size()) + size
    return dict(sorted(total.items()))


def _by_directory(entries: Iterable[_Entry]) -> Mapping[str, Size]:
    """What is directly in each directory; of several names of a file the first counts."""
    seen = set()
    sums: dict[str, list[int]] = {}
    for entry in entries:
        if entry.inode not in seen and not _GONE.match(entry.path):
            seen.add(entry.inode)
            found = sums.setdefault(entry.path.rpartition("/")[0], [0, 0, 0])
            found[0] += entry.allocated
            found[1] += entry.apparent
            found[2] += not entry.path.endswith("/")
    return {
        directory: Size(allocated=allocated, apparent=apparent, files=files)
        for directory, (allocated, apparent, files) in sums.items()
    }


def _entries(text: str) -> Iterator[_Entry]:
    for record in text.split("\0"):
        # Paths may have spaces in them, and line ends.
        device, inode, kind, length, blocks, path = (*record.split(" ", 5), *[""] * 6)[:6]
        if path and length.isdigit() and blocks.isdigit():
            emptied = kind == "f" and path.startswith(_EMPTIED)
            yield _Entry(
                inode=(device, inode),
                # A directory counts to what is in it.
                path=f"{path}/" if kind == "d" else path,
                allocated=0 if emptied else int(blocks) * _BLOCK,
                apparent=0 if emptied else int(length),
            )


def _and_above(directory: str) -> Iterator[str]:
    """Where a directory counts: "./usr/lib/x" in "/", "/usr", "/usr/lib" and "/usr/lib/x"."""
    parts = directory.split("/")[1:]
    for depth in range(min(len(parts), DEPTH) + 1):
        yield "/" + "/".join(parts[:depth])

"""Read the list of all files of an image that the element imagepool-manifest leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Of a record: device, inode, kind, length, blocks, mode, user, group; then comes the path.
_FIELDS: Final = 8
_BLOCK: Final = 512
#: What disk-image-create takes away after the last hook has run (lib/img-functions, finalise_base):
#: all of /tmp, the logs of /root, and the content of the logs.
_GONE: Final = re.compile(r"\./(?:tmp/.|root/(?:.*/)?[^/]*\.log\Z)")
_EMPTIED: Final = "./var/log/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file of any kind, as it will be in the finished image."""

    inode: tuple[str, str]  #: of which device, and which
    kind: str  #: find's letter: "f" a file, "d" a directory, "l" a link...
    path: str  #: from "."; "./etc/passwd", and "." itself
    length: int  #: bytes
    allocated: int  #: bytes on the disk, in whole blocks, holes left out
    mode: int  #: permissions, with setuid and its like
    uid: int
    gid: int
    target: str = ""  #: where a link leads

    @property
    def place(self) -> str:
        """The path; of a directory with a "/" at its end."""
        return f"{self.path}/" if self.kind == "d" else self.path


def read(raw: Path) -> tuple[Entry, ...]:
    """Every file, from the element's directory; none when they could not be listed. Raises OSError.

    Names are the image's: they may have anything in them but NUL. What is no text is in them as Python has
    it in its own names of files ("surrogateescape").
    """
    file = raw / "files"
    if not file.exists():
        return ()
    return tuple(_entries(file.read_text(encoding="utf-8", errors="surrogateescape")))


def _entries(text: str) -> Iterator[Entry]:
    parts = iter(text.split("\0"))
    # A list that was torn off has half a record at its end.
    for record, target in zip(parts, parts, strict=False):
        entry = _entry(record, target)
        if entry is not None and not _GONE.match(entry.place):
            yield entry


def _entry(record: str, target: str) -> Entry | None:
    fields = record.split(" ", _FIELDS)  # paths may have spaces in them, and line ends
    if len(fields) <= _FIELDS:
        return None
    device, inode, kind, length, blocks, mode, uid, gid, path = fields
    try:
        bits, owner, group = int(mode, 8), int(uid), int(gid)
        bytes_long, bytes_taken = int(length), int(blocks) * _BLOCK
    except ValueError:
        return None
    emptied = kind == "f" and path.startswith(_EMPTIED)
    return Entry(
        inode=(device, inode),
        kind=kind,
        path=path,
        length=0 if emptied else bytes_long,
        allocated=0 if emptied else bytes_taken,
        mode=bits,
        uid=owner,
        gid=group,
        target=target,
    )

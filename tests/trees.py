"""Compare trees of files: what is there, of what kind, whose, and with what in it; not when it was made."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """What can be told of a file besides its name and its times."""

    mode: int
    uid: int
    gid: int
    links: int  #: names of a file that is not a directory
    content: str  #: of a file its size and sha256, of a link its target, of a device its number
    attributes: tuple[tuple[str, bytes], ...]


def tree(root: Path) -> dict[str, Node]:
    """Every path below a directory to what is there."""
    return {str(path.relative_to(root)): _node(path) for path in _below(root)}


def differences(one: Path, other: Path) -> set[str]:
    """The paths at which two trees are not the same."""
    first, second = tree(one), tree(other)
    return {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}


def _below(directory: Path) -> Iterator[Path]:
    for entry in os.scandir(directory):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))


def _node(path: Path) -> Node:
    status = path.lstat()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Node(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        links=0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
        content=_content(path, status),
        attributes=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )


def _content(path: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return str(path.readlink())
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            return f"{status.st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return str(status.st_rdev)

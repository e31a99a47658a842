"""Keep the cache that builds share below its limit: what was not used for longest goes first.

    CACHE_DIR/image-create/IMAGE/   what diskimage-builder keeps for one image: package archives, git
                                    repositories, downloads. `in_use` marks it while a build runs.
    CACHE_DIR/locks/                dib's lock files, which stay
    CACHE_DIR/*                     what all images share: base trees, package indexes

Used means read or written: the later of atime and mtime. Where a file system keeps no atimes, mtimes
say it, for the elements base-cache and package-cache set them on what a build took from the cache.
Archives of packages of which a newer one is there go before everything else.

Locks are flock(2) on the directories themselves, so they end with whoever held them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Final

from builder.dib.isolation import sudo
from builder.dib.limits import LOOK, Limits

LOG = logging.getLogger(__name__)

#: Below it are the directories of the images.
IMAGES: Final = "image-create"
_STAYS: Final = frozenset({"locks"})
#: What a git repository without a work tree has in it.
_BARE: Final = frozenset({"HEAD", "objects", "refs"})
_BLOCK: Final = 512
#: Seconds for root to do it for a service user.
_ROOTS_TIMEOUT: Final = 600.0
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed from the cache, and what is left there."""

    removed: int = 0  #: files, or git repositories as a whole
    freed: int = 0  #: bytes on disk
    left: int = 0  #: bytes on disk


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A file, or a directory that is of use only as a whole."""

    path: PurePath  #: below the cache directory
    size: int  #: bytes on disk
    used: int  #: nanoseconds since the epoch
    superseded: bool = False  #: an archive of a package of which a newer one is there


@contextmanager
def in_use(directory: Path, limits: Limits) -> Iterator[None]:
    """Keep `prune` away from a directory below the cache, which is made if it is not there.

    Any number of builds can use one directory at a time. While it is being pruned this waits, until
    the limits end it (ActionFailedError). Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _opened(directory) as descriptor:
        while not _locked(descriptor, fcntl.LOCK_SH):
            limits.check()
            time.sleep(LOOK)
        yield


def prune(cache_dir: Path, limit: int) -> Pruned:
    """Remove from a cache what was not used for longest, until it takes `limit` bytes at most.

    It stays larger when the rest is in use. Links are neither followed nor removed, and other file
    systems are left alone. While another process prunes the same cache, nothing is done. A file that
    can't be removed is told in the log. Raises OSError when the cache can't be read.
    """
    if not cache_dir.is_dir():
        return Pruned()
    if sudo.needed():
        # Much of it is what the sandbox's root wrote.
        words = ("prune", str(cache_dir), str(limit))
        members = [field.name for field in fields(Pruned)]
        return Pruned(**sudo.ask(*words, members=members, timeout=_ROOTS_TIMEOUT))
    with ExitStack() as locks:
        root = locks.enter_context(_opened(cache_dir))
        if not _locked(root):
            return Pruned()
        # A build that begins now waits in `in_use` until we are done.
        idle = {
            name
            for name in _directories_in(cache_dir / IMAGES)
            if _locked(locks.enter_context(_descended(root, (IMAGES, name))))
        }
        return _Pruning(root, idle).run(limit)


class _Pruning:
    """One pass over a cache whose directory is open and locked."""

    def __init__(self, root: int, idle: Set[str]) -> None:
        self._root = root
        self._idle = idle
        self._device = os.fstat(root).st_dev

    def run(self, limit: int) -> Pruned:
        entries = _with_superseded(self._entries(self._root, PurePath()))
        done = Pruned(left=sum(entry.size for entry in entries))
        for entry in sorted(entries, key=lambda one: (not one.superseded, one.used)):
            if done.left <= limit:
                break
            if not self._in_use(entry.path) and self._removed(entry):
                done = replace(
                    done,
                    removed=done.removed + 1,
                    freed=done.freed + entry.size,
                    left=done.left - entry.size,
                )
        return done

    def _entries(self, directory: int, path: PurePath) -> Iterator[_Entry]:
        for found in os.scandir(directory):
            below = path / found.name
            try:
                status = found.stat(follow_symlinks=False)
                if found.is_dir(follow_symlinks=False):
                    if status.st_dev == self._device and below.name not in _STAYS:
                        with _opened(found.name, directory) as descriptor:
                            yield from self._directory(descriptor, below)
                elif found.is_file(follow_symlinks=False):
                    yield _Entry(path=below, size=status.st_blocks * _BLOCK, used=_used_at(status))
            except FileNotFoundError:
                continue  # a build by hand took it away

    def _directory(self, descriptor: int, path: PurePath) -> list[_Entry]:
        parts = list(self._entries(descriptor, path))
        names = {found.name for found in os.scandir(descriptor)}
        if parts and (".git" in names or names >= _BARE):
            # Without some of its files it would be no repository any more.
            size, used = sum(part.size for part in parts), max(part.used for part in parts)
            parts = [_Entry(path=path, size=size, used=used)]
        return parts

    def _in_use(self, path: PurePath) -> bool:
        # An image whose first build began after we looked is not among the idle ones either.
        return path.parts[0] == IMAGES and path.parts[1] not in self._idle

    def _removed(self, entry: _Entry) -> bool:
        try:
            with _descended(self._root, entry.path.parent.parts) as parent:
                status = os.stat(entry.path.name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    shutil.rmtree(entry.path.name, dir_fd=parent)
                elif _used_at(status) == entry.used:
                    os.unlink(entry.path.name, dir_fd=parent)
                else:
                    return False  # somebody has just used it
        except FileNotFoundError:
            return True
        except OSError as error:
            LOG.warning("%s can't be removed from the cache: %s", entry.path, error)
            return False
        return True


def _used_at(status: os.stat_result) -> int:
    return max(status.st_atime_ns, status.st_mtime_ns)


def _with_superseded(entries: Iterable[_Entry]) -> list[_Entry]:
    """The entries, each that is an older archive of the same package marked as such."""
    result = []
    for _, versions in groupby(sorted(entries, key=_package), key=_package):
        *older, newest = sorted(versions, key=attrgetter("used"))
        result += [replace(entry, superseded=True) for entry in older]
        result.append(newest)
    return result


def _package(entry: _Entry) -> tuple[str, ...]:
    """The same for two entries only if they are versions of one package: NAME_VERSION_ARCH.deb."""
    name, *rest = entry.path.name.split("_")
    if entry.path.suffix == ".deb" and len(rest) == 2:
        return (str(entry.path.parent), name, rest[1])
    return (str(entry.path),)


@contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    # The cache itself may be a link of the operator's; nothing in it may.
    flags = _DIRECTORY if parent is not None else _DIRECTORY & ~os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _descended(root: int, parts: tuple[str, ...]) -> Iterator[int]:
    """A directory below another, reached without following a link."""
    if not parts:
        yield root
        return
    with _opened(parts[0], root) as descriptor, _descended(descriptor, parts[1:]) as last:
        yield last


def _directories_in(path: Path) -> list[str]:
    try:
        return [found.name for found in os.scandir(path) if found.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _locked(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

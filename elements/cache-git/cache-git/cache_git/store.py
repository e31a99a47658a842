"""One repository of the cache: made, updated, checked, packed and laid out, by one build at a time.

DIR/NAME.git          a bare repository; everything in it is in packs and in packed-refs
DIR/NAME.git/known    what it was when it was last found good, as JSON; its date says when it was last used
DIR/new/NAME          a repository that is not whole yet
DIR/locks/NAME        flock(2) of whoever works on it; the git commands hold it too
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache_git.git import Git, GitError
from cache_git.listing import Repository
from cache_git.refs import Refs
from cache_stage.locks import held

#: Bytes; up to here all packs are made one, above only small ones are put together.
_SMALL = 64 * 1024 * 1024
#: Packs of a repository larger than that.
_MANY = 8
_CHUNK = 1024 * 1024
_HASH = 20
_HEAD = re.compile(r"ref: (refs/heads/[^\x00-\x20\x7f~^:?*\[\\]+)\n?")
#: Packing is work for the processor, unlike waiting for servers.
_PACKING = threading.Semaphore(os.cpu_count() or 1)
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = {bare}\n"
_ORIGIN = '[remote "origin"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'


class DamagedError(Exception):
    """A cached repository is not what it was."""


class Cached:
    """The cached copy of a repository. Everything but `locked` is done under its lock."""

    def __init__(self, place: Path, repository: Repository, git: Git) -> None:
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", repository.path)[-80:].lstrip(".-")
        name = f"{readable}-{hashlib.sha256(repository.url.encode()).hexdigest()[:16]}"
        self.directory = place / f"{name}.git"
        self._new = place / "new" / name
        self._lock = place / "locks" / name
        self._repository = repository
        self._git = git
        self._held = -1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other build works on it, and keep them away. What a dead one left is removed."""
        with held(self._lock) as self._held:
            remove(self._new)
            yield

    def exists(self) -> bool:
        """Whether there is a copy, good or not."""
        return self.directory.exists()

    def asked(self) -> float:
        """When the server was last asked and the copy was or became the same: seconds since the epoch."""
        try:
            return float(self._known().get("asked", 0.0))
        except (DamagedError, TypeError, ValueError):
            return 0.0

    def refs(self) -> Refs:
        """What the copy has. Raises DamagedError."""
        ids = {}
        try:
            if any(files for _, _, files in os.walk(self.directory / "refs")):
                self._run("pack-refs", "--all", "--prune")
            head = _HEAD.fullmatch((self.directory / "HEAD").read_text())
            packed = self.directory / "packed-refs"
            for line in packed.read_text(errors="surrogateescape").splitlines() if packed.exists() else ():
                if line[:1] not in "#^":
                    value, _, name = line.partition(" ")
                    ids[name] = value
        except (OSError, GitError) as error:
            raise DamagedError(f"its refs can't be read: {error}") from None
        if head is None:
            raise DamagedError("its HEAD names no branch")
        return Refs(ids, head[1])

    def check(self, *, days: float, deep: bool = False) -> None:
        """Look whether the copy is whole; read all of it when that was not done for so many days.

        Raises DamagedError.
        """
        known, packs = self._known(), self._packs()
        deep = deep or time.time() - float(known.get("verified") or 0.0) > days * 86400
        for pack in packs:
            _check_pack(pack, deep=deep)
        if deep or known.get("packs") != _sizes(packs):
            try:
                self._run("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
            except GitError as error:
                raise DamagedError(str(error)) from None
            self._know(asked=known.get("asked"), verified=time.time() if deep else known.get("verified"))

    def make(self, refs: Refs) -> None:
        """Clone it, in the place of what is there. Raises GitError; then there is none."""
        remove(self.directory)
        for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
            (self._new / name).mkdir(parents=True)
        (self._new / "config").write_text(_CONFIG.format(bare="true"))
        (self._new / "HEAD").write_text("ref: refs/heads/main\n")
        try:
            self._fetch(self._new, refs)
            self._new.rename(self.directory)
        finally:
            remove(self._new)
        self._know(asked=time.time(), verified=time.time())

    def update(self, refs: Refs) -> None:
        """Fetch what is new, forget what is gone. Raises GitError; then the copy is as good as before."""
        verified = self._known().get("verified")
        self._sweep()
        self._fetch(self.directory, refs)
        self._pack()
        self._know(asked=time.time(), verified=verified)

    def unchanged(self) -> None:
        """The server has what the copy has."""
        known = self._known()
        self._know(asked=time.time(), verified=known.get("verified"))

    def used(self) -> None:
        """A build has taken the copy: whoever prunes the cache goes by that."""
        os.utime(self.directory / "known")

    def lay_out(self, stage: Path) -> None:
        """Put a repository with the same content at `stage`, its packs being hard links where that works.

        Packs never change, so it stays the same whatever becomes of the cache. Raises OSError.
        """
        target = stage / self._repository.path / ".git"
        remove(target)
        for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
            (target / name).mkdir(parents=True)
        for pack in self._packs():
            for suffix in (".pack", ".idx", ".rev"):
                if pack.with_suffix(suffix).exists():
                    _link(pack.with_suffix(suffix), target / "objects" / "pack" / f"{pack.stem}{suffix}")
        for name in ("HEAD", "packed-refs"):
            if (self.directory / name).exists():
                shutil.copyfile(self.directory / name, target / name)
        url = self._repository.url
        (target / "config").write_text(_CONFIG.format(bare="false") + _ORIGIN.format(url=url))

    def _fetch(self, directory: Path, refs: Refs) -> None:
        self._run(
            *("fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head"),
            *("--no-recurse-submodules", "--no-show-forced-updates", "--", self._repository.url),
            *("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"),
            directory=directory,
            talking=True,
        )
        self._run("pack-refs", "--all", "--prune", directory=directory)
        if refs.branch and (directory / "HEAD").read_text().strip() != f"ref: {refs.branch}":
            self._run("symbolic-ref", "HEAD", refs.branch, directory=directory)

    def _pack(self) -> None:
        """Make few packs of many: one, or, where that would be much to read for little, of the small ones."""
        packs = self._packs()
        loose = any(len(found.name) == 2 for found in (self.directory / "objects").iterdir())
        if len(packs) < 2 and not loose:
            return
        small = sum(pack.stat().st_size for pack in packs) <= _SMALL or len(packs) > _MANY
        with _PACKING:
            if small or loose:
                self._run("repack", "--quiet", "-a", "-d", "-l")
            else:
                self._run("repack", "--quiet", "--geometric=2", "-d", "-l")

    def _sweep(self) -> None:
        """Remove what a git that was killed left: nobody else is here."""
        for found in [*self.directory.glob("*.lock"), *self.directory.glob("objects/pack/tmp_*")]:
            found.unlink()
        for found in (self.directory / "refs").rglob("*.lock"):
            found.unlink()

    def _run(self, *arguments: str, directory: Path | None = None, talking: bool = False) -> None:
        self._git.run(
            *arguments,
            directory=directory or self.directory,
            repository=self._repository if talking else None,
            keep=(self._held,),
        )

    def _packs(self) -> list[Path]:
        try:
            return sorted((self.directory / "objects" / "pack").glob("pack-*.pack"))
        except OSError as error:
            raise DamagedError(f"its packs can't be listed: {error}") from None

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads((self.directory / "known").read_text())
        except (OSError, ValueError):
            raise DamagedError("what is known of it can't be read") from None
        if not isinstance(known, dict):
            raise DamagedError("what is known of it can't be read")
        return known

    def _know(self, *, asked: Any, verified: Any) -> None:
        known = {
            "url": self._repository.url,
            "asked": asked,
            "verified": verified,
            "packs": _sizes(self._packs()),
        }
        new = self.directory / "known.new"
        new.write_text(json.dumps(known))
        new.replace(self.directory / "known")


def list_name(address: str) -> str:
    """The name of the file that keeps a list from a web server; nothing secret is in it."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def prune(place: Path, *, days: float) -> list[str]:
    """Remove what no build has used for so many days, and what dead ones left; the names of the removed."""
    removed = []
    for directory in [*place.glob("*.git"), *(place / "new").iterdir()]:
        name = directory.name.removesuffix(".git")
        with held(place / "locks" / name, wait=False) as descriptor:
            if descriptor >= 0 and _old(directory, days):
                remove(directory)
                removed.append(name)
    return removed


def remove(directory: Path) -> None:
    """Remove a directory, if there is one. What is left of it when this is killed is not taken for whole."""
    if directory.exists():
        (directory / "known").unlink(missing_ok=True)
        shutil.rmtree(directory)


def _old(directory: Path, days: float) -> bool:
    if directory.parent.name == "new":
        return True  # its lock is free, so nobody works on it
    try:
        return time.time() - (directory / "known").stat().st_mtime > days * 86400
    except FileNotFoundError:
        return True


def _sizes(packs: list[Path]) -> Mapping[str, int]:
    return {pack.name: pack.stat().st_size for pack in packs}


def _check_pack(pack: Path, *, deep: bool) -> None:
    """Compare a pack with what its index says it is: its last bytes, or all of them.

    A pack ends with the hash of what is before; an index with that and a hash of its own (gitformat-pack).
    """
    try:
        with pack.with_suffix(".idx").open("rb") as index:
            index.seek(-2 * _HASH, os.SEEK_END)
            expected = index.read(_HASH)
        with pack.open("rb") as content:
            size = content.seek(-_HASH, os.SEEK_END)
            good = content.read() == expected
            if good and deep:
                content.seek(0)
                good = _sha1(content.fileno(), size) == expected
    except OSError as error:
        raise DamagedError(f"{pack.name} can't be read: {error}") from None
    if not good:
        raise DamagedError(f"{pack.name} is not what it was")


def _sha1(descriptor: int, size: int) -> bytes:
    digest = hashlib.sha1(usedforsecurity=False)
    at = 0
    while at < size:
        part = os.pread(descriptor, min(_CHUNK, size - at), at)
        if not part:
            break
        digest.update(part)
        at += len(part)
    return digest.digest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)  # no hard links there, or too many

"""One file of the cache: downloaded, resumed, verified, laid out, by one build at a time.

DIR/ALGORITHM-CHECKSUM    a whole file; its date says when it was last used
DIR/parts/...             the beginning of one
DIR/locks/...             flock(2) of whoever downloads it, and of its curl
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cache_files.listing import File
from cache_stage import tries
from cache_stage.addresses import masked
from cache_stage.locks import held

#: curl's exit codes for a server that can't go on where a download stopped, or says there is no more.
_NO_RESUMING = frozenset({22, 33, 36})
#: Bytes a second, and seconds: slower for longer is as good as dead.
_SLOW, _FOR = 1000, 60
_CHUNK = 1024 * 1024


class FileError(Exception):
    """A file can't be had."""


@dataclass(frozen=True)
class Manner:
    """How files are downloaded."""

    place: Path  #: the cache
    tries: int
    timeout: float  #: seconds for one try
    backoff: float  #: seconds before the second try; twice that before the third, and so on
    offline: bool


class Cached:
    """A file in the cache."""

    def __init__(self, manner: Manner, file: File) -> None:
        self._manner = manner
        self._file = file
        self._kept = manner.place / file.kept
        self._part = manner.place / "parts" / file.kept
        self._lock = manner.place / "locks" / file.kept

    def lay_out(self, stage: Path) -> str:
        """Put the file, verified, at its path below `stage`; says where it was from. Raises FileError."""
        target = stage / self._file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with held(self._lock) as descriptor:
            said = "cached"
            if not self._kept.exists() or not self._copied(target):
                self._download(descriptor)
                said = "downloaded"
                if not self._copied(target):
                    raise FileError("the cache can't keep it as it is")
            os.utime(self._kept)
        target.chmod(self._file.mode)
        return said

    def _copied(self, target: Path) -> bool:
        """Copy the kept file, and verify what was copied; a damaged one is removed."""
        shutil.copyfile(self._kept, target)
        if checksum(target, self._file.algorithm) == self._file.checksum:
            return True
        self._kept.unlink()
        target.unlink()
        return False

    def _download(self, descriptor: int) -> None:
        if self._manner.offline:
            raise FileError("it is not in the cache, and DIB_OFFLINE is set")
        why = ""
        for attempt in range(self._manner.tries):
            tries.wait(attempt, self._manner.backoff)
            resumed = self._part.exists()
            code, why = self._curl(descriptor)
            if code == 0:
                found = checksum(self._part, self._file.algorithm)
                if found == self._file.checksum:
                    self._part.replace(self._kept)
                    return
                # What was there before may not have been of the same file.
                self._part.unlink()
                why = f"its {self._file.algorithm} is {found}, but shall be {self._file.checksum}"
                if not resumed:
                    raise FileError(why)
            elif code in _NO_RESUMING:
                self._part.unlink(missing_ok=True)
        raise FileError(why)

    def _curl(self, descriptor: int) -> tuple[int, str]:
        # Its address may have a password: in a program's arguments everybody would see it.
        settings = f'url = "{self._file.url}"\noutput = "{_quoted(self._part)}"\n'
        done = subprocess.run(
            [
                *("curl", "--disable", "--silent", "--show-error"),  # imagepool: fixed, by the checksum
                *("--fail", "--location", "--globoff"),
                *("--proto", "=http,https", "--max-redirs", "10", "--continue-at", "-"),
                *("--connect-timeout", "30", "--max-time", f"{self._manner.timeout:.0f}"),
                *("--speed-limit", str(_SLOW), "--speed-time", str(_FOR), "--config", "-"),
            ],
            input=settings.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(descriptor,),
            check=False,
        )
        said = masked(" ".join(done.stderr.decode(errors="replace").split()))
        return done.returncode, said[:500] or f"curl ended with {done.returncode}"


def checksum(path: Path, algorithm: str) -> str:
    """The hexadecimal hash of a file."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        for part in iter(lambda: file.read(_CHUNK), b""):
            digest.update(part)
    return digest.hexdigest()


def prune(place: Path, *, days: float) -> int:
    """Remove files, and beginnings of files, that no build has used for so many days; how many."""
    count = 0
    for file in [*place.glob("sha*-*"), *(place / "parts").iterdir()]:
        with held(place / "locks" / file.name, wait=False) as descriptor:
            if descriptor >= 0 and time.time() - file.stat().st_mtime > days * 86400:
                file.unlink()
                count += 1
    return count


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')

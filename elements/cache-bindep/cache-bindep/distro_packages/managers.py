"""What every package manager does for a cache, and how its programs are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

#: Holds the index of what is cached, and what else is needed to install without a network.
PLACE = Path("/var/cache/cache-bindep")


class PackageError(Exception):
    """Packages can't be had; says what the package manager said."""


class Manager(ABC):
    """The package manager of a system."""

    #: What names a package, and can't mean anything else to the package manager.
    name: re.Pattern[str]

    @abstractmethod
    def download(self, names: Sequence[str]) -> list[str]:
        """Cache packages with all they need; what can't be had, as notes. Raises PackageError."""

    @abstractmethod
    def install_cached(self, names: Sequence[str]) -> bool:
        """Install from the cache alone; whether everything was there."""

    @abstractmethod
    def install(self, names: Sequence[str]) -> None:
        """Install what the mirrors have now. Raises PackageError."""


def output(*argv: str) -> str:
    """What a program prints. Raises PackageError."""
    done = subprocess.run(
        argv,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("E:", "Error"))] or lines[-3:]
        raise PackageError(" ".join(telling)[:500] or f"{argv[0]} ended with {done.returncode}")
    return done.stdout


def as_root(*argv: str, quiet: bool = False) -> bool:
    """Run a program as root; whether it ended well. When it didn't, `quiet` shows nothing of it."""
    words = ["env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", *argv]
    if os.geteuid() != 0:
        words = ["sudo", "-n", *words]
    if not quiet:
        return subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode == 0
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode == 0:
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.flush()
    return done.returncode == 0


def link(source: Path, target: Path) -> None:
    """Have a file in a second place, by a hard link where that works."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)  # another file system

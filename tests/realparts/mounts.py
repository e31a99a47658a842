"""Mounts of one test's own.

Whoever starts a mount namespace meanwhile, as every build does, would keep what it finds mounted, and the
device behind it in use, for as long as itself.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds for what is done at once.
PATIENCE = 60


class Mounts:
    """A mount namespace, as long as the process lives that holds it."""

    def __init__(self, holder: int) -> None:
        self._holder = holder

    def seen(self, path: Path) -> Path:
        """The path by which all others reach a path in here."""
        return Path(f"/proc/{self._holder}/root", *path.parts[1:])

    def run(self, *argv: str, path: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in here, which finds programs in `path`; AssertionError unless it may fail."""
        enter = ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt"]
        into = ["env", f"PATH={path}"] if path else []
        done = subprocess.run(
            [*enter, *into, *argv], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done


@contextmanager
def mounts() -> Iterator[Mounts]:
    """A namespace for a block; what is mounted in it then goes with it."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    with subprocess.Popen(
        [*unshare, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as holder:
        assert holder.stdin and holder.stdout
        # It answers once it is in there.
        holder.stdin.write("there\n")
        assert holder.stdout.readline() == "there\n"
        yield Mounts(holder.pid)

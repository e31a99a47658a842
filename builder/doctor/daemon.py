"""Looks at what every daemon needs: its configuration and its state directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builder.config.model import Config
from builder.dib.checks import preflight, space
from builder.findings import Finding, Level, fine, problem, warning
from builder.model import FailureClass

LOCK: Final = "daemon.lock"


def configuration(config: Config) -> Iterator[Finding]:
    """What the configuration says; it is loaded, so it has no problems."""
    built = [name for name, image in config.diskimages.items() if image.formats]
    if built:
        others = len(config.diskimages) - len(built)
        more = f" ({others} more are in no provider and have no formats)" if others else ""
        named = f"diskimages: {', '.join(built)}{more}; providers: {', '.join(config.providers) or 'none'}"
        yield fine("configuration", f"{config.path} has no problems; {named}")
    elif config.diskimages:
        yield warning(
            "configuration",
            f"{config.path} has {len(config.diskimages)} diskimages, and builds none: no provider lists one",
            hint="List those to build in a provider, or give them 'formats'.",
        )
    else:
        yield warning(
            "configuration", f"{config.path} has no diskimages", hint="There is nothing to do until it has."
        )
    for note in config.notes:
        yield warning("configuration", note, hint="It has no effect; remove it when you like.")


def state_directory(config: Config) -> Iterator[Finding]:
    """Whether a daemon could run on the state directory, or does.

    Raises OSError when its disk can't be looked at.
    """
    written = preflight.directory("state-dir", config.state_dir, make=False)
    disk = space.file_system(config.state_dir)
    if disk.free == 0 or disk.free_inodes == 0:
        yield _full(config.state_dir, disk)
        return
    if written.level is not Level.OK:
        yield written
        return
    holder = holder_of(config.state_dir / LOCK)
    runs = "no daemon runs here" if holder is None else f"a daemon runs here, process {holder}"
    yield fine(
        "state directory", f"{config.state_dir}: {runs}; {space.human(disk.free)} free on {disk.mount}"
    )


def _full(directory: Path, disk: space.FileSystem) -> Finding:
    what = "bytes" if disk.free == 0 else "inodes"
    return problem(
        "state directory",
        f"{directory} can't be written: 0 {what} are free on {disk.mount}",
        hint="Free some, or name a directory on another disk with state-dir.",
        failure_class=FailureClass.DISK,
    )


def holder_of(lock: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """The process that holds a lock file, None when there is none.

    Asked of the kernel's list (proc(5)): trying the lock would keep a daemon out that just starts.
    """
    try:
        status = lock.stat()
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        # "1: FLOCK  ADVISORY  WRITE 708 00:13:16853 0 EOF"; one who waits has "->" after the number.
        if len(words) != 8 or words[1] != "FLOCK":
            continue
        major, minor, inode = words[5].split(":")
        device = os.makedev(int(major, 16), int(minor, 16))
        if int(inode) == status.st_ino and device == status.st_dev:
            return int(words[4])
    return None

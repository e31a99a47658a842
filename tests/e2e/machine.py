"""What a build could leave on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from builder.process.child import wait_for

#: Seconds for another build that runs meanwhile to take away the partitions of a device it let go of.
ELSEWHERE = 60.0


def left_of(directory: Path) -> list[str]:
    """Everything on this machine that still belongs to builds below a directory; the files apart.

    Of a partition without a file nobody can say whose it was. Another build may just be about to remove
    its own, so only one that stays is told.
    """
    wait_for(lambda: not stray_partitions(), timeout=ELSEWHERE, interval=0.2)
    return [*_processes(directory), *_loops(directory), *_mounts(directory), *stray_partitions()]


def stray_partitions() -> list[str]:
    """Partitions of loop devices with no file behind them."""
    return [
        f"partition {partition.name}"
        for loop in Path("/sys/block").glob("loop*")
        if not (loop / "loop").exists()
        for partition in loop.glob(f"{loop.name}p*")
    ]


def _processes(directory: Path) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            inside = os.fsencode(directory) in text or (process / "root").readlink().is_relative_to(directory)
        except OSError:
            continue  # it ended while we looked
        if inside and int(process.name) != os.getpid():
            yield f"process {process.name}"


def _loops(directory: Path) -> Iterator[str]:
    listing = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
    yield from (f"loop {line}" for line in listing.splitlines() if str(directory) in line)


def _mounts(directory: Path) -> Iterator[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    yield from (f"mount {line}" for line in lines if str(directory) in line)


def run(*argv: str) -> str:
    """What a tool prints; it must end with 0."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

"""Partitions of loop devices, as the kernel knows them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 10.0


@contextmanager
def partitions(device: str) -> Iterator[None]:
    """The partitions in the table of /dev/loopN, for a block.

    A loop device may still have those of whoever used it before: they outlive the file behind it, and
    `partx --update` would take away what has another size, and put nothing in its place.
    """
    drop(device)
    subprocess.run(["partx", "--add", device], check=True, timeout=60)
    try:
        yield
    finally:
        drop(device)


def drop(device: str) -> None:
    """Have the kernel forget the partitions of a loop device; raises TimeoutError when they stay in use."""
    deadline = time.monotonic() + _PATIENCE
    # A file system that was unmounted may be on its way out still.
    while of(device):
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True, timeout=60)
        if of(device) and time.monotonic() > deadline:
            raise TimeoutError(f"partitions of {device} stay in use: {', '.join(of(device))}")


def of(device: str) -> list[str]:
    """The names of a loop device's partitions."""
    loop = Path(device).name
    return sorted(path.name for path in Path("/sys/block", loop).glob(f"{loop}p*"))

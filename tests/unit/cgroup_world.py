"""A corner of the machine's cgroup v2 hierarchy for one test, with what controllers it has."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cgroup_corner(point: Path) -> Iterator[Path]:
    """Mount the hierarchy at `point`; a group in it that no other test knows, removed afterwards."""
    point.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "imagepool-test", str(point)], check=True)
    try:
        corner = Path(tempfile.mkdtemp(prefix="imagepool-test-", dir=point))
        yield corner
        corner.rmdir()
    finally:
        subprocess.run(["umount", str(point)], check=True)

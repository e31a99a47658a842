"""Fixtures of the functional tests: an installation with a ZooKeeper chroot and clouds of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.config.model import ZooKeeper
from tests.fakes.glance import FakeGlance
from tests.functional.installation import Installation


@pytest.fixture
def glance() -> Iterator[FakeGlance]:
    """Two regions that behave until a test says otherwise."""
    with FakeGlance.start() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, zookeeper: ZooKeeper, glance: FakeGlance) -> Iterator[Installation]:
    """An installation on an empty chroot; nothing runs yet."""
    installation = Installation(tmp_path, zookeeper, glance)
    try:
        yield installation
    finally:
        glance.released.set()
        installation.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 32 MiB of its own, in memory; needs root, as builds do."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)

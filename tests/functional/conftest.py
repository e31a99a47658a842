"""Fixtures of the functional tests: an installation with a ZooKeeper chroot and clouds of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.config.model import ZooKeeper
from tests.fakes.glance import FakeGlance
from tests.functional.fleet import Fleet
from tests.functional.installation import Installation
from tests.realparts import zookeeper as real_zookeeper
from tests.realparts.zookeeper import ZooKeeperEnsemble


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


@pytest.fixture(scope="session")
def ensemble_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperEnsemble]:
    """Three servers, for each pytest process that needs them."""
    why = real_zookeeper.missing()
    if why:
        pytest.fail(why)
    # Sessions as short as tests want them, and quick elections, also where a cable is cut.
    quick = {"tickTime": "200", "initLimit": "20", "syncLimit": "4"}
    with ZooKeeperEnsemble(tmp_path_factory.mktemp("ensemble"), options=quick) as ensemble:
        yield ensemble


@pytest.fixture
def ensemble(ensemble_servers: ZooKeeperEnsemble) -> Iterator[ZooKeeperEnsemble]:
    """Three servers that all serve; the test may kill any of them."""
    yield ensemble_servers
    ensemble_servers.restore()


@pytest.fixture
def fleet(tmp_path: Path, zookeeper: ZooKeeper, glance: FakeGlance) -> Iterator[Fleet]:
    """Machines that share an empty chroot and the clouds; none is there until a test names it."""
    machines = Fleet(tmp_path, zookeeper, glance)
    try:
        yield machines
    finally:
        machines.close()


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

"""Fixtures that every kind of test may use: the real parts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from builder.config.model import ZooKeeper
from tests.realparts import zookeeper as real_zookeeper
from tests.realparts.zookeeper import ZooKeeperServer


@pytest.fixture(scope="session")
def zookeeper_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """A real server, one for each pytest process; nobody may stop it but this fixture."""
    why = real_zookeeper.missing()
    if why:
        pytest.fail(why)
    server = ZooKeeperServer(tmp_path_factory.mktemp("zookeeper"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def zookeeper(zookeeper_server: ZooKeeperServer) -> ZooKeeper:
    """How to reach the real server, in a chroot that is this test's own."""
    return ZooKeeper(hosts=zookeeper_server.hosts, chroot=f"/test-{uuid.uuid4().hex}")

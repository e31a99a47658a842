"""The last word on a build, on a real ZooKeeper server that is away for longer than a session lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.config.model import ZooKeeper
from builder.model import BuildState
from builder.store.zookeeper import ZooKeeperStore
from builder.workers.settle import Ending, Settler
from tests.contract.records import NOON, a_build
from tests.contract.worlds import eventually
from tests.realparts.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    """A server that this test may stop."""
    own = ZooKeeperServer(tmp_path / "zookeeper")
    own.start()
    yield own
    own.stop()


def test_it_is_written_although_the_session_came_back_with_its_old_lock(server: ZooKeeperServer) -> None:
    store = ZooKeeperStore(ZooKeeper(hosts=server.hosts, timeout=4.0), watch=True)
    store.start()
    stopping = threading.Event()
    try:
        record = a_build(state=BuildState.BUILDING)
        claim = store.claim_image(record.image)
        assert claim is not None
        record = store.create_build(record)

        # The claim counts as lost after so long a silence; but a server that comes back resumes the
        # session, and the lock with it.
        server.stop()
        eventually(lambda: not claim.valid, "the claim counts as lost")
        endings: list[Ending] = []
        final = record.become(BuildState.READY, NOON)
        settler = Settler(store, stopping)
        thread = threading.Thread(target=lambda: endings.append(settler.finish_build(final, claim)))
        thread.start()
        server.start()
        thread.join(60)
        assert endings == [Ending.WRITTEN]
        assert store.get_build(record.image, record.id).state is BuildState.READY
    finally:
        stopping.set()
        store.close()

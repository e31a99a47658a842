"""What becomes of a daemon's writes, claims and watches when ZooKeeper's servers come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kazoo.exceptions import ConnectionLoss

from builder.config.model import ZooKeeper
from builder.errors import ConflictError, StoreUnavailableError
from builder.model import Build
from builder.store.base import Claim
from builder.store.zookeeper import ZooKeeperStore
from tests.contract.records import NOON, a_build, a_daemon, a_pause, a_request, an_upload
from tests.contract.worlds import eventually
from tests.realparts.zookeeper import ZooKeeperEnsemble, ZooKeeperServer

pytestmark = pytest.mark.real

#: Seconds; and for who is to keep a session while servers start, which takes a busy machine long.
SESSION, LONG_SESSION = 10.0, 60.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperEnsemble]:
    # Servers that tick every half second grant no longer ones than SESSION unless they are told to.
    options = {"maxSessionTimeout": str(int(LONG_SESSION * 1000))}
    with ZooKeeperEnsemble(tmp_path_factory.mktemp("ensemble"), options=options) as three:
        yield three


@pytest.fixture
def ensemble(servers: ZooKeeperEnsemble) -> Iterator[ZooKeeperEnsemble]:
    """Three servers, all of which run before and after."""
    yield servers
    servers.restore()


class Opened:
    """Stores on one chroot, closed with the test."""

    def __init__(self, zookeeper: ZooKeeper) -> None:
        self.zookeeper = zookeeper
        self._stores: list[ZooKeeperStore] = []

    def __call__(self, *, timeout: float = SESSION, hosts: str | None = None) -> ZooKeeperStore:
        there = replace(self.zookeeper, timeout=timeout, hosts=hosts or self.zookeeper.hosts)
        store = ZooKeeperStore(there, watch=True)
        self._stores.append(store)
        store.start()
        return store

    def close(self) -> None:
        for store in self._stores:
            store.close()


@pytest.fixture
def opened(ensemble: ZooKeeperEnsemble, request: pytest.FixtureRequest) -> Iterator[Opened]:
    stores = Opened(ZooKeeper(hosts=ensemble.hosts, chroot=f"/{request.node.name}"))
    yield stores
    stores.close()


@pytest.fixture
def lone_server(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    """A server this test may stop, start and freeze."""
    server = ZooKeeperServer(tmp_path / "zookeeper")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def alone(lone_server: ZooKeeperServer) -> Iterator[Opened]:
    stores = Opened(ZooKeeper(hosts=lone_server.hosts))
    yield stores
    stores.close()


def server_of(store: ZooKeeperStore, ensemble: ZooKeeperEnsemble) -> ZooKeeperServer:
    """Which of the servers a store speaks to."""
    client = store._session._client
    assert client is not None
    port = client._connection._socket.getpeername()[1]
    return next(server for server in ensemble.servers if server.port == port)


def requests_made(store: ZooKeeperStore) -> int:
    """How many requests a store has sent over its connection; pings have no number."""
    client = store._session._client
    assert client is not None
    return int(client._connection._xid)


def settled(store: ZooKeeperStore) -> int:
    """The requests made once no more are."""
    made = requests_made(store)
    generation = store.wait(-1, 0)
    while (now := store.wait(generation, 0.3)) != generation or requests_made(store) != made:
        generation, made = now, requests_made(store)
    return made


class Writer:
    """Writes a build's phase over and over, as a careful worker does, and notes what was acknowledged."""

    def __init__(self, store: ZooKeeperStore) -> None:
        self._store = store
        self.acknowledged = store.create_build(a_build())
        self.written = self.unsure = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            wanted = replace(self.acknowledged, phase=str(self.written))
            try:
                self.acknowledged = self._store.update_build(wanted)
            except (StoreUnavailableError, ConflictError):
                self.unsure += 1
                self._look_again(wanted)
            else:
                self.written += 1

    def _look_again(self, wanted: Build) -> None:
        """Nobody else writes: it is as it was, or as we wanted it."""
        try:
            there = self._store.get_build(wanted.image, wanted.id)
        except StoreUnavailableError:
            return
        assert (there.version, there.phase) in (
            (self.acknowledged.version, self.acknowledged.phase),
            (wanted.version + 1, wanted.phase),
        )
        self.acknowledged = there


class TestEnsemble:
    def test_nothing_acknowledged_is_lost_when_the_leader_dies_amid_writes(
        self, ensemble: ZooKeeperEnsemble, opened: Opened
    ) -> None:
        here, there = opened(), opened()
        claim = here.claim_image("debian")
        assert claim is not None
        writer = Writer(here)
        try:
            eventually(lambda: writer.written > 50, "writes go through")
            ensemble.leader().stop()
            seen = writer.written
            eventually(lambda: writer.written > seen + 50, "writes go through again", within=30)
        finally:
            writer.stop()
        final = there.get_build("debian", writer.acknowledged.id)
        assert (final.version, final.phase) == (writer.acknowledged.version, writer.acknowledged.phase)
        assert final.version >= writer.written
        assert claim.valid
        eventually(
            lambda: [b.version for b in there.snapshot().image("debian").builds] == [final.version],
            "the last write is seen",
        )

    def test_without_a_majority_writes_wait_and_all_is_as_before_when_it_is_back(
        self, ensemble: ZooKeeperEnsemble, opened: Opened
    ) -> None:
        store, hasty = opened(timeout=LONG_SESSION), opened(timeout=2.0)
        store.register(a_daemon())
        build, claim, lead = store.create_build(a_build()), store.claim_image("debian"), store.claim_lead("a")
        assert claim is not None and lead is not None
        eventually(lambda: store.snapshot().leader == "a", "all is seen")
        last_seen = store.snapshot()
        ensemble.cut_majority()
        eventually(lambda: not store.connected and not hasty.connected, "both know that ZooKeeper is gone")
        assert store.snapshot() == last_seen
        written: list[Build] = []
        waiting = threading.Thread(
            target=lambda: written.append(store.update_build(replace(build, phase="x")))
        )
        waiting.start()
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            hasty.freeze(a_pause())
        assert time.monotonic() - began < 4.0
        assert written == []
        ensemble.restore()
        eventually(lambda: store.connected and hasty.connected, "both are back", within=30)
        waiting.join(30)
        assert [each.phase for each in written] == ["x"]
        assert claim.valid and lead.valid
        # What was refused was refused for good.
        hasty.pause_provider("cloud-one", a_pause())
        eventually(lambda: "cloud-one" in store.snapshot().paused_providers, "watches work again")
        assert store.snapshot().frozen is None
        assert [daemon.hostname for daemon in store.snapshot().daemons] == ["nb01.example"]
        assert store.snapshot().leader == "a"

    def test_claims_and_watches_move_to_another_server_with_their_store(
        self, ensemble: ZooKeeperEnsemble, opened: Opened
    ) -> None:
        store = opened()
        store.register(a_daemon())
        claim, lead = store.claim_image("debian"), store.claim_lead("a")
        assert claim is not None and lead is not None
        session, first = store._session.id, server_of(store, ensemble)
        first.stop()
        eventually(lambda: not store.connected, "the store knows that its server is gone")
        eventually(lambda: store.connected, "the store has another server", within=30)
        assert server_of(store, ensemble) is not first
        assert store._session.id == session
        other = opened()
        assert claim.valid and other.claim_image("debian") is None
        assert lead.valid and other.claim_lead("b") is None
        build = other.create_build(a_build())
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "watches work")
        assert len(other.snapshot().daemons) == 1
        claim.release()
        # Its server may hear of it later than the one that was told.
        eventually(lambda: other.claim_image("debian") is not None, "the claim is to be had")


class TestSuspended:
    def test_what_comes_while_there_is_no_connection_is_refused_and_not_queued(
        self, lone_server: ZooKeeperServer, alone: Opened
    ) -> None:
        store = alone()
        build = store.create_build(a_build())
        lone_server.stop()
        eventually(lambda: not store.connected, "the store knows that the server is gone")
        path = f"/nodepool/images/debian/builds/{build.id}"
        late = store._session.send(lambda c: c.set_async(path, b"late"))
        assert late is not None
        with pytest.raises(ConnectionLoss):
            late.get(timeout=1.0)
        client = store._session._client
        assert client is not None
        assert list(client._queue) == []

    def test_what_was_under_way_when_the_connection_broke_is_told_by_its_version(
        self, lone_server: ZooKeeperServer, alone: Opened
    ) -> None:
        store = alone(timeout=4.0)
        build = store.create_build(a_build())
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the build is seen")
        # The server takes the request and answers no more, as in a long pause of its own.
        lone_server.freeze()
        try:
            with pytest.raises(StoreUnavailableError, match="may or may not"):
                store.update_build(replace(build, phase="convert"))
        finally:
            lone_server.thaw()
        eventually(lambda: store.connected, "the store is back", within=30)
        there = store.get_build("debian", build.id)
        assert (there.version, there.phase) in ((0, None), (1, "convert"))
        if there.version:
            with pytest.raises(ConflictError):
                store.update_build(replace(build, phase="convert"))
        else:
            assert store.update_build(replace(build, phase="convert")).version == 1

    def test_a_daemon_shows_after_the_reconnect_what_it_could_not_write(
        self, lone_server: ZooKeeperServer, alone: Opened
    ) -> None:
        store, other = alone(timeout=4.0), alone()
        store.register(a_daemon())
        lone_server.freeze()
        try:
            with pytest.raises(StoreUnavailableError):
                store.register(a_daemon(draining=True))
        finally:
            lone_server.thaw()
        eventually(lambda: other.snapshot().daemons == (a_daemon(draining=True),), "it is shown", within=30)

    def test_after_a_lost_session_the_lead_is_had_by_asking_again(
        self, lone_server: ZooKeeperServer, alone: Opened
    ) -> None:
        store = alone(timeout=2.0)
        lead = store.claim_lead("a")
        assert lead is not None
        lone_server.stop()
        # For all we know another leads by now, long before a server can tell us so.
        eventually(lambda: not lead.valid, "the lead is given up", within=10)
        lone_server.start()
        eventually(lambda: store.connected, "the store is back", within=30)
        eventually(lambda: store.claim_lead("a") is not None, "the lead is had again", within=10)
        eventually(lambda: store.snapshot().leader == "a", "it is seen")


class TestQuiet:
    def test_at_rest_there_are_pings_and_nothing_else(
        self, ensemble: ZooKeeperEnsemble, opened: Opened
    ) -> None:
        stores = [opened(), opened(), opened()]
        for number, store in enumerate(stores):
            store.register(a_daemon(f"nb0{number}"))
            store.claim_lead(f"nb0{number}")
        stores[0].create_build(a_build())
        stores[0].request_build(a_request(), ticks={"14 14 * * *": NOON})
        stores[0].freeze(a_pause())
        assert stores[0].claim_image("debian") is not None
        made = [settled(store) for store in stores]
        generations = [store.wait(-1, 0) for store in stores]
        # Longer than the pings are apart: whatever is done again and again is seen.
        stores[0].wait(generations[0], SESSION / 3 + 0.5)
        assert [requests_made(store) for store in stores] == made
        assert [store.wait(-1, 0) for store in stores] == generations
        cons = b"".join(server.command("cons") for server in ensemble.servers).decode()
        for store in stores:
            [line] = [each for each in cons.splitlines() if f"sid={store._session.id:#x}," in each]
            assert "lop=PING" in line

    def test_a_change_costs_who_watches_one_read_of_what_changed(self, opened: Opened) -> None:
        here, there = opened(), opened()
        there.register(a_daemon("nb02"))
        build = there.create_build(a_build())
        upload = there.create_upload(an_upload(build))
        claims: list[Claim] = []

        def claim() -> None:
            held = there.claim_uploads("debian", build.id, "cloud-one")
            assert held is not None
            claims.append(held)

        def cost(change: Callable[[], object]) -> int:
            before = settled(here)
            change()
            return settled(here) - before

        assert cost(lambda: there.update_upload(replace(upload, sent=7))) == 1
        assert cost(lambda: there.update_build(replace(build, phase="x"))) == 1
        assert cost(lambda: there.register(a_daemon("nb02", unfit="no disk"))) == 1
        assert cost(claim) == 1
        assert cost(claims[0].release) == 1
        # What is new is found with the children of what is above it.
        assert cost(lambda: there.create_upload(an_upload(build))) == 2
        assert cost(lambda: there.request_build(a_request())) == 2
        assert cost(lambda: there.delete_upload(upload)) == 1

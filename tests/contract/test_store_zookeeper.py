"""What only a real ZooKeeper server shows of the Store."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from builder.config.model import ZooKeeper, ZooKeeperTls
from builder.errors import RefusedError, StoreUnavailableError
from builder.model import BuildState, UploadState
from builder.store.zookeeper import ZooKeeperStore
from tests.contract.records import (
    LATER_BUILD,
    LATER_UPLOAD,
    NOON,
    a_build,
    a_cancellation,
    a_daemon,
    a_pause,
    a_request,
    a_sighting,
    an_upload,
    an_upload_cancellation,
)
from tests.contract.worlds import PATIENCE, RealWorld, eventually
from tests.realparts.relay import Relay
from tests.realparts.zookeeper import ZooKeeperServer, free_port, tls_options

pytestmark = pytest.mark.real

BUILD_ID = "0123456789abcdef0123456789abcdef"
BUILDS = "/nodepool/images/debian/builds"
SCHEDULE = "/imagepool/schedule/debian"
UPLOADS = f"{BUILDS}/{BUILD_ID}/providers/cloud-one/images"


@pytest.fixture
def world(zookeeper: ZooKeeper) -> Iterator[RealWorld]:
    here = RealWorld(zookeeper)
    yield here
    here.close()


@pytest.fixture
def store(world: RealWorld) -> ZooKeeperStore:
    opened = world.daemon()
    assert isinstance(opened, ZooKeeperStore)
    return opened


@pytest.fixture
def raw(zookeeper: ZooKeeper, store: ZooKeeperStore) -> Iterator[KazooClient]:
    """Somebody else at work in the same chroot, without any of our code."""
    client = KazooClient(f"{zookeeper.hosts}{zookeeper.chroot}")
    client.start(PATIENCE)
    yield client
    client.stop()
    client.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    """A server this test may stop and start."""
    # Sessions may last longer than a busy machine takes to start the server again.
    server = ZooKeeperServer(tmp_path / "zookeeper", options={"maxSessionTimeout": "120000"})
    server.start()
    yield server
    server.stop()


def everything(client: KazooClient, path: str) -> list[str]:
    """A node and all below it."""
    below = [everything(client, f"{path}/{name}") for name in client.get_children(path)]
    return [path, *(node for nodes in below for node in nodes)]


def put(client: KazooClient, path: str, record: object) -> None:
    client.create(path, json.dumps(record).encode(), makepath=True)


class TestNodepoolsRecords:
    def test_its_build_is_read_and_keeps_what_we_do_not_know(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        theirs = {
            "state": "ready",
            "state_time": 1795178151.1845696,
            "builder": "localhost",
            "builder_id": "2c09ab93-96d4-4154-a52d-bdf3124070c9",
            "formats": "qcow2,raw",
            "username": "zuul",
            "python_path": "auto",
            "shell_type": None,
            "colour": {"deep": ["red"]},
        }
        put(raw, f"{BUILDS}/{BUILD_ID}", theirs)
        build = store.get_build("debian", BUILD_ID)
        assert build.formats == ("qcow2", "raw")
        assert build.state_time.timestamp() == pytest.approx(1795178151.1845696, abs=1e-6)
        store.update_build(build.become(BuildState.DELETING, NOON))
        written = json.loads(raw.get(f"{BUILDS}/{BUILD_ID}")[0])
        assert written == {**theirs, "state": "deleting", "state_time": NOON.timestamp()}

    def test_its_least_upload_below_an_empty_build_is_read(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        put(raw, f"{UPLOADS}/0000000000", {"state": "ready", "external_id": "e5f5"})
        upload = store.get_upload("debian", BUILD_ID, "cloud-one", "0000000000")
        assert (upload.state, upload.external_id, upload.username) == (UploadState.READY, "e5f5", "zuul")
        assert abs(upload.state_time.timestamp() - time.time()) < 3600
        eventually(lambda: store.snapshot().image("debian").uploads == (upload,), "the upload is seen")
        assert store.snapshot().image("debian").builds == ()

    def test_our_records_have_its_fields_as_it_writes_them(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        build = store.create_build(a_build(state=BuildState.FAILED, formats=()))
        upload = store.create_upload(an_upload(build))
        record = json.loads(raw.get(f"{BUILDS}/{build.id}")[0])
        assert "formats" not in record
        assert (record["state"], record["state_time"], record["shell_type"]) == (
            "failed",
            NOON.timestamp(),
            None,
        )
        record = json.loads(raw.get(f"{BUILDS}/{build.id}/providers/cloud-one/images/{upload.id}")[0])
        assert (record["external_id"], record["external_name"]) == (None, None)

    def test_its_request_and_pause_are_wishes_too(self, store: ZooKeeperStore, raw: KazooClient) -> None:
        raw.ensure_path("/nodepool/images/debian/request-build")
        raw.ensure_path("/nodepool/images/debian/pause")
        request = store.get_request("debian")
        assert request is not None
        assert (request.by, request.why, request.manual) == (
            "nodepool",
            "asked through nodepool's request node",
            True,
        )
        assert abs(request.time.timestamp() - time.time()) < 3600
        eventually(lambda: store.snapshot().image("debian").request == request, "the request is seen")
        eventually(lambda: store.snapshot().image("debian").paused, "the pause is seen")
        pause = store.snapshot().image("debian").pause
        assert pause is not None and (pause.by, pause.why) == ("somebody", "")
        assert abs(pause.time.timestamp() - time.time()) < 3600
        assert store.withdraw_request(request)
        assert not raw.exists("/nodepool/images/debian/request-build")

    def test_its_request_is_made_urgent_and_stays_its_own(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        raw.ensure_path("/nodepool/images/debian/request-build")
        asked = store.get_request("debian")
        made = raw.get("/nodepool/images/debian/request-build")[1].czxid
        joined = store.request_build(a_request(urgent=True))
        assert asked is not None and joined is not None
        assert (joined.by, joined.time, joined.urgent) == ("nodepool", asked.time, True)
        # Its readers tell the age of a request by that of its node.
        assert raw.get("/nodepool/images/debian/request-build")[1].czxid == made
        assert store.withdraw_request(asked)

    def test_the_wish_to_cancel_is_no_deeper_than_its_readers_look(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        build = store.create_build(a_build())
        store.cancel_build(a_cancellation(build))
        # nodepool takes whatever is two levels below an image, and no lock, for a build.
        assert raw.get_children("/nodepool/images/debian/cancel-build") == []
        assert sorted(raw.get_children("/nodepool/images/debian")) == ["builds", "cancel-build"]
        assert set(raw.get_children(BUILDS)) - {"lock"} == {build.id}

    def test_a_wish_to_cancel_that_names_nothing_cancels_nothing_and_is_written_over(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        build = store.create_build(a_build())
        raw.create("/nodepool/images/debian/cancel-build", b"{broken")
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the build is seen")
        assert store.snapshot().image("debian").cancellation is None
        store.withdraw_cancellation("debian", build.id)
        store.cancel_build(a_cancellation(build))
        eventually(
            lambda: store.snapshot().image("debian").cancellation == a_cancellation(build), "the wish is seen"
        )
        raw.set("/nodepool/images/debian/cancel-build", b"{broken")
        eventually(lambda: store.snapshot().image("debian").cancellation is None, "the wish is gone")
        store.withdraw_cancellation("debian")
        assert not raw.exists("/nodepool/images/debian/cancel-build")

    def test_wishes_to_cancel_uploads_are_no_deeper_than_its_readers_look(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        build = store.create_build(a_build())
        upload = store.create_upload(an_upload(build))
        for to in ("cloud-one", "cloud-two"):
            store.cancel_upload(an_upload_cancellation(replace(upload, provider=to)))
        assert raw.get_children("/nodepool/images/debian/cancel-uploads") == []
        assert sorted(raw.get_children("/nodepool/images/debian")) == ["builds", "cancel-uploads"]
        assert set(raw.get_children(BUILDS)) - {"lock"} == {build.id}
        # nodepool's commands write beside it, as if it were not there.
        raw.ensure_path("/nodepool/images/debian/request-build")
        eventually(lambda: store.snapshot().image("debian").request is not None, "the request is seen")
        assert len(store.snapshot().image("debian").upload_cancellations) == 2

    def test_wishes_to_cancel_that_cannot_be_read_cancel_nothing_and_are_written_over(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        upload = store.create_upload(an_upload(store.create_build(a_build())))
        node = "/nodepool/images/debian/cancel-uploads"
        wish = an_upload_cancellation(upload)

        def seen() -> tuple[object, ...]:
            return store.snapshot().image("debian").upload_cancellations

        raw.create(node, b"{broken")
        store.cancel_upload(wish)
        eventually(lambda: seen() == (wish,), "the wish is seen")
        written = json.loads(raw.get(node)[0])
        raw.set(node, json.dumps({"../../x": {}, "": None, **written}).encode())
        store.withdraw_upload_cancellation("debian", f"{'a' * 32}/cloud-one/0000000001")
        assert seen() == (wish,)
        raw.set(node, b"[]")
        eventually(lambda: seen() == (), "the wish is gone")

    def test_its_locks_and_ours_exclude_each_other(self, store: ZooKeeperStore, raw: KazooClient) -> None:
        theirs = raw.Lock(f"{BUILDS}/lock")
        assert theirs.acquire(blocking=False)
        assert store.claim_image("debian") is None
        eventually(lambda: store.snapshot().image("debian").build_claimed, "the lock is seen")
        theirs.release()
        ours = store.claim_image("debian")
        assert ours is not None
        assert not raw.Lock(f"{BUILDS}/lock").acquire(blocking=False)
        ours.release()
        assert theirs.acquire(blocking=False)
        theirs.release()

    def test_its_readers_see_our_daemon_for_as_long_as_it_lives(
        self, world: RealWorld, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        store.register(a_daemon(roles=("scheduler", "builder")))

        def shown() -> list[str]:
            return sorted(raw.get_children("/nodepool/components/builder"))

        [name] = shown()
        assert name == "nb01.example0000000000"
        data, stat = raw.get(f"/nodepool/components/builder/{name}")
        assert json.loads(data) == {
            "hostname": "nb01.example",
            "kind": "builder",
            "model_api": 0,
            "state": "running",
            "version": "1.2",
        }
        assert stat.ephemeralOwner != 0
        [ours] = raw.get_children("/imagepool/daemons")
        assert json.loads(raw.get(f"/imagepool/daemons/{ours}")[0])["roles"] == ["scheduler", "builder"]
        world.expire(store)
        eventually(lambda: shown() == ["nb01.example0000000001"], "the daemon is shown again")
        store.close()
        eventually(lambda: shown() == [] == raw.get_children("/imagepool/daemons"), "the daemon is gone")

    def test_a_daemon_that_neither_builds_nor_uploads_is_no_builder(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        store.register(a_daemon(roles=("scheduler", "janitor")))
        assert len(raw.get_children("/imagepool/daemons")) == 1
        assert not raw.exists("/nodepool/components/builder")


class TestRequests:
    def test_a_request_and_its_times_are_written_in_one_step(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        for tick in (NOON, NOON + timedelta(days=1)):
            request = a_request(by="nb01", manual=False, tick=tick, time=tick)
            wish = store.request_build(request, ticks={"14 14 * * *": tick})
            assert wish is not None
            stats = [raw.get(path)[1] for path in ("/nodepool/images/debian/request-build", SCHEDULE)]
            assert {stat.mzxid for stat in stats} == {wish.stamp}
            assert store.withdraw_request(wish)
        # With a request open it is the times alone, and only as long as it is.
        wish = store.request_build(a_request())
        tick = NOON + timedelta(days=2)
        store.request_build(
            a_request(by="nb01", manual=False, time=tick, why="it is time"), ticks={"14 14 * * *": tick}
        )
        assert json.loads(raw.get(SCHEDULE)[0]) == {"14 14 * * *": tick.timestamp()}
        assert store.get_request("debian") == wish

    def test_no_time_is_remembered_for_a_request_that_is_withdrawn_just_then(
        self, world: RealWorld, store: ZooKeeperStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, other = store.request_build(a_request()), world.command()
        assert first is not None
        look = store._asked

        def asked(image: str) -> object:
            found = look(image)
            other.withdraw_request(first)
            return found

        monkeypatch.setattr(store, "_asked", asked)
        request = a_request(by="nb01", manual=False, why="it is time")
        wish = store.request_build(request, ticks={"14 14 * * *": NOON})
        # It was not there any more to be joined, so there is another one.
        assert wish == request and wish.stamp != first.stamp
        assert store.get_request("debian") == wish


class TestStrangeNodes:
    def test_what_is_too_large_is_refused_before_the_server_hangs_up(self, store: ZooKeeperStore) -> None:
        build, heard = store.create_build(a_build()), list[str]()
        store._session._client.add_listener(heard.append)
        for write in (
            lambda: store.update_build(replace(build, extra={"later": "x" * 1_100_000})),
            lambda: store.request_build(a_request(extra={"later": "x" * 1_100_000})),
        ):
            with pytest.raises(RefusedError, match="no more than a megabyte"):
                write()
        assert store.get_build("debian", build.id) == build
        assert store.get_request("debian") is None
        assert heard == []

    def test_marks_that_fill_their_node_with_what_nobody_reads_are_written_over(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        put(raw, SCHEDULE, {"0 0 * * *": NOON.timestamp(), "odd": "x" * 1_048_400})
        assert store.request_build(a_request(manual=False), ticks={"14 14 * * *": NOON}) is not None
        marks = {"0 0 * * *": NOON.timestamp(), "14 14 * * *": NOON.timestamp()}
        assert json.loads(raw.get(SCHEDULE)[0]) == marks

    def test_what_cannot_be_read_is_skipped_with_one_warning(
        self, store: ZooKeeperStore, raw: KazooClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, logger="builder.store"):
            raw.create(f"{BUILDS}/{BUILD_ID}", b"{broken", makepath=True)
            put(raw, f"{BUILDS}/{'a' * 32}", {"state": "sleeping"})
            put(raw, f"{BUILDS}/{'b' * 32}", [])
            put(raw, f"{BUILDS}/not-a-build", {"state": "ready"})
            put(raw, "/nodepool/images/a b/builds/x", {})
            good = store.create_build(a_build())
            eventually(lambda: store.snapshot().image("debian").builds == (good,), "the good build is seen")
            eventually(lambda: len(caplog.records) >= 3, "the bad ones are warned of")
            store.update_build(replace(good, phase="packages"))
            eventually(
                lambda: store.snapshot().image("debian").builds[0].phase == "packages", "the change is seen"
            )
        assert sorted(r.message.split(" of debian")[0] for r in caplog.records) == [
            f"skipped: the record of build {name}" for name in (BUILD_ID, "a" * 32, "b" * 32)
        ]
        assert set(store.snapshot().images) == {"debian"}
        assert store.list_builds("debian")[0].id == good.id

    def test_the_whole_tree_may_go_and_come_back(self, store: ZooKeeperStore, raw: KazooClient) -> None:
        store.create_build(a_build())
        eventually(lambda: bool(store.snapshot().image("debian").builds), "the build is seen")
        raw.delete("/nodepool", recursive=True)
        eventually(lambda: not store.snapshot().images, "the tree is seen to be gone")
        build = store.create_build(a_build())
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the new tree is seen")

    def test_what_comes_and_goes_too_fast_to_follow_is_seen_as_it_ends(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        record = json.dumps({"state": "ready"}).encode()
        for number in range(100):
            raw.create(f"{UPLOADS}/0000000001", record, makepath=True)
            raw.create("/imagepool/frozen", b"{}", makepath=True)
            if number % 3:
                raw.delete("/nodepool/images/debian", recursive=True)
            else:
                raw.delete(f"{UPLOADS}/0000000001")
            raw.delete("/imagepool/frozen")
        raw.create(f"{UPLOADS}/0000000001", record, makepath=True)
        raw.create("/imagepool/frozen", b"{}")
        eventually(lambda: len(store.snapshot().image("debian").uploads) == 1, "the upload is seen")
        eventually(lambda: store.snapshot().frozen is not None, "the freeze is seen")
        # ... by watches that still work.
        raw.set(f"{UPLOADS}/0000000001", json.dumps({"state": "deleting"}).encode())
        eventually(
            lambda: [u.state for u in store.snapshot().image("debian").uploads] == ["deleting"],
            "the change is seen",
        )
        raw.delete("/nodepool", recursive=True)
        raw.delete("/imagepool", recursive=True)
        eventually(lambda: not store.snapshot().images and not store.snapshot().frozen, "all is gone")


class TestTogetherWithLaterVersions:
    def test_a_record_of_theirs_survives_our_writing_it(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        for path, record in (
            (f"{BUILDS}/{BUILD_ID}", LATER_BUILD),
            (f"{UPLOADS}/0000000001", LATER_UPLOAD),
        ):
            put(raw, path, record)
        build = store.get_build("debian", BUILD_ID)
        upload = store.get_upload("debian", BUILD_ID, "cloud-one", "0000000001")
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "their build is seen")
        eventually(lambda: store.snapshot().image("debian").uploads == (upload,), "their upload is seen")
        store.update_build(build.become(BuildState.DELETING, NOON))
        store.update_upload(replace(upload, uploader="nb01"))
        written = json.loads(raw.get(f"{BUILDS}/{BUILD_ID}")[0])
        assert written == {**LATER_BUILD, "state": "deleting", "state_time": NOON.timestamp()}
        written = json.loads(raw.get(f"{UPLOADS}/0000000001")[0])
        assert written == {**LATER_UPLOAD, "uploader": "nb01"}

    def test_a_request_and_times_of_theirs_survive_our_joining_them(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        theirs = {"by": "ann", "why": "now", "time": 1795178000.0, "manual": True, "where": {"rack": 7}}
        put(raw, "/nodepool/images/debian/request-build", theirs)
        put(raw, "/imagepool/schedule/debian", {"noon": "high", "two": 1795178000.0})
        asked = store.get_request("debian")
        joined = store.request_build(a_request(by="bob", urgent=True), ticks={"three": NOON})
        assert asked is not None and joined is not None
        written = json.loads(raw.get("/nodepool/images/debian/request-build")[0])
        assert written == {**theirs, "urgent": True, "stamp": asked.stamp}
        written = json.loads(raw.get("/imagepool/schedule/debian")[0])
        assert written == {"noon": "high", "two": 1795178000.0, "three": NOON.timestamp()}
        assert store.withdraw_request(asked)


class TestBesideTheRecords:
    def test_a_build_goes_and_is_known_to_be_gone_in_one_step(
        self, store: ZooKeeperStore, raw: KazooClient, world: RealWorld
    ) -> None:
        build = store.create_build(a_build())
        store.delete_build(build)
        [record] = raw.get_children("/imagepool/gone")
        assert record == build.id
        gone = raw.get(f"/imagepool/gone/{build.id}")[1]
        # What goes in one transaction has one id.
        assert gone.czxid == raw.get(BUILDS)[1].pzxid
        # A record that somebody copied back is believed before the memory that it was gone.
        raw.create(f"{BUILDS}/{build.id}", b"")
        assert world.command().builds_gone() == {}
        store.delete_build(build)
        assert set(store.builds_gone()) == {build.id}
        store.restore_build(build)
        assert raw.get_children("/imagepool/gone") == []

    def test_what_is_not_understood_proves_nothing(
        self, store: ZooKeeperStore, raw: KazooClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        build = store.create_build(a_build())
        store.delete_build(build)
        for name, data in {
            "a" * 32: b"",
            "b" * 32: b"{broken",
            "c" * 32: b'{"image": 7}',
            "d" * 32: b'{"image": "../x"}',
            "no-build": b'{"image": "debian"}',
        }.items():
            raw.create(f"/imagepool/gone/{name}", data)
        with caplog.at_level(logging.WARNING, logger="builder.store"):
            assert set(store.builds_gone()) == {build.id}
        assert len(caplog.records) == 5
        store.put_sighting(a_sighting())
        raw.create("/imagepool/strays/cloud-one/a b", b"{}")
        raw.create("/imagepool/strays/cloud-one/broken", b'{"first": 1}')
        assert store.sightings("cloud-one") == (a_sighting(),)

    def test_bringing_an_upload_back_leaves_nothing_else_behind(
        self, store: ZooKeeperStore, raw: KazooClient
    ) -> None:
        build = store.restore_build(a_build(id=BUILD_ID))
        store.restore_upload(an_upload(build, id="0000000700"))
        assert sorted(raw.get_children(UPLOADS)) == ["0000000700", "lock"]
        assert store.claim_uploads("debian", build.id, "cloud-one") is not None

    def test_a_sequence_that_was_above_already_stays(self, store: ZooKeeperStore, raw: KazooClient) -> None:
        build = store.create_build(a_build(id=BUILD_ID))
        for _ in range(4):
            store.delete_upload(store.create_upload(an_upload(build)))
        store.restore_upload(an_upload(build, id="0000000002"))
        assert store.create_upload(an_upload(build)).id == "0000000006"
        assert raw.get_children(f"{UPLOADS}/lock") == []

    def test_a_quiet_daemon_is_not_woken_by_shares_and_sightings(
        self, world: RealWorld, store: ZooKeeperStore
    ) -> None:
        other = world.daemon()
        seen = store.wait(-1, 0)
        while (now := store.wait(seen, 0.3)) != seen:
            seen = now
        claim = other.claim_share("cloud-one", 1)
        other.put_sighting(a_sighting())
        assert claim is not None
        claim.release()
        assert store.wait(seen, 0.3) == seen


class TestConnection:
    def test_a_change_is_seen_by_itself(self, world: RealWorld, store: ZooKeeperStore) -> None:
        other = world.daemon()
        build = other.create_build(a_build())
        other.create_upload(an_upload(build))
        eventually(lambda: bool(store.snapshot().image("debian").uploads), "the upload is seen")

    def test_a_quiet_tree_wakes_nobody(self, world: RealWorld, store: ZooKeeperStore) -> None:
        build = world.daemon().create_build(a_build())
        held = store.claim_image("debian")
        eventually(lambda: store.snapshot().image("debian").build_claimed, "the claim is seen")
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the build is seen")
        seen = store.wait(-1, 0)
        while (now := store.wait(seen, 0.3)) != seen:
            seen = now
        # Trying for a lock that is held is no change.
        assert world.daemon().claim_image("debian") is None
        assert store.wait(seen, 0.3) == seen
        assert held is not None

    def test_it_comes_back_with_its_server(self, own_server: ZooKeeperServer) -> None:
        zookeeper = ZooKeeper(hosts=own_server.hosts, timeout=60.0)
        store = ZooKeeperStore(zookeeper, watch=True)
        store.start()
        try:
            build = store.create_build(a_build())
            claim = store.claim_image("debian")
            assert claim is not None
            own_server.stop()
            eventually(lambda: not store.connected, "the store knows that the server is gone")
            seen = store.wait(-1, 0)
            own_server.start()
            eventually(lambda: store.connected, "the store is back", within=120)
            assert store.wait(seen, 5) != seen
            assert store.snapshot().image("debian").builds == (build,)
            assert claim.valid
            claim.release()
            again = store.claim_image("debian")
            assert again is not None
            changed = store.update_build(replace(build, phase="convert"))
            eventually(lambda: store.snapshot().image("debian").builds == (changed,), "watches work again")
        finally:
            store.close()

    def test_a_connection_that_is_taken_and_never_answered_costs_no_session(
        self, own_server: ZooKeeperServer
    ) -> None:
        with Relay(own_server.port) as relay:
            zookeeper = ZooKeeper(hosts=relay.hosts, timeout=20.0)
            store = ZooKeeperStore(zookeeper, watch=True)
            store.start()
            try:
                claim = store.claim_image("debian")
                session = store._session.id
                relay.take_silently(1)
                relay.cut()
                eventually(lambda: relay.silent == 1, "a connection is taken and not answered")
                eventually(lambda: store.connected, "the store is back", within=60)
                assert claim is not None
                assert claim.valid
                assert store._session.id == session
            finally:
                store.close()

    def test_requests_to_a_server_that_is_gone_end_in_time(self, own_server: ZooKeeperServer) -> None:
        store = ZooKeeperStore(ZooKeeper(hosts=own_server.hosts, timeout=2.0), watch=True)
        store.start()
        try:
            build = store.create_build(a_build())
            claim = store.claim_image("debian")
            eventually(lambda: store.snapshot().image("debian").build_claimed, "all is seen")
            last_seen = store.snapshot()
            own_server.stop()
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=own_server.hosts):
                store.update_build(replace(build, phase="convert"))
            with pytest.raises(StoreUnavailableError):
                store.claim_build(build)
            assert time.monotonic() - began < 3 * 2.0
            assert store.snapshot() == last_seen
            assert claim is not None
            # For all we know somebody else has it by now.
            eventually(lambda: not claim.valid, "the claim is given up", within=5)
            claim.release()
        finally:
            store.close()

    def test_a_contender_whose_fate_was_unknown_is_removed_after_the_reconnect(
        self, own_server: ZooKeeperServer
    ) -> None:
        store = ZooKeeperStore(ZooKeeper(hosts=own_server.hosts, timeout=20.0), watch=True)
        store.start()
        other = KazooClient(own_server.hosts)
        try:
            claim = store.claim_image("debian")
            assert claim is not None
            own_server.stop()
            eventually(lambda: not store.connected, "the store knows that the server is gone")
            # The lock can't be given back now, and the session may well survive.
            claim.release()
            own_server.start()
            other.start(PATIENCE)
            eventually(lambda: other.get_children(f"{BUILDS}/lock") == [], "the lock is free", within=90)
        finally:
            other.stop()
            other.close()
            store.close()

    def test_nobody_there_is_said_in_time_and_by_name(self) -> None:
        hosts = f"127.0.0.1:{free_port()}"
        store = ZooKeeperStore(ZooKeeper(hosts=hosts), watch=True)
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=hosts) as caught:
            store.start(timeout=1.0)
        assert time.monotonic() - began < 10
        for place in ("IMAGEPOOL_ZOOKEEPER", "zookeeper-servers", "zookeeper-tls"):
            assert place in caught.value.hint
        assert not store.connected

    def test_somebody_else_there_is_said_in_time(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            hosts = f"127.0.0.1:{silent.getsockname()[1]}"
            store = ZooKeeperStore(ZooKeeper(hosts=hosts, timeout=2.0), watch=False)
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=hosts):
                store.start(timeout=1.0)
            assert time.monotonic() - began < 15

    def test_two_daemons_race_for_a_lock_and_one_has_it(self, world: RealWorld) -> None:
        stores = [world.daemon() for _ in range(3)]
        for _ in range(10):
            claims = []
            gate = threading.Barrier(len(stores))

            def attempt(store: ZooKeeperStore, gate: threading.Barrier, claims: list[object]) -> None:
                gate.wait()
                claims.append(store.claim_image("debian"))

            threads = [threading.Thread(target=attempt, args=(s, gate, claims)) for s in stores]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            held = [claim for claim in claims if claim is not None]
            assert len(held) <= 1
            for claim in held:
                claim.release()
        left = stores[0]._session.call(lambda c: c.get_children_async(f"{BUILDS}/lock"))
        assert left == []


class TestChrootAndAccess:
    def test_a_chroot_is_made_and_keeps_two_trees_apart(self, zookeeper: ZooKeeper) -> None:
        trees = [replace(zookeeper, chroot=f"{zookeeper.chroot}/deep/{name}") for name in ("one", "two")]
        worlds = [RealWorld(tree) for tree in trees]
        try:
            one, two = (world.daemon() for world in worlds)
            one.create_build(a_build())
            assert two.list_builds("debian") == ()
            assert one.installation_id() != two.installation_id()
        finally:
            for world in worlds:
                world.close()

    def test_records_belong_to_the_user_alone(self, zookeeper: ZooKeeper) -> None:
        mine = replace(zookeeper, chroot=f"{zookeeper.chroot}/mine", username="pool", password="s3cret")
        world = RealWorld(mine)
        try:
            store = world.daemon()
            build = store.create_build(a_build())
            assert world.command().get_build("debian", build.id) == build
            gone = store.restore_build(a_build())
            store.delete_build(gone)
            upload = store.restore_upload(an_upload(build, id="0000000004"))
            store.cancel_upload(an_upload_cancellation(upload))
            store.put_sighting(a_sighting())
            assert store.claim_share("cloud-one", 1) is not None
            store.installation_id()
            store.register(a_daemon())
            assert store.claim_lead("nb01.example") is not None
            store.request_build(a_request(), ticks={"14 14 * * *": NOON})
            store.pause("debian", a_pause())
            store.freeze(a_pause())
            store.pause_provider("cloud-one", a_pause())
            store.forget_builder("5f0c", a_pause())
            raw = KazooClient(f"{mine.hosts}{mine.chroot}", auth_data=[("digest", "pool:s3cret")])
            raw.start(PATIENCE)
            nodes = everything(raw, "/nodepool") + everything(raw, "/imagepool")
            acls = {node: raw.get_acls(node)[0] for node in nodes}
            raw.stop()
            raw.close()
            assert set(nodes) >= {
                f"{BUILDS}/{build.id}",
                "/nodepool/images/debian/cancel-uploads",
                "/imagepool/shares/cloud-one/0",
                f"/imagepool/gone/{gone.id}",
                "/imagepool/strays/cloud-one/e5f5",
                SCHEDULE,
                "/imagepool/frozen",
                "/imagepool/paused-providers/cloud-one",
                "/imagepool/forgotten/5f0c",
            }
            digest = base64.b64encode(hashlib.sha1(b"pool:s3cret").digest()).decode()
            assert {(acl.id.scheme, acl.id.id) for found in acls.values() for acl in found} == {
                ("digest", f"pool:{digest}")
            }
        finally:
            world.close()
        stranger = ZooKeeperStore(replace(mine, username=None, password=None), watch=True)
        with pytest.raises(StoreUnavailableError, match=r"refuses access|can't be read"):
            stranger.start()

    def test_the_password_reaches_no_log(
        self, zookeeper: ZooKeeper, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            world = RealWorld(replace(zookeeper, username="pool", password="s3cret"))
            world.daemon().request_build(a_request())
            world.close()
        assert "s3cret" not in caplog.text


class TestTls:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Path:
        """ca.pem, server.pem and client.pem with their keys, and others.pem of another authority."""

        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

        for authority in ("ca", "others"):
            openssl(
                *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}"),
                *("-keyout", f"{authority}.key", "-out", f"{authority}.pem"),
            )
        for name in ("server", "client"):
            openssl(
                *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
                *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
            )
            openssl(
                *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-out", f"{name}.pem"),
                *("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            )
        keystore = (tmp_path / "server.key").read_text() + (tmp_path / "server.pem").read_text()
        (tmp_path / "keystore.pem").write_text(keystore)
        return tmp_path

    @pytest.fixture
    def secure(self, certificates: Path) -> Iterator[ZooKeeper]:
        port = free_port()
        server = ZooKeeperServer(
            certificates / "zookeeper",
            options=tls_options(certificates, port),
        )
        server.start()
        yield ZooKeeper(
            hosts=f"127.0.0.1:{port}",
            chroot="/secure",
            tls=ZooKeeperTls(
                cert=certificates / "client.pem", key=certificates / "client.key", ca=certificates / "ca.pem"
            ),
        )
        server.stop()

    def test_records_travel_over_tls(self, secure: ZooKeeper) -> None:
        world = RealWorld(secure)
        try:
            build = world.daemon().create_build(a_build())
            assert world.command().snapshot().image("debian").builds == (build,)
        finally:
            world.close()

    def test_a_server_of_another_authority_is_not_trusted(
        self, secure: ZooKeeper, certificates: Path
    ) -> None:
        assert secure.tls is not None
        wary = replace(secure, tls=replace(secure.tls, ca=certificates / "others.pem"))
        with pytest.raises(StoreUnavailableError, match=secure.hosts):
            ZooKeeperStore(wary, watch=False).start(timeout=2.0)

    def test_an_authority_that_the_system_trusts_is_no_better(
        self, certificates: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Where OpenSSL looks for what the system trusts.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        impostor.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        said: queue.Queue[str] = queue.Queue()

        def answer(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            try:
                with impostor.wrap_socket(connection, server_side=True) as secured:
                    said.put(f"trusted, and told {secured.recv(4096)!r}")
            except OSError as error:
                said.put(str(error))
            finally:
                connection.close()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE)
            thread = threading.Thread(target=answer, args=(listener,))
            thread.start()
            tls = ZooKeeperTls(
                cert=certificates / "client.pem",
                key=certificates / "client.key",
                ca=certificates / "others.pem",
            )
            hosts = f"127.0.0.1:{listener.getsockname()[1]}"
            mine = ZooKeeper(hosts=hosts, timeout=2.0, tls=tls, username="pool", password="s3cret")
            with pytest.raises(StoreUnavailableError):
                ZooKeeperStore(mine, watch=False).start(timeout=1.0)
            thread.join(PATIENCE)
        assert "unknown ca" in said.get(timeout=PATIENCE)

"""Whatever is done to it, the store in memory is as the one over ZooKeeper: tests of the rest rely on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.config.model import ZooKeeper
from builder.errors import ImagepoolError
from builder.model import Build, BuildState, Request, Snapshot, Upload, UploadState
from builder.store.base import Claim, Store
from builder.store.zookeeper import ZooKeeperStore
from tests.contract.records import (
    NOON,
    a_build,
    a_clearance,
    a_daemon,
    a_pause,
    a_release,
    a_request,
    a_turn,
    a_withholding,
    an_upload,
)
from tests.contract.worlds import FakeWorld, RealWorld, World, eventually
from tests.realparts.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real

IMAGES = ("debian", "fedora")
IDS = ("a" * 32, "b" * 32)
HOSTS = ("nb01", "nb02")


class Player:
    """Two daemons of one world to whom things are done, and what came of it."""

    def __init__(self, daemons: tuple[Store, Store]) -> None:
        self.daemons = daemons
        self.seen: dict[object, Any] = {}  #: what somebody read last, and acts upon later
        self.claims: dict[object, Claim] = {}

    def play(self, who: int, what: str, image: str, build_id: str, flag: bool) -> object:
        """Do one thing; what came of it, in words that are the same in each world."""
        store = self.daemons[who]
        try:
            came = getattr(self, what)(store, HOSTS[who], image, build_id, flag)
        except ImagepoolError as error:
            return type(error).__name__
        return _plain(came)

    # -- records ------------------------------------------------------------------------------

    def create_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        build = self.seen[image, build_id] = store.create_build(a_build(image, id=build_id, builder=host))
        return build

    def read_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        build = self.seen[image, build_id] = store.get_build(image, build_id)
        return build

    def change_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        build: Build = self.seen.get((image, build_id)) or a_build(image, id=build_id)
        if flag and build.state is BuildState.BUILDING:
            build = build.become(BuildState.FAILED, NOON)
        changed = store.update_build(replace(build, phase=host))
        if flag:
            self.seen[image, build_id] = changed
        return changed

    def delete_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.delete_build(self.seen.get((image, build_id)) or a_build(image, id=build_id))

    def create_upload(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        upload = an_upload(a_build(image, id=build_id), "one" if flag else "two")
        made = self.seen[image, build_id, "upload"] = store.create_upload(upload)
        return made

    def change_upload(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        upload: Upload | None = self.seen.get((image, build_id, "upload"))
        if upload is None:
            return None
        if flag and upload.state is UploadState.UPLOADING:
            upload = upload.become(UploadState.READY, NOON)
        return store.update_upload(replace(upload, sent=upload.sent + 1))

    def delete_upload(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        upload: Upload | None = self.seen.get((image, build_id, "upload"))
        return None if upload is None else store.delete_upload(upload)

    # -- claims -------------------------------------------------------------------------------

    def claim(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        key = (host, image, build_id, flag)
        claim = store.claim_uploads(image, build_id, "one") if flag else store.claim_image(image)
        if claim is not None:
            self.claims[key] = claim
        return claim is not None

    def release(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        claim = self.claims.pop((host, image, build_id, flag), None)
        return None if claim is None else claim.release()

    def lead(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        claim = store.claim_lead(host)
        if claim is not None:
            self.claims[host] = claim
        return claim is not None

    def lead_no_more(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        if flag:
            return store.stand_down()
        claim = self.claims.pop(host, None)
        return None if claim is None else (claim.valid, claim.release())

    # -- wishes -------------------------------------------------------------------------------

    def ask(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        wish = store.request_build(a_request(image, by=host, urgent=flag, force=build_id == IDS[0]))
        self.seen[image, "request"] = wish
        return wish

    def schedule(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        tick = NOON + timedelta(days=IDS.index(build_id))
        request = a_request(image, by=host, why="it is time", manual=False, tick=tick, time=tick)
        return store.request_build(request, ticks={"entry" if flag else "other": tick})

    def withdraw(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        known: Request | None = self.seen.get((image, "request"))
        wish = known if flag else store.get_request(image)
        return None if wish is None else store.withdraw_request(wish)

    def withhold_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.withhold(image, build_id, a_withholding(None if flag else "one", by=host))

    def clear_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.clear(image, build_id, a_clearance(None if flag else "one", by=host))

    def release_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.release(image, build_id, None if flag else "one")

    def hold_build(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        if flag:
            return store.let_go(image, build_id, a_release(by=host))
        return store.withhold(image, build_id, a_withholding(by=host, held=True))

    def serve(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        number = 1 + IDS.index(build_id)
        store.begin_turn(image, "one" if flag else "two", a_turn(number, hours=number))
        return dict(store.history(image))

    def serve_no_more(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        turn = a_turn(1 + IDS.index(build_id))
        if flag:
            store.end_turn(image, "one", turn.upload, NOON + timedelta(days=1), "it went")
        else:
            store.forget_history(image)
        return dict(store.history(image))

    def pause(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.pause(image, a_pause(by=host)) if flag else store.unpause(image)

    def freeze(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.freeze(a_pause(by=host)) if flag else store.unfreeze()

    def pause_provider(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.pause_provider(image, a_pause(by=host)) if flag else store.unpause_provider(image)

    def forget(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.forget_builder(build_id, a_pause(by=host)) if flag else store.recall_builder(build_id)

    def register(self, store: Store, host: str, image: str, build_id: str, flag: bool) -> object:
        return store.register(a_daemon(host, draining=flag, unfit=image))


def _plain(came: object) -> object:
    """Without what every world counts for itself."""
    if isinstance(came, Request):
        return (came, came.force, came.urgent, came.tick, came.stamp != 0)
    if isinstance(came, Build | Upload):
        return (came, came.version)
    return came


def shown(snapshot: Snapshot) -> object:
    images = {
        name: (records, _plain(records.request), [b.version for b in records.builds])
        for name, records in snapshot.images.items()
        # An image is there once anything of it was, which both may remember in their own way.
        if records != type(records)(name=name)
    }
    return images, replace(snapshot, images={}, installation=None)


@pytest.fixture(scope="module")
def real(zookeeper_server: ZooKeeperServer) -> Iterator[RealWorld]:
    world = RealWorld(ZooKeeper(hosts=zookeeper_server.hosts, chroot="/alike"))
    yield world
    world.close()


WHAT = sorted(name for name in vars(Player) if not name.startswith("_") and name != "play")
steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(WHAT),
        st.sampled_from(IMAGES),
        st.sampled_from(IDS),
        st.booleans(),
    ),
    min_size=5,
    max_size=30,
)


def two_daemons(world: World) -> tuple[Store, Store]:
    return world.daemon(), world.daemon()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_both_do_the_same(real: RealWorld, played: list[tuple[int, str, str, str, bool]]) -> None:
    fake = FakeWorld()
    players = Player(two_daemons(fake)), Player(two_daemons(real))
    try:
        for step in played:
            in_memory, over_zookeeper = (player.play(*step) for player in players)
            assert in_memory == over_zookeeper, step
            _agree(players)
    finally:
        _clean(players[1].daemons)


def _agree(players: tuple[Player, Player]) -> None:
    here, there = players

    def seen(player: Player) -> list[object]:
        return [shown(store.snapshot()) for store in player.daemons]

    eventually(lambda: seen(here) == seen(there), f"both show {seen(here)}", within=5)


def _clean(daemons: tuple[Store, ...]) -> None:
    """Leave an empty tree, whoever was at work there."""
    for store in daemons:
        assert isinstance(store, ZooKeeperStore)
        for root in ("/nodepool", "/imagepool"):
            _delete_all(store, root)
        store.close()


def _delete_all(store: ZooKeeperStore, root: str) -> None:
    def done() -> bool:
        nodes = store._nodes.subtree(root)
        return not nodes or store._nodes.commit([_deletion(node) for node in nodes])

    eventually(done, f"{root} is gone")


def _deletion(path: str) -> Callable[[Any], None]:
    return lambda transaction: transaction.delete(path)

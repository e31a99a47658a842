"""Many nodes read at once: all of them, with watches on each, and from servers that don't know how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.config.model import ZooKeeper
from builder.errors import StoreUnavailableError
from builder.model import Build, BuildState
from builder.store import bulk, mirror
from builder.store.answering import AnswerServer
from builder.store.asking import ask
from builder.store.base import Store
from builder.store.fields import Stored
from builder.store.paths import Place
from builder.store.reading import decode
from builder.store.view import Record
from builder.store.wire import Question
from builder.store.zookeeper import ZooKeeperStore
from tests.contract.records import (
    NOON,
    a_build,
    a_cancellation,
    a_daemon,
    a_full_upload,
    a_pause,
    a_request,
    an_upload,
)
from tests.contract.worlds import PATIENCE, RealWorld, eventually
from tests.unit.planning_world import config

pytestmark = pytest.mark.real

IMAGES, BUILDS, PROVIDERS = ("debian", "ubuntu"), 2, ("one", "two", "three")


@pytest.fixture
def world(zookeeper: ZooKeeper, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealWorld]:
    # A few nodes to a request, so that there are several.
    monkeypatch.setattr(mirror, "AT_ONCE", 5)
    here = RealWorld(replace(zookeeper, chroot=f"{zookeeper.chroot}/bulk"))
    yield here
    here.close()


@pytest.fixture
def builds(world: RealWorld) -> list[Build]:
    """On record, each with an upload to each provider."""
    store = world.command()
    made = [store.create_build(a_build(image)) for image in IMAGES for _ in range(BUILDS)]
    for build in made:
        for provider in PROVIDERS:
            store.create_upload(an_upload(build, provider))
    return made


def test_a_tree_is_read_whole(world: RealWorld, builds: list[Build]) -> None:
    store = world.command()
    store.pause("debian", a_pause())
    store.freeze(a_pause())
    seen = world.daemon().snapshot()
    assert {build.id for build in seen.builds()} == {build.id for build in builds}
    assert len(list(seen.uploads())) == len(builds) * len(PROVIDERS)
    assert (seen.frozen, seen.image("debian").pause) == (a_pause(), a_pause())
    assert world.command().snapshot() == seen


@pytest.mark.parametrize("who", [RealWorld.command, RealWorld.daemon])
def test_a_server_that_is_too_old_is_told_as_that(
    who: Callable[[RealWorld], Store], world: RealWorld, builds: list[Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A request that no server knows is to this one what a multiRead is to one before 3.6.
    monkeypatch.setattr(bulk._MultiRead, "type", 4711)
    with pytest.raises(StoreUnavailableError, match=r"older than ZooKeeper 3\.6: 127\.0\.0\.1"):
        who(world).snapshot()


def test_every_change_of_what_was_read_is_seen(world: RealWorld, builds: list[Build]) -> None:
    daemon, other = world.daemon(), world.command()
    first, second = builds[0], builds[-1]

    def shown() -> bool:
        return daemon.snapshot() == other.snapshot()

    assert shown()
    other.update_build(first.become(BuildState.READY, first.state_time))
    eventually(shown, "a changed build is seen")
    upload = other.list_uploads(second.image, second.id, "two")[0]
    other.update_upload(replace(upload, sent=7))
    eventually(shown, "a changed upload is seen")
    other.delete_upload(upload)
    eventually(shown, "a deleted upload is seen")
    other.create_upload(an_upload(second, "two"))
    eventually(shown, "a new upload is seen")
    other.create_upload(an_upload(second, "four"))
    eventually(shown, "an upload to a new provider is seen")
    claim = other.claim_uploads(second.image, second.id, "one")
    assert claim is not None
    eventually(lambda: bool(daemon.snapshot().image(second.image).uploads_claimed), "a claim is seen")
    claim.release()
    eventually(lambda: not daemon.snapshot().image(second.image).uploads_claimed, "its release")
    other.request_build(a_request(first.image))
    other.cancel_build(a_cancellation(first))
    other.request_build(a_request("fedora"))
    eventually(shown, "wishes are seen, also for an image that is new")
    for provider in PROVIDERS:
        for each in other.list_uploads(first.image, first.id, provider):
            other.delete_upload(each)
    other.delete_build(other.get_build(first.image, first.id))
    eventually(shown, "a deleted build is seen")


def test_after_a_lost_session_all_is_watched_again(world: RealWorld, builds: list[Build]) -> None:
    daemon, other = world.daemon(), world.command()
    other.update_build(replace(builds[0], log="before"))
    world.expire(daemon)
    changed = replace(other.get_build(builds[0].image, builds[0].id), log="after")
    other.update_build(changed)
    eventually(lambda: daemon.snapshot() == other.snapshot(), "the change after it is seen")


def test_fresh_nodes_have_what_was_written_just_now(world: RealWorld, builds: list[Build]) -> None:
    daemon, other = world.daemon(), world.command()
    assert isinstance(daemon, ZooKeeperStore)
    build = builds[0]
    for number in range(50):
        build = other.update_build(replace(build, log=f"{number}"))
        nodes = daemon.fresh_nodes(PATIENCE)
        assert nodes is not None
        said = [said for path, said in nodes if path.endswith(build.id)]
        assert [each.version for each in said if each is not None] == [build.version]


def test_who_does_not_watch_has_no_fresh_nodes(world: RealWorld) -> None:
    store = world.command()
    assert isinstance(store, ZooKeeperStore)
    assert store.fresh_nodes(PATIENCE) is None


def test_a_tree_that_takes_long_is_waited_for_as_long_as_it_comes(
    world: RealWorld, builds: list[Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_slowly(place: Place, node: Stored) -> Record | None:
        time.sleep(0.1)
        return decode(place, node)

    monkeypatch.setattr(mirror, "decode", decode_slowly)
    store = ZooKeeperStore(world.zookeeper, watch=True)
    began = time.monotonic()
    try:
        store.start(timeout=1.0)
        assert time.monotonic() - began > 1.5
        assert len(list(store.snapshot().uploads())) == len(builds) * len(PROVIDERS)
    finally:
        store.close()


def test_the_daemon_tells_what_zookeeper_would(world: RealWorld, builds: list[Build], tmp_path: Path) -> None:
    daemon, other = world.daemon(), world.command()
    assert isinstance(daemon, ZooKeeperStore)
    other.request_build(a_request("fedora"), ticks={"@after debian": NOON})
    other.cancel_build(a_cancellation(builds[0]))
    other.pause("ubuntu", a_pause())
    other.pause_provider("one", a_pause())
    other.freeze(a_pause())
    other.forget_builder("5f0c", a_pause())
    other.register(a_daemon())
    upload = other.create_upload(a_full_upload(builds[1]))
    assert other.claim_uploads(upload.image, upload.build_id, upload.provider) is not None
    assert other.claim_image("debian") is not None
    assert other.claim_lead("nb01.example") is not None
    in_force = replace(config(), fingerprint="f00")
    with AnswerServer(tmp_path, daemon, lambda: in_force, ""):
        told = ask(tmp_path, Question(config="f00"))
        assert told is not None
        assert told.snapshot == (there := world.command().snapshot())
        alone = ask(tmp_path, Question(config="f00", uploads=False))
        assert alone is not None
        assert list(alone.snapshot.builds()) == list(there.builds())
        assert (list(alone.snapshot.uploads()), alone.snapshot.frozen) == ([], there.frozen)
        daemon.close()
        assert ask(tmp_path, Question(config="f00")) is None

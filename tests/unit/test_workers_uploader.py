"""The uploader on fakes: every region gets its image, and one that hangs, fails or lies delays no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.cloudimage import RAW_SHA256
from builder.dib.output import inspect
from builder.errors import (
    ActionFailedError,
    CloudError,
    CloudUnavailableError,
    NotFoundError,
    StoreUnavailableError,
)
from builder.model import (
    Artifact,
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Pause,
    Upload,
    UploadCancellation,
    UploadPhase,
    UploadState,
)
from builder.store.base import Claim
from builder.workers import progress, uploading
from builder.workers.base import Identity
from builder.workers.files import CheckedFiles
from builder.workers.janitor import Janitor
from builder.workers.once import run_once
from builder.workers.places import QUIET
from builder.workers.promoter import Promoter
from builder.workers.uploader import SHARE_PAUSE, Uploader
from builder.workers.uploading import DISCARD_LIMIT
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore, FakeTree
from tests.unit.worker_world import NOW, Stage, build, upload


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, FakeStore()) as made:
        yield made


@contextmanager
def staged(root: Path, store: FakeStore) -> Iterator[Stage]:
    """A stage whose clouds let go at the end of whatever they hold."""
    stage = Stage(root, store=store, clouds={name: FakeCloud() for name in ("one", "two", "three", "four")})
    yield stage
    stage.world.stopping.set()
    for cloud in stage.clouds.values():
        cloud.heal()


@pytest.fixture
def uploader(stage: Stage) -> Uploader:
    return Uploader(stage.world, "uploader")


def only(stage: Stage, *names: str) -> None:
    """Let the configuration have these providers alone."""
    kept = {name: stage.config.providers[name] for name in names}
    stage.config = replace(stage.config, providers=kept)


def finish(uploader: Uploader) -> None:
    """All that is due now, to its end."""
    uploader.step()
    uploader.drain()


def state_of(stage: Stage, provider: str = "one") -> UploadState | None:
    uploads = stage.uploads(provider)
    return uploads[0].state if uploads else None


def reason_of(stage: Stage, provider: str = "one") -> Failure:
    reason = stage.uploads(provider)[0].reason
    assert reason is not None
    return reason


# -- every region --------------------------------------------------------------------------------


def test_one_pass_brings_a_build_to_every_region(stage: Stage, uploader: Uploader) -> None:
    built = stage.published(1)
    finish(uploader)
    for provider, cloud in stage.clouds.items():
        (record,) = stage.uploads(provider)
        assert record.state is UploadState.READY and record.phase is None and record.reason is None
        assert (record.build_id, record.cloud, record.region) == (built.id, "fake", provider)
        assert (record.way, record.sent) == ("put", 4096)
        assert list(cloud.images) == [record.external_id]
    assert uploader.done == 4 and uploader.failures == 0


def test_the_images_of_a_region_follow_each_other_without_a_further_call(stage: Stage) -> None:
    only(stage, "one")
    stage.image("other")
    stage.published(1)
    stage.published(2, image="other")
    code = run_once([Uploader(stage.world, "uploader")], stage.world)
    assert code == 0
    assert {i.properties["imagepool_image"] for i in stage.clouds["one"].images.values()} == {"img", "other"}


def test_a_single_run_brings_it_everywhere_and_gives_it_its_stable_name(stage: Stage) -> None:
    stage.image(stable_name="img-current")
    stage.published(1)
    workers = (Uploader(stage.world, "uploader"), Promoter(stage.world, "promoter"))
    assert run_once(workers, stage.world) == 0
    for cloud in stage.clouds.values():
        assert [image.name for image in cloud.images.values()] == ["img-current"]


class StoppedOnTheWay(FakeStore):
    """A store in which everything is frozen, or a provider paused, once the first upload is claimed."""

    def claim_uploads(self, image: str, build_id: str, provider: str) -> Claim | None:
        """Claim it, and let somebody say a word."""
        if provider == "two":
            self.freeze(Pause(by="ann", time=NOW, why="the mirror is broken"))
        return super().claim_uploads(image, build_id, provider)


def test_a_freeze_is_heard_in_the_middle_of_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.workers.base.RECENT", 0.0)  # each look is a new one, as in a long pass
    with staged(tmp_path, StoppedOnTheWay()) as stage:
        only(stage, "one", "two")
        stage.published(1)
        stage.clouds["one"].hold("send")
        uploader = Uploader(stage.world, "uploader")
        uploader.step()
        assert [state_of(stage, name) for name in ("one", "two")] == [UploadState.UPLOADING, None]
        stage.clouds["one"].heal()
        finish(uploader)
        assert [state_of(stage, name) for name in ("one", "two")] == [UploadState.READY, None]


def test_regions_that_hang_give_their_places_to_others(stage: Stage, uploader: Uploader) -> None:
    stage.config = replace(stage.config, upload_workers=2)
    stage.published(1)
    for name in ("one", "two"):
        stage.clouds[name].hold("send")
    due = uploader.step().due
    stage.until(lambda: all(stage.phase(name) == "send" for name in ("one", "two")))
    assert due == stage.now + QUIET  # nobody else has begun, and it is known when to look again
    assert uploader.step().due == due and not stage.uploads("three")
    stage.now = due
    uploader.step()
    stage.until(lambda: all(state_of(stage, name) is UploadState.READY for name in ("three", "four")))
    assert [state_of(stage, name) for name in ("one", "two")] == [UploadState.UPLOADING] * 2
    for name in ("one", "two"):
        stage.clouds[name].heal()
    uploader.drain()
    assert uploader.done == 4


def test_regions_that_hang_delay_no_other_in_a_single_run_either(tmp_path: Path) -> None:
    with staged(tmp_path, FakeStore()) as stage:
        stage.config = replace(stage.config, upload_workers=1)
        gate = stage.clouds["one"].hold("create")
        stage.published(1)
        uploader = Ticking(stage)
        uploader.step()
        thread = threading.Thread(target=uploader.drain)
        thread.start()
        others = ("two", "three", "four")
        stage.until(lambda: all(state_of(stage, name) is UploadState.READY for name in others))
        assert state_of(stage) is UploadState.UPLOADING
        gate.set()
        thread.join(30)
        assert state_of(stage) is UploadState.READY


class Ticking(Uploader):
    """Its clock moves on with each look."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(replace(stage.world, clock=self._tick), "uploader")
        self._stage = stage

    def _tick(self) -> object:
        self._stage.now += timedelta(seconds=1)
        return self._stage.now


def test_one_region_never_has_all_places_while_others_wait(stage: Stage, uploader: Uploader) -> None:
    stage.config = replace(stage.config, upload_workers=3)
    stage.provider("one", max_uploads=8)
    for number, name in enumerate(("a", "b", "c"), start=2):
        stage.image(name)
        stage.published(number, image=name)
    only(stage, "one")
    stage.clouds["one"].hold("create")
    uploader.step()
    running = [u for name in ("a", "b", "c") for u in stage.uploads("one", name)]
    stage.until(lambda: sum(len(stage.uploads("one", name)) for name in ("a", "b", "c")) == 2)
    assert len(running) <= 2


# -- shares --------------------------------------------------------------------------------------


def test_a_share_that_another_daemon_has_is_waited_for_and_holds_nothing(
    stage: Stage, uploader: Uploader
) -> None:
    stage.published(1)
    theirs = stage.store.another_daemon().claim_share("one", 1)
    assert theirs is not None
    assert uploader.step().due == stage.now + SHARE_PAUSE
    uploader.drain()
    assert [state_of(stage, name) for name in ("one", "two")] == [None, UploadState.READY]
    assert stage.store.claim_uploads("img", build(1).id, "one") is not None  # nothing was kept meanwhile


def test_waiting_for_a_share_changes_nothing_that_would_wake_anybody(
    stage: Stage, uploader: Uploader
) -> None:
    only(stage, "one")
    stage.published(1)
    theirs = stage.store.another_daemon().claim_share("one", 1)
    assert theirs is not None
    before = stage.store.wait(-1, 0)
    uploader.step()
    assert stage.store.wait(-1, 0) == before


def test_two_daemons_keep_to_the_shares_of_a_provider_and_lose_none(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    stage.image("other")
    stage.published(1)
    stage.published(2, image="other", builder_id="there")
    there = Uploader(
        replace(
            stage.world,
            store=stage.store.another_daemon(),
            identity=Identity(
                hostname="there.test", builder_id="there", installation_id=stage.store.installation_id()
            ),
        ),
        "there",
    )
    gate = stage.clouds["one"].hold("send")
    uploader.step()
    stage.until(lambda: stage.phase() == "send")
    assert there.step().due == stage.now + SHARE_PAUSE
    assert not stage.uploads("one", "other")
    gate.set()
    uploader.drain()
    finish(there)
    assert stage.uploads("one", "other")[0].state is UploadState.READY


class Told(FakeTree):
    """Notes at each change that wakes daemons which locks are held."""

    def tick(self) -> int:
        self.seen: list[frozenset[str]] = [*getattr(self, "seen", []), frozenset(self.claims)]
        return super().tick()


def test_when_an_upload_has_ended_its_share_is_free_before_anybody_is_woken(tmp_path: Path) -> None:
    tree = Told()
    with staged(tmp_path, FakeStore(tree)) as stage:
        only(stage, "one")
        stage.published(1)
        finish(Uploader(stage.world, "uploader"))
    pairs = [any("/one/" in lock for lock in held) for held in tree.seen]
    shares = [any("shares" in lock for lock in held) for held in tree.seen]
    assert True in pairs and True in shares
    last = len(pairs) - 1 - pairs[::-1].index(True)
    assert shares[last + 1 :] == [False] * len(shares[last + 1 :]) and len(shares) > last + 1


def test_several_uploads_at_a_time_where_the_provider_takes_them(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    stage.provider(max_uploads=2)
    stage.image("other")
    stage.published(1)
    stage.published(2, image="other")
    gate = stage.clouds["one"].hold("send")
    uploader.step()
    stage.until(lambda: stage.clouds["one"].count("send") == 2)
    gate.set()
    uploader.drain()
    assert uploader.done == 2


# -- claims and sessions -------------------------------------------------------------------------


def test_a_pair_that_another_daemon_has_is_left_to_it(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    built = stage.published(1)
    claim = stage.store.another_daemon().claim_uploads("img", built.id, "one")
    assert claim is not None
    finish(uploader)
    assert stage.uploads() == ()
    assert stage.store.claim_share("one", 1) is not None


def test_what_was_decided_on_an_old_view_is_decided_again(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    built = stage.published(1)
    before = stage.store.snapshot()
    stage.store.put(replace(built, state=BuildState.DELETING))
    uploader.act(stage.config, before, stage.now)
    uploader.drain()
    assert stage.uploads() == ()


def test_what_another_daemon_has_just_done_is_not_done_again(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    built = stage.published(1)
    before = stage.store.snapshot()
    theirs = upload(built, external_id="theirs")
    stage.store.put(theirs)
    uploader.act(stage.config, before, stage.now)
    uploader.drain()
    assert stage.uploads() == (theirs,)


def test_a_session_lost_in_mid_upload_costs_nothing(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    stage.provider(max_uploads=2)
    stage.published(1)
    gate = stage.clouds["one"].hold("send")
    uploader.step()
    stage.until(lambda: stage.phase() == "send")
    stage.store.lose_session()
    assert uploader.step().due is None  # it runs still: no second one begins
    gate.set()
    uploader.drain()
    (record,) = stage.uploads()
    assert record.state is UploadState.READY


class Forgetful(FakeStore):
    """Takes a write, and then the answer is lost."""

    lose: str | None = None

    def update_upload(self, upload: Upload) -> Upload:
        stored = super().update_upload(upload)
        if self.lose == stored.phase:
            self.lose = None
            raise StoreUnavailableError("the answer is lost")
        return stored


@pytest.mark.parametrize("phase", [UploadPhase.CREATE, UploadPhase.SEND])
def test_a_write_whose_answer_was_lost_does_not_silence_the_record(
    tmp_path: Path, phase: UploadPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUICK", 0.0)
    store = Forgetful()
    with staged(tmp_path, store) as stage:
        only(stage, "one")
        stage.published(1)
        store.lose = phase
        gate = stage.clouds["one"].hold("get")
        uploader = Uploader(stage.world, "uploader")
        uploader.step()
        stage.until(lambda: stage.phase() == "wait")  # it goes on being told
        assert store.lose is None and stage.uploads()[0].external_id in stage.clouds["one"].images
        gate.set()
        uploader.drain()
        assert state_of(stage) is UploadState.READY


class Counting(FakeStore):
    """Counts how often records of uploads are written over."""

    writes = 0

    def update_upload(self, upload: Upload) -> Upload:
        self.writes += 1
        return super().update_upload(upload)


def test_a_quick_upload_is_written_only_when_it_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUICK", 60.0)
    store = Counting()
    with staged(tmp_path, store) as stage:
        only(stage, "one")
        stage.published(1)
        uploader = Uploader(stage.world, "uploader")
        uploader.step()
        uploader.drain()
        assert state_of(stage) is UploadState.READY
        assert store.writes == 3  # before there may be an image, once there is one, and in the end
        assert set(stage.uploads()[0].timings) >= {"preflight", "create", "send", "wait", "verify"}


class Away(FakeStore):
    """Is away when it is to learn of an image, as often as it says."""

    times = 0

    def update_upload(self, upload: Upload) -> Upload:
        if upload.external_id and self.times:
            self.times -= 1
            raise StoreUnavailableError("away")
        return super().update_upload(upload)


def test_an_image_is_put_on_record_although_the_store_is_away_for_a_moment(tmp_path: Path) -> None:
    store = Away()
    with staged(tmp_path, store) as stage:
        only(stage, "one")
        stage.published(1)
        store.times = 2
        finish(Uploader(stage.world, "uploader"))
        assert [u.state for u in stage.uploads()] == [UploadState.READY]


def test_an_image_that_can_not_be_put_on_record_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    store = Away()
    with staged(tmp_path, store) as stage:
        only(stage, "one")
        stage.published(1)
        store.times = 1
        uploader = Uploader(stage.world, "uploader")
        uploader.step()
        stage.until(lambda: state_of(stage) is UploadState.FAILED)
        assert reason_of(stage).failure_class is FailureClass.INTERRUPTED
        assert stage.clouds["one"].images == {}


def test_an_image_whose_upload_was_taken_for_dead_does_not_stay(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    built = stage.published(1)
    gate = stage.clouds["one"].hold("get")
    uploader.step()
    stage.until(lambda: stage.phase() == "wait")
    stage.store.lose_session()
    other = stage.store.another_daemon()
    with held(other.claim_uploads("img", built.id, "one")):
        (record,) = stage.uploads()
        record = other.get_upload("img", built.id, "one", record.id)
        other.update_upload(record.become(UploadState.FAILED, stage.now, external_id=None))
    gate.set()
    uploader.drain()
    assert state_of(stage) is UploadState.FAILED
    assert stage.clouds["one"].images == {}


def test_what_a_janitor_is_deleting_for_a_failed_upload_is_not_adopted(
    stage: Stage, uploader: Uploader
) -> None:
    only(stage, "one")
    built, cloud = stage.published(1), stage.clouds["one"]
    uploader.step()
    uploader.drain()
    (first,) = stage.uploads()
    # Its image is whole, and neither its id nor whether it is there is known.
    stage.store.put(
        replace(
            first,
            state=UploadState.FAILED,
            external_id=None,
            reason=Failure(failure_class=FailureClass.INTERRUPTED, message="the daemon was stopped"),
        )
    )
    stage.now += timedelta(hours=2)
    gate, janitor = cloud.hold("delete"), Janitor(stage.world, "janitor")
    janitor.step()
    stage.until(lambda: cloud.count("delete"))
    uploader.step()
    uploader.drain()
    gate.set()
    janitor.drain()
    ready = [u for u in stage.uploads() if u.state is UploadState.READY]
    assert [u.build_id for u in ready] == [built.id]
    assert set(cloud.images) == {u.external_id for u in ready}


def held(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


# -- preflight -----------------------------------------------------------------------------------


def test_a_damaged_file_is_found_before_anything_is_made(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    built = stage.published(1)
    (stage.config.images_dir / f"img-{built.id}.raw").write_bytes(b"QFI\xfb" + bytes(4092))
    finish(uploader)
    assert reason_of(stage).failure_class is FailureClass.DISK and reason_of(stage).phase == "preflight"
    assert stage.clouds["one"].count("create") == 0


def test_a_cloud_that_does_not_say_what_it_can_do_gets_the_bytes(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    stage.published(1)
    stage.clouds["one"].fail(
        "capabilities", CloudUnavailableError("it says 500", failure_class=FailureClass.CLOUD), times=None
    )
    finish(uploader)
    assert state_of(stage) is UploadState.READY


@pytest.mark.parametrize("failure_class", [FailureClass.AUTH, FailureClass.NETWORK])
def test_a_cloud_that_lets_nobody_in_is_not_tried_further(
    stage: Stage, uploader: Uploader, failure_class: FailureClass
) -> None:
    only(stage, "one")
    stage.published(1)
    stage.clouds["one"].fail("capabilities", CloudError("no", failure_class=failure_class))
    finish(uploader)
    assert (reason_of(stage).failure_class, reason_of(stage).phase) == (failure_class, "preflight")
    assert stage.clouds["one"].count("create") == 0


def test_a_way_that_the_provider_does_not_have_is_named(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    stage.published(1)
    stage.provider(upload_method="glance-direct")
    finish(uploader)
    assert reason_of(stage).failure_class is FailureClass.CONFIG
    assert "glance-direct: " in reason_of(stage).message
    assert stage.clouds["one"].count("create") == 0


# -- where the cloud fetches it itself -----------------------------------------------------------


class Shelf:
    """An artifact server without a network: what is offered, the cloud has."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.cloud = cloud
        self.offered: list[str] = []

    def offer(self, path: Path, /) -> str:
        url = f"http://here.test/{len(self.offered)}/{path.name}"
        self.cloud.web[url] = path.read_bytes()
        self.offered.append(url)
        return url

    def withdraw(self, url: str, /) -> None:
        del self.cloud.web[url]


def test_a_cloud_that_can_fetches_the_file_and_only_as_long_as_it_needs_it(stage: Stage) -> None:
    only(stage, "one")
    stage.published(1)
    cloud = stage.clouds["one"]
    cloud.import_methods |= {"web-download"}
    shelf = Shelf(cloud)
    finish(Uploader(replace(stage.world, offers=shelf), "uploader"))
    assert (state_of(stage), stage.uploads()[0].way) == (UploadState.READY, "web-download")
    assert len(shelf.offered) == 1 and cloud.web == {}
    assert cloud.count("send") == 0


def test_nothing_is_offered_to_a_cloud_that_would_not_fetch_it(stage: Stage) -> None:
    only(stage, "one")
    stage.published(1)
    shelf = Shelf(stage.clouds["one"])
    finish(Uploader(replace(stage.world, offers=shelf), "uploader"))
    assert shelf.offered == [] and stage.uploads()[0].way == "put"


def test_a_configured_url_is_the_prefix_of_the_file_s_name(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one")
    built = stage.published(1)
    cloud = stage.clouds["one"]
    cloud.import_methods |= {"web-download"}
    stage.provider(download_url="http://files.test/images/")
    file = stage.config.images_dir / f"img-{built.id}.raw"
    cloud.web[f"http://files.test/images/{file.name}"] = file.read_bytes()
    finish(uploader)
    assert (state_of(stage), stage.uploads()[0].way) == (UploadState.READY, "web-download")


# -- builds that go on ---------------------------------------------------------------------------


@pytest.fixture
def unfinished(stage: Stage) -> Iterator[Build]:
    """A build whose first file is there while others are made."""
    only(stage, "one")
    claim = stage.store.claim_image("img")
    assert claim is not None
    with claim:
        yield stage.published(1, BuildState.BUILDING)


def test_an_upload_begins_before_its_build_is_ready_and_is_ready_after_it(
    stage: Stage, uploader: Uploader, unfinished: Build
) -> None:
    uploader.step()
    stage.until(lambda: stage.phase() == "hold")
    (record,) = stage.uploads()
    assert record.state is UploadState.UPLOADING
    stage.store.put(unfinished.become(BuildState.READY, stage.now, raw_sha256="abc", raw_size=4096))
    uploader.drain()
    assert state_of(stage) is UploadState.READY
    (image,) = stage.clouds["one"].images.values()
    assert image.properties[RAW_SHA256] == "abc"  # what was not known yet when it was made


def test_an_upload_whose_build_another_tree_does_not_know_waits_for_its_own(
    stage: Stage, uploader: Uploader, unfinished: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "HOLD_PAUSE", 0.01)
    ours, asked = stage.store.installation_id(), threading.Event()
    uploader.step()
    stage.until(lambda: stage.phase() == "hold")

    def none_there(image: str, build_id: str) -> Build:
        asked.set()
        raise NotFoundError("there is no such build")

    with monkeypatch.context() as patch:
        patch.setattr(stage.store, "get_build", none_there)
        stage.store.tree.belong_to("f" * 32)
        stage.store.put(unfinished.become(BuildState.READY, stage.now))
        assert asked.wait(30)
        stage.store.tree.belong_to(ours)
    uploader.drain()
    assert [each.state for each in stage.uploads()] == [UploadState.READY]


def test_an_upload_whose_build_fails_goes_with_it(
    stage: Stage, uploader: Uploader, unfinished: Build
) -> None:
    uploader.step()
    stage.until(lambda: stage.phase() == "hold")
    why = Failure(failure_class=FailureClass.DISK, message="no space left")
    stage.store.put(unfinished.become(BuildState.FAILED, stage.now, reason=why))
    uploader.drain()
    assert state_of(stage) is UploadState.FAILED
    assert reason_of(stage).failure_class is FailureClass.INTERRUPTED
    assert reason_of(stage).message == "its build failed: no space left" and reason_of(stage).phase == "hold"
    assert stage.clouds["one"].images == {}
    assert not stage.uploads()[0].may_linger


def test_a_daemon_that_stops_does_not_wait_for_a_build(
    stage: Stage, uploader: Uploader, unfinished: Build
) -> None:
    uploader.step()
    stage.until(lambda: stage.phase() == "hold")
    stage.world.stopping.set()
    uploader.drain()
    assert reason_of(stage).message == "the daemon was stopped"
    assert stage.clouds["one"].images == {}


def test_an_image_that_went_while_it_was_held_is_not_called_ready(
    stage: Stage, uploader: Uploader, unfinished: Build
) -> None:
    uploader.step()
    stage.until(lambda: stage.phase() == "hold")
    stage.clouds["one"].images.clear()
    stage.store.put(unfinished.become(BuildState.READY, stage.now))
    uploader.drain()
    assert state_of(stage) is UploadState.FAILED and "gone" in reason_of(stage).message


def test_a_held_upload_has_no_place_and_keeps_its_share(
    stage: Stage, uploader: Uploader, unfinished: Build
) -> None:
    stage.config = replace(stage.config, upload_workers=1)
    uploader.step()
    stage.until(lambda: stage.phase() == "hold")
    assert stage.store.another_daemon().claim_share("one", 1) is None


# -- cancelled -----------------------------------------------------------------------------------


def cancel(stage: Stage) -> None:
    (record,) = stage.uploads()
    stage.store.cancel_upload(
        UploadCancellation(upload=record.name, image="img", by="ann@here", time=stage.now, why="wrong one")
    )


@pytest.mark.parametrize("call", ["capabilities", "create", "send", "get"])
def test_cancelled_it_ends_within_seconds_wherever_the_cloud_hangs(
    stage: Stage, uploader: Uploader, call: str
) -> None:
    only(stage, "one")
    stage.published(1)
    gate = stage.clouds["one"].hold(call)
    uploader.step()
    stage.until(lambda: stage.clouds["one"].count(call) and stage.uploads())
    cancel(stage)
    stage.until(lambda: state_of(stage) is UploadState.FAILED)
    assert reason_of(stage).failure_class is FailureClass.CANCELLED
    assert reason_of(stage).message.startswith("cancelled by ann@here: wrong one")
    uploader.drain()
    assert stage.store.snapshot().image("img").upload_cancellations == ()
    gate.set()
    janitor = Janitor(stage.world, "janitor")
    stage.until(lambda: (janitor.step(), janitor.drain(), not stage.clouds["one"].images)[-1])


def test_cancelled_in_a_cloud_where_not_even_deleting_works_it_ends_all_the_same(
    stage: Stage, uploader: Uploader
) -> None:
    only(stage, "one")
    stage.published(1)
    stage.clouds["one"].hold("send")
    stage.clouds["one"].hold("delete")
    uploader.step()
    stage.until(lambda: stage.phase() == "send")
    cancel(stage)
    stage.until(lambda: state_of(stage) is UploadState.FAILED)
    (record,) = stage.uploads()
    assert record.may_linger and record.external_id in stage.clouds["one"].images
    stage.clouds["one"].heal()
    janitor = Janitor(stage.world, "janitor")
    stage.until(lambda: (janitor.step(), janitor.drain(), not stage.clouds["one"].images)[-1])
    assert state_of(stage) is UploadState.FAILED and not stage.uploads()[0].may_linger


def test_the_wish_to_cancel_another_upload_ends_nothing(stage: Stage, uploader: Uploader) -> None:
    only(stage, "one", "two")
    stage.published(1)
    gates = [stage.clouds[name].hold("send") for name in ("one", "two")]
    uploader.step()
    stage.until(lambda: stage.phase("one") == stage.phase("two") == "send")
    cancel(stage)
    stage.until(lambda: state_of(stage) is UploadState.FAILED)
    for gate in gates:
        gate.set()
    uploader.drain()
    assert state_of(stage, "two") is UploadState.READY


# -- the hook ------------------------------------------------------------------------------------


def hook(stage: Stage, script: str, **settings: object) -> None:
    file = stage.root / "hook"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    only(stage, "one")
    stage.provider(post_upload_hook=file, **settings)


def test_the_hook_gets_provider_id_and_file_and_its_words_are_kept(stage: Stage, uploader: Uploader) -> None:
    built = stage.published(1)
    hook(stage, 'echo "$@"; test -s "$3"')
    finish(uploader)
    (record,) = stage.uploads()
    assert record.state is UploadState.READY
    file = stage.config.images_dir / f"img-{built.id}.raw"
    assert record.hook_output == (f"one {record.external_id} {file}",)


def test_a_hook_that_says_no_fails_the_upload_and_its_image_goes(stage: Stage, uploader: Uploader) -> None:
    stage.published(1)
    hook(stage, "echo it does not boot; exit 3")
    finish(uploader)
    (record,) = stage.uploads()
    reason = reason_of(stage)
    assert record.state is UploadState.FAILED and stage.clouds["one"].images == {}
    assert (reason.failure_class, reason.phase, reason.step) == (
        FailureClass.HOOK,
        "hook",
        "post-upload-hook",
    )
    assert (reason.exit_code, reason.lines, record.hook_output) == (3, *[("it does not boot",)] * 2)


def test_a_hook_that_is_missing_is_known_before_anything_is_sent(stage: Stage, uploader: Uploader) -> None:
    stage.published(1)
    only(stage, "one")
    stage.provider(post_upload_hook=stage.root / "no-hook")
    finish(uploader)
    (record,) = stage.uploads()
    reason = reason_of(stage)
    assert (reason.failure_class, reason.phase) == (FailureClass.TOOL, "preflight")
    assert reason.message == f"the post-upload-hook {stage.root}/no-hook can't be run: there is no such file"
    assert record.sent == 0


def test_a_hook_that_says_no_where_deleting_fails_leaves_word_of_the_image(
    stage: Stage, uploader: Uploader
) -> None:
    stage.published(1)
    hook(stage, "exit 1")
    error = CloudUnavailableError("busy", failure_class=FailureClass.TIMEOUT)
    stage.clouds["one"].fail("delete", error, times=None)
    finish(uploader)
    (record,) = stage.uploads()
    assert record.may_linger and record.external_id in stage.clouds["one"].images
    assert "stays behind" in reason_of(stage).message


def test_a_hook_that_says_no_in_a_cloud_that_hangs_ends_in_time(
    stage: Stage, uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "DISCARD_LIMIT", 0.5)
    stage.published(1)
    hook(stage, "exit 1")
    stage.clouds["one"].hold("delete")
    begun = time.monotonic()
    finish(uploader)
    assert time.monotonic() - begun < 15
    (record,) = stage.uploads()
    assert record.may_linger and "no answer in time" in reason_of(stage).message
    assert reason_of(stage).failure_class is FailureClass.HOOK


def test_an_image_that_its_hook_deleted_is_not_called_ready(stage: Stage, uploader: Uploader) -> None:
    stage.published(1)
    hook(stage, f"touch {stage.root}/ran; while [ -e {stage.root}/hold ]; do sleep 0.05; done")
    (stage.root / "hold").touch()
    uploader.step()
    stage.until((stage.root / "ran").exists)
    stage.clouds["one"].images.clear()
    (stage.root / "hold").unlink()
    uploader.drain()
    assert state_of(stage) is UploadState.FAILED


def test_a_cancelled_upload_ends_its_hook(stage: Stage, uploader: Uploader) -> None:
    stage.published(1)
    hook(stage, f"touch {stage.root}/ran; sleep 600")
    uploader.step()
    stage.until((stage.root / "ran").exists)
    cancel(stage)
    stage.until(lambda: state_of(stage) is UploadState.FAILED)
    assert reason_of(stage).failure_class is FailureClass.CANCELLED
    assert stage.clouds["one"].images == {}


# -- breakers ------------------------------------------------------------------------------------


def test_a_provider_that_is_tried_again_gets_one_upload_however_many_it_takes(
    stage: Stage, uploader: Uploader
) -> None:
    only(stage, "one")
    stage.provider(max_uploads=4)
    stage.image("other")
    stage.published(1)
    stage.published(2, image="other")
    stage.config = replace(stage.config, upload_breaker=replace(stage.config.upload_breaker, failures=2))
    error = CloudUnavailableError("nobody answers", failure_class=FailureClass.NETWORK)
    stage.clouds["one"].fail("capabilities", error, times=2)
    finish(uploader)
    assert {u.state for name in ("img", "other") for u in stage.uploads("one", name)} == {UploadState.FAILED}
    stage.now += timedelta(hours=2)
    stage.clouds["one"].hold("send")
    uploader.step()
    stage.until(lambda: stage.clouds["one"].count("send") == 1)
    uploader.step()
    moving = [
        u for n in ("img", "other") for u in stage.uploads("one", n) if u.state is UploadState.UPLOADING
    ]
    assert len(moving) == 1


def test_the_log_tells_once_that_a_provider_is_left_alone_and_once_that_it_is_not(
    stage: Stage, uploader: Uploader, caplog: pytest.LogCaptureFixture
) -> None:
    only(stage, "one")
    stage.published(1)
    stage.config = replace(stage.config, upload_breaker=replace(stage.config.upload_breaker, failures=1))
    error = CloudUnavailableError("nobody answers", failure_class=FailureClass.NETWORK)
    stage.clouds["one"].fail("capabilities", error, times=1)
    finish(uploader)
    uploader.step()
    told = [record.getMessage() for record in caplog.records if "is left alone" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("one is left alone: ")
    stage.now += timedelta(hours=2)
    finish(uploader)
    uploader.step()
    assert [r.getMessage() for r in caplog.records if "gets uploads again" in r.getMessage()]
    assert [upload.state for upload in stage.uploads("one")].count(UploadState.READY) == 1


def test_the_limit_for_deleting_leaves_time_to_end_within_fifteen_seconds() -> None:
    assert DISCARD_LIMIT <= 12


def test_a_build_without_the_format_is_not_begun(stage: Stage, uploader: Uploader) -> None:
    stage.published(1)
    stage.provider(image_format=ImageFormat.VHD)
    only(stage, "one")
    finish(uploader)
    assert stage.uploads() == ()


def test_a_format_that_the_cloud_refuses_fails_once_and_is_not_tried_for_ever(
    stage: Stage, uploader: Uploader
) -> None:
    only(stage, "one")
    stage.published(1)
    stage.clouds["one"].formats = {"vhdx"}
    finish(uploader)
    stage.now += timedelta(days=1)
    finish(uploader)
    (failed,) = stage.uploads("one")
    assert failed.reason is not None and failed.reason.failure_class is FailureClass.CONFIG


def test_a_file_is_looked_into_once_for_all_regions_and_again_when_it_changed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    real = inspect.check

    def check(path: Path, artifact: Artifact, image_format: ImageFormat) -> None:
        looks.append(path)
        real(path, artifact, image_format)

    monkeypatch.setattr(inspect, "check", check)
    built = stage.published(1)
    finish(Uploader(stage.world, "uploader"))
    assert len(looks) == 1 and all(state_of(stage, name) is UploadState.READY for name in stage.clouds)
    files = CheckedFiles()
    file, artifact = looks[0], built.artifacts[0]
    files.check(file, artifact)
    file.write_bytes(b"another, as large".ljust(4096))
    files.check(file, artifact)
    assert len(looks) == 3
    with pytest.raises(ActionFailedError):
        files.check(file, replace(artifact, size=1))

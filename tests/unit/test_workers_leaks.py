"""The search for leaked images on fakes: found early, removed late, and never on a doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloudimage import BUILD_ID, CloudImage, GlanceStatus, Sighting
from builder.errors import CloudUnavailableError, NotFoundError
from builder.model import (
    Artifact,
    Build,
    BuildState,
    FailureClass,
    ImageFormat,
    Snapshot,
    Upload,
    UploadState,
)
from builder.planning.actions import Verdict
from builder.planning.uploads import decide_uploads
from builder.store.base import Claim
from builder.workers.janitor import Janitor
from builder.workers.leaks import FIRST_WITHIN, REMEMBERED, LeakSweeper
from builder.workers.promoter import Promoter
from tests.fakes.store import FakeStore, FakeTree
from tests.unit.worker_world import NOW, Stage, build, upload

HOUR = timedelta(hours=1)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def image_of(stage: Stage, made: Build, installation: str = "") -> CloudImage:
    """An active image of an upload of a build, as the uploader would have left it."""
    record = upload(made)
    artifact = Artifact(format=ImageFormat.QCOW2, size=1, virtual_size=1, md5="m", sha256="s2", sha512="s5")
    image = transfer.new_image(
        stage.config.diskimages["img"],
        stage.config.providers["one"],
        record,
        artifact,
        build=made,
        installation_id=installation or stage.store.installation_id(),
        now=stage.now,
    )
    created = stage.clouds["one"].create(image)
    stage.clouds["one"].change(created.id, status=GlanceStatus.ACTIVE)
    return stage.clouds["one"].images[created.id]


def leaked(stage: Stage, number: int = 1) -> CloudImage:
    """An image of a build whose record was removed in due form; a later one serves."""
    serving = build(90)
    stage.store.put(serving)
    stage.store.put(upload(serving, external_id="serving"))
    made = build(number, BuildState.DELETING, formats=("qcow2",))
    stage.store.put(made)
    image = image_of(stage, made)
    stage.store.delete_build(stage.store.get_build("img", made.id))
    return image


def sweep(sweeper: LeakSweeper, stage: Stage) -> datetime:
    """Go to the time of the next sweep of both providers, and do them; when the next ones are due."""
    for _ in range(3):  # the first ones come at different times
        due = sweeper.step().due
        assert due is not None
        if due - stage.now > FIRST_WITHIN:
            break
        stage.now = due
        sweeper.step()
        sweeper.drain()
    return due


def hourly(sweeper: LeakSweeper, stage: Stage) -> None:
    """An hour later."""
    due = sweep(sweeper, stage)
    for _ in range(2):
        stage.now = max(stage.now, due)
        sweeper.step()
        sweeper.drain()
        due = sweeper.step().due or due


@pytest.fixture
def sweeper(stage: Stage) -> LeakSweeper:
    return LeakSweeper(stage.world, "leaks")


def test_the_first_look_comes_a_little_after_the_start(stage: Stage, sweeper: LeakSweeper) -> None:
    due = sweeper.step().due
    assert due is not None and timedelta(0) < due - NOW <= FIRST_WITHIN
    assert stage.clouds["one"].count("find") == 0


def test_a_leak_goes_when_it_is_seen_a_second_time_an_hour_later(stage: Stage, sweeper: LeakSweeper) -> None:
    image = leaked(stage)
    sweep(sweeper, stage)
    assert image.id in stage.clouds["one"].images
    assert [s.external_id for s in stage.store.sightings("one")] == [image.id]
    hourly(sweeper, stage)
    assert stage.clouds["one"].images == {}
    assert stage.store.sightings("one") == ()


def test_two_looks_within_an_hour_are_not_enough(stage: Stage) -> None:
    image = leaked(stage)
    sweep(LeakSweeper(stage.world, "leaks"), stage)
    stage.now += timedelta(minutes=5)
    sweep(LeakSweeper(stage.world, "leaks"), stage)  # a daemon that was started again
    assert image.id in stage.clouds["one"].images
    (seen,) = stage.store.sightings("one")
    assert seen.last - seen.first >= timedelta(minutes=5)  # and the first look still counts


def test_an_image_of_a_build_of_which_nothing_is_known_stays_for_ever(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    image = image_of(stage, build(7))  # as an emptied ZooKeeper would look like
    for _ in range(4):
        hourly(sweeper, stage)
    assert image.id in stage.clouds["one"].images


def test_another_installation_s_images_are_none_of_ours(stage: Stage, sweeper: LeakSweeper) -> None:
    gone = leaked(stage)
    theirs = image_of(stage, build(1), "f" * 32)
    hourly(sweeper, stage)
    hourly(sweeper, stage)
    assert list(stage.clouds["one"].images) == [theirs.id] and theirs.id != gone.id


def test_an_image_that_a_record_has_is_no_leak_and_is_forgotten_as_one(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    made = build(1)
    stage.store.put(made)
    image = image_of(stage, made)
    stage.store.put(upload(made, external_id=image.id))
    stage.store.put_sighting(
        Sighting(provider="one", external_id=image.id, first=NOW - 9 * HOUR, last=NOW - HOUR)
    )
    sweep(sweeper, stage)
    assert stage.store.sightings("one") == () and image.id in stage.clouds["one"].images


def test_an_upload_that_has_just_begun_is_no_leak(stage: Stage, sweeper: LeakSweeper) -> None:
    made = build(1)
    stage.store.put(made)
    stage.store.put(upload(made, UploadState.UPLOADING))
    image = image_of(stage, made)
    hourly(sweeper, stage)
    hourly(sweeper, stage)
    assert image.id in stage.clouds["one"].images and stage.store.sightings("one") == ()


def test_a_copy_under_another_name_stays(stage: Stage, sweeper: LeakSweeper) -> None:
    image = leaked(stage)
    stage.clouds["one"].change(image.id, name="my backup")
    hourly(sweeper, stage)
    hourly(sweeper, stage)
    assert image.id in stage.clouds["one"].images


def test_an_image_that_changes_while_it_is_judged_stays(stage: Stage, sweeper: LeakSweeper) -> None:
    image, cloud = leaked(stage), stage.clouds["one"]
    sweep(sweeper, stage)
    listed = cloud.images[image.id]
    cloud.find = lambda properties: iter([listed])  # type: ignore[method-assign]
    cloud.change(image.id, properties={**image.properties, "instance_uuid": "1"})
    hourly(sweeper, stage)
    assert image.id in cloud.images


def test_a_build_that_is_on_record_again_keeps_its_images(stage: Stage) -> None:
    class Late(FakeStore):
        """Its view of the tree is one in which the build is still gone."""

        def get_build(self, image: str, build_id: str) -> Build:
            if build_id == build(1).id and self.is_back:
                return build(1)
            return super().get_build(image, build_id)

        is_back = False

    store = Late()
    stage = Stage(stage.root, store=store)
    image = leaked(stage)
    sweeper = LeakSweeper(stage.world, "leaks")
    sweep(sweeper, stage)
    store.is_back = True
    hourly(sweeper, stage)
    assert image.id in stage.clouds["one"].images


def test_without_its_records_nothing_is_judged(stage: Stage, sweeper: LeakSweeper) -> None:
    image = leaked(stage)
    sweep(sweeper, stage)
    gate = stage.clouds["one"].hold("find")
    stage.now = max(stage.now + HOUR, sweeper.step().due or NOW)
    sweeper.step()
    stage.store.disconnect()  # while the cloud is listed
    gate.set()
    sweeper.drain()
    assert image.id in stage.clouds["one"].images
    stage.store.reconnect()
    assert len(stage.store.sightings("one")) == 1


class Behind(FakeStore):
    """It answers, but has not read the whole tree again since the last connect."""

    synced = True

    @property
    def connected(self) -> bool:
        return self.synced

    @contextmanager
    def _connected_tree(self) -> Iterator[FakeTree]:
        with self.tree.changed:
            yield self.tree


def test_on_records_that_are_not_complete_nothing_is_judged(tmp_path: Path) -> None:
    store = Behind()
    stage = Stage(tmp_path, store=store)
    image, sweeper = leaked(stage), LeakSweeper(stage.world, "leaks")
    sweep(sweeper, stage)
    store.synced = False
    hourly(sweeper, stage)
    assert image.id in stage.clouds["one"].images
    store.synced = True
    hourly(sweeper, stage)
    assert stage.clouds["one"].images == {}


def test_a_cloud_that_is_down_delays_no_other_and_is_searched_next_time(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    image = leaked(stage)
    error = CloudUnavailableError("down", failure_class=FailureClass.NETWORK)
    stage.clouds["one"].fail("find", error)
    sweep(sweeper, stage)
    assert sweeper.failures == 1 and stage.clouds["two"].count("find") == 1
    hourly(sweeper, stage)
    assert [s.external_id for s in stage.store.sightings("one")] == [image.id]


def test_one_that_is_in_use_stays_listed(stage: Stage, sweeper: LeakSweeper) -> None:
    image = leaked(stage)
    stage.clouds["one"].in_use.add(image.id)
    hourly(sweeper, stage)
    hourly(sweeper, stage)
    assert [s.external_id for s in stage.store.sightings("one")] == [image.id]
    stage.clouds["one"].in_use.clear()
    hourly(sweeper, stage)
    assert stage.clouds["one"].images == {}


def test_what_another_daemon_searches_is_left_to_it(stage: Stage, sweeper: LeakSweeper) -> None:
    leaked(stage)
    claims = [stage.store.another_daemon().claim_sweep(name) for name in ("one", "two")]
    assert None not in claims
    sweep(sweeper, stage)
    assert stage.clouds["one"].count("find") == 0 and stage.store.sightings("one") == ()


def test_nodepool_s_leaks_are_listed_and_left(stage: Stage, sweeper: LeakSweeper) -> None:
    image = leaked(stage)
    marks = {"nodepool_build_id": build(1).id, "nodepool_upload_id": "1", "nodepool_provider_name": "one"}
    stage.clouds["one"].change(image.id, properties=marks)
    sweep(sweeper, stage)
    assert stage.store.sightings("one") == ()
    stage.config = replace(stage.config, adopt_nodepool=True)
    for _ in range(3):
        hourly(sweeper, stage)
    assert image.id in stage.clouds["one"].images
    assert [s.external_id for s in stage.store.sightings("one")] == [image.id]


def test_a_provider_that_is_added_is_searched_and_one_that_left_is_not(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    kept = {"two": stage.config.providers["two"]}
    both, stage.config = stage.config, replace(stage.config, providers=kept)
    sweep(sweeper, stage)
    assert stage.clouds["one"].count("find") == 0
    stage.config = both
    sweep(sweeper, stage)
    assert stage.clouds["one"].count("find") == 1
    with pytest.raises(NotFoundError):
        stage.store.get_build("img", build(1).id)


def test_that_a_build_is_gone_is_forgotten_after_a_year(stage: Stage, sweeper: LeakSweeper) -> None:
    image = leaked(stage)
    stage.clouds["one"].delete(image.id)
    assert set(stage.store.builds_gone()) == {image.properties[BUILD_ID]}
    sweep(sweeper, stage)
    (gone_since,) = stage.store.builds_gone().values()
    stage.now = gone_since + REMEMBERED
    hourly(sweeper, stage)
    assert stage.store.builds_gone() == {}


def test_an_id_that_is_none_is_left_out(
    stage: Stage, sweeper: LeakSweeper, caplog: pytest.LogCaptureFixture
) -> None:
    image = leaked(stage)
    images = stage.clouds["one"].images
    images["../../odd id"] = replace(image, id="../../odd id")
    sweep(sweeper, stage)
    assert [s.external_id for s in stage.store.sightings("one")] == [image.id]
    assert "whose id is no id: '../../odd id'" in caplog.text


# -- images that somebody else deleted ------------------------------------------------------------


def in_service(stage: Stage, number: int, provider: str = "one", **more: object) -> Upload:
    """A ready upload on record with its image, as the uploader would have left them."""
    made = build(number)
    stage.store.put(made)
    image = image_of(stage, made)
    where = stage.config.providers[provider]
    record = upload(
        made,
        external_id=image.id,
        external_name=image.name,
        cloud=where.cloud,
        region=where.region,
        **more,
    )
    stage.store.put(record)
    return record


def lost(stage: Stage, record: Upload) -> None:
    """Somebody deletes the image in the cloud."""
    del stage.clouds["one"].images[str(record.external_id)]


def state(stage: Stage, record: Upload) -> UploadState:
    return stage.store.get_upload(record.image, record.build_id, record.provider, record.id).state


def clean(stage: Stage) -> None:
    """What the janitor does until nothing is due."""
    janitor = Janitor(stage.world, "janitor")
    for _ in range(3):
        janitor.step()
        janitor.drain()


def test_an_image_that_somebody_deleted_is_given_up_at_the_second_look(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    stays, goes = in_service(stage, 1), in_service(stage, 2)
    sweep(sweeper, stage)
    lost(stage, goes)
    hourly(sweeper, stage)
    assert state(stage, goes) is UploadState.READY  # one look
    hourly(sweeper, stage)
    assert (state(stage, goes), state(stage, stays)) == (UploadState.DELETING, UploadState.READY)
    now = stage.store.get_upload(goes.image, goes.build_id, goes.provider, goes.id)
    assert now.deletion is not None and now.deletion.by == "imagepool"
    assert now.deletion.why == "its image was deleted in the cloud by somebody else"
    assert now.state_time == now.deletion.time


def test_then_its_record_goes_the_one_before_takes_over_and_it_is_uploaded_again(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    stage.image(stable_name="img-current")
    published = stage.published(2)
    before, goes = in_service(stage, 1), in_service(stage, 2)
    stage.store.put(published)
    stage.store.put(replace(goes, serving=NOW, stable_name="img-current", format="raw"))
    lost(stage, goes)
    sweep(sweeper, stage)
    hourly(sweeper, stage)
    clean(stage)
    assert state(stage, goes) is UploadState.DELETING  # it waits for its heir
    Promoter(stage.world, "promoter").step()
    stage.until(lambda: stage.uploads()[-1].serving)
    assert stage.clouds["one"].images[str(before.external_id)].name == "img-current"
    stage.until(lambda: clean(stage) or goes.name not in {each.name for each in stage.uploads()})
    assert stage.store.get_build("img", goes.build_id).wishes == ()
    (again,) = [
        d for d in decide_uploads(stage.config, stage.store.snapshot(), stage.now) if d.provider == "one"
    ]
    assert again.verdict is Verdict.NOW and again.build is not None and again.build.id == goes.build_id


def test_a_daemon_that_was_started_again_begins_anew(stage: Stage) -> None:
    in_service(stage, 1)
    goes = in_service(stage, 2)
    lost(stage, goes)
    for _ in range(2):
        sweep(LeakSweeper(stage.world, "leaks"), stage)
        stage.now += HOUR
    assert state(stage, goes) is UploadState.READY


def test_what_the_cloud_still_answers_for_stays_whatever_it_lists(stage: Stage, sweeper: LeakSweeper) -> None:
    other, kept = in_service(stage, 1), in_service(stage, 2)
    cloud = stage.clouds["one"]
    listed = cloud.images[str(other.external_id)]
    cloud.find = lambda properties, hidden=None: iter([listed])  # type: ignore[method-assign]
    for _ in range(3):
        hourly(sweeper, stage)
    assert state(stage, kept) is UploadState.READY


def test_what_is_back_at_the_last_moment_stays(stage: Stage, sweeper: LeakSweeper) -> None:
    in_service(stage, 1)
    kept = in_service(stage, 2)
    cloud = stage.clouds["one"]
    image = cloud.images[str(kept.external_id)]
    lost(stage, kept)
    sweep(sweeper, stage)
    answers, real = iter([None]), cloud.get
    cloud.get = lambda each: next(answers, image) if each == image.id else real(each)  # type: ignore[method-assign]
    hourly(sweeper, stage)
    assert state(stage, kept) is UploadState.READY


def test_a_cloud_that_shows_none_of_our_images_proves_nothing(
    stage: Stage, sweeper: LeakSweeper, caplog: pytest.LogCaptureFixture
) -> None:
    both = [in_service(stage, 1), in_service(stage, 2)]
    stage.clouds["one"].images.clear()
    for _ in range(3):
        caplog.clear()
        hourly(sweeper, stage)
        said = [r.getMessage() for r in caplog.records if "proves nothing" in r.getMessage()]
        assert said and all("one has none of our images, although 2 on record" in each for each in said)
    assert [state(stage, each) for each in both] == [UploadState.READY] * 2
    assert stage.clouds["one"].count("get") == 0


def test_hidden_images_are_listed_too(stage: Stage, sweeper: LeakSweeper) -> None:
    in_service(stage, 1)
    hidden = in_service(stage, 2, hidden=True)
    stage.clouds["one"].change(str(hidden.external_id), hidden=True)
    for _ in range(3):
        hourly(sweeper, stage)
    assert state(stage, hidden) is UploadState.READY and stage.clouds["one"].count("get") == 0


def test_an_upload_that_went_to_another_cloud_is_not_missed_in_this_one(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    in_service(stage, 1)
    elsewhere = in_service(stage, 2)
    stage.store.put(replace(elsewhere, cloud="before"))
    lost(stage, elsewhere)
    for _ in range(3):
        hourly(sweeper, stage)
    assert state(stage, elsewhere) is UploadState.READY


def test_a_cloud_that_can_not_say_whether_it_is_gone_is_asked_again(
    stage: Stage, sweeper: LeakSweeper
) -> None:
    in_service(stage, 1)
    goes = in_service(stage, 2)
    lost(stage, goes)
    sweep(sweeper, stage)
    stage.clouds["one"].fail("get", CloudUnavailableError("down", failure_class=FailureClass.NETWORK))
    hourly(sweeper, stage)
    assert state(stage, goes) is UploadState.READY and sweeper.failures == 1
    hourly(sweeper, stage)
    assert state(stage, goes) is UploadState.DELETING


def test_a_missing_one_that_somebody_works_on_is_left_to_them(stage: Stage, sweeper: LeakSweeper) -> None:
    in_service(stage, 1)
    goes = in_service(stage, 2)
    lost(stage, goes)
    claim = stage.store.another_daemon().claim_upload(goes)
    assert claim is not None
    for _ in range(3):
        hourly(sweeper, stage)
    assert state(stage, goes) is UploadState.READY
    claim.release()
    hourly(sweeper, stage)
    assert state(stage, goes) is UploadState.DELETING


def test_on_records_that_are_not_complete_no_image_is_missed(tmp_path: Path) -> None:
    store = Behind()
    stage = Stage(tmp_path, store=store)
    sweeper = LeakSweeper(stage.world, "leaks")
    in_service(stage, 1)
    goes = in_service(stage, 2)
    lost(stage, goes)
    store.synced = False
    for _ in range(3):
        hourly(sweeper, stage)
    assert state(stage, goes) is UploadState.READY


# -- another tree -----------------------------------------------------------------------------------


class Replaced(FakeStore):
    """Another server takes the place of ours during a sweep, before or after the records were read."""

    sweeping = late = False

    def claim_sweep(self, provider: str) -> Claim | None:
        self.sweeping = True
        return super().claim_sweep(provider)

    def snapshot(self) -> Snapshot:
        if self.sweeping and not self.late:
            self.tree.belong_to("f" * 32)
        return super().snapshot()

    def builds_gone(self) -> Mapping[str, datetime]:
        gone = super().builds_gone()
        self.tree.belong_to("f" * 32)
        return gone


@pytest.mark.parametrize("late", [False, True])
def test_a_tree_of_others_that_knows_no_image_of_ours_makes_no_leak(tmp_path: Path, late: bool) -> None:
    stage = Stage(tmp_path)
    image = leaked(stage)
    sweep(LeakSweeper(stage.world, "leaks"), stage)  # at the next look it would be gone
    seen = stage.store.sightings("one")
    store = Replaced(stage.store.tree)
    store.late = late
    sweeper = LeakSweeper(replace(stage.world, store=store), "leaks")
    sweeper.step()
    stage.now += 3 * HOUR
    sweeper.step()
    sweeper.drain()
    assert stage.store.tree.installation == "f" * 32
    assert late or stage.store.sightings("one") == seen
    assert image.id in stage.clouds["one"].images

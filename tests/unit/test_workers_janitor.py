"""The janitor on fakes: it deletes what is asked, superseded or abandoned, and nothing else, ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import NewImage
from builder.cloudimage import CloudImage, GlanceStatus
from builder.config.model import Canary, Provider
from builder.dib.output import artifacts
from builder.errors import CloudError, CloudUnavailableError
from builder.model import (
    Artifact,
    Build,
    BuildState,
    Cancellation,
    Deletion,
    Failure,
    FailureClass,
    ImageFormat,
    Turn,
    Upload,
    UploadCancellation,
    UploadState,
    UploadWish,
    Withholding,
)
from builder.workers.janitor import Janitor
from builder.workers.lanes import FIRST_RETRY, Backoff
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore
from tests.unit.dib_world import publish
from tests.unit.worker_world import NOW, Stage, build, upload


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def janitor(stage: Stage) -> Janitor:
    return Janitor(stage.world, "janitor")


def work(janitor: Janitor) -> None:
    """Pass after pass until one has nothing to do."""
    did = True
    while did:
        janitor.step()
        did = janitor.drain()


def in_cloud(stage: Stage, of: Upload) -> CloudImage:
    """The image of an upload, as the uploader would have made it."""
    artifact = Artifact(format=ImageFormat.QCOW2, size=1, virtual_size=1, md5="m", sha256="s2", sha512="s5")
    image = transfer.new_image(
        stage.config.diskimages[of.image],
        stage.config.providers[of.provider],
        of,
        artifact,
        build=build(1, id=of.build_id),
        installation_id=stage.store.installation_id(),
        now=stage.now,
    )
    made = stage.clouds[of.provider].create(image)
    stage.clouds[of.provider].change(made.id, status=GlanceStatus.ACTIVE)
    return stage.clouds[of.provider].images[made.id]


def ready_upload(stage: Stage, of: Build, provider: str = "one") -> Upload:
    record = upload(of, provider=provider)
    record = replace(record, external_id=in_cloud(stage, record).id)
    stage.store.put(record)
    return record


def current(stage: Stage, of: Upload) -> Upload:
    return stage.store.get_upload(of.image, of.build_id, of.provider, of.id)


def test_an_empty_tree_deletes_nothing(stage: Stage, janitor: Janitor) -> None:
    foreign = in_cloud(stage, upload(build(1)))
    file = stage.config.images_dir / f"img-{build(1).id}.qcow2"
    file.write_text("good")
    work(janitor)
    assert foreign.id in stage.clouds["one"].images
    assert file.exists()


def test_a_build_whose_builder_died_is_failed_as_interrupted(stage: Stage, janitor: Janitor) -> None:
    dead = build(1, BuildState.BUILDING, phase="packages", builder="gone.test", builder_id="gone")
    stage.store.put(dead)
    work(janitor)
    record = stage.store.get_build("img", dead.id)
    assert record.state is BuildState.FAILED
    assert record.reason is not None and record.reason.failure_class is FailureClass.INTERRUPTED
    assert "gone.test" in record.reason.message and record.reason.phase == "packages"


def test_a_build_that_is_claimed_or_ours_is_left_alone(stage: Stage, janitor: Janitor) -> None:
    alive = build(1, BuildState.BUILDING)
    stage.store.put(alive)
    with stage.world.active.hold(alive.id):  # its claim was lost, but the work goes on in this process
        work(janitor)
    assert stage.store.get_build("img", alive.id).state is BuildState.BUILDING
    claim = stage.store.another_daemon().claim_image("img")
    assert claim is not None
    work(janitor)
    assert stage.store.get_build("img", alive.id).state is BuildState.BUILDING


def test_a_half_upload_is_deleted_by_its_id(stage: Stage, janitor: Janitor) -> None:
    built = build(1)
    stage.store.put(built)
    half = upload(built, UploadState.UPLOADING)
    image = in_cloud(stage, half)
    stage.store.put(replace(half, external_id=image.id))
    work(janitor)
    assert image.id not in stage.clouds["one"].images
    assert stage.store.get_upload("img", built.id, "one", half.id).state is UploadState.FAILED


def test_a_half_upload_without_an_id_is_found_by_its_properties(stage: Stage, janitor: Janitor) -> None:
    built = build(1)
    stage.store.put(built)
    half = upload(built, UploadState.UPLOADING)
    image = in_cloud(stage, half)
    stage.store.put(half)  # the daemon died between Glance's answer and its own write
    work(janitor)
    assert image.id not in stage.clouds["one"].images


def test_what_a_failed_upload_could_not_delete_goes_and_its_reason_stays(
    stage: Stage, janitor: Janitor
) -> None:
    built = build(1)
    stage.store.put(built)
    why = Failure(failure_class=FailureClass.NETWORK, message="the connection broke")
    failed = upload(built, UploadState.FAILED, reason=why)
    image = in_cloud(stage, failed)
    stage.store.put(replace(failed, external_id=image.id, external_name=image.name))
    work(janitor)
    assert not stage.clouds["one"].images
    record = stage.store.get_upload("img", built.id, "one", failed.id)
    assert (record.external_id, record.external_name, record.reason) == (None, None, why)


def test_two_uploads_stay_per_provider_and_the_rest_goes(stage: Stage, janitor: Janitor) -> None:
    builds = [build(number) for number in (1, 2, 3)]
    for one in builds:
        stage.store.put(one)
    uploads = [ready_upload(stage, one) for one in builds]
    work(janitor)
    assert set(stage.clouds["one"].images) == {u.external_id for u in uploads[1:]}
    assert [b.id for b in stage.store.list_builds("img")] == [builds[2].id, builds[1].id]


def test_the_newest_good_upload_of_a_provider_stays_however_old(stage: Stage, janitor: Janitor) -> None:
    builds = [build(number) for number in (1, 2, 3, 4)]
    for one in builds:
        stage.store.put(one)
    last_of_two = ready_upload(stage, builds[0], "two")  # this region has been broken since
    for one in builds[1:]:
        ready_upload(stage, one, "one")
    work(janitor)
    assert last_of_two.external_id in stage.clouds["two"].images
    assert stage.store.get_build("img", builds[0].id).state is BuildState.READY


def test_a_cloud_that_is_down_delays_only_itself_and_says_why(stage: Stage, janitor: Janitor) -> None:
    built = build(1)
    stage.store.put(build(2))
    stage.store.put(built)
    stage.clouds["one"].fail(
        "get", CloudUnavailableError("one is down", failure_class=FailureClass.NETWORK), times=None
    )
    for provider in ("one", "two"):
        record = ready_upload(stage, built, provider)
        stage.store.put(replace(record, state=UploadState.DELETING))
    work(janitor)
    left = stage.store.snapshot().image("img").uploads
    assert [u.provider for u in left] == ["one"]
    assert left[0].reason is not None and "one is down" in left[0].reason.message
    assert not stage.clouds["two"].images
    assert stage.clouds["one"].images


def test_after_a_failure_it_waits_before_the_next_try(stage: Stage, janitor: Janitor) -> None:
    built = build(1)
    stage.store.put(built)
    error = CloudUnavailableError("busy", failure_class=FailureClass.CLOUD)
    stage.clouds["one"].fail("get", error, times=1)
    record = ready_upload(stage, built)
    stage.store.put(replace(record, state=UploadState.DELETING))
    work(janitor)
    assert stage.clouds["one"].images
    due = janitor.step().due
    assert due is not None and timedelta(seconds=20) < due - stage.now < timedelta(seconds=40)
    stage.now = due
    work(janitor)
    assert not stage.clouds["one"].images
    assert not stage.store.snapshot().image("img").uploads


def test_a_pause_outlives_the_moment_in_which_the_plan_does_not_show_the_action() -> None:
    backoff = Backoff()
    backoff.failed("it", NOW)
    backoff.retain(frozenset(), NOW)  # while we hold its claim, an action is not in the plan
    until = backoff.until("it")
    assert until is not None and until > NOW
    assert backoff.failed("it", NOW) > FIRST_RETRY * 1.4
    backoff.retain(frozenset(), NOW + timedelta(hours=3))
    assert backoff.until("it") is None


class Wakeful(FakeStore):
    """Looks, whenever it is woken, who is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = threading.Event()
        self.busy: list[str] = []
        self.look: Callable[[], Iterable[str]] = tuple

    def wake(self) -> None:
        self.busy.extend(self.look())
        self.woken.set()
        super().wake()


def test_a_lane_that_ends_wakes_the_janitor_when_it_is_free(tmp_path: Path) -> None:
    store = Wakeful()
    stage = Stage(tmp_path, store=store)
    janitor = Janitor(stage.world, "janitor")
    built = build(1)
    store.put(built)
    store.put(replace(ready_upload(stage, built), state=UploadState.DELETING))
    store.look = janitor.busy
    janitor.step()
    assert store.woken.wait(10)
    assert store.busy == []  # whoever looks now finds the lane free, and can go on
    assert not stage.clouds["one"].images


def test_an_image_that_is_not_provably_ours_stays_and_the_record_says_so(
    stage: Stage, janitor: Janitor
) -> None:
    built = build(1)
    stage.store.put(built)
    foreign = stage.clouds["one"].create(
        NewImage(name="theirs", disk_format="qcow2", min_disk=1, properties={})
    )
    stage.store.put(replace(upload(built, UploadState.DELETING), external_id=foreign.id))
    work(janitor)
    assert foreign.id in stage.clouds["one"].images
    (record,) = stage.store.snapshot().image("img").uploads
    assert record.reason is not None and foreign.id in record.reason.message


def test_the_last_image_that_is_really_there_stays_whatever_records_say(
    stage: Stage, janitor: Janitor
) -> None:
    builds = [build(number) for number in (1, 2, 3)]
    for made in builds:
        stage.store.put(made)
    oldest, *newer = [ready_upload(stage, made) for made in builds]
    cloud = stage.clouds["one"]
    for gone in newer:  # somebody deleted them there
        del cloud.images[gone.external_id or ""]
    work(janitor)
    assert oldest.external_id in cloud.images
    assert stage.uploads()[-1].state is UploadState.READY

    back = ready_upload(stage, build(4))
    stage.store.put(build(4))
    stage.now += 2 * FIRST_RETRY
    work(janitor)
    assert set(cloud.images) == {back.external_id}


def test_an_image_that_is_withheld_is_no_successor_of_a_good_one(stage: Stage, janitor: Janitor) -> None:
    """Not even when the good ones on record are not in the cloud any more."""
    builds = [build(number) for number in (1, 2, 3, 4)]
    for made in builds:
        stage.store.put(made)
    oldest, gone, also_gone, bad = [ready_upload(stage, made) for made in builds]
    stage.store.withhold("img", bad.build_id, Withholding(provider="one", by="ann", time=NOW))
    for each in (gone, also_gone):
        del stage.clouds["one"].images[each.external_id or ""]
    work(janitor)
    assert set(stage.clouds["one"].images) == {oldest.external_id, bad.external_id}
    assert current(stage, oldest).state is UploadState.READY


def test_the_turn_of_what_is_deleted_is_over(stage: Stage, janitor: Janitor) -> None:
    stage.store.put(build(1))
    served = ready_upload(stage, build(1))
    turn = Turn(build_id=served.build_id, upload=served.name, since=NOW, by="imagepool")
    stage.store.begin_turn("img", "one", turn)
    # Through nodepool, whose record says nothing of what is ours.
    stage.store.put(replace(served, state=UploadState.DELETING))
    stage.now += timedelta(hours=1)
    work(janitor)
    (known,) = stage.store.history("img")["one"]
    assert known.until == stage.now
    assert "nodepool" in known.ended_why


@pytest.mark.parametrize("configured", [True, False])
def test_history_goes_with_the_last_record_of_an_image_that_left_the_configuration(
    stage: Stage, janitor: Janitor, configured: bool
) -> None:
    if not configured:
        stage.config = replace(stage.config, diskimages={})
    doomed = [build(number, BuildState.DELETING) for number in (1, 2)]
    turn = Turn(build_id=doomed[0].id, upload=upload(doomed[0]).name, since=NOW, by="imagepool")
    stage.store.begin_turn("img", "one", turn)
    for each in doomed:
        stage.store.put(replace(each, state=BuildState.FAILED))
    for each in doomed:
        assert stage.store.history("img")
        stage.store.put(each)
        work(janitor)
    assert bool(stage.store.history("img")) is configured


def test_a_failed_record_stays_until_it_is_old_and_superseded(stage: Stage, janitor: Janitor) -> None:
    failed = build(1, BuildState.FAILED, state_time=NOW - timedelta(days=6))
    stage.store.put(failed)
    stage.store.put(build(2))
    work(janitor)
    assert stage.store.get_build("img", failed.id)
    stage.now += timedelta(days=2)
    work(janitor)
    assert [b.id for b in stage.store.list_builds("img")] == [build(2).id]


def test_files_of_another_machine_are_left_to_it(stage: Stage, janitor: Janitor) -> None:
    theirs = build(1, BuildState.DELETING, builder_id="there", builder="there.test", formats=("qcow2",))
    stage.store.put(theirs)
    work(janitor)
    assert stage.store.get_build("img", theirs.id).state is BuildState.DELETING


# -- cancellations --------------------------------------------------------------------------------


def cancel(stage: Stage, of: Build, why: str = "") -> None:
    wish = Cancellation(image=of.image, build_id=of.id, by="ann@here", time=stage.now, why=why)
    stage.store.cancel_build(wish)


def test_a_cancelled_build_whose_builder_died_is_failed_as_cancelled(stage: Stage, janitor: Janitor) -> None:
    dead = build(1, BuildState.BUILDING, phase="packages", builder="gone.test", builder_id="gone")
    stage.store.put(dead)
    cancel(stage, dead, "wrong mirror")
    work(janitor)
    record = stage.store.get_build("img", dead.id)
    assert record.state is BuildState.FAILED and record.reason is not None
    assert record.reason.failure_class is FailureClass.CANCELLED
    assert record.reason.message.startswith("cancelled by ann@here: wrong mirror; the builder gone.test")
    assert record.reason.phase == "packages"
    assert record.next_try is None  # it has no schedule, and nobody wants it
    assert stage.store.snapshot().image("img").cancellation is None


def test_the_wish_to_cancel_another_build_does_not_cancel_a_dead_one(stage: Stage, janitor: Janitor) -> None:
    dead, alive = build(1, BuildState.BUILDING), build(2, BuildState.BUILDING)
    stage.store.put(dead)
    stage.store.put(alive)
    claim = stage.store.another_daemon().claim_image("img")
    cancel(stage, alive)
    work(janitor)
    assert stage.store.snapshot().image("img").cancellation is not None
    assert claim is not None
    with stage.world.active.hold(alive.id):  # its claim is lost, its work goes on
        claim.release()
        work(janitor)
        record = stage.store.get_build("img", dead.id)
        assert record.reason is not None and record.reason.failure_class is FailureClass.INTERRUPTED
        assert record.next_try == stage.now
        wish = stage.store.snapshot().image("img").cancellation
        assert wish is not None and wish.build_id == alive.id


@pytest.mark.parametrize("left", [BuildState.READY, BuildState.FAILED, None])
def test_a_wish_to_cancel_what_is_over_is_withdrawn(
    stage: Stage, janitor: Janitor, left: BuildState | None
) -> None:
    over = build(1, left or BuildState.READY)
    if left:
        stage.store.put(over)
    cancel(stage, over)
    work(janitor)
    assert stage.store.snapshot().image("img").cancellation is None
    if left:
        assert stage.store.get_build("img", over.id) == over


# -- files that nobody needs any more -------------------------------------------------------------


def published(stage: Stage, number: int, *formats: ImageFormat, **more: object) -> Build:
    """A ready build with its files."""
    made = tuple(
        Artifact(format=each, size=5, virtual_size=5, md5="m", sha256="s2", sha512="s5") for each in formats
    )
    record = build(number, formats=tuple(sorted(formats)), artifacts=made, **more)
    proof = artifacts.Proof(
        installation_id=stage.store.installation_id(),
        image="img",
        build_id=record.id,
        created=stage.now,
        environment={},
        tools={},
    )
    drafts = [(stage.root / f"draft.{each}", each) for each in formats]
    for draft, _ in drafts:
        draft.write_text("bytes")
    publish(stage.config.images_dir, proof, drafts)
    stage.store.put(record)
    return record


def files(stage: Stage, of: Build) -> set[str]:
    """The formats of a build whose files are there."""
    names = stage.config.images_dir.glob(f"img-{of.id}.*")
    return {name.suffix[1:] for name in names if name.suffix != ".d"}


def sparing(stage: Stage, **more: object) -> None:
    image = replace(stage.config.diskimages["img"], delete_after_upload=True, **more)
    stage.config = replace(stage.config, diskimages={"img": image})


def test_a_file_goes_when_every_provider_has_it_and_the_record_says_so(
    stage: Stage, janitor: Janitor
) -> None:
    sparing(stage)
    made = published(stage, 1, ImageFormat.QCOW2, ImageFormat.RAW)
    ready_upload(stage, made, "one")
    work(janitor)
    assert files(stage, made) == {"qcow2", "raw"}
    ready_upload(stage, made, "two")
    work(janitor)
    assert files(stage, made) == {"raw"}  # nobody takes it, so it is nowhere else
    record = stage.store.get_build("img", made.id)
    assert record == replace(made, pruned=("qcow2",))
    assert len(stage.clouds["one"].images) == 1 and len(stage.clouds["two"].images) == 1


def test_formats_to_keep_stay_on_disk(stage: Stage, janitor: Janitor) -> None:
    sparing(stage, keep_formats=(ImageFormat.QCOW2,))
    made = published(stage, 1, ImageFormat.QCOW2)
    for provider in ("one", "two"):
        ready_upload(stage, made, provider)
    work(janitor)
    assert files(stage, made) == {"qcow2"}
    assert stage.store.get_build("img", made.id) == made


def test_a_crash_between_the_file_and_the_record_is_made_good(stage: Stage, janitor: Janitor) -> None:
    sparing(stage)
    made = published(stage, 1, ImageFormat.QCOW2)
    for provider in ("one", "two"):
        ready_upload(stage, made, provider)
    artifacts.path(stage.config.images_dir, "img", made.id, ImageFormat.QCOW2).unlink()
    work(janitor)
    assert stage.store.get_build("img", made.id).pruned == ("qcow2",)


def test_a_file_that_is_not_provably_ours_stays_and_so_does_the_record(
    stage: Stage, janitor: Janitor
) -> None:
    sparing(stage)
    made = published(stage, 1, ImageFormat.QCOW2)
    for provider in ("one", "two"):
        ready_upload(stage, made, provider)
    (artifacts.directory(stage.config.images_dir, "img", made.id) / artifacts.PROOF).write_text("{}")
    work(janitor)
    assert files(stage, made) == {"qcow2"}
    assert stage.store.get_build("img", made.id).pruned == ()
    assert janitor.failures == 1


def test_what_is_planned_on_an_old_view_is_decided_again_before_a_file_goes(
    stage: Stage, janitor: Janitor
) -> None:
    sparing(stage)
    made = published(stage, 1, ImageFormat.QCOW2)
    uploads = [ready_upload(stage, made, provider) for provider in ("one", "two")]
    before = stage.store.snapshot()
    stage.store.put(replace(uploads[1], state=UploadState.DELETING))
    janitor.act(stage.config, before, stage.now)
    janitor.drain()
    assert files(stage, made) == {"qcow2"}


def test_what_soaks_in_a_canary_by_now_does_not_go_elsewhere_on_an_old_view(
    stage: Stage, janitor: Janitor
) -> None:
    stage.image(promote=Canary(providers=("one",)))
    builds = [build(number) for number in (1, 2, 3, 4)]
    for made in builds:
        stage.store.put(made)
    canary = ready_upload(stage, builds[0], "one")
    soaks, old, *_ = [ready_upload(stage, made, "two") for made in builds]
    before = stage.store.snapshot()
    stage.store.put(replace(current(stage, canary), serving=NOW))
    janitor.act(stage.config, before, stage.now)
    janitor.drain()
    assert current(stage, soaks).state is UploadState.READY
    assert current(stage, old).state is UploadState.DELETING


# -- what is to go and can't, or not again --------------------------------------------------------


def unwanted(stage: Stage, of: Build, **more: object) -> Upload:
    """An upload that somebody told to go."""
    record = replace(ready_upload(stage, of), state=UploadState.DELETING, **more)  # type: ignore[arg-type]
    stage.store.put(record)
    return record


def test_what_somebody_deleted_through_nodepool_stays_away(stage: Stage, janitor: Janitor) -> None:
    made = published(stage, 1, ImageFormat.QCOW2)
    unwanted(stage, made)
    work(janitor)
    assert stage.clouds["one"].images == {} and not stage.uploads()
    (wish,) = stage.store.get_build("img", made.id).wishes
    assert (wish.provider, wish.wanted) == ("one", False)


def test_a_later_wish_to_have_it_there_outlives_the_deletion(stage: Stage, janitor: Janitor) -> None:
    made = published(stage, 1, ImageFormat.QCOW2)
    record = unwanted(stage, made)
    later = UploadWish(
        provider="one", wanted=True, by="ann@nb01", time=record.state_time + timedelta(seconds=1)
    )
    stage.store.wish_upload("img", made.id, later)
    work(janitor)
    assert not stage.uploads()
    assert stage.store.get_build("img", made.id).wishes == (later,)


def test_what_retention_deletes_is_no_wish_of_anybody(stage: Stage, janitor: Janitor) -> None:
    made = published(stage, 1, ImageFormat.QCOW2)
    unwanted(stage, made, deletion=Deletion(by="imagepool", time=NOW))
    work(janitor)
    assert stage.clouds["one"].images == {} and stage.store.get_build("img", made.id).wishes == ()


def test_retention_says_on_the_record_who_wanted_it_to_go_and_why(stage: Stage, janitor: Janitor) -> None:
    for number in (1, 2, 3):
        stage.store.put(build(number))
        ready_upload(stage, build(number))
    stage.clouds["one"].fail(
        "delete", CloudUnavailableError("busy", failure_class=FailureClass.CLOUD), times=None
    )
    work(janitor)
    (going,) = [u for u in stage.uploads() if u.state is UploadState.DELETING]
    assert (
        going.deletion is not None and going.deletion.by == "imagepool" and "superseded" in going.deletion.why
    )


def test_an_image_in_use_is_hidden_once_and_goes_when_nobody_uses_it(stage: Stage, janitor: Janitor) -> None:
    made, cloud = published(stage, 1, ImageFormat.QCOW2), stage.clouds["one"]
    record = unwanted(stage, made, deletion=Deletion(by="ann", time=NOW))
    assert record.external_id is not None
    cloud.in_use.add(record.external_id)
    work(janitor)
    assert cloud.images[record.external_id].hidden
    (known,) = stage.uploads()
    assert known.hidden and known.reason is not None and "in use" in known.reason.message
    stage.now += timedelta(hours=2)
    work(janitor)
    assert (cloud.count("update"), cloud.count("delete")) == (1, 2)
    cloud.in_use.clear()
    stage.now += timedelta(hours=2)
    work(janitor)
    assert cloud.images == {} and not stage.uploads()


def test_an_image_in_use_that_can_not_even_be_hidden_says_both(stage: Stage, janitor: Janitor) -> None:
    record = unwanted(stage, published(stage, 1, ImageFormat.QCOW2), deletion=Deletion(by="ann", time=NOW))
    assert record.external_id is not None
    stage.clouds["one"].in_use.add(record.external_id)
    stage.clouds["one"].fail("update", CloudError("forbidden", failure_class=FailureClass.AUTH), times=None)
    work(janitor)
    (known,) = stage.uploads()
    assert known.reason is not None and not known.hidden
    assert "in use" in known.reason.message and "forbidden" in known.reason.message


def test_what_is_to_go_from_a_provider_that_left_the_configuration_goes_by_its_record(
    stage: Stage, janitor: Janitor
) -> None:
    unwanted(stage, published(stage, 1, ImageFormat.QCOW2), cloud="fake", region="one")
    kept = {"two": stage.config.providers["two"]}
    stage.config = replace(stage.config, providers=kept)
    asked: list[tuple[str, str | None]] = []
    by_region = stage.clouds

    def cloud(provider: Provider) -> FakeCloud:
        asked.append((provider.cloud, provider.region))
        return by_region[provider.region or ""]

    gone = Janitor(replace(stage.world, cloud=cloud), "janitor")
    work(gone)
    assert stage.clouds["one"].images == {} and not stage.uploads()
    assert set(asked) == {("fake", "one")}


def test_an_upload_whose_uploader_died_after_it_was_cancelled_says_so(stage: Stage, janitor: Janitor) -> None:
    made = published(stage, 1, ImageFormat.QCOW2)
    dead = upload(made, UploadState.UPLOADING, phase="send", uploader="gone.test")
    image = in_cloud(stage, dead)
    stage.store.put(replace(dead, external_id=image.id, external_name=image.name))
    stage.store.cancel_upload(UploadCancellation(upload=dead.name, image="img", by="ann@here", time=NOW))
    work(janitor)
    (record,) = stage.uploads()
    assert record.state is UploadState.FAILED and stage.clouds["one"].images == {}
    assert record.reason is not None and record.reason.failure_class is FailureClass.CANCELLED
    assert record.reason.message.startswith("cancelled by ann@here; the uploader gone.test")
    assert stage.store.snapshot().image("img").upload_cancellations == ()


def test_a_wish_to_cancel_an_upload_that_is_over_is_withdrawn(stage: Stage, janitor: Janitor) -> None:
    made = published(stage, 1, ImageFormat.QCOW2)
    over = ready_upload(stage, made)
    stage.store.cancel_upload(UploadCancellation(upload=over.name, image="img", by="ann@here", time=NOW))
    work(janitor)
    assert stage.store.snapshot().image("img").upload_cancellations == ()
    assert stage.uploads() == (over,)


@pytest.mark.parametrize("phase", ["hold", "hook", "verify"])
def test_what_was_whole_but_never_called_ready_is_not_trusted_after_a_crash(
    stage: Stage, janitor: Janitor, phase: str
) -> None:
    half = upload(published(stage, 1, ImageFormat.QCOW2), UploadState.UPLOADING, phase=phase)
    image = in_cloud(stage, half)
    stage.store.put(replace(half, external_id=image.id, external_name=image.name))
    work(janitor)
    (record,) = stage.uploads()
    assert record.state is UploadState.FAILED and stage.clouds["one"].images == {}


def test_a_daemon_that_is_about_to_stop_ends_the_deletion_it_is_at_and_begins_no_other(
    stage: Stage, janitor: Janitor
) -> None:
    for number in (1, 2):
        made = build(number)
        stage.store.put(made)
        record = upload(made, UploadState.DELETING)
        stage.store.put(replace(record, external_id=in_cloud(stage, record).id))
    gate = stage.clouds["one"].hold("delete")
    janitor.step()
    stage.until(lambda: stage.clouds["one"].count("delete") == 1)
    stage.world.draining.set()
    gate.set()
    janitor.drain()
    assert len(stage.clouds["one"].images) == 1
    assert len(stage.uploads()) == 1

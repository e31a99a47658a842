"""Uploads in three parts on fakes: kernel, ramdisk and root are there together or not at all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.cloudimage import CloudImage, GlanceStatus
from builder.config.model import ProviderImage, Sharing
from builder.errors import CloudUnavailableError
from builder.model import (
    Build,
    BuildState,
    Deletion,
    FailureClass,
    ImageFormat,
    Upload,
    UploadPhase,
    UploadState,
)
from builder.workers.base import Worker
from builder.workers.janitor import Janitor
from builder.workers.leaks import LeakSweeper
from builder.workers.promoter import Promoter
from builder.workers.uploader import Uploader
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore
from tests.unit.worker_world import Stage

DOWN = CloudUnavailableError("the connection broke", failure_class=FailureClass.NETWORK)


class Killed(BaseException):
    """The process is gone: nobody catches it."""


class MortalCloud(FakeCloud):
    """The process that asks it dies before its n-th request is served, or before it gets the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.moments, self.fatal = 0, 0
        self.dead = threading.Event()
        self.counted: Counter[str] = Counter()
        #: By method and how often it was called by then: what happens before that call.
        self.accidents: dict[tuple[str, int], Callable[[], object]] = {}

    def _begin(self, method: str, what: str) -> None:
        self._pass()
        self.counted[method] += 1
        self.accidents.get((method, self.counted[method]), lambda: None)()
        super()._begin(method, what)

    def _end(self, method: str) -> None:
        super()._end(method)
        self._pass()

    def _pass(self) -> None:
        self.moments += 1
        if self.moments == self.fatal:
            self.dead.set()
        if self.dead.is_set():
            raise Killed

    def doom(self, moment: int) -> None:
        """Let it be that moment from now on, counted from one."""
        self.moments, self.fatal = 0, moment

    def revive(self) -> None:
        """The next process asks."""
        self.fatal = 0
        self.dead.clear()


class MortalStore(FakeStore):
    """Nothing is written by a process that is dead."""

    dead: threading.Event | None = None

    def update_upload(self, upload: Upload) -> Upload:
        if self.dead is not None and self.dead.is_set():
            raise Killed
        return super().update_upload(upload)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return stage_of(tmp_path)


def stage_of(root: Path) -> Stage:
    """One provider, which takes images in three parts, and a build that has them."""
    cloud, store = MortalCloud(), MortalStore()
    store.dead = cloud.dead
    stage = Stage(root, store=store, clouds={"one": cloud})
    stage.image("img", formats=(ImageFormat.AMI,))
    published(stage, 90)
    return stage


def published(stage: Stage, number: int) -> Build:
    """A build of the image in three parts."""
    return stage.published(number, image_format=ImageFormat.AMI)


def the_cloud(stage: Stage) -> MortalCloud:
    cloud = stage.clouds["one"]
    assert isinstance(cloud, MortalCloud)
    return cloud


def uploaded(stage: Stage) -> Upload:
    """The newest build is brought there; its record."""
    Uploader(stage.world, "uploader").drain()
    return stage.uploads()[0]


def images(stage: Stage) -> dict[str, CloudImage]:
    """What is in the cloud, by format."""
    return {image.disk_format or "": image for image in the_cloud(stage).images.values()}


def until_quiet(stage: Stage, *workers: Worker) -> None:
    """They work until nobody has anything to do."""
    for _ in range(20):
        before = stage.store.tree.clock
        for worker in workers:
            while worker.step().did:
                pass
            worker.drain()
        stage.now += timedelta(minutes=10)
        if stage.store.tree.clock == before:
            return
    raise AssertionError("they never come to rest")


def check_whole(stage: Stage, count: int = 1) -> None:
    """Of each ready upload there are three active images that refer to each other; nothing else is there."""
    ready = [u for u in stage.uploads() if u.state is UploadState.READY]
    there = the_cloud(stage).images
    assert len(ready) == count
    assert sorted(i for u in ready for i in u.external_ids) == sorted(there)
    for each in ready:
        root = there[each.external_id or ""]
        assert each.format == root.disk_format == ImageFormat.AMI
        assert [there[each.parts[part]].disk_format for part in ("aki", "ari")] == ["aki", "ari"]
        assert root.properties["kernel_id"] == each.parts["aki"]
        assert root.properties["ramdisk_id"] == each.parts["ari"]
    assert {image.status for image in there.values()} <= {GlanceStatus.ACTIVE}


def wish_away(stage: Stage, of: Upload) -> None:
    """Somebody wants an upload to go."""
    deletion = Deletion(by="ann", time=stage.now)
    stage.store.update_upload(current(stage, of).become(UploadState.DELETING, stage.now, deletion=deletion))


def current(stage: Stage, of: Upload) -> Upload:
    return stage.store.get_upload(of.image, of.build_id, of.provider, of.id)


# -- coming --------------------------------------------------------------------------------------------


def test_an_upload_in_three_parts_is_three_images_of_which_the_last_names_the_others(stage: Stage) -> None:
    shared = Sharing(visibility="shared", members=("p1", "p2"), tags=("ci",), hidden=True)
    listed = ProviderImage(diskimage="img", metadata={"os_distro": "debian"}, sharing=shared)
    stage.provider(images={"img": listed})
    (build,) = stage.store.list_builds("img")

    record = uploaded(stage)

    assert record.state is UploadState.READY
    check_whole(stage)
    assert (record.size, record.sent) == (sum(a.size for a in build.artifacts),) * 2
    there, cloud = images(stage), the_cloud(stage)
    names = {each: image.name for each, image in there.items()}
    own = record.external_name
    assert names == {"ami": own, "aki": f"{own}-aki", "ari": f"{own}-ari"}
    for image in there.values():
        assert (image.visibility, image.hidden, cloud.members[image.id]) == ("shared", True, {"p1", "p2"})
        assert image.uploads_named == ((build.id, "one", record.id),) * 2
        artifact = build.artifact(image.disk_format or "")
        assert artifact is not None and image.hash_value == artifact.sha512
    # Only what can be booted is found by what people look for.
    assert {each: (i.tags, i.properties.get("os_distro")) for each, i in there.items()} == {
        "ami": (frozenset({"ci"}), "debian"),
        "aki": (frozenset(), None),
        "ari": (frozenset(), None),
    }
    made = [name for method, name in cloud.calls if method == "create"]
    assert made == [names["aki"], names["ari"], names["ami"]]


def test_while_the_build_goes_on_it_begins_when_all_three_files_are_there(stage: Stage) -> None:
    (build,) = stage.store.list_builds("img")
    stage.store.put(replace(build, state=BuildState.BUILDING, artifacts=build.artifacts[:2], formats=()))
    uploader = Uploader(stage.world, "uploader")
    with stage.store.another_daemon().claim_image("img") or pytest.fail("it is free"):
        uploader.step()
        assert stage.uploads() == ()
        known = stage.store.get_build("img", build.id)
        known = stage.store.update_build(replace(known, artifacts=build.artifacts))
        uploader.step()
        stage.until(lambda: stage.phase() == UploadPhase.HOLD)
        assert len(stage.uploads()[0].external_ids) == 3
        stage.store.update_build(known.become(BuildState.READY, stage.now, formats=build.formats))
    uploader.drain()
    check_whole(stage)


@pytest.mark.parametrize("method", ["create", "send", "get"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_whichever_of_the_three_fails_the_others_go_and_the_next_try_is_whole(
    stage: Stage, method: str, number: int
) -> None:
    cloud = the_cloud(stage)
    # A request that is asked again until it is answered has to fail for good.
    times = None if method == "get" else 1
    cloud.accidents[method, number] = lambda: cloud.fail(method, DOWN, times=times)
    stage.config = replace(stage.config, stall_timeout=timedelta(seconds=0.2))

    record = uploaded(stage)

    assert record.state is UploadState.FAILED
    cloud.accidents.clear()
    cloud.heal()
    cloud.after_send = {}
    stage.config = replace(stage.config, stall_timeout=timedelta(minutes=5))
    stage.now += timedelta(hours=3)
    until_quiet(stage, Janitor(stage.world, "janitor"), Uploader(stage.world, "uploader"))
    check_whole(stage)


def test_a_kernel_that_is_lost_meanwhile_makes_the_upload_fail(stage: Stage) -> None:
    cloud = the_cloud(stage)
    cloud.accidents["create", 3] = lambda: cloud.images.pop(images(stage)["aki"].id)

    record = uploaded(stage)

    assert record.state is UploadState.FAILED and record.reason is not None
    assert "its aki, image" in record.reason.message and "gone by now" in record.reason.message
    assert (cloud.images, record.external_ids) == ({}, ())


def test_a_kernel_that_is_lost_while_the_hook_runs_makes_the_upload_fail(
    stage: Stage, tmp_path: Path
) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    stage.provider(post_upload_hook=hook)
    cloud = the_cloud(stage)
    cloud.accidents["get", 6] = lambda: cloud.images.pop(images(stage)["aki"].id)

    record = uploaded(stage)

    assert record.state is UploadState.FAILED and record.reason is not None
    assert "by the end it is gone" in record.reason.message
    assert (cloud.images, record.external_ids) == ({}, ())


def test_a_kernel_deleted_while_the_session_was_lost_makes_the_last_word_a_failure(stage: Stage) -> None:
    store, cloud = stage.store, the_cloud(stage)

    def accident() -> None:
        store.lose_session()
        cloud.images.pop(images(stage)["aki"].id)

    # After the last look at the kernel, before the last word.
    cloud.accidents["get", 5] = accident
    uploader = Uploader(stage.world, "uploader")
    uploader.drain()
    (failed,) = [u for u in stage.uploads() if u.state is UploadState.FAILED]
    assert failed.reason is not None and "the session with ZooKeeper was lost" in failed.reason.message
    assert failed.may_linger and len(failed.external_ids) == 3
    until_quiet(stage, Janitor(stage.world, "janitor"), uploader)
    check_whole(stage)


def test_an_image_whose_record_was_lost_is_adopted_and_gets_a_kernel_of_its_own(stage: Stage) -> None:
    lost = uploaded(stage)
    stage.store.delete_upload(current(stage, replace(lost, state=UploadState.READY)))
    assert stage.uploads() == ()

    record = uploaded(stage)

    assert (record.state, record.way, record.external_id) == (UploadState.READY, "adopt", lost.external_id)
    assert set(record.parts.values()).isdisjoint(lost.parts.values())
    root = the_cloud(stage).images[record.external_id or ""]
    assert root.parts_named == set(record.parts.values())
    # Whatever else may boot with the old ones still can.
    assert set(lost.parts.values()) < the_cloud(stage).images.keys()


# -- a crash at every step ------------------------------------------------------------------------------


def moments_of(stage: Stage, worker: Worker) -> int:
    """How many moments the cloud counts when nothing happens."""
    the_cloud(stage).doom(0)
    worker.step()
    worker.drain()
    return the_cloud(stage).moments


def die(stage: Stage, worker: Worker, moment: int) -> Stage:
    """The daemon is killed in that moment of its talk with the cloud; the next one."""
    the_cloud(stage).doom(moment)
    try:
        worker.step()
        worker.drain()
    except Killed:
        pass
    the_cloud(stage).revive()
    later = stage.next_life()
    later.now += timedelta(minutes=10)  # what a cloud may still be making has come to its end
    return later


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_killed_at_any_moment_of_an_upload_the_next_life_has_one_whole_image(tmp_path: Path) -> None:
    first = stage_of(tmp_path / "whole")
    count = moments_of(first, Uploader(first.world, "uploader"))
    assert count > 30
    for moment in range(1, count + 1):
        stage = stage_of(tmp_path / str(moment))
        later = die(stage, Uploader(stage.world, "uploader"), moment)
        assert UploadState.READY not in {u.state for u in later.uploads()} or moment == count
        until_quiet(later, Janitor(later.world, "janitor"), Uploader(later.world, "uploader"))
        check_whole(later)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("by_nodepool", [False, True], ids=["by us", "by nodepool's command"])
def test_killed_at_any_moment_of_a_deletion_the_next_life_has_nothing_left_of_it(
    tmp_path: Path, by_nodepool: bool
) -> None:
    def going(root: Path) -> Stage:
        stage = stage_of(root)
        record = uploaded(stage)
        wish_away(stage, record)
        if by_nodepool:
            # Its commands write back what they know, and a kernel is not among that.
            stage.store.update_upload(replace(current(stage, record), parts={}, deletion=None))
        return stage

    first = going(tmp_path / "whole")
    count = moments_of(first, Janitor(first.world, "janitor"))
    assert count > 8
    for moment in range(1, count + 1):
        stage = going(tmp_path / str(moment))
        later = die(stage, Janitor(stage.world, "janitor"), moment)
        # Whoever boots from the image has its kernel for as long as there is the image.
        there = images(later)
        assert "ami" not in there or {"aki", "ari"} <= there.keys()
        until_quiet(later, Janitor(later.world, "janitor"))
        assert (later.uploads(), the_cloud(later).images) == ((), {})


# -- going ----------------------------------------------------------------------------------------------


def test_the_root_goes_first_and_what_is_in_use_keeps_its_kernel_hidden(stage: Stage) -> None:
    cloud, record = the_cloud(stage), uploaded(stage)
    cloud.in_use.add(record.external_id or "")
    wish_away(stage, record)
    janitor = Janitor(stage.world, "janitor")

    janitor.step()
    janitor.drain()

    assert {(image.hidden, image.status) for image in cloud.images.values()} == {(True, GlanceStatus.ACTIVE)}
    assert len(cloud.images) == 3
    cloud.in_use.clear()
    stage.now += timedelta(days=1)
    until_quiet(stage, janitor)
    assert cloud.images == {}
    gone = [image_id for method, image_id in cloud.calls if method == "delete"]
    assert gone[-3] == record.external_id and set(gone[-2:]) == set(record.parts.values())


def test_a_kernel_that_a_snapshot_boots_with_stays_as_long_as_that(stage: Stage) -> None:
    cloud, record = the_cloud(stage), uploaded(stage)
    root = cloud.images[record.external_id or ""]
    # Nova gives a snapshot the properties of what the server was booted from.
    marks = {**root.properties, "image_type": "snapshot", "base_image_ref": root.id}
    cloud.images["snap"] = replace(root, id="snap", name="my snapshot", properties=marks)
    wish_away(stage, record)
    janitor = Janitor(stage.world, "janitor")

    janitor.step()
    janitor.drain()

    assert cloud.images.keys() == {"snap", *record.parts.values()}
    said = current(stage, record).reason
    assert said is not None and "image snap (my snapshot) boots with it" in said.message
    del cloud.images["snap"]
    stage.now += timedelta(days=1)
    until_quiet(stage, janitor)
    assert (cloud.images, stage.uploads()) == ({}, ())


def test_a_part_that_is_not_provably_ours_stays_and_so_does_the_record(stage: Stage) -> None:
    cloud, record = the_cloud(stage), uploaded(stage)
    cloud.change(record.parts["aki"], properties={})
    wish_away(stage, record)
    janitor = Janitor(stage.world, "janitor")

    janitor.step()
    janitor.drain()

    assert record.parts["aki"] in cloud.images
    said = current(stage, record).reason
    assert said is not None and "not provably" in said.message


def test_a_file_goes_from_the_disk_with_its_parts(stage: Stage) -> None:
    stage.image("img", delete_after_upload=True)
    (build,) = stage.store.list_builds("img")
    proof = stage.config.images_dir / f"img-{build.id}.d"
    proof.mkdir()
    installation = stage.store.installation_id()
    (proof / "build.json").write_text(
        f'{{"installation_id": "{installation}", "image": "img", "build_id": "{build.id}"}}'
    )
    uploaded(stage)
    until_quiet(stage, Janitor(stage.world, "janitor"))
    assert stage.files() == {proof.name}
    assert stage.store.get_build("img", build.id).pruned == ("aki", "ami", "ari")


# -- being there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["aki", "ari", "ami"])
def test_an_image_of_which_a_part_was_deleted_by_others_is_made_anew(stage: Stage, lost: str) -> None:
    cloud, record = the_cloud(stage), uploaded(stage)
    sweeper = LeakSweeper(stage.world, "sweeper")
    del cloud.images[images(stage)[lost].id]
    stage.now += timedelta(hours=1)
    for _ in range(3):
        sweeper.step()
        sweeper.drain()
        stage.now += stage.config.leak_sweep
    assert current(stage, record).state is UploadState.DELETING
    until_quiet(stage, Janitor(stage.world, "janitor"), Uploader(stage.world, "uploader"))
    check_whole(stage)
    assert not set(record.external_ids) & cloud.images.keys()


def test_what_records_own_is_no_leak_and_what_is_lost_goes_from_the_root_on(stage: Stage) -> None:
    cloud, lost = the_cloud(stage), uploaded(stage)
    sweeper = LeakSweeper(stage.world, "sweeper")

    def sweep() -> set[str]:
        stage.now += stage.config.leak_sweep
        sweeper.step()
        sweeper.drain()
        return set(lost.external_ids) & cloud.images.keys()

    sweep()
    sweep()
    assert sweep() == set(lost.external_ids)
    # Its build and its record are removed while the newer one serves; the images stay behind.
    stage.now += timedelta(hours=1)
    published(stage, 99)
    uploaded(stage)
    stage.store.delete_upload(current(stage, lost))
    old = stage.store.get_build("img", lost.build_id)
    stage.store.update_build(old.become(BuildState.DELETING, stage.now))
    stage.store.delete_build(stage.store.get_build("img", lost.build_id))
    assert sweep() == set(lost.external_ids)  # they were seen for the first time
    assert sweep() == set(lost.parts.values())
    assert sweep() == set()
    check_whole(stage)


def test_only_the_root_gets_the_stable_name_and_tag(stage: Stage) -> None:
    stage.image("img", stable_name="img", stable_tag="newest")
    first = uploaded(stage)
    promoter = Promoter(stage.world, "promoter")
    until_quiet(stage, promoter)
    cloud = the_cloud(stage)

    def signed() -> dict[str, set[str]]:
        return {
            "name": {i.id for i in cloud.images.values() if i.name == "img"},
            "tag": {i.id for i in cloud.images.values() if "newest" in i.tags},
        }

    assert signed() == {"name": {first.external_id}, "tag": {first.external_id}}
    published(stage, 99)
    second = uploaded(stage)
    until_quiet(stage, promoter)
    assert signed() == {"name": {second.external_id}, "tag": {second.external_id}}
    check_whole(stage, count=2)

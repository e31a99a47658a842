"""The tasks way: bytes to Swift, an import task, and an image that has to be made ours afterwards."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.cloud import transfer
from builder.cloud.ownership import task_name
from builder.cloudimage import GlanceStatus
from builder.config.model import Sharing
from builder.errors import CloudError, CloudUnavailableError, RefusedError, StoreUnavailableError
from builder.model import FailureClass, Upload, UploadPhase
from builder.ways import Way
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import INSTALLATION, Attempt, Time, content, failed, provider, record

CONTENT = content(200_000)
UNAVAILABLE = CloudUnavailableError("no answer", failure_class=FailureClass.NETWORK)


@pytest.fixture
def cloud() -> FakeCloud:
    cloud = FakeCloud()
    cloud.tasks = True
    return cloud


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    sharing = Sharing(visibility="shared", tags=("ci",), members=("p1",))
    return Attempt(
        cloud, tmp_path / "noble.vhd", CONTENT, ways=(Way.TASKS,), provider=provider(sharing=sharing)
    )


def test_an_image_that_a_task_made_gets_all_that_ours_have(cloud: FakeCloud, upload: Attempt) -> None:
    image = upload.run()

    assert cloud.contents[image.id] == CONTENT
    assert upload.image.properties.items() <= image.properties.items()
    assert (image.visibility, image.tags) == ("shared", {"ci"})
    assert cloud.members == {image.id: {"p1"}}
    assert upload.tried == [(Way.TASKS, ())]
    assert upload.progress[-1] == len(CONTENT)
    assert upload.phases == [
        UploadPhase.PREFLIGHT,
        UploadPhase.SEND,
        UploadPhase.WAIT,
        UploadPhase.VERIFY,
    ]
    assert cloud.objects == {}


def test_the_task_is_told_before_its_image_and_the_image_before_it_has_properties(
    cloud: FakeCloud, upload: Attempt
) -> None:
    cloud.slow = True
    clock = Time()
    clock.then.append(lambda _: cloud.finish())
    told: list[Any] = []

    upload.run(
        on_task=lambda task: told.append((task, len(cloud.images))),
        on_created=lambda image: told.append((image.id, dict(image.properties))),
        **clock.knobs,
    )

    (image_id,) = cloud.images
    assert told == [(upload.tasks[0], 0), (image_id, {})]


def test_a_task_that_fails_says_why(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.import_error = "the VHD has a wrong footer"

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.CLOUD, "wait")
    assert f"the import task {upload.tasks[0]} failed: the VHD has a wrong footer" in failure.message
    assert cloud.objects == {}


def test_a_task_that_the_cloud_forgets_is_a_failure(cloud: FakeCloud, upload: Attempt) -> None:
    assert "has forgotten" in failed(upload, on_task=cloud.all_tasks.pop).message


def test_a_task_that_succeeds_without_an_image_is_a_failure(cloud: FakeCloud, upload: Attempt) -> None:
    def forget(task_id: str) -> None:
        cloud.images.clear()
        cloud.all_tasks[task_id] = replace(cloud.all_tasks[task_id], image_id=None)

    assert "succeeded, but names no image" in failed(upload, on_task=forget).message


def test_a_task_without_news_is_given_up(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    upload.timeout = 100_000.0

    with pytest.raises(transfer.TransferError) as caught:
        upload.run(**clock.knobs)

    # What it may still make is looked for later, by the task on record.
    assert caught.value.image_left
    assert "the import task" in caught.value.cause.message
    assert "is pending, and has said nothing else for 600 s" in caught.value.cause.message
    assert f"what task {upload.tasks[0]} makes may stay behind" in caught.value.cause.message
    assert cloud.objects == {}


def test_a_task_that_stops_in_time_leaves_nothing(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    clock.after(1055.0, cloud.finish)
    upload.timeout = 50.0

    failure = failed(upload, **clock.knobs)

    assert "not done after 50 s" in failure.message
    assert "stay behind" not in failure.message
    assert cloud.images == {}


def test_a_stop_while_the_task_goes_on_is_obeyed_soon(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    timer = threading.Timer(0.2, upload.cancelled.set)

    with pytest.raises(transfer.TransferError) as caught:
        upload.run(on_task=lambda _: timer.start())

    assert caught.value.cause.failure_class is FailureClass.CANCELLED
    assert caught.value.image_left
    assert cloud.objects == {}


def test_a_task_that_can_not_be_put_on_record_leaves_nothing(cloud: FakeCloud, upload: Attempt) -> None:
    def refuse(_: str) -> None:
        raise StoreUnavailableError("ZooKeeper is gone")

    with pytest.raises(StoreUnavailableError):
        upload.run(on_task=refuse)

    assert cloud.images == {}
    assert cloud.objects == {}


def test_a_start_without_an_answer_has_no_object_to_import(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    cloud.fail("start_import_task", UNAVAILABLE, after=True)

    with pytest.raises(transfer.TransferError, match="the import was not answered") as caught:
        upload.run()
    cloud.finish()

    assert caught.value.image_left
    assert cloud.images == {}


def test_what_a_start_without_an_answer_made_is_found_later(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("start_import_task", UNAVAILABLE, after=True)

    with pytest.raises(transfer.TransferError) as caught:
        upload.run()
    assert caught.value.image_left and len(cloud.images) == 1

    assert "is deleted" in remove(cloud, replace(upload.order.upload, way=Way.TASKS))
    assert cloud.images == {}


@pytest.mark.parametrize("status", [GlanceStatus.KILLED, GlanceStatus.DEACTIVATED])
def test_what_a_task_made_is_verified_like_any_other(
    cloud: FakeCloud, upload: Attempt, status: GlanceStatus
) -> None:
    cloud.after_send = {"status": status}
    assert f"the image is {status}" in failed(upload).message

    cloud.after_send = {"hash_value": "0" * 128}
    assert upload.artifact.sha512 in failed(upload).message
    assert cloud.images == {}


def test_properties_that_can_not_be_set_fail_it(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("update", CloudError("400: too many properties", failure_class=FailureClass.CLOUD))

    failure = failed(upload)

    assert (failure.phase, failure.message) == ("wait", "400: too many properties")
    assert cloud.images == {}
    assert cloud.objects == {}


def test_swift_that_fails_leads_to_the_next_way(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("put_object", UNAVAILABLE)
    upload.ways = (Way.TASKS, Way.PUT)

    image = upload.run()

    assert cloud.contents == {image.id: CONTENT}
    assert upload.tried[1] == (Way.PUT, ("tasks: no answer; 0 of 200000 bytes were sent",))
    assert cloud.objects == {}


def test_an_object_that_stays_for_a_day_does_not_spoil_a_good_image(
    cloud: FakeCloud, upload: Attempt
) -> None:
    cloud.fail("delete_object", UNAVAILABLE)

    assert upload.run().status is GlanceStatus.ACTIVE


# -- removal of what a dead daemon left ------------------------------------------------------------


def broken_off(cloud: FakeCloud, upload: Attempt, **changes: Any) -> Upload:
    """The record of an upload whose daemon died when the task was on record."""
    order = upload.order
    name = task_name(order.upload, INSTALLATION)
    cloud.objects[name] = CONTENT
    task = cloud.start_import_task(name, name)
    return replace(order.upload, way=Way.TASKS, task=task.id, **changes)


def remove(cloud: FakeCloud, upload: Upload) -> str:
    return transfer.remove(cloud, upload, installation_id=INSTALLATION)


@pytest.mark.parametrize("known", [True, False], ids=["the task is on record", "its id never came"])
def test_what_the_task_made_is_found_by_its_name(cloud: FakeCloud, upload: Attempt, known: bool) -> None:
    left = broken_off(cloud, upload)
    ((image_id, image),) = cloud.images.items()
    if not known:
        left = replace(left, task=None)

    assert f"image {image_id} ({image.name}) is deleted" in remove(cloud, left)
    assert cloud.images == {}
    assert cloud.objects == {}
    assert "it had no image" not in remove(cloud, left)


def test_an_image_on_record_without_properties_is_proven_by_the_task(
    cloud: FakeCloud, upload: Attempt
) -> None:
    left = broken_off(cloud, upload)
    (image_id,) = cloud.images

    assert "is deleted" in remove(cloud, replace(left, external_id=image_id))
    assert cloud.images == {}


def test_a_task_that_goes_on_has_to_end_first(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    left = broken_off(cloud, upload)

    with pytest.raises(CloudError, match="is still pending"):
        remove(cloud, left)

    cloud.finish()
    assert "is deleted" in remove(cloud, left)
    assert cloud.images == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "somebody's"},
        {"properties": {"instance_uuid": "1"}},
        {"properties": {"imagepool_installation": "2" * 32}},
        {"properties": {"nodepool_build_id": "0000000001"}},
    ],
)
def test_what_is_not_provably_of_the_task_is_never_deleted(
    cloud: FakeCloud, upload: Attempt, changes: dict[str, Any]
) -> None:
    left = broken_off(cloud, upload)
    (image_id,) = cloud.images
    cloud.change(image_id, **changes)

    assert "is deleted" not in remove(cloud, left).removesuffix("its object is deleted")
    assert list(cloud.images) == [image_id]
    with pytest.raises(RefusedError):
        remove(cloud, replace(left, external_id=image_id))
    assert list(cloud.images) == [image_id]


def test_what_another_upload_s_task_made_is_never_deleted(cloud: FakeCloud, upload: Attempt) -> None:
    broken_off(cloud, upload)
    other = replace(upload.order.upload, id="0000000009", way=Way.TASKS)

    remove(cloud, other)

    assert len(cloud.images) == 1


@pytest.mark.parametrize("broken_off", [False, True])
def test_somebody_s_image_that_a_task_names_in_error_is_neither_changed_nor_deleted(
    cloud: FakeCloud, upload: Attempt, broken_off: bool
) -> None:
    theirs = cloud.create(replace(upload.order.image, name="somebody's", properties={}))
    cloud.change(theirs.id, status=GlanceStatus.ACTIVE)
    before = cloud.images[theirs.id]

    def mislead(task_id: str) -> None:
        cloud.all_tasks[task_id] = replace(cloud.all_tasks[task_id], image_id=theirs.id)
        if broken_off:
            raise StoreUnavailableError("ZooKeeper is gone")

    if broken_off:
        with pytest.raises(StoreUnavailableError):
            upload.run(on_task=mislead)
    else:
        assert "its name is" in failed(upload, on_task=mislead).message
    assert cloud.images[theirs.id] == before


def test_where_there_is_no_swift_none_is_asked(cloud: FakeCloud) -> None:
    remove(cloud, record())

    assert cloud.count("delete_object") == 0

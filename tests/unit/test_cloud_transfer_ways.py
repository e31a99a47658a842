"""The ways into a cloud: each of them, and how one that fails gives way to the next."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import TaskState
from builder.cloudimage import GlanceStatus
from builder.errors import CloudError, CloudUnavailableError
from builder.model import Failure, FailureClass, UploadPhase
from builder.ways import Choice, Way
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import URL, Attempt, Time, content, failed

CONTENT = content(200_000)
REFUSED = CloudError("not today", failure_class=FailureClass.CLOUD)


@pytest.fixture
def cloud() -> FakeCloud:
    cloud = FakeCloud()
    cloud.import_methods |= {Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD}
    cloud.web[URL] = CONTENT
    return cloud


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT)


def by(upload: Attempt, *ways: Way) -> Attempt:
    upload.ways = ways
    return upload


# -- glance-direct -------------------------------------------------------------------------------


def test_staged_bytes_are_imported(cloud: FakeCloud, upload: Attempt) -> None:
    image = by(upload, Way.GLANCE_DIRECT).run()

    assert cloud.contents[image.id] == CONTENT
    assert upload.tried == [(Way.GLANCE_DIRECT, ())]
    assert upload.progress[-1] == len(CONTENT)
    assert upload.phases == [
        UploadPhase.PREFLIGHT,
        UploadPhase.CREATE,
        UploadPhase.SEND,
        UploadPhase.WAIT,
        UploadPhase.VERIFY,
    ]


def test_an_import_is_waited_for(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    clock.after(1030.0, cloud.finish)

    assert by(upload, Way.GLANCE_DIRECT).run(**clock.knobs).status is GlanceStatus.ACTIVE
    assert clock.now > 1030.0


def test_an_import_whose_task_fails_says_why(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.import_error = "Staging area: no such file"

    failure = failed(by(upload, Way.GLANCE_DIRECT))

    assert (failure.failure_class, failure.phase) == (FailureClass.CLOUD, "wait")
    assert "failed: Staging area: no such file" in failure.message
    assert cloud.images == {}


def test_a_task_that_fails_ends_an_image_that_says_importing(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()

    def fail_the_task(_: float) -> None:
        for task in cloud.all_tasks.values():
            cloud.all_tasks[task.id] = replace(task, state=TaskState.FAILURE, message="disk full")

    clock.then.append(fail_the_task)

    failure = failed(by(upload, Way.GLANCE_DIRECT), **clock.knobs)

    assert "which is importing: task" in failure.message
    assert "failed: disk full" in failure.message
    assert clock.now < 1005.0


def test_an_import_that_fails_in_a_store_names_it(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    clock.then.append(lambda _: change(cloud, os_glance_failed_import="ceph-2"))

    failure = failed(by(upload, Way.GLANCE_DIRECT), **clock.knobs)

    assert "it failed in ceph-2" in failure.message
    assert cloud.images == {}


def test_importing_for_ever_is_a_failure(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    clock.then.append(lambda _: change(cloud, os_glance_importing_to_stores="ceph-1,ceph-2"))
    upload.timeout = 100_000.0

    failure = failed(by(upload, Way.GLANCE_DIRECT), **clock.knobs)

    assert (failure.failure_class, failure.phase) == (FailureClass.TIMEOUT, "wait")
    assert "the image is importing, importing to ceph-1,ceph-2, and has said nothing else" in failure.message
    assert 1600.0 <= clock.now < 1700.0
    assert cloud.images == {}


def test_an_import_with_news_may_take_its_time(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    clock.then.append(lambda now: change(cloud, os_glance_importing_to_stores=f"ceph-{int(now // 300)}"))
    clock.after(3000.0, cloud.finish)
    upload.timeout = 100_000.0

    assert by(upload, Way.GLANCE_DIRECT).run(**clock.knobs).status is GlanceStatus.ACTIVE


def test_an_import_that_is_given_up_without_a_word_fails(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()

    def give_up(_: float) -> None:
        cloud.image_tasks.clear()
        for image_id in cloud.images:
            cloud.change(image_id, status=GlanceStatus.QUEUED)

    clock.then.append(give_up)

    assert "gave the import up" in failed(by(upload, Way.GLANCE_DIRECT), **clock.knobs).message
    assert clock.now < 1010.0


def test_bytes_that_the_import_converts_are_sent_again_by_a_way_that_does_not(
    cloud: FakeCloud, upload: Attempt
) -> None:
    """Glance's image_conversion plugin works on imports alone."""
    converted = hashlib.sha512(b"converted").hexdigest()
    cloud.after_send = {"hash_value": converted, "disk_format": "raw"}

    def stop_converting(way: Way) -> None:
        if way is Way.PUT:
            cloud.after_send = {}

    image = by(upload, Way.GLANCE_DIRECT, Way.PUT).run(on_way=stop_converting)

    assert cloud.contents == {image.id: CONTENT}
    (_, (_, (why,))) = upload.tried
    assert f"sha512 {converted}, not {upload.artifact.sha512}; disk format 'raw', not 'qcow2'" in why


# -- web-download --------------------------------------------------------------------------------


def test_glance_fetches_the_file_itself(cloud: FakeCloud, upload: Attempt) -> None:
    image = by(upload, Way.WEB_DOWNLOAD).run()

    assert cloud.contents[image.id] == CONTENT
    assert upload.progress == []
    assert UploadPhase.SEND not in upload.phases


def test_what_was_fetched_is_verified(cloud: FakeCloud, upload: Attempt) -> None:
    """Glance takes no expected hash: whatever the URL gave it became active."""
    cloud.web[URL] = content(199_999) + b"!"

    failure = failed(by(upload, Way.WEB_DOWNLOAD))

    assert (failure.failure_class, failure.phase) == (FailureClass.CLOUD, "verify")
    assert upload.artifact.sha512 in failure.message
    assert cloud.images == {}


def test_a_url_that_glance_can_not_fetch_leads_to_a_put(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.import_error = "no route to host"

    by(upload, Way.WEB_DOWNLOAD, Way.PUT).run()

    (_, (way, (why,))) = upload.tried
    assert way is Way.PUT
    assert why.startswith("web-download: the cloud could not import")
    assert "no route to host" in why


def test_without_a_url_the_next_way_is_gone(cloud: FakeCloud, upload: Attempt) -> None:
    upload.url = None

    by(upload, Way.WEB_DOWNLOAD, Way.PUT).run()

    ((way, (why,)),) = upload.tried
    assert (way, why) == (
        Way.PUT,
        "web-download: there is no URL from which this cloud could fetch it",
    )
    assert cloud.count("create") == 1


# -- from one way to the next --------------------------------------------------------------------


def test_a_failing_way_gives_way_to_the_next_with_a_fresh_image(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("stage", REFUSED)

    image = by(upload, Way.GLANCE_DIRECT, Way.PUT).run()

    assert upload.tried == [
        (Way.GLANCE_DIRECT, ()),
        (Way.PUT, ("glance-direct: not today; 0 of 200000 bytes were sent",)),
    ]
    assert [made.id for made in upload.created][1] == image.id
    assert len(upload.created) == 2
    assert list(cloud.images) == [image.id]


def test_the_failed_image_is_gone_before_the_next_way_begins(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("stage", REFUSED)
    there: list[int] = []

    by(upload, Way.GLANCE_DIRECT, Way.PUT).run(on_way=lambda _: there.append(len(cloud.images)))

    assert there == [0, 0]


def test_the_bytes_of_the_next_way_are_counted_anew(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.import_error = "broken"

    cloud.fail("send", REFUSED)

    failure = failed(by(upload, Way.GLANCE_DIRECT, Way.PUT))

    assert upload.progress[-1] == len(CONTENT)
    assert failure.message == "not today; 0 of 200000 bytes were sent"


def test_an_image_that_can_not_be_deleted_ends_the_upload(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("stage", REFUSED)
    cloud.fail("delete", REFUSED, times=None)

    with pytest.raises(transfer.TransferError, match="stays behind") as caught:
        by(upload, Way.GLANCE_DIRECT, Way.PUT).run(**Time().knobs)

    assert caught.value.image_left
    assert [way for way, _ in upload.tried] == [Way.GLANCE_DIRECT]


def test_when_the_last_way_fails_its_reason_counts_and_the_others_are_kept(
    cloud: FakeCloud, upload: Attempt
) -> None:
    cloud.fail("stage", REFUSED)
    cloud.break_after = 100_000

    failure = failed(by(upload, Way.GLANCE_DIRECT, Way.PUT))

    assert failure.failure_class is FailureClass.NETWORK
    assert failure.lines == ("glance-direct: not today; 0 of 200000 bytes were sent",)
    assert cloud.images == {}


@pytest.mark.parametrize("failure_class", [FailureClass.AUTH, FailureClass.QUOTA, FailureClass.CONFIG])
def test_what_another_way_can_not_mend_ends_the_upload(
    cloud: FakeCloud, upload: Attempt, failure_class: FailureClass
) -> None:
    cloud.fail("stage", CloudError("no", failure_class=failure_class))

    assert failed(by(upload, Way.GLANCE_DIRECT, Way.PUT)).failure_class is failure_class
    assert cloud.count("send") == 0
    assert cloud.images == {}


def test_a_cloud_that_makes_no_image_makes_none_by_another_way(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("create", CloudUnavailableError("503", failure_class=FailureClass.CLOUD))

    assert failed(by(upload, Way.GLANCE_DIRECT, Way.PUT)).phase == "create"
    assert cloud.count("create") == 1


def test_a_stop_is_no_reason_for_another_way(cloud: FakeCloud, upload: Attempt) -> None:
    # A class that another way could mend, if it were a way's failure.
    reason = Failure(failure_class=FailureClass.CLOUD, message="stop it")
    upload.stop = lambda: reason if UploadPhase.SEND in upload.phases else None  # type: ignore[method-assign]

    assert failed(by(upload, Way.GLANCE_DIRECT, Way.PUT)).message == "stop it"
    assert [way for way, _ in upload.tried] == [Way.GLANCE_DIRECT]


def test_the_deadline_is_for_all_ways_together(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.slow = True
    clock = Time()
    upload.timeout = 50.0

    failure = failed(by(upload, Way.GLANCE_DIRECT, Way.PUT), **clock.knobs)

    assert "not done after 50 s" in failure.message
    assert cloud.count("send") == 0


def test_a_way_that_stalls_gives_way_to_the_next(cloud: FakeCloud, upload: Attempt) -> None:
    gate = cloud.hold("stage")
    upload.stall_timeout = 0.3

    image = by(upload, Way.GLANCE_DIRECT, Way.PUT).run()

    gate.set()
    assert image.id in cloud.images
    assert "it stalled" in upload.tried[1][1][0]


def test_ways_that_are_not_usable_are_left_out(cloud: FakeCloud, upload: Attempt) -> None:
    choices = (
        Choice(way=Way.GLANCE_DIRECT, usable=False, reason="not enabled"),
        Choice(way=Way.PUT, usable=True, reason="always there"),
    )
    upload.run(order=replace(upload.order, choices=choices))
    assert upload.tried == [(Way.PUT, ())]

    with pytest.raises(transfer.TransferError, match="no way into this cloud: glance-direct: not enabled"):
        upload.run(order=replace(upload.order, choices=choices[:1]))


def change(cloud: FakeCloud, **properties: str) -> None:
    for image in list(cloud.images.values()):
        cloud.change(image.id, properties={**image.properties, **properties})

"""An upload's own state machine, on a cloud in memory: phases, time, verification, what is left."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import CloudImage, GlanceStatus
from builder.errors import (
    ActionFailedError,
    CloudError,
    CloudUnavailableError,
    RefusedError,
    StoreUnavailableError,
)
from builder.model import Failure, FailureClass, UploadPhase
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import BUILD, INSTALLATION, Attempt, content, provider, record

CONTENT = content(200_000)
UNAVAILABLE = CloudUnavailableError("the cloud sleeps", failure_class=FailureClass.CLOUD)


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT)


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def failed(upload: Attempt, **changes: object) -> Failure:
    """Why the upload fails."""
    with pytest.raises(ActionFailedError) as caught:
        upload.run(**changes)
    assert caught.value.failure is not None
    return caught.value.failure


def test_a_good_upload_reports_every_step(cloud: FakeCloud, upload: Attempt) -> None:
    image = upload.run()

    assert cloud.images[image.id] == image
    assert image.status is GlanceStatus.ACTIVE
    assert upload.phases == [
        UploadPhase.CREATE,
        UploadPhase.SEND,
        UploadPhase.WAIT,
        UploadPhase.VERIFY,
    ]
    assert upload.progress[-1] == len(CONTENT)
    assert cloud.contents[image.id] == CONTENT


def test_the_image_is_told_before_its_first_byte(cloud: FakeCloud, upload: Attempt) -> None:
    told: list[tuple[str, int]] = []

    image = upload.run(on_created=lambda made: told.append((made.id, cloud.count("send"))))

    assert told == [(image.id, 0)]


def test_an_image_that_can_not_be_put_on_record_is_deleted(cloud: FakeCloud, upload: Attempt) -> None:
    def refuse(_: CloudImage) -> None:
        raise StoreUnavailableError("ZooKeeper is gone")

    with pytest.raises(StoreUnavailableError):
        upload.run(on_created=refuse)

    assert cloud.images == {}
    assert cloud.count("send") == 0


def test_a_missing_file_fails_before_anything_is_created(cloud: FakeCloud, upload: Attempt) -> None:
    upload.path.unlink()

    failure = failed(upload)

    assert str(upload.path) in failure.message
    assert cloud.calls == []


def test_a_file_of_another_size_fails_before_anything_is_created(cloud: FakeCloud, upload: Attempt) -> None:
    upload.path.write_bytes(CONTENT[:-1])

    failure = failed(upload)

    assert "199999 bytes, 200000 are on record" in failure.message
    assert cloud.calls == []


def test_a_file_that_shrinks_while_it_is_sent_fails(cloud: FakeCloud, upload: Attempt) -> None:
    failure = failed(upload, on_created=lambda _: upload.path.write_bytes(CONTENT[:1000]))

    assert failure.phase == "send"
    assert "ended after 1000 bytes, 200000 are on record" in failure.message
    assert cloud.images == {}


def test_a_file_with_other_bytes_of_the_same_size_fails(cloud: FakeCloud, upload: Attempt) -> None:
    upload.path.write_bytes(CONTENT[::-1])

    failure = failed(upload)

    assert failure.phase == "verify"
    assert upload.artifact.sha512 in failure.message
    assert hashlib.sha512(CONTENT[::-1]).hexdigest() in failure.message
    assert cloud.images == {}


def test_a_file_that_grows_is_sent_as_it_was(cloud: FakeCloud, upload: Attempt) -> None:
    image = upload.run(on_created=lambda _: upload.path.write_bytes(CONTENT + b"more"))

    assert cloud.contents[image.id] == CONTENT


def test_waiting_backs_off_and_ends_with_the_deadline(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.IMPORTING}
    time = Time()

    failure = failed(upload, clock=time.clock, wait=time.wait, timeout=100.0)

    assert (failure.failure_class, failure.phase) == (FailureClass.TIMEOUT, "wait")
    assert "not done after 100 s" in failure.message
    assert time.waits[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0]
    assert sum(time.waits) == pytest.approx(100.0)
    assert cloud.images == {}


def test_an_image_that_turns_active_late_is_ready(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.SAVING}
    time = Time()

    def wait(seconds: float) -> None:
        time.wait(seconds)
        if time.now > 1060.0:
            cloud.change(next(iter(cloud.images)), status=GlanceStatus.ACTIVE)

    assert upload.run(clock=time.clock, wait=wait, timeout=100.0).status is GlanceStatus.ACTIVE


def test_a_replica_that_lags_is_given_a_moment(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.QUEUED}
    time = Time()

    def wait(seconds: float) -> None:
        time.wait(seconds)
        cloud.change(next(iter(cloud.images)), status=GlanceStatus.ACTIVE)

    assert upload.run(clock=time.clock, wait=wait).status is GlanceStatus.ACTIVE


def test_an_image_that_stays_queued_was_not_stored(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.QUEUED, "size": None}
    time = Time()

    failure = failed(upload, clock=time.clock, wait=time.wait)

    assert "stored nothing" in failure.message
    assert time.now < 1030.0
    assert cloud.images == {}


def test_a_cloud_that_stays_away_while_we_wait_fails_by_the_stall_timeout(
    cloud: FakeCloud, upload: Attempt
) -> None:
    cloud.fail("get", UNAVAILABLE, times=None)
    time = Time()

    failure = failed(upload, clock=time.clock, wait=time.wait, stall_timeout=20.0, timeout=1000.0)

    assert (failure.failure_class, failure.message) == (FailureClass.CLOUD, "the cloud sleeps")
    assert 1020.0 <= time.now < 1050.0
    assert cloud.images == {}


def test_a_stop_before_the_start_sends_nothing(cloud: FakeCloud, upload: Attempt) -> None:
    upload.cancelled.set()

    failure = failed(upload)

    assert failure.failure_class is FailureClass.CANCELLED
    assert cloud.calls == []


def test_a_stop_while_sending_is_obeyed_at_once(cloud: FakeCloud, upload: Attempt) -> None:
    gate = cloud.hold("send")

    failure = failed(upload, on_phase=lambda p: upload.cancelled.set() if p == UploadPhase.SEND else None)

    gate.set()
    assert failure.failure_class is FailureClass.CANCELLED
    assert cloud.images == {}


@pytest.mark.parametrize("algorithm", ["sha1", "sha3_256", "blake2b", "sha256", "md5"])
def test_any_hash_that_glance_may_name_is_compared(cloud: FakeCloud, upload: Attempt, algorithm: str) -> None:
    value = hashlib.new(algorithm, CONTENT).hexdigest()
    cloud.after_send = {"hash_algorithm": algorithm, "hash_value": value.upper()}
    assert upload.run().hash_algorithm == algorithm

    cloud.after_send = {"hash_algorithm": algorithm, "hash_value": value[::-1]}
    failure = failed(upload)
    assert f"{algorithm} {value[::-1]}, not {value}" in failure.message


@pytest.mark.parametrize("algorithm", ["shake_128", "crc-of-the-day"])
def test_a_hash_that_can_not_be_computed_is_no_proof(
    cloud: FakeCloud, upload: Attempt, algorithm: str
) -> None:
    cloud.after_send = {"hash_algorithm": algorithm, "hash_value": "00"}

    assert "can't be verified" in failed(upload).message


def test_every_difference_is_told_at_once(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"size": 7, "visibility": "shared", "checksum": None, "hash_value": None}

    message = failed(upload).message

    for words in ("size 7, not 200000", "'shared', not 'private'", "no hash"):
        assert words in message


def test_a_delete_that_fails_once_is_tried_again(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.break_after = 1000
    cloud.fail("delete", UNAVAILABLE)
    time = Time()

    failure = failed(upload, clock=time.clock, wait=time.wait)

    assert cloud.images == {}
    assert "stays behind" not in failure.message


def test_a_delete_that_hangs_is_tried_once(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.break_after = 1000
    error = CloudUnavailableError("no answer", failure_class=FailureClass.TIMEOUT)
    cloud.fail("delete", error, times=None)

    failure = failed(upload)

    assert failure.failure_class is FailureClass.NETWORK
    assert f"image {upload.created[0].id} stays behind" in failure.message
    assert cloud.count("delete") == 1


def test_a_create_without_an_answer_leaves_nothing(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("create", UNAVAILABLE, after=True)

    failure = failed(upload)

    assert failure.phase == "create"
    assert cloud.images == {}


def test_a_refused_create_is_not_searched_for(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("create", CloudError("no room", failure_class=FailureClass.QUOTA))

    assert failed(upload).failure_class is FailureClass.QUOTA
    assert [name for name, _ in cloud.calls] == ["create"]


# -- what an image carries ---------------------------------------------------------------------


def test_an_image_carries_all_that_tells_whose_it_is(upload: Attempt) -> None:
    image = upload.image

    assert image.name == "noble-1795184040"
    assert (image.disk_format, image.size, image.min_disk) == ("qcow2", 200_000, 4)
    assert dict(image.properties) == {
        "os_distro": "ubuntu",
        "hw_disk_bus": "scsi",
        "imagepool_installation": INSTALLATION,
        "imagepool_image": "noble",
        "imagepool_build_id": BUILD,
        "imagepool_upload_id": "0000000001",
        "imagepool_provider": "north",
        "nodepool_build_id": BUILD,
        "nodepool_upload_id": "0000000001",
        "nodepool_provider_name": "north",
        "owner_specified.openstack.md5": upload.artifact.md5,
        "owner_specified.openstack.sha256": upload.artifact.sha256,
        "owner_specified.openstack.object": "images/noble-1795184040",
    }


# -- removal -----------------------------------------------------------------------------------


@pytest.fixture
def ready(upload: Attempt) -> CloudImage:
    """An image that was uploaded well."""
    return upload.run()


def remove(cloud: FakeCloud, **changes: object) -> str:
    return transfer.remove(cloud, record(**changes), installation_id=INSTALLATION)


def test_an_upload_is_removed_by_its_id(cloud: FakeCloud, ready: CloudImage) -> None:
    said = remove(cloud, external_id=ready.id)

    assert said == f"image {ready.id} (noble-1795184040) is deleted"
    assert cloud.images == {}


def test_removing_what_is_gone_is_no_error(cloud: FakeCloud) -> None:
    assert remove(cloud, external_id="gone-1") == "image gone-1 was gone already"
    assert remove(cloud) == "it had no image in the cloud"


def test_an_upload_without_an_id_is_found_by_its_properties(cloud: FakeCloud, ready: CloudImage) -> None:
    assert ready.id in remove(cloud)
    assert cloud.images == {}


@pytest.mark.parametrize(
    "name",
    [
        "imagepool_installation",
        "imagepool_image",
        "imagepool_build_id",
        "imagepool_upload_id",
        "imagepool_provider",
    ],
)
def test_an_image_of_somebody_else_is_never_deleted(cloud: FakeCloud, ready: CloudImage, name: str) -> None:
    cloud.change(ready.id, properties={**ready.properties, name: "another"})

    with pytest.raises(RefusedError, match=f"{name} is 'another'"):
        remove(cloud, external_id=ready.id)
    remove(cloud)

    assert list(cloud.images) == [ready.id]


def test_an_image_without_any_mark_is_never_deleted(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.change(ready.id, properties={})

    with pytest.raises(RefusedError, match="nodepool_build_id is None"):
        remove(cloud, external_id=ready.id)

    assert list(cloud.images) == [ready.id]


def test_a_snapshot_that_inherited_our_properties_is_never_deleted(
    cloud: FakeCloud, ready: CloudImage
) -> None:
    snapshot = replace(ready, id="s", name="my work", properties={**ready.properties, "instance_uuid": "1"})
    volume = replace(ready, id="v", name="my disk")
    cloud.images |= {"s": snapshot, "v": volume}

    said = remove(cloud)

    assert sorted(cloud.images) == ["s", "v"]
    assert "image s (my work) is left alone" in said
    assert "image v (my disk) is left alone" in said
    with pytest.raises(RefusedError, match="snapshot"):
        remove(cloud, external_id="s")


def test_what_nodepool_uploaded_is_removed_by_the_id_it_recorded(cloud: FakeCloud, ready: CloudImage) -> None:
    nodepools = {k: v for k, v in ready.properties.items() if k.startswith("nodepool_")}
    cloud.change(ready.id, properties=nodepools)

    assert remove(cloud) == "it had no image in the cloud"
    assert ready.id in remove(cloud, external_id=ready.id)
    assert cloud.images == {}


def test_a_renamed_image_is_ours_by_its_id_alone(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.change(ready.id, name="old-noble")

    assert "left alone" in remove(cloud)
    assert "is deleted" in remove(cloud, external_id=ready.id)


def test_trouble_while_removing_is_raised(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.in_use.add(ready.id)

    with pytest.raises(CloudError) as caught:
        remove(cloud, external_id=ready.id)

    assert caught.value.hint
    assert list(cloud.images) == [ready.id]


def test_a_name_format_may_use_nodepools_fields(upload: Attempt, tmp_path: Path) -> None:
    named = provider(image_name_format="ci-{image_name}-{upload_id}-{timestamp}")

    image = Attempt(upload.cloud, tmp_path / "x", CONTENT, provider=named).image

    assert image.name == "ci-noble-0000000001-1795184040"

"""An upload by PUT on a cloud in memory: phases, time, stops, and what is left of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.cloud.base import Body
from builder.cloudimage import CloudImage, GlanceStatus
from builder.errors import CloudError, CloudUnavailableError, StoreUnavailableError
from builder.model import FailureClass, UploadPhase
from tests.fakes.bodies import BytesBody
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import Attempt, Time, content, failed

CONTENT = content(200_000)
UNAVAILABLE = CloudUnavailableError("the cloud sleeps", failure_class=FailureClass.CLOUD)


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT)


def test_a_good_upload_reports_every_step(cloud: FakeCloud, upload: Attempt) -> None:
    image = upload.run()

    assert cloud.images[image.id] == image
    assert image.status is GlanceStatus.ACTIVE
    assert upload.phases == [
        UploadPhase.PREFLIGHT,
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


def test_an_image_of_the_same_name_is_no_hindrance(cloud: FakeCloud, upload: Attempt) -> None:
    first, second = upload.run(), upload.run()

    assert first.id != second.id
    assert first.name == second.name


def test_an_image_that_can_not_be_put_on_record_is_deleted(cloud: FakeCloud, upload: Attempt) -> None:
    def refuse(_: CloudImage) -> None:
        raise StoreUnavailableError("ZooKeeper is gone")

    with pytest.raises(StoreUnavailableError):
        upload.run(on_created=refuse)

    assert cloud.images == {}
    assert cloud.count("send") == 0


def test_a_cloud_that_is_quick_is_never_waited_for(upload: Attempt) -> None:
    image = upload.run(sleep=lambda _: pytest.fail("there is nothing to wait for"))

    assert image.status is GlanceStatus.ACTIVE


# -- the file ----------------------------------------------------------------------------------


def test_a_missing_file_fails_before_anything_is_created(cloud: FakeCloud, upload: Attempt) -> None:
    upload.path.unlink()

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.DISK, "preflight")
    assert str(upload.path) in failure.message
    assert cloud.calls == []


def test_a_file_of_another_size_fails_before_anything_is_created(cloud: FakeCloud, upload: Attempt) -> None:
    upload.path.write_bytes(CONTENT[:-1])

    assert "199999 bytes, 200000 are on record" in failed(upload).message
    assert cloud.calls == []


def test_a_file_that_goes_between_two_steps_fails(cloud: FakeCloud, upload: Attempt) -> None:
    failure = failed(upload, on_created=lambda _: upload.path.unlink())

    assert (failure.failure_class, failure.phase) == (FailureClass.DISK, "send")
    assert f"{upload.path}: No such file" in failure.message
    assert cloud.images == {}


def test_a_file_that_shrinks_while_it_is_sent_fails(cloud: FakeCloud, upload: Attempt) -> None:
    failure = failed(upload, on_created=lambda _: upload.path.write_bytes(CONTENT[:1000]))

    assert (failure.failure_class, failure.phase) == (FailureClass.DISK, "send")
    assert "ended after 1000 bytes, 200000 are on record" in failure.message
    assert cloud.images == {}


def test_a_file_that_grows_is_sent_as_it_was(cloud: FakeCloud, upload: Attempt) -> None:
    image = upload.run(on_created=lambda _: upload.path.write_bytes(CONTENT + b"more"))

    assert cloud.contents[image.id] == CONTENT


class GreedyCloud(FakeCloud):
    """Asks for all it can get at once."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[int] = []

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        taken = b""
        while block := body.read(-1):
            self.blocks.append(len(block))
            taken += block
        super().send(image_id, BytesBody(taken), timeout=timeout)


class HastyCloud(FakeCloud):
    """Says it has all of it before it has read a byte."""

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        super().send(image_id, BytesBody(b""), timeout=timeout)


class RepeatingCloud(FakeCloud):
    """Sends a second time, after a 503, what is left of the body then: nothing."""

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        while body.read(64 * 1024):
            pass
        super().send(image_id, BytesBody(body.read(-1)), timeout=timeout)


def test_nobody_gets_more_of_the_file_than_a_megabyte_at_a_time(tmp_path: Path) -> None:
    cloud = GreedyCloud()

    Attempt(cloud, tmp_path / "big.qcow2", content(3 << 20)).run()

    assert cloud.blocks == [1 << 20] * 3


def test_whoever_answers_before_it_has_all_has_not_stored_it(tmp_path: Path) -> None:
    cloud = HastyCloud()

    failure = failed(Attempt(cloud, tmp_path / "noble.qcow2", CONTENT))

    assert failure.phase == "send"
    assert "took 0 bytes for the whole image, 200000 are on record" in failure.message
    assert cloud.images == {}


def test_a_put_that_was_sent_again_from_the_end_of_the_file_is_no_upload(tmp_path: Path) -> None:
    cloud = RepeatingCloud()

    failure = failed(Attempt(cloud, tmp_path / "noble.qcow2", CONTENT))

    assert failure.phase == "verify"
    assert "size 0, not 200000" in failure.message
    assert cloud.images == {}


# -- what is left ------------------------------------------------------------------------------


def test_a_delete_that_fails_once_is_tried_again(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.break_after = 1000
    cloud.fail("delete", UNAVAILABLE)

    failure = failed(upload, **Time().knobs)

    assert failure.failure_class is FailureClass.NETWORK
    assert "bytes were sent" in failure.message
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
    assert cloud.count("find") == 0


def test_a_token_that_ends_in_mid_put_is_a_matter_of_who_we_are(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("send", CloudError("the answer was 401", failure_class=FailureClass.AUTH), after=True)

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.AUTH, "send")
    assert cloud.images == {}
    assert cloud.count("send") == 1

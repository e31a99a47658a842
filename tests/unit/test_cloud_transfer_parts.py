"""A file that needs others goes into a cloud after them, and all of them or none are there in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.transfer.discarding import TRIES
from builder.cloudimage import CloudImage, GlanceStatus
from builder.config.model import Sharing
from builder.errors import CloudError, CloudUnavailableError
from builder.model import Failure, FailureClass, ImageFormat, UploadPhase
from builder.ways import COUNT_TOTAL, SIZE_TOTAL, Quota, Way
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import INSTALLATION, PARTS, ThreeParts, failed, provider

TOTAL = sum(map(len, PARTS.values()))
DOWN = CloudUnavailableError("the connection broke", failure_class=FailureClass.NETWORK)
REFUSED = CloudError("not today", failure_class=FailureClass.CLOUD)


@pytest.fixture
def cloud() -> FakeCloud:
    cloud = FakeCloud()
    cloud.import_methods |= {Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD}
    return cloud


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> ThreeParts:
    three = ThreeParts(cloud, tmp_path / "noble.ami", PARTS[ImageFormat.AMI])
    three.url = "https://files.example/noble.ami"
    cloud.web |= {f"https://files.example/noble.{each}": data for each, data in PARTS.items()}
    return three


def there(cloud: FakeCloud) -> dict[str, CloudImage]:
    return {image.disk_format or "": image for image in cloud.images.values()}


def at(number: int, phase: UploadPhase, act: Callable[[], object]) -> Callable[[UploadPhase], None]:
    """What is done when a phase begins for the n-th time."""
    seen: list[UploadPhase] = []

    def on_phase(now: UploadPhase) -> None:
        seen.append(now)
        if now is phase and seen.count(phase) == number:
            act()

    return on_phase


@pytest.mark.parametrize("way", [Way.PUT, Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD])
def test_each_way_brings_all_parts_there_and_the_root_last(
    cloud: FakeCloud, upload: ThreeParts, way: Way
) -> None:
    upload.ways, upload.provider = (way,), provider(sharing=Sharing(visibility="shared", members=("p",)))

    root = upload.run()

    images = there(cloud)
    assert {each: cloud.contents[image.id] for each, image in images.items()} == PARTS
    assert root.id == images["ami"].id == upload.created[0].id
    assert {each: image.id for each, image in upload.parts.items()} == {
        each: images[each].id for each in ("aki", "ari")
    }
    assert root.properties["kernel_id"] == images["aki"].id
    assert root.properties["ramdisk_id"] == images["ari"].id
    assert root.parts_named == {images["aki"].id, images["ari"].id}
    assert cloud.members == {image.id: {"p"} for image in images.values()}
    assert upload.tried == [(way, ())] * 3
    assert upload.phases.count(UploadPhase.PREFLIGHT) == 1
    if way is not Way.WEB_DOWNLOAD:
        assert upload.progress == sorted(upload.progress) and upload.progress[-1] == TOTAL


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("method", ["create", "send"])
def test_whichever_fails_nothing_is_left(
    cloud: FakeCloud, upload: ThreeParts, method: str, number: int
) -> None:
    phase = UploadPhase.CREATE if method == "create" else UploadPhase.SEND
    upload.ways = (Way.PUT,)

    failure = failed(upload, on_phase=at(number, phase, lambda: cloud.fail(method, DOWN)))

    assert (failure.failure_class, failure.phase) == (FailureClass.NETWORK, phase)
    assert cloud.images == {}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_part_with_other_bytes_is_found_out(cloud: FakeCloud, upload: ThreeParts, number: int) -> None:
    def spoil() -> None:
        cloud.after_send = {"hash_value": "0" * 128}

    failure = failed(upload, on_phase=at(number, UploadPhase.SEND, spoil))

    assert failure.phase == UploadPhase.VERIFY
    assert "sha512 000000" in failure.message
    assert cloud.images == {}


@pytest.mark.parametrize("status", [None, GlanceStatus.DEACTIVATED])
def test_a_part_that_is_no_longer_good_in_the_end_takes_the_root_along(
    cloud: FakeCloud, upload: ThreeParts, status: GlanceStatus | None
) -> None:
    def lose() -> None:
        kernel = there(cloud)["aki"].id
        if status is None:
            del cloud.images[kernel]
        else:
            cloud.change(kernel, status=status)

    failure = failed(upload, on_phase=at(3, UploadPhase.VERIFY, lose))

    assert "its aki, image" in failure.message
    assert cloud.images == {}


def test_another_way_for_one_part_keeps_what_is_there(cloud: FakeCloud, upload: ThreeParts) -> None:
    upload.ways = (Way.PUT, Way.GLANCE_DIRECT)

    upload.run(on_phase=at(2, UploadPhase.SEND, lambda: cloud.fail("send", DOWN)))

    assert [way for way, _ in upload.tried] == [Way.PUT, Way.PUT, Way.GLANCE_DIRECT, Way.PUT]
    (before,) = upload.tried[-1][1]
    assert before.startswith("put: the connection broke")
    assert {each: cloud.contents[image.id] for each, image in there(cloud).items()} == PARTS


def test_an_answer_that_is_lost_deletes_the_image_it_was_about_and_all_before_it(
    cloud: FakeCloud, upload: ThreeParts
) -> None:
    def lose_answer() -> None:
        cloud.fail("create", DOWN, after=True)

    failed(upload, on_phase=at(2, UploadPhase.CREATE, lose_answer))

    assert cloud.images == {}


def test_an_image_that_can_not_be_deleted_keeps_its_parts_until_all_are_cleared_up_in_order(
    cloud: FakeCloud, upload: ThreeParts
) -> None:
    def break_down() -> None:
        cloud.fail("send", DOWN)
        cloud.fail("delete", REFUSED, times=TRIES)

    with pytest.raises(transfer.TransferError) as caught:
        upload.run(on_phase=at(3, UploadPhase.SEND, break_down), sleep=lambda _: None)

    assert caught.value.image_left
    images = there(cloud)
    assert images.keys() == {"ami", "aki", "ari"}
    assert caught.value.message.count("could not be deleted") == 1
    assert f"; its part, image {images['ari'].id}, stays with it" in caught.value.message
    # As long as the root can't be deleted, nobody takes its parts away.
    left = replace(
        upload.record,
        external_id=upload.created[0].id,
        parts={each: image.id for each, image in upload.parts.items()},
    )
    cloud.fail("delete", REFUSED)
    with pytest.raises(CloudError):
        transfer.remove(cloud, left, installation_id=INSTALLATION)
    assert len(cloud.images) == 3
    before = cloud.count("delete")
    said = transfer.remove(cloud, left, installation_id=INSTALLATION)
    assert cloud.images == {}
    assert cloud.count("delete") - before == 3
    assert said.index(images["ami"].id) < said.index(images["aki"].id)


def test_an_image_that_can_not_be_looked_for_keeps_its_parts(cloud: FakeCloud, upload: ThreeParts) -> None:
    def break_down() -> None:
        cloud.fail("create", DOWN, after=True)
        cloud.fail("find", DOWN)

    with pytest.raises(transfer.TransferError) as caught:
        upload.run(on_phase=at(3, UploadPhase.CREATE, break_down), sleep=lambda _: None)

    assert caught.value.image_left
    # A crash may even leave the root off the record; its marks and what it names tell.
    assert there(cloud).keys() == {"ami", "aki", "ari"}
    said = transfer.remove(cloud, upload.record, installation_id=INSTALLATION)
    assert cloud.images == {}
    assert said.count("is deleted") == 3


def test_a_wish_to_stop_while_the_ramdisk_moves_takes_the_kernel_along(
    cloud: FakeCloud, upload: ThreeParts
) -> None:
    failure = failed(upload, on_phase=at(2, UploadPhase.SEND, upload.cancelled.set))

    assert failure == Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ada", phase="send")
    assert cloud.images == {}


def test_the_time_is_one_for_all(cloud: FakeCloud, upload: ThreeParts) -> None:
    now = [0.0]
    upload.timeout = 100.0

    def on_phase(phase: UploadPhase) -> None:
        now[0] += 45.0 if phase is UploadPhase.CREATE else 0.0

    failure = failed(upload, on_phase=on_phase, clock=lambda: now[0])

    assert (failure.failure_class, failure.phase) == (FailureClass.TIMEOUT, UploadPhase.CREATE)
    assert cloud.count("create") == 2
    assert cloud.images == {}


@pytest.mark.parametrize("part", ImageFormat.AMI.parts)
def test_a_missing_file_is_noticed_before_anything_is_made(
    cloud: FakeCloud, upload: ThreeParts, part: ImageFormat
) -> None:
    upload.path.with_suffix(f".{part}").unlink()

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.DISK, UploadPhase.PREFLIGHT)
    assert f"noble.{part}" in failure.message
    assert cloud.count("create") == 0


@pytest.mark.parametrize(("name", "room"), [(SIZE_TOTAL, TOTAL - 1), (COUNT_TOTAL, 2)])
def test_room_is_looked_for_once_for_all(cloud: FakeCloud, upload: ThreeParts, name: str, room: int) -> None:
    cloud.limits[name] = Quota(limit=room, used=0)

    failure = failed(upload)

    assert failure.failure_class is FailureClass.QUOTA
    assert cloud.count("create") == 0
    cloud.limits[name] = Quota(limit=room + 1, used=0)
    assert upload.run().status is GlanceStatus.ACTIVE


def test_a_part_is_never_taken_from_another_image(cloud: FakeCloud, upload: ThreeParts) -> None:
    """It would go with the upload that took it, and whatever boots with it could not any more."""
    first = upload.run()
    kernel, ramdisk = first.properties["kernel_id"], first.properties["ramdisk_id"]
    # Its record is lost; it serves, so it is nobody's to adopt.
    cloud.change(first.id, properties={**first.properties, "imagepool_serving": first.id})
    upload.ways = (Way.ADOPT, Way.PUT)

    second = upload.run()

    assert second.id != first.id
    assert second.parts_named.isdisjoint({kernel, ramdisk})
    assert {kernel, ramdisk, first.id} < cloud.images.keys()


def test_what_is_adopted_names_parts_that_are_its_own(cloud: FakeCloud, upload: ThreeParts) -> None:
    first = upload.run()
    upload.ways = (Way.ADOPT, Way.PUT)

    second = upload.run()

    assert second.id == first.id
    assert [way for way, _ in upload.tried[3:]] == [Way.PUT, Way.PUT, Way.ADOPT]
    assert second.parts_named == {image.id for image in upload.parts.values()}
    assert second.parts_named.isdisjoint(first.parts_named)


def test_an_adoption_that_fails_does_not_take_the_parts_along(cloud: FakeCloud, upload: ThreeParts) -> None:
    first = upload.run()
    upload.ways = (Way.ADOPT, Way.PUT)
    cloud.fail("update", REFUSED)

    second = upload.run()

    assert second.id != first.id
    assert second.parts_named < cloud.images.keys()
    assert {cloud.contents[image_id] for image_id in second.parts_named} == {
        PARTS[each] for each in ImageFormat.AMI.parts
    }

"""What an upload has in its cloud goes, and nothing else ever does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.cloud import transfer
from builder.cloudimage import SERVING, CloudImage, GlanceStatus
from builder.errors import CloudError, CloudUnavailableError, RefusedError
from builder.model import FailureClass
from builder.ways import Way
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import INSTALLATION, Attempt, content, record

UNAVAILABLE = CloudUnavailableError("the cloud sleeps", failure_class=FailureClass.CLOUD)


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def ready(cloud: FakeCloud, tmp_path: Path) -> CloudImage:
    """An image that was uploaded well."""
    return Attempt(cloud, tmp_path / "noble.qcow2", content(1000)).run()


def remove(cloud: FakeCloud, **changes: Any) -> str:
    return transfer.remove(cloud, record(**changes), installation_id=INSTALLATION)


def test_an_upload_is_removed_by_its_id(cloud: FakeCloud, ready: CloudImage) -> None:
    said = remove(cloud, external_id=ready.id)

    assert said == f"image {ready.id} (noble-1795184040) is deleted"
    assert cloud.images == {}


def test_removing_what_is_gone_is_no_error(cloud: FakeCloud, ready: CloudImage) -> None:
    assert remove(cloud, external_id="gone-1") == "image gone-1 was gone already"
    cloud.change(ready.id, status=GlanceStatus.PENDING_DELETE)
    assert remove(cloud, external_id=ready.id) == f"image {ready.id} was gone already"
    assert remove(cloud) == "it had no image in the cloud"


def test_an_upload_without_an_id_is_found_by_its_properties(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.change(ready.id, hidden=True)

    assert ready.id in remove(cloud)
    assert cloud.images == {}


def test_after_several_ways_every_image_of_the_upload_goes(cloud: FakeCloud, ready: CloudImage) -> None:
    """The daemon died between the second way's create and its record."""
    cloud.images["second"] = replace(ready, id="second", status=GlanceStatus.QUEUED)

    remove(cloud, external_id=ready.id)
    assert list(cloud.images) == ["second"]

    remove(cloud, external_id=ready.id, way=Way.PUT, fallbacks=("glance-direct: no",))
    assert cloud.images == {}


def test_an_image_in_use_stays_and_says_so(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.in_use.add(ready.id)

    with pytest.raises(CloudError) as caught:
        remove(cloud, external_id=ready.id)

    assert caught.value.in_use


# -- proof ---------------------------------------------------------------------------------------


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
def test_an_image_of_somebody_else_is_never_touched(cloud: FakeCloud, ready: CloudImage, name: str) -> None:
    cloud.change(ready.id, properties={**ready.properties, name: "another"})

    with pytest.raises(RefusedError, match=f"{name} is 'another'"):
        remove(cloud, external_id=ready.id)
    with pytest.raises(RefusedError, match=f"{name} is 'another'"):
        transfer.hide(cloud, record(external_id=ready.id), installation_id=INSTALLATION)
    remove(cloud)

    assert [(image.id, image.hidden) for image in cloud.images.values()] == [(ready.id, False)]


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


def test_an_image_with_its_stable_name_is_ours_and_its_copies_are_not(
    cloud: FakeCloud, ready: CloudImage
) -> None:
    serving = replace(ready, name="noble", properties={**ready.properties, SERVING: ready.id})
    cloud.images = {ready.id: serving, "copy": replace(serving, id="copy")}

    said = remove(cloud)

    assert list(cloud.images) == ["copy"]
    assert f"image {ready.id} (noble) is deleted" in said
    assert "image copy (noble) is left alone: it is a copy of ours" in said


def test_metadata_that_calls_itself_a_snapshot_keeps_no_image_from_going(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    upload = Attempt(cloud, tmp_path / "noble.qcow2", content(1000), metadata={"image_type": "snapshot"})
    upload.run()

    assert "is deleted" in remove(cloud)


# -- what is left when a hook or a build failed ----------------------------------------------------


def discard(cloud: FakeCloud, ready: CloudImage, pauses: list[float]) -> str:
    return transfer.discard(cloud, record(external_id=ready.id), INSTALLATION, sleep=pauses.append)


def test_a_discarded_upload_leaves_nothing(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.fail("delete", UNAVAILABLE, times=2)

    assert discard(cloud, ready, []) == ""
    assert cloud.images == {}


def test_what_can_not_be_discarded_is_said_and_not_raised(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.fail("delete", UNAVAILABLE, times=None)
    pauses: list[float] = []

    said = discard(cloud, ready, pauses)

    assert said == f"image {ready.id} stays behind, it could not be deleted: the cloud sleeps"
    assert len(pauses) == 2


def test_a_cloud_that_hangs_is_not_asked_again(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.fail("delete", CloudUnavailableError("no answer", failure_class=FailureClass.TIMEOUT), times=None)

    assert "no answer" in discard(cloud, ready, [])
    assert cloud.count("delete") == 1


def test_what_is_not_ours_is_not_discarded(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.change(ready.id, properties={})

    assert "not provably" in discard(cloud, ready, [])
    assert list(cloud.images) == [ready.id]

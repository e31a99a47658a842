"""An image of ours with the right bytes that no record owns is adopted instead of sent again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.cloud import transfer
from builder.cloudimage import SERVING, WITHHELD, CloudImage, GlanceStatus
from builder.config.model import Sharing
from builder.errors import CloudError, CloudUnavailableError, StoreUnavailableError
from builder.model import FailureClass, UploadPhase
from builder.ways import COUNT_TOTAL, Quota, Way
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import INSTALLATION, Attempt, content, failed, provider, record

CONTENT = content(200_000)
OLD = "0000000009"
UNAVAILABLE = CloudUnavailableError("503", failure_class=FailureClass.CLOUD)


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT, ways=(Way.ADOPT, Way.PUT))


@pytest.fixture
def orphan(cloud: FakeCloud, upload: Attempt) -> CloudImage:
    """What an upload left whose record is lost."""
    upload.ways = (Way.PUT,)
    made = upload.run()
    cloud.change(
        made.id,
        name="noble-1",
        properties={
            **made.properties,
            "imagepool_upload_id": OLD,
            "nodepool_upload_id": OLD,
            "owner_specified.openstack.object": "images/noble-1",
        },
    )
    upload.ways = (Way.ADOPT, Way.PUT)
    for noted in (upload.created, upload.phases, upload.progress, upload.tried, cloud.calls):
        noted.clear()
    return cloud.images[made.id]


def test_an_orphan_becomes_the_upload_s(cloud: FakeCloud, upload: Attempt, orphan: CloudImage) -> None:
    image = upload.run()

    assert image.id == orphan.id
    assert image.name == "noble-1795184040"
    assert upload.image.properties.items() <= image.properties.items()
    assert upload.tried == [(Way.ADOPT, ())]
    assert [made.id for made in upload.created] == [orphan.id]
    assert upload.progress == []
    assert UploadPhase.VERIFY in upload.phases
    assert (cloud.count("create"), cloud.count("send"), cloud.count("find")) == (0, 0, 1)
    # From now on it is proven to be the new upload's, and only its.
    assert "is deleted" in transfer.remove(cloud, record(), installation_id=INSTALLATION)


def test_an_orphan_is_described_as_it_is_configured_now(cloud: FakeCloud, upload: Attempt) -> None:
    upload.ways = (Way.PUT,)
    orphan = upload.run()
    sharing = Sharing(visibility="shared", members=("p1",), tags=("ci",), hidden=True)
    upload.provider = provider(sharing=sharing, meta={"hw_disk_bus": "ide"})
    upload.ways = (Way.ADOPT,)

    image = upload.run()

    assert image.id == orphan.id
    assert (image.visibility, image.tags, image.hidden) == ("shared", {"ci"}, True)
    assert image.properties["hw_disk_bus"] == "ide"
    assert cloud.members == {image.id: {"p1"}}


def test_with_nothing_to_adopt_the_bytes_are_sent(cloud: FakeCloud, upload: Attempt) -> None:
    upload.run()

    assert upload.tried == [(Way.PUT, ())]

    upload.ways, upload.owned = (Way.ADOPT,), frozenset(cloud.images)
    assert "no image with these bytes is there to adopt" in failed(upload).message


def test_adoption_needs_no_room(cloud: FakeCloud, upload: Attempt, orphan: CloudImage) -> None:
    cloud.limits[COUNT_TOTAL] = Quota(limit=1, used=1)

    assert upload.run().id == orphan.id


@pytest.mark.parametrize(
    "changes",
    [
        {"status": GlanceStatus.SAVING},
        {"status": GlanceStatus.DEACTIVATED},
        {"size": 199_999},
        {"hash_value": "0" * 128},
        {"hash_value": None, "checksum": None},
        {"name": "a volume made of it"},
    ],
)
def test_what_is_not_just_these_bytes_is_not_adopted(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage, changes: dict[str, Any]
) -> None:
    cloud.change(orphan.id, **changes)
    before = cloud.images[orphan.id]

    assert upload.run().id != orphan.id
    assert cloud.images[orphan.id] == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("imagepool_installation", "2" * 32),
        ("imagepool_image", "jammy"),
        ("imagepool_build_id", "c" * 32),
        ("imagepool_provider", "south"),
        ("instance_uuid", "1"),
    ],
)
def test_what_is_somebody_else_s_is_not_adopted(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage, name: str, value: str
) -> None:
    cloud.change(orphan.id, properties={**orphan.properties, name: value})

    assert upload.run().id != orphan.id
    assert cloud.images[orphan.id].properties[name] == value


def test_what_a_record_owns_is_not_adopted(cloud: FakeCloud, upload: Attempt, orphan: CloudImage) -> None:
    upload.owned = frozenset({orphan.id})

    assert upload.run().id != orphan.id
    assert cloud.images[orphan.id] == orphan


def test_an_orphan_whose_upload_has_a_record_is_left_to_whoever_cleans_up_after_that(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    upload.owned = frozenset({replace(record(), id=OLD).name})

    assert upload.run().id != orphan.id
    assert cloud.images[orphan.id] == orphan


def test_an_orphan_in_service_stays_there_for_it_would_go_with_an_upload_that_fails(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    cloud.change(orphan.id, name="noble", properties={**orphan.properties, SERVING: orphan.id})
    serving = cloud.images[orphan.id]

    assert upload.run().id != orphan.id
    assert cloud.images[orphan.id] == serving


def test_an_orphan_that_tells_of_a_quarantine_which_is_over_is_left_alone(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    """Nobody would take that back, and after a recovery the build would be in quarantine again."""
    said = {**orphan.properties, WITHHELD: "2026-11-21T14:30:00+00:00 everywhere: no network"}
    cloud.change(orphan.id, properties=said)

    made = upload.run()
    assert made.id != orphan.id and WITHHELD not in made.properties
    assert cloud.images[orphan.id].properties == said


def test_a_copy_of_an_orphan_in_service_is_not_adopted(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    serving = {**orphan.properties, SERVING: orphan.id}
    cloud.images = {"copy": replace(orphan, id="copy", name="noble", properties=serving)}

    assert upload.run().id != "copy"
    assert "copy" in cloud.images


def test_a_list_that_fails_only_costs_the_chance(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    cloud.fail("find", UNAVAILABLE)

    assert upload.run().id != orphan.id

    cloud.fail("find", CloudError("401", failure_class=FailureClass.AUTH))
    assert failed(upload).failure_class is FailureClass.AUTH


def test_an_orphan_that_goes_just_now_is_not_missed(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    upload.run(on_way=lambda _: cloud.images.pop(orphan.id, None))

    assert [way for way, _ in upload.tried] == [Way.ADOPT, Way.PUT]


def test_an_orphan_that_can_not_be_made_ours_stays_as_it_is(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    cloud.fail("update", CloudError("409", failure_class=FailureClass.CLOUD))

    image = upload.run()

    assert cloud.images[orphan.id] == orphan
    assert upload.tried[1] == (Way.PUT, ("adopt: 409",))
    assert image.id != orphan.id


def test_an_adoption_without_an_answer_leaves_nothing_of_ours(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    cloud.fail("update", UNAVAILABLE, after=True)

    image = upload.run()

    assert list(cloud.images) == [image.id]
    assert image.id != orphan.id


def test_an_adopted_image_that_is_not_as_ordered_is_deleted(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    def spoil(_: CloudImage) -> None:
        cloud.change(orphan.id, visibility="public")

    upload.ways = (Way.ADOPT,)

    assert "visibility 'public', not 'private'" in failed(upload, on_created=spoil).message
    assert cloud.images == {}


def test_an_adopted_image_that_can_not_be_put_on_record_is_deleted(
    cloud: FakeCloud, upload: Attempt, orphan: CloudImage
) -> None:
    def refuse(_: CloudImage) -> None:
        raise StoreUnavailableError("ZooKeeper is gone")

    with pytest.raises(StoreUnavailableError):
        upload.run(on_created=refuse)

    assert cloud.images == {}

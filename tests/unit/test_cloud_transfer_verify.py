"""What a cloud has is compared with what was sent, and every difference is a failure with both values."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import Sharing
from builder.errors import CloudError, CloudUnavailableError
from builder.model import FailureClass, UploadPhase
from builder.ways import COUNT_TOTAL, COUNT_UPLOADING, SIZE_TOTAL, STAGE_TOTAL, Quota, Way
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import Attempt, content, failed, provider

CONTENT = content(200_000)


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT)


# -- before --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quota", "said"),
    [
        (SIZE_TOTAL, Quota(limit=1_000_000, used=800_001), "1000000, 800001 are used and 200000 more"),
        (COUNT_TOTAL, Quota(limit=5, used=5), "limited to 5, 5 are used and 1 more"),
        (COUNT_UPLOADING, Quota(limit=0, used=0), "limited to 0, 0 are used and 1 more"),
    ],
)
def test_without_room_nothing_is_made(
    cloud: FakeCloud, upload: Attempt, name: str, quota: Quota, said: str
) -> None:
    cloud.limits[name] = quota
    upload.ways = (Way.PUT, Way.GLANCE_DIRECT)

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.QUOTA, "preflight")
    assert name in failure.message
    assert said in failure.message
    assert cloud.count("create") == 0
    assert upload.tried == []


def test_the_last_byte_of_room_may_be_taken(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.limits |= {
        SIZE_TOTAL: Quota(limit=1_000_000, used=800_000),
        COUNT_TOTAL: Quota(limit=5, used=4),
        COUNT_UPLOADING: Quota(limit=-1, used=100),
        STAGE_TOTAL: Quota(limit=1, used=1),  # a PUT is not staged
    }

    assert upload.run().size == len(CONTENT)


def test_a_full_staging_area_leaves_the_ways_that_need_none(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.limits[STAGE_TOTAL] = Quota(limit=100_000, used=0)
    upload.ways = (Way.GLANCE_DIRECT, Way.PUT)

    upload.run()

    ((way, (why,)),) = upload.tried
    assert way is Way.PUT
    assert why.startswith("glance-direct: the cloud has no room left for us: image_stage_total is limited to")

    upload.ways = (Way.GLANCE_DIRECT,)
    assert failed(upload).failure_class is FailureClass.QUOTA


def test_quotas_that_the_cloud_fails_to_tell_are_left_to_it(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.fail("quotas", CloudUnavailableError("500", failure_class=FailureClass.CLOUD))
    upload.run()

    cloud.fail("quotas", CloudUnavailableError("refused", failure_class=FailureClass.NETWORK))
    assert failed(upload).phase == "preflight"


# -- after ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha3_256", "blake2b", "sha256", "sha384", "md5", "sha512"])
def test_any_hash_that_glance_may_name_is_compared(cloud: FakeCloud, upload: Attempt, algorithm: str) -> None:
    value = hashlib.new(algorithm, CONTENT).hexdigest()
    cloud.after_send = {"hash_algorithm": algorithm, "hash_value": value.upper()}
    assert upload.run().hash_algorithm == algorithm

    cloud.images.clear()
    cloud.after_send = {"hash_algorithm": algorithm, "hash_value": value[::-1]}
    failure = failed(upload)
    assert (failure.failure_class, failure.phase) == (FailureClass.CLOUD, "verify")
    assert f"{algorithm} {value[::-1]}, not {value}" in failure.message
    assert cloud.images == {}


@pytest.mark.parametrize("algorithm", ["shake_128", "crc-of-the-day"])
def test_a_hash_that_can_not_be_computed_is_no_proof(
    cloud: FakeCloud, upload: Attempt, algorithm: str
) -> None:
    cloud.after_send = {"hash_algorithm": algorithm, "hash_value": "00"}

    assert "can't be verified" in failed(upload).message


def test_without_any_hash_nothing_is_proven(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"hash_algorithm": None, "hash_value": None, "checksum": None}

    assert "the cloud gives no hash" in failed(upload).message
    assert cloud.images == {}


def test_only_a_checksum_will_do_when_it_is_ours(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"hash_algorithm": None, "hash_value": None}
    upload.run()

    cloud.after_send = {"hash_algorithm": None, "hash_value": None, "checksum": "0" * 32}
    assert f"md5 {'0' * 32}, not {upload.artifact.md5}" in failed(upload).message


def test_a_right_checksum_does_not_heal_a_wrong_hash(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"hash_value": "0" * 128, "checksum": upload.artifact.md5}

    assert f"sha512 {'0' * 128}, not {upload.artifact.sha512}" in failed(upload).message


def test_a_file_with_other_bytes_is_our_own_trouble(cloud: FakeCloud, upload: Attempt) -> None:
    upload.path.write_bytes(CONTENT[::-1])
    upload.ways = (Way.PUT, Way.GLANCE_DIRECT)

    failure = failed(upload)

    # No other way, and no other try, mends a file that changed on our disk.
    assert (failure.failure_class, failure.phase) == (FailureClass.DISK, "verify")
    assert upload.artifact.sha512 in failure.message
    assert hashlib.sha512(CONTENT[::-1]).hexdigest() in failure.message
    assert [way for way, _ in upload.tried] == [Way.PUT]
    assert cloud.images == {}


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"size": 7}, "size 7, not 200000"),
        ({"size": None}, "size None, not 200000"),
        ({"name": "another"}, "name 'another', not 'noble-1795184040'"),
        ({"visibility": "public"}, "visibility 'public', not 'private'"),
        ({"hidden": True}, "hidden True, not False"),
        ({"disk_format": "raw"}, "disk format 'raw', not 'qcow2'"),
        ({"properties": {}}, "property os_distro None, not 'ubuntu'"),
    ],
)
def test_a_difference_fails_with_both_values(
    cloud: FakeCloud, upload: Attempt, stored: dict[str, Any], said: str
) -> None:
    cloud.after_send = stored

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.CLOUD, "verify")
    assert said in failure.message
    assert cloud.images == {}


@pytest.mark.parametrize("name", ["os_distro", "imagepool_upload_id", "owner_specified.openstack.sha256"])
def test_a_changed_property_fails_with_both_values(cloud: FakeCloud, upload: Attempt, name: str) -> None:
    ours = upload.image.properties
    cloud.after_send = {"properties": {**ours, name: "changed", "theirs": "may be more"}}

    failure = failed(upload)

    assert failure.message.endswith(f"not what was sent: property {name} 'changed', not {ours[name]!r}")
    assert cloud.images == {}


def test_every_difference_is_told_at_once(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"size": 7, "visibility": "shared", "checksum": None, "hash_value": None}

    message = failed(upload).message

    for words in ("size 7, not 200000", "'shared', not 'private'", "no hash"):
        assert words in message


def test_tags_visibility_and_hidden_are_as_configured(cloud: FakeCloud, tmp_path: Path) -> None:
    sharing = Sharing(visibility="community", tags=("ci", "noble"), hidden=True)
    upload = Attempt(cloud, tmp_path / "noble.qcow2", CONTENT, provider=provider(sharing=sharing))

    image = upload.run()

    assert (image.visibility, image.tags, image.hidden) == ("community", {"ci", "noble"}, True)

    cloud.after_send = {"tags": frozenset({"ci", "theirs"})}
    assert "tags ['ci', 'theirs'], without ['noble']" in failed(upload).message


def test_what_is_stringified_by_glance_is_equal(cloud: FakeCloud, upload: Attempt) -> None:
    image = upload.image
    numbers: Any = {**image.properties, "patchlevel": 3, "os_require_quiesce": True}
    cloud.after_send = {"properties": {**image.properties, "patchlevel": "3", "os_require_quiesce": "True"}}

    upload.run(order=replace(upload.order, image=replace(image, properties=numbers)))


# -- members -------------------------------------------------------------------------------------


def shared(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    sharing = Sharing(visibility="shared", members=("p1", "p2"))
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT, provider=provider(sharing=sharing))


def test_a_shared_image_is_offered_once_it_is_verified(cloud: FakeCloud, tmp_path: Path) -> None:
    upload = shared(cloud, tmp_path)

    image = upload.run()

    assert cloud.members == {image.id: {"p1", "p2"}}
    methods = [method for method, _ in cloud.calls]
    assert methods.index("share") > methods.index("get")
    assert upload.phases[-1] is UploadPhase.VERIFY


def test_an_image_that_can_not_be_offered_is_no_success(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.fail("share", CloudError("no such project", failure_class=FailureClass.AUTH))

    failure = failed(shared(cloud, tmp_path))

    assert (failure.failure_class, failure.message) == (FailureClass.AUTH, "no such project")
    assert cloud.images == {}

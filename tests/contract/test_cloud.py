"""The Cloud contract, kept by the fake, by OpenStackCloud on a fake Glance, and on a real one."""

from __future__ import annotations

import hashlib
import struct
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import Cloud, CloudImage, GlanceStatus, NewImage
from builder.errors import CloudError
from tests.fakes.bodies import BrokenBody, BytesBody
from tests.unit.cloud_world import INSTALLATION, Attempt, record

CONTENT = bytes(range(256)) * 4096
TIMEOUT = 30.0
#: The header of an empty qcow2 of 1 MiB, version 3: Glance looks whether an image is what it says.
QCOW2 = struct.pack(
    ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 196608, 65536, 1, 0, 0, 0, 0, 0, 4, 104
)


def new(name: str = "noble-1", **changes: str) -> NewImage:
    """A small image that nobody else has: the contract's clouds may be shared."""
    properties = {"imagepool_build_id": uuid.uuid4().hex, **changes}
    return NewImage(name=name, disk_format="raw", size=len(CONTENT), min_disk=2, properties=properties)


def sent(cloud: Cloud, image: NewImage) -> CloudImage:
    """An image that is there with its bytes."""
    made = cloud.create(image)
    cloud.send(made.id, BytesBody(CONTENT), timeout=TIMEOUT)
    return made


def test_a_created_image_is_empty_and_says_whose_it_is(cloud: Cloud) -> None:
    image = new(os_distro="debian")

    made = cloud.create(image)

    assert made.status is GlanceStatus.QUEUED
    assert (made.name, made.visibility, made.size) == (image.name, "private", None)
    assert image.properties.items() <= made.properties.items()
    assert cloud.get(made.id) == made
    cloud.delete(made.id)


def test_a_sent_image_is_active_with_size_and_hash(cloud: Cloud) -> None:
    made = sent(cloud, new())

    image = cloud.get(made.id)

    assert image is not None
    assert image.status is GlanceStatus.ACTIVE
    assert image.size == len(CONTENT)
    assert image.hash_algorithm == "sha512"
    assert image.hash_value == hashlib.sha512(CONTENT).hexdigest()
    cloud.delete(made.id)


def test_an_unknown_image_is_none(cloud: Cloud) -> None:
    assert cloud.get(str(uuid.uuid4())) is None


def test_a_deleted_image_is_gone_and_can_be_deleted_again(cloud: Cloud) -> None:
    image = new()
    made = sent(cloud, image)

    cloud.delete(made.id)
    cloud.delete(made.id)

    assert cloud.get(made.id) is None
    assert list(cloud.find(image.properties)) == []


def test_images_are_found_by_all_their_properties(cloud: Cloud) -> None:
    mark = uuid.uuid4().hex
    ours = [cloud.create(new(imagepool_mark=mark, nr=str(n))) for n in range(8)]
    other = cloud.create(new(imagepool_mark=mark[::-1], nr="0"))

    assert {i.id for i in cloud.find({"imagepool_mark": mark})} == {i.id for i in ours}
    assert [i.id for i in cloud.find({"imagepool_mark": mark, "nr": "3"})] == [ours[3].id]
    for image in [*ours, other]:
        cloud.delete(image.id)


def test_hidden_images_are_found_too(cloud: Cloud) -> None:
    image = new(os_hidden="true")
    made = cloud.create(image)

    found = list(cloud.find({"imagepool_build_id": image.properties["imagepool_build_id"]}))

    assert [i.id for i in found] == [made.id]
    cloud.delete(made.id)


@pytest.mark.parametrize(
    "value", ["", "a b", "a&b=c?#%", "größe", "in:a,b", "x" * 255, "007", "True", "null"]
)
def test_property_values_come_back_as_they_were(cloud: Cloud, value: str) -> None:
    image = new(imagepool_note=value)
    made = cloud.create(image)

    again = cloud.get(made.id)
    found = list(cloud.find(image.properties))

    assert again is not None
    assert again.properties["imagepool_note"] == value
    assert [i.id for i in found] == [made.id]
    cloud.delete(made.id)


def test_bytes_for_an_image_that_is_gone_are_refused(cloud: Cloud) -> None:
    made = cloud.create(new())
    cloud.delete(made.id)

    with pytest.raises(CloudError):
        cloud.send(made.id, BytesBody(CONTENT), timeout=TIMEOUT)


def test_bytes_are_taken_only_once(cloud: Cloud) -> None:
    made = sent(cloud, new())

    with pytest.raises(CloudError):
        cloud.send(made.id, BytesBody(b"others" * 1000), timeout=TIMEOUT)

    image = cloud.get(made.id)
    assert image is not None
    assert (image.status, image.size) == (GlanceStatus.ACTIVE, len(CONTENT))
    cloud.delete(made.id)


@pytest.mark.parametrize("error", [ValueError("stop it"), OSError(5, "Input/output error")])
def test_what_the_body_raises_comes_out_unchanged(cloud: Cloud, error: Exception) -> None:
    made = cloud.create(new())

    with pytest.raises(type(error)) as caught:
        cloud.send(made.id, BrokenBody(CONTENT, error), timeout=TIMEOUT)

    assert caught.value is error
    image = cloud.get(made.id)
    assert image is not None
    assert image.status is not GlanceStatus.ACTIVE


def test_a_protected_image_stays_and_the_error_says_what_to_do(cloud: Cloud) -> None:
    made = cloud.create(new(protected="true"))

    with pytest.raises(CloudError) as caught:
        cloud.delete(made.id)

    assert "nprotect" in caught.value.hint
    assert cloud.get(made.id) is not None


def test_an_upload_is_verified_against_what_this_cloud_says(cloud: Cloud, tmp_path: Path) -> None:
    build_id = uuid.uuid4().hex
    upload = Attempt(cloud, tmp_path / "noble.qcow2", QCOW2 + CONTENT, build_id=build_id)

    image = upload.run()
    said = transfer.remove(cloud, record(build_id=build_id), installation_id=INSTALLATION)

    assert image.status is GlanceStatus.ACTIVE
    assert image.id in said
    assert cloud.get(image.id) is None


def test_it_says_which_formats_it_takes(cloud: Cloud) -> None:
    assert {"qcow2", "raw"} <= cloud.disk_formats()


def test_threads_share_a_cloud(cloud: Cloud) -> None:
    # Sent one after the other: a Glance on SQLite can't write twice at once. Parallel sends are in
    # tests/unit/test_cloud_openstack.py.
    ids = [sent(cloud, new(f"noble-{n}")).id for n in range(6)]

    with ThreadPoolExecutor(6) as pool:
        images = list(pool.map(cloud.get, ids))

    assert [i.id for i in images if i] == ids
    assert [i.name for i in images if i] == [f"noble-{n}" for n in range(6)]
    for image_id in ids:
        cloud.delete(image_id)

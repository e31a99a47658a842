"""What an image carries: enough to know whose it is, to use it, and to make its records again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from builder.cloud import ownership
from builder.config.model import Sharing
from builder.model import Build, BuildState, Upload
from tests.fakes.bodies import artifact_of
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import BUILD, INSTALLATION, NOW, Attempt, build, content, provider, record


def attempt(tmp_path: Path, **changes: Any) -> Attempt:
    return Attempt(FakeCloud(), tmp_path / "noble.qcow2", content(200_000), **changes)


def properties(
    wished: dict[str, str] | None = None, *, upload: Upload | None = None, of: Build | None = None
) -> dict[str, str]:
    """What an image carries that comes of these."""
    return ownership.properties(
        wished=wished or {},
        upload=upload or record(),
        build=of or build(),
        artifact=artifact_of(b"an image"),
        name="noble-1",
        installation_id=INSTALLATION,
    )


def test_an_image_carries_all_that_tells_whose_it_is(tmp_path: Path) -> None:
    upload = attempt(tmp_path)
    image = upload.image

    assert image.name == "noble-1795184040"
    assert (image.disk_format, image.min_disk) == ("qcow2", 4)
    assert dict(image.properties) == {
        "os_distro": "ubuntu",
        "hw_disk_bus": "scsi",
        "imagepool_installation": INSTALLATION,
        "imagepool_image": "noble",
        "imagepool_build_id": BUILD,
        "imagepool_upload_id": "0000000001",
        "imagepool_provider": "north",
        "imagepool_build_started": "2026-11-20T14:09:00+00:00",
        "imagepool_build_ready": "2026-11-20T14:13:00+00:00",
        "imagepool_upload_started": "2026-11-20T14:14:00+00:00",
        "imagepool_format": "qcow2",
        "imagepool_sha512": upload.artifact.sha512,
        "imagepool_virtual_size": str(3 * 1024**3 + 1),
        "imagepool_raw_sha256": "ab" * 32,
        "imagepool_raw_size": str(3 * 1024**3 + 1),
        "imagepool_username": "zuul",
        "imagepool_python_path": "auto",
        "nodepool_build_id": BUILD,
        "nodepool_upload_id": "0000000001",
        "nodepool_provider_name": "north",
        "owner_specified.openstack.md5": upload.artifact.md5,
        "owner_specified.openstack.sha256": upload.artifact.sha256,
        "owner_specified.openstack.object": "images/noble-1795184040",
    }


@pytest.mark.parametrize(
    ("virtual_size", "gigabytes"), [(1, 1), (1024**3, 1), (1024**3 + 1, 2), (10 * 1024**3, 10)]
)
def test_min_disk_is_what_a_server_needs_to_boot(tmp_path: Path, virtual_size: int, gigabytes: int) -> None:
    upload = attempt(tmp_path)
    upload.artifact = replace(upload.artifact, virtual_size=virtual_size)

    assert upload.image.min_disk == gigabytes


@pytest.mark.parametrize(("said", "gigabytes"), [("3", 4), ("20", 20), ("much", 4)])
def test_more_disk_may_be_asked_for_and_less_may_not(tmp_path: Path, said: str, gigabytes: int) -> None:
    image = attempt(tmp_path, metadata={"min_disk": said}).image

    assert image.min_disk == gigabytes
    assert "min_disk" not in image.properties


def test_who_finds_an_image_is_configured(tmp_path: Path) -> None:
    assert attempt(tmp_path).image.visibility == "private"

    sharing = Sharing(visibility="community", tags=("ci",), hidden=True)
    image = attempt(tmp_path, provider=provider(sharing=sharing)).image
    assert (image.visibility, image.tags, image.hidden) == ("community", {"ci"}, True)


@pytest.mark.parametrize(
    "name",
    [
        "imagepool_installation",
        "Imagepool_Upload_Id",
        "imagepool_serving",
        "imagepool_anything",
        "nodepool_build_id",
        "nodepool_anything",
        "os_glance_importing_to_stores",
        "owner_specified.openstack.sha256",
        "instance_uuid",
        "image_type",
        "id",
        "name",
        "status",
        "size",
        "owner",
        "visibility",
        "tags",
        "os_hidden",
        "os_hash_value",
        "disk_format",
        "container_format",
        "locations",
        "deleted",
    ],
)
def test_metadata_can_neither_break_nor_fake_what_is_ours(name: str) -> None:
    assert ownership.is_reserved(name)
    assert properties({name: "mine"}) == properties()


@pytest.mark.parametrize("name", ["os_distro", "os_type", "hw_disk_bus", "min_ram", "protected", "os_hash"])
def test_other_metadata_is_had_as_it_is(name: str) -> None:
    assert properties({name: "mine"}) == {**properties(), name: "mine"}


def test_what_is_not_known_yet_is_not_made_up() -> None:
    running = build(state=BuildState.BUILDING, ended=None, raw_sha256=None, raw_size=None)

    missing = properties().keys() - properties(of=running).keys()

    assert missing == {"imagepool_build_ready", "imagepool_raw_sha256", "imagepool_raw_size"}


def test_no_property_of_ours_is_longer_than_every_glance_takes() -> None:
    long = properties(upload=record(python_path="/" + "x" * 255, shell_type="y" * 255))

    assert "imagepool_python_path" not in long
    assert long["imagepool_shell_type"] == "y" * 255
    assert max(map(len, long.values())) <= 255


def test_times_can_be_read_back() -> None:
    told = properties()

    assert datetime.fromisoformat(told["imagepool_upload_started"]) == NOW
    assert datetime.fromisoformat(told["imagepool_build_started"]) == build().started
    assert datetime.fromisoformat(told["imagepool_build_ready"]) == build().ended


def test_what_nodepool_built_tells_when_it_changed_last() -> None:
    old = build(started=None, ended=None)

    assert properties(of=old)["imagepool_build_started"] == NOW.isoformat()
    assert properties(of=old)["imagepool_build_ready"] == NOW.isoformat()

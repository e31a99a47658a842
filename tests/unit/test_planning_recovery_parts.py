"""Lost records of uploads in three parts: made again when all three are there, cleaned up when not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.cloud import ownership
from builder.cloudimage import KERNEL_ID, RAMDISK_ID, CloudImage, GlanceStatus
from builder.model import ImageFormat, UploadState
from builder.planning.recovery import Fate, Thing
from tests.unit import recovery_world as world
from tests.unit.planning_world import HOUR, NOW, records
from tests.unit.recovery_world import INSTALLATION, kept, made, plan, uploads_of

AMI, AKI, ARI = ImageFormat.AMI, ImageFormat.AKI, ImageFormat.ARI
FORMATS = (AMI, AKI, ARI)
WAS = world.build(1, NOW - HOUR, *FORMATS, formats=("aki", "ami", "ari"))
SIZE = sum(made(1, each).size for each in FORMATS)
SENT = world.sent(
    WAS, format="ami", size=SIZE, sent=SIZE, parts={"aki": "kernel", "ari": "ramdisk"}, external_id="root"
)
NAMED = {KERNEL_ID: "kernel", RAMDISK_ID: "ramdisk"}


def part(wanted: ImageFormat, **changes: Any) -> CloudImage:
    """The image of a part, as the upload made it."""
    artifact, name = made(1, wanted), f"{SENT.external_name}-{wanted}"
    properties = ownership.properties(
        wished={}, upload=SENT, build=WAS, artifact=artifact, name=name, installation_id=INSTALLATION
    )
    image = CloudImage(
        id=SENT.parts[wanted],
        name=name,
        status=GlanceStatus.ACTIVE,
        size=artifact.size,
        hash_algorithm="sha512",
        hash_value=artifact.sha512,
        checksum=artifact.md5,
        visibility="private",
        properties=properties,
        created=SENT.started,
        disk_format=str(wanted),
    )
    return replace(image, **changes)


def root(**changes: Any) -> CloudImage:
    properties = {**NAMED, **changes.pop("properties", {})}
    return world.image(WAS, SENT, properties=properties, **changes)


def test_an_upload_whose_three_images_are_there_is_what_it_was() -> None:
    for images in ([part(AKI), part(ARI), root()], [root(), part(ARI), part(AKI)]):
        steps = plan({"north": images}, kept(WAS))
        assert uploads_of(steps) == [SENT]
        known = {step.name: step for step in steps if step.fate is Fate.KNOWN}
        assert known.keys() == {"kernel", "ramdisk"}
        assert known["kernel"].reason == "It goes with image root, of the same upload."


@pytest.mark.parametrize(
    ("images", "said"),
    {
        "kernel gone": ([part(ARI), root()], "its aki is gone"),
        "ramdisk gone": ([part(AKI), root()], "its ari is gone"),
        "kernel inactive": (
            [part(AKI, status=GlanceStatus.DEACTIVATED), part(ARI), root()],
            "of its aki, image kernel, it is deactivated",
        ),
        "other bytes": (
            [part(AKI), part(ARI, hash_value="0" * 128), root()],
            "of its ari, image ramdisk, its sha512 is",
        ),
        "another kernel named": (
            [part(AKI), part(ARI), root(properties={KERNEL_ID: "other"})],
            'its aki is image kernel, and it names "other"',
        ),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_that_lacks_something_is_not_called_ready(images: list[CloudImage], said: str) -> None:
    steps = plan({"north": images}, kept(WAS))
    assert uploads_of(steps) == []
    (left,) = [step for step in steps if step.thing is Thing.IMAGE and step.fate is Fate.LEFT]
    assert left.name == "root" and said in left.reason


@pytest.mark.parametrize("images", [[part(AKI)], [part(AKI), part(ARI, status=GlanceStatus.QUEUED)]])
def test_parts_alone_are_a_failed_upload_that_the_janitor_takes_away(images: list[CloudImage]) -> None:
    (record,) = uploads_of(plan({"north": images}, kept(WAS)))
    assert record.state is UploadState.FAILED and record.may_linger
    assert (record.id, record.build_id, record.provider) == (SENT.id, SENT.build_id, SENT.provider)
    # Without an id, all that carries its marks is looked for.
    assert record.external_ids == ()


def test_a_half_root_takes_its_parts_along() -> None:
    half = root(status=GlanceStatus.QUEUED, size=None, hash_value=None, checksum=None)
    (record,) = uploads_of(plan({"north": [half, part(AKI), part(ARI)]}, kept(WAS)))
    assert record.state is UploadState.FAILED
    assert set(record.external_ids) == {"root", "kernel", "ramdisk"}


def test_the_parts_of_what_is_on_record_are_known() -> None:
    steps = plan({"north": [root(), part(AKI), part(ARI)]}, kept(WAS), records=[records(WAS, SENT)])
    assert uploads_of(steps) == []
    images = {step.name: step.fate for step in steps if step.thing is Thing.IMAGE}
    assert images == dict.fromkeys(("root", "kernel", "ramdisk"), Fate.KNOWN)


def test_files_that_no_proof_describes_are_known_by_the_images_of_all_parts() -> None:
    steps = plan({"north": [root(), part(AKI), part(ARI)]}, kept(WAS, recorded=(), finished=None))
    builds = world.builds_of(steps)
    assert {artifact.format for artifact in builds[0].artifacts} == set(FORMATS)

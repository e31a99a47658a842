"""Which ready uploads have lost their image, and what a list of images proves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.cloudimage import INSTALLATION, PROVIDER, CloudImage, GlanceStatus
from builder.model import Snapshot, Upload, UploadState
from builder.planning import vanished
from tests.unit.planning_world import HOUR, MINUTE, NOW, provider, records, snapshot, upload

OURS = "a" * 32
NORTH = replace(provider("north"), cloud="acme", region="r1")
READY = upload(
    1, UploadState.READY, NOW - HOUR, external_id="image-1", external_name="i", cloud="acme", region="r1"
)


def image(number: int = 1, **properties: str) -> CloudImage:
    return CloudImage(
        id=f"image-{number}",
        name="i",
        status=GlanceStatus.ACTIVE,
        size=1,
        hash_algorithm=None,
        hash_value=None,
        checksum=None,
        visibility="private",
        properties={INSTALLATION: OURS, PROVIDER: "north", **properties},
    )


def known(*uploads: Upload) -> Snapshot:
    return snapshot(records(*uploads))


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"hidden": True}, True),
        ({"state": UploadState.UPLOADING}, False),
        ({"state": UploadState.DELETING}, False),
        ({"state": UploadState.FAILED}, False),
        ({"external_id": None}, False),
        ({"provider": "south"}, False),
        ({"cloud": "other"}, False),
        ({"cloud": None}, False),
        ({"region": "r2"}, False),
        ({"region": None}, False),
    ],
)
def test_an_image_is_expected_where_its_record_says_that_it_is(changes: dict, counts: bool) -> None:
    changed = replace(READY, **changes)
    assert vanished.expected(NORTH, known(changed)) == ((changed,) if counts else ())


def test_what_the_list_has_is_there() -> None:
    other = replace(READY, id="0000000002", external_id="image-2")
    assert vanished.unlisted((READY, other), [image(2)]) == (READY,)
    assert vanished.unlisted((READY, other), [image(2), image(1)]) == ()


@pytest.mark.parametrize(
    ("images", "proves"),
    [
        ([], False),
        ([image(9)], True),
        ([image(9, **{PROVIDER: "south"})], False),
        ([image(9, **{INSTALLATION: "b" * 32})], False),
        ([image(9, instance_uuid="1")], False),
        ([image(9, instance_uuid="1"), image(8)], True),
    ],
)
def test_a_list_proves_something_only_with_an_image_of_the_provider(
    images: list[CloudImage], proves: bool
) -> None:
    assert vanished.proves_something(NORTH, images, OURS) is proves


def test_it_is_missed_since_the_first_look_and_again_from_the_start_when_it_was_there() -> None:
    first = vanished.missed_since([READY], {}, NOW)
    assert first == {READY.name: NOW}
    assert vanished.missed_since([READY], first, NOW + HOUR) == first
    assert vanished.missed_since([], first, NOW + HOUR) == {}


@pytest.mark.parametrize(
    ("since", "gone"),
    [
        ({}, False),
        ({READY.name: NOW}, False),
        ({READY.name: NOW - HOUR + MINUTE}, False),
        ({READY.name: NOW - HOUR}, True),
        ({"another": NOW - HOUR}, False),
    ],
)
def test_two_looks_far_enough_apart_are_enough(since: dict, gone: bool) -> None:
    assert vanished.is_vanished(READY, since, NOW, HOUR) is gone

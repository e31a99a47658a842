"""Which images in a cloud have no owner, and which of them may be deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from builder.cloudimage import (
    BUILD_ID,
    IMAGE,
    INSTALLATION,
    NODEPOOL_BUILD_ID,
    NODEPOOL_PROVIDER,
    NODEPOOL_UPLOAD_ID,
    PROVIDER,
    SDK_OBJECT,
    SNAPSHOT_MARKS,
    UPLOAD_ID,
    CloudImage,
    GlanceStatus,
    Sighting,
)
from builder.model import Build, Snapshot, Upload, UploadState
from builder.planning.actions import Leak, Verdict
from builder.planning.leaks import judge_leaks
from tests.unit.planning_world import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    build_id,
    ready,
    records,
    snapshot,
    upload,
)

OURS = "a" * 32
GONE = {build_id(7): NOW - DAY}
BY_HAND = "`imagepool leak delete` deletes it when somebody says so."


def image(number: int = 7, **changes) -> CloudImage:
    """An image of that build's upload to north, as we make them."""
    extra = changes.pop("extra", {})
    name = f"debian-{number}"
    properties = {
        INSTALLATION: OURS,
        IMAGE: "debian-bookworm",
        BUILD_ID: build_id(number),
        UPLOAD_ID: "0000000001",
        PROVIDER: "north",
        NODEPOOL_BUILD_ID: build_id(number),
        NODEPOOL_UPLOAD_ID: "0000000001",
        NODEPOOL_PROVIDER: "north",
        SDK_OBJECT: f"images/{name}",
        **extra,
    }
    return replace(
        CloudImage(
            id=f"image-{number}",
            name=name,
            status=GlanceStatus.ACTIVE,
            size=1,
            hash_algorithm="sha512",
            hash_value="t",
            checksum=None,
            visibility="private",
            properties={key: value for key, value in properties.items() if value is not None},
        ),
        **changes,
    )


LEAKED = image()
LONG_AGO = Sighting(provider="north", external_id=LEAKED.id, first=NOW - HOUR, last=NOW - HOUR)
NODEPOOLS = image(
    extra={INSTALLATION: None, IMAGE: None, BUILD_ID: None, UPLOAD_ID: None, PROVIDER: None, SDK_OBJECT: None}
)


#: What serves there meanwhile.
GOOD = upload(8, UploadState.READY, NOW, external_id="image-8")


def judge(
    *images: CloudImage,
    known: Iterable[Build | Upload] = (GOOD,),
    sightings: Iterable[Sighting] = (LONG_AGO,),
    builds_gone: Mapping[str, datetime] = GONE,
    adopt_nodepool: bool = False,
    world: Snapshot | None = None,
) -> tuple[Leak, ...]:
    return judge_leaks(
        "north",
        images,
        world if world is not None else snapshot(records(*known)),
        installation_id=OURS,
        sightings=sightings,
        builds_gone=builds_gone,
        now=NOW,
        sweep=HOUR,
        adopt_nodepool=adopt_nodepool,
    )


def test_one_that_was_seen_unowned_before_and_whose_build_is_gone_goes() -> None:
    assert judge(LEAKED) == (
        Leak(
            provider="north",
            image=LEAKED,
            verdict=Verdict.NOW,
            first_seen=NOW - HOUR,
            reason="The record of its build 00000007 was removed at 2026-11-20 14:30 UTC,"
            " and no upload has it since 2026-11-21 13:30 UTC at least.",
        ),
    )


def test_one_that_is_seen_for_the_first_time_waits() -> None:
    (leak,) = judge(LEAKED, sightings=())
    assert (leak.verdict, leak.first_seen, leak.due) == (Verdict.LATER, NOW, NOW + HOUR)
    assert leak.reason == (
        "The record of its build 00000007 was removed at 2026-11-20 14:30 UTC, and no upload has it;"
        " that is seen for the first time, and it goes when it still is so at 2026-11-21 15:30 UTC."
    )


def test_two_looks_in_a_hurry_are_not_enough() -> None:
    lately = replace(LONG_AGO, first=NOW - 59 * MINUTE, last=NOW - MINUTE)
    (leak,) = judge(LEAKED, sightings=[lately])
    assert (leak.verdict, leak.due) == (Verdict.LATER, NOW + MINUTE)


@pytest.mark.parametrize(
    "other", [replace(LONG_AGO, provider="south"), replace(LONG_AGO, external_id="image-8")]
)
def test_what_was_seen_of_another_image_proves_nothing(other: Sighting) -> None:
    assert [leak.verdict for leak in judge(LEAKED, sightings=[other])] == [Verdict.LATER]


def test_an_empty_zookeeper_proves_nothing() -> None:
    (leak,) = judge(LEAKED, builds_gone={}, world=Snapshot())
    assert leak.verdict is Verdict.NO
    assert leak.reason == (
        "Nothing is known of its build 00000007, which an empty or a wrong ZooKeeper would look like, too."
        f" {BY_HAND}"
    )


def test_while_its_build_is_on_record_it_stays() -> None:
    (leak,) = judge(LEAKED, known=[ready(7, NOW)], builds_gone={})
    assert leak.verdict is Verdict.NO
    assert leak.reason == f"No upload has it, but its build 00000007 is still on record. {BY_HAND}"
    # A build that was restored since is not gone, whatever was known once.
    assert [leak.verdict for leak in judge(LEAKED, known=[ready(7, NOW)])] == [Verdict.NO]


@pytest.mark.parametrize("state", list(UploadState))
def test_one_whose_id_is_on_record_is_owned(state: UploadState) -> None:
    elsewhere = upload(1, state, NOW, "south", external_id=LEAKED.id, external_name="whatever")
    assert judge(LEAKED, known=[elsewhere]) == ()


@pytest.mark.parametrize(
    "record",
    [
        upload(7, UploadState.UPLOADING, NOW),
        upload(7, UploadState.FAILED, NOW, external_name="debian-7"),
        upload(7, UploadState.DELETING, NOW),
    ],
    ids=lambda record: str(record.state),
)
def test_one_that_an_upload_may_have_made_is_owned_although_its_id_is_unknown(record: Upload) -> None:
    assert judge(LEAKED, known=[record]) == ()
    for other in (
        replace(record, id="0000000002"),
        replace(record, provider="south"),
        replace(record, build_id=build_id(6)),
    ):
        assert len(judge(LEAKED, known=[other])) == 1


def test_one_that_a_failed_upload_left_nothing_of_is_a_leak() -> None:
    failed = upload(7, UploadState.FAILED, NOW)
    assert [leak.verdict for leak in judge(LEAKED, known=[failed, GOOD])] == [Verdict.NOW]


@pytest.mark.parametrize(
    "other", [None, replace(GOOD, provider="south"), replace(GOOD, state=UploadState.FAILED)]
)
def test_what_may_be_the_last_good_one_there_is_left_to_people(other: Upload | None) -> None:
    (leak,) = judge(LEAKED, known=[other] if other else [])
    assert leak.verdict is Verdict.NO
    assert leak.reason == (
        f"It may be the last good one of its diskimage there: no upload on record is ready. {BY_HAND}"
    )
    half = replace(LEAKED, status=GlanceStatus.QUEUED)
    assert [leak.verdict for leak in judge(half, known=[other] if other else [])] == [Verdict.NOW]


@pytest.mark.parametrize("mark", SNAPSHOT_MARKS)
def test_what_was_made_of_ours_is_not_ours(mark: str) -> None:
    assert judge(image(extra={mark: "x"}), adopt_nodepool=True) == ()


def test_one_with_another_name_may_be_a_copy_and_is_left_to_people() -> None:
    (leak,) = judge(image(name="my debian"))
    assert leak.verdict is Verdict.NO
    assert leak.reason == (
        'It may be a copy of ours, or had a stable name: it is called "my debian",'
        f' and was "debian-7" when it was made. {BY_HAND}'
    )


def test_images_of_other_installations_and_of_nobody_are_nobodys_business() -> None:
    other = image(extra={INSTALLATION: "b" * 32})
    plain = replace(LEAKED, properties={})
    assert judge(other, plain, adopt_nodepool=True) == ()


@pytest.mark.parametrize("status", [GlanceStatus.DELETED, GlanceStatus.PENDING_DELETE])
def test_what_goes_already_is_no_leak(status: GlanceStatus) -> None:
    assert judge(replace(LEAKED, status=status)) == ()


def test_one_without_a_build_is_left_to_people() -> None:
    (leak,) = judge(image(extra={BUILD_ID: None}))
    assert leak.verdict is Verdict.NO
    assert leak.reason == f"It has our installation's mark, but no property imagepool_build_id. {BY_HAND}"


def test_nodepools_images_are_listed_when_somebody_says_so_and_never_go_by_themselves() -> None:
    assert judge(NODEPOOLS) == ()
    (leak,) = judge(NODEPOOLS, adopt_nodepool=True)
    assert leak.verdict is Verdict.NO
    assert leak.reason == (
        "It was made by nodepool-builder of its build 00000007, and no upload has it."
        f" Whose nodepool that was can't be told. {BY_HAND}"
    )
    owned = upload(7, UploadState.READY, NOW, external_id=NODEPOOLS.id)
    sending = upload(7, UploadState.UPLOADING, NOW)
    assert judge(NODEPOOLS, known=[owned], adopt_nodepool=True) == ()
    assert judge(NODEPOOLS, known=[sending], adopt_nodepool=True) == ()


def test_each_is_judged_by_itself_and_in_order() -> None:
    found = judge(image(9), LEAKED, image(8), known=[GOOD])
    assert [(leak.image.id, leak.verdict) for leak in found] == [
        ("image-9", Verdict.NO),
        ("image-7", Verdict.NOW),
    ]


# -- in three parts ---------------------------------------------------------------------------------


def three_parts() -> tuple[CloudImage, ...]:
    """The images of an upload that nobody has any more, what is needed first."""
    named = {"kernel_id": "kernel", "ramdisk_id": "ramdisk"}
    return (
        *(
            image(id=name, name=f"debian-7-{part}", extra={SDK_OBJECT: f"images/debian-7-{part}"})
            for name, part in (("kernel", "aki"), ("ramdisk", "ari"))
        ),
        image(id="root", extra=named),
    )


def seen(*ids: str) -> list[Sighting]:
    return [replace(LONG_AGO, external_id=each) for each in ids]


def test_the_root_goes_first_and_the_others_when_it_is_gone() -> None:
    kernel, ramdisk, root = three_parts()
    long_ago = seen("kernel", "ramdisk", "root")
    first = judge(kernel, ramdisk, root, sightings=long_ago)
    assert [(leak.image.id, leak.verdict) for leak in first] == [
        ("root", Verdict.NOW),
        ("kernel", Verdict.LATER),
        ("ramdisk", Verdict.LATER),
    ]
    assert first[1].due == NOW + HOUR
    assert first[1].reason.endswith('Image root ("debian-7") boots with it and goes first.')
    assert [leak.verdict for leak in judge(kernel, ramdisk, sightings=long_ago)] == [Verdict.NOW] * 2


def test_what_somebody_elses_image_boots_with_stays() -> None:
    kernel, ramdisk, root = three_parts()
    copy = replace(root, id="snap", properties={**root.properties, "image_type": "snapshot"})
    verdicts = [leak.verdict for leak in judge(kernel, ramdisk, copy, sightings=seen("kernel", "ramdisk"))]
    assert verdicts == [Verdict.LATER] * 2
    gone = replace(root, status=GlanceStatus.DELETED)
    verdicts = [leak.verdict for leak in judge(kernel, ramdisk, gone, sightings=seen("kernel", "ramdisk"))]
    assert verdicts == [Verdict.NOW] * 2


@pytest.mark.parametrize(
    ("changes", "owned"),
    [
        ({"external_id": "root", "parts": {"aki": "kernel", "ari": "ramdisk"}}, True),
        ({"external_id": "root", "state": UploadState.DELETING}, True),
        ({"external_id": "root"}, False),
    ],
    ids=["on record", "of which nodepool's commands left one", "of another upload"],
)
def test_a_part_belongs_to_whoever_has_it_or_may_have_it(changes: dict[str, object], owned: bool) -> None:
    record = replace(upload(7, UploadState.READY, NOW, format="ami"), **changes)
    leaks = judge(*three_parts(), known=(ready(7, NOW), record), builds_gone={})
    assert {leak.image.id for leak in leaks} == (set() if owned else {"kernel", "ramdisk"})

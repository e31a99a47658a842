"""What `imagepool image explain` says."""

from __future__ import annotations

import pytest

from builder.errors import NotFoundError
from builder.model import FailureClass, UploadState
from builder.planning.actions import Verdict
from builder.planning.explain import explain
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    building,
    config,
    diskimage,
    doomed,
    failed,
    held,
    provider,
    ready,
    records,
    snapshot,
    upload,
)


def told(settings, known) -> list[tuple[str, Verdict, str]]:
    rows = explain(settings, snapshot(known), NOW, known.name, HERE)
    return [(row.what, row.verdict, row.reason) for row in rows]


def test_the_whole_story_of_an_image() -> None:
    settings = config(diskimage(), provider("north"), provider("south", pause=True))
    known = records(
        building(6, NOW - MINUTE),
        failed(5, NOW - HOUR),
        ready(3, NOW - HOUR),
        ready(2, NOW - DAY),
        ready(1, NOW - 2 * DAY),
        upload(3, UploadState.UPLOADING, NOW),
        upload(2, UploadState.READY, NOW - DAY),
        upload(1, UploadState.READY, NOW - 2 * DAY),
        build_claimed=True,
        uploads_claimed=frozenset({(ready(3, NOW).id, "north")}),
    )
    assert told(settings, known) == [
        (
            "next build",
            Verdict.RUNNING,
            "Build 00000006 runs on host-a since 2026-11-21 14:29 UTC, phase packages.",
        ),
        ("build on host-a", Verdict.NO, "It can take the next one; 1 of 1 worker is busy now."),
        (
            "upload to north",
            Verdict.RUNNING,
            "Build 00000003 is being uploaded to north by an uploader since 2026-11-21 14:29 UTC.",
        ),
        (
            "upload to south",
            Verdict.NO,
            "Uploads to south are paused in the configuration (`pause: true`).",
        ),
        (
            "image in service in north",
            Verdict.NOW,
            "Build 00000002 is the newest ready one in north that may serve, and goes into service.",
        ),
        ("image in service in south", Verdict.NO, "No image of it is ready in south."),
        ("clean-up of building build 00000006", Verdict.NO, "It is being built."),
        (
            "clean-up of failed build 00000005",
            Verdict.NO,
            "It failed, mirror: it broke. Its record stays until a newer build is ready.",
        ),
        (
            "clean-up of ready build 00000003",
            Verdict.NO,
            "It stays: it is one of the 2 newest ready builds.",
        ),
        (
            "clean-up of ready build 00000002",
            Verdict.NO,
            "It stays: it is one of the 2 newest ready builds.",
        ),
        (
            "clean-up of ready build 00000001",
            Verdict.NO,
            "Build 00000001 is superseded: 2 newer builds are ready;"
            " it stays as long as it is ready in north.",
        ),
        ("clean-up of uploading upload of 00000003 in north", Verdict.NO, "It is being uploaded."),
        (
            "clean-up of ready upload of 00000002 in north",
            Verdict.NO,
            "It stays: it is the newest ready one there, the image in service.",
        ),
        (
            "clean-up of ready upload of 00000001 in north",
            Verdict.NO,
            "It stays: it is one of the 2 newest ready uploads there.",
        ),
    ]


def test_what_goes_says_when() -> None:
    known = records(ready(3, NOW - HOUR), failed(2, NOW - DAY), doomed(ready(1, NOW - 2 * DAY)))
    rows = explain(config(diskimage()), snapshot(known), NOW, IMAGE, None)
    assert [(row.what, row.verdict, row.due) for row in rows[3:]] == [
        ("clean-up of failed build 00000002", Verdict.LATER, NOW + 6 * DAY),
        ("clean-up of deleting build 00000001", Verdict.NO, None),
    ]


def test_an_image_that_left_the_configuration_keeps_what_it_has() -> None:
    known = records(
        ready(1, NOW),
        upload(1, UploadState.READY, NOW, image="left"),
        upload(1, UploadState.FAILED, NOW, "south", kind=FailureClass.AUTH, image="left"),
        name="left",
    )
    assert told(config(provider("north", "left")), known) == [
        (
            "next build",
            Verdict.NO,
            "The image is not in the configuration, so it is neither built nor uploaded.",
        ),
        (
            "clean-up of ready build 00000001",
            Verdict.NO,
            "It stays: its image is not in the configuration, but it goes only when somebody says so,"
            " with `imagepool cleanup`.",
        ),
        (
            "clean-up of ready upload of 00000001 in north",
            Verdict.NO,
            "It stays: the diskimage left is not in the configuration, but it goes only when somebody"
            " says so, with `imagepool cleanup`.",
        ),
        (
            "clean-up of failed upload of 00000001 in south",
            Verdict.NO,
            "It failed, auth: it broke. Its record stays until a later upload there is ready.",
        ),
    ]


def test_an_image_nobody_knows_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="there is no image debian-woody"):
        explain(config(diskimage()), snapshot(), NOW, "debian-woody", HERE)


def test_who_has_the_stable_name_in_each_provider_is_told() -> None:
    settings = config(diskimage(stable_name="debian", promote="all"), provider("north"), provider("south"))
    known = records(ready(1, NOW - HOUR), upload(1, UploadState.READY, NOW))
    named = [row for row in told(settings, known) if row[0].startswith("stable name")]
    assert named == [
        (
            "stable name debian in north",
            Verdict.NO,
            "No image in north has the stable name debian yet."
            " Build 00000001 takes over once it is ready in south too (`promote: all`).",
        ),
        (
            "stable name debian in south",
            Verdict.NO,
            "No image of it is ready in south that could have the stable name debian.",
        ),
    ]


def test_what_became_of_other_images_tells_whether_a_provider_takes_this_one() -> None:
    failures = [
        upload(
            1,
            UploadState.FAILED,
            NOW - n * MINUTE,
            kind=FailureClass.AUTH,
            id=f"{n:010}",
            image="other",
        )
        for n in (1, 2, 3)
    ]
    settings = config(diskimage(), diskimage("other"), provider("north", IMAGE, "other"))
    known = snapshot(records(ready(1, NOW - HOUR)), records(*failures, name="other"))
    rows = {row.what: row for row in explain(settings, known, NOW, IMAGE, HERE)}
    assert rows["upload to north"].verdict is Verdict.LATER
    assert rows["upload to north"].reason.startswith(
        "3 uploads in a row to north failed, last: auth: it broke. Nothing is sent there before"
    )


def test_what_is_withheld_says_so_wherever_it_is_told_of() -> None:
    settings = config(diskimage(stable_name="debian"), provider("north"), provider("south"))
    bad = held(ready(2, NOW - HOUR))
    good = ready(1, NOW - DAY)
    serving = {"serving": NOW - HOUR, "stable_name": "debian"}
    known = records(
        bad,
        good,
        upload(2, UploadState.READY, NOW - DAY),
        upload(1, UploadState.READY, NOW, **serving),
        upload(2, UploadState.READY, NOW, "south", **serving),
    )
    rows = {what: reason for what, _, reason in told(settings, known)}
    word = "uild 00000002 was put in quarantine by ann at 2026-11-21 14:29 UTC: it does not boot."
    assert rows["clean-up of ready build 00000002"] == (
        f"It stays until 2 good newer builds are ready. B{word}"
    )
    assert rows["clean-up of ready upload of 00000002 in north"] == (
        f"It stays until 2 good newer uploads are ready there. B{word}"
    )
    assert rows["clean-up of ready upload of 00000001 in north"] == (
        "It stays: it is the image there that is in service."
    )
    assert rows["clean-up of ready upload of 00000002 in south"] == (
        f"It stays: it is the newest ready one there, the image in service. B{word}"
    )
    assert rows["stable name debian in south"].endswith(f"for nothing else is ready there: b{word}")
    assert rows["upload to north"].endswith(f"The newest b{word}")

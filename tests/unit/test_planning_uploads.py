"""Which build goes to which provider, when, and in what order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Provider
from builder.model import FailureClass, ImageFormat, ImageRecords, UploadState
from builder.planning.actions import UploadDecision, Verdict
from builder.planning.retry import delay
from builder.planning.uploads import claimable, decide_upload, decide_uploads
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    diskimage,
    doomed,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

TODAY = ready(2, NOW - HOUR)
YESTERDAY = ready(1, NOW - DAY)
SENT_YESTERDAY = upload(1, UploadState.READY, NOW - DAY)
NORTH = provider("north")
PAIR = (build_id(2), "north")
FRESH = "Build 00000002, ready since 2026-11-21 13:30 UTC, is not in north yet; its files are on host-a."


def failed(number: int, ago=MINUTE, kind: FailureClass = FailureClass.QUOTA, build: int = 2):
    return upload(build, UploadState.FAILED, NOW - ago, kind=kind, id=f"{number:010}")


def after(failures: int, last: int):
    wait = delay(config().upload_retry, failures, f"{build_id(2)}/north/{last:010}")
    assert wait is not None
    return wait


def decision(verdict: Verdict, reason: str, build=TODAY, due=None, in_service=None) -> UploadDecision:
    return UploadDecision(
        image=IMAGE,
        provider="north",
        verdict=verdict,
        reason=reason,
        build=build,
        due=due,
        in_service=in_service,
    )


STORIES: dict[str, tuple[Provider, ImageRecords, UploadDecision]] = {
    "nothing is built yet": (
        NORTH,
        records(),
        decision(Verdict.NO, "There is no ready build to upload.", build=None),
    ),
    "a new build is due since it became ready": (
        NORTH,
        records(TODAY),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "yesterday's image is in service until then": (
        NORTH,
        records(TODAY, YESTERDAY, SENT_YESTERDAY),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR, in_service=NOW - DAY),
    ),
    "only the newest ready build counts": (
        NORTH,
        records(YESTERDAY, TODAY, upload(2, UploadState.READY, NOW - MINUTE)),
        decision(
            Verdict.NO,
            "The newest build 00000002 is ready in north since 2026-11-21 14:29 UTC.",
            in_service=NOW - MINUTE,
        ),
    ),
    "the newest build was told to go: the one before is in service again": (
        NORTH,
        records(doomed(TODAY), YESTERDAY, SENT_YESTERDAY),
        decision(
            Verdict.NO,
            "The newest build 00000001 is ready in north since 2026-11-20 14:30 UTC.",
            build=YESTERDAY,
            in_service=NOW - DAY,
        ),
    ),
    "it runs": (
        NORTH,
        records(
            TODAY,
            upload(2, UploadState.UPLOADING, NOW, phase="send", uploader="host-a"),
            uploads_claimed=frozenset({PAIR}),
        ),
        decision(
            Verdict.RUNNING,
            "Build 00000002 is being uploaded to north by host-a since 2026-11-21 14:29 UTC, phase send.",
        ),
    ),
    "its uploader is gone": (
        NORTH,
        records(TODAY, upload(2, UploadState.UPLOADING, NOW)),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "a claim alone is no upload: it may be our own": (
        NORTH,
        records(TODAY, uploads_claimed=frozenset({PAIR})),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "one that is being deleted does not stand in the way": (
        NORTH,
        records(TODAY, upload(2, UploadState.DELETING, NOW)),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "paused for this provider": (
        provider("north", pause=True),
        records(TODAY),
        decision(Verdict.NO, "Uploads to north are paused in the configuration (`pause: true`)."),
    ),
    "builds are paused by hand, uploads go on": (
        NORTH,
        records(TODAY, paused=True),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "the build lacks the provider's format": (
        provider("north", image_format=ImageFormat.VHD),
        records(TODAY),
        decision(Verdict.NO, "Build 00000002 has no vhd; one is due."),
    ),
    "nodepool-builder made it": (
        NORTH,
        records(replace(TODAY, artifacts=())),
        decision(
            Verdict.NO,
            "Build 00000002 was made by nodepool-builder: its hashes are not on record.",
            build=replace(TODAY, artifacts=()),
        ),
    ),
    "after a failure it waits a while": (
        NORTH,
        records(TODAY, failed(1)),
        decision(
            Verdict.LATER,
            "The upload of build 00000002 to north failed, quota: it broke."
            f" The next try is at {NOW - MINUTE + after(1, 1):%Y-%m-%d %H:%M} UTC.",
            due=NOW - MINUTE + after(1, 1),
        ),
    ),
    "the wait is over": (
        NORTH,
        records(TODAY, failed(1, HOUR)),
        decision(
            Verdict.NOW,
            f"{FRESH} The upload of build 00000002 to north failed, quota: it broke.",
            due=NOW - HOUR + after(1, 1),
        ),
    ),
    "the wait is over this very moment": (
        NORTH,
        records(TODAY, failed(1, after(1, 1))),
        decision(
            Verdict.NOW,
            f"{FRESH} The upload of build 00000002 to north failed, quota: it broke.",
            due=NOW,
        ),
    ),
    "a builder's clock is ahead of ours": (
        NORTH,
        records(replace(TODAY, state_time=NOW + HOUR)),
        decision(
            Verdict.NOW,
            FRESH.replace("13:30", "15:30"),
            build=replace(TODAY, state_time=NOW + HOUR),
            due=NOW,
        ),
    ),
    "the second wait counts from the newer failure": (
        NORTH,
        records(TODAY, failed(1, HOUR), failed(2, MINUTE)),
        decision(
            Verdict.LATER,
            "The upload of build 00000002 to north failed 2 times, last: quota: it broke."
            f" The next try is at {NOW - MINUTE + after(2, 2):%Y-%m-%d %H:%M} UTC.",
            due=NOW - MINUTE + after(2, 2),
        ),
    ),
    "at the limit only a new build or a human helps": (
        NORTH,
        records(TODAY, failed(1, DAY), failed(2, HOUR), failed(3)),
        decision(
            Verdict.NO,
            "The upload of build 00000002 to north failed 3 times, last: quota: it broke."
            " There is no next try before a new build;"
            " delete the failed upload to try again (`imagepool upload delete`).",
        ),
    ),
    "a cancelled one is not begun again by itself": (
        NORTH,
        records(TODAY, failed(1, DAY, FailureClass.CANCELLED)),
        decision(
            Verdict.NO,
            "The upload of build 00000002 to north failed, cancelled: it broke."
            " There is no next try before a new build;"
            " delete the failed upload to try again (`imagepool upload delete`).",
        ),
    ),
    "interrupted ones don't count": (
        NORTH,
        records(TODAY, *(failed(n, kind=FailureClass.INTERRUPTED) for n in range(9))),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "failures of another build don't count": (
        NORTH,
        records(TODAY, YESTERDAY, *(failed(n, build=1) for n in range(9))),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_decision(story: str) -> None:
    where, known, expected = STORIES[story]
    assert decide_upload(diskimage(), where, known, config(diskimage(), where), NOW) == expected


def test_one_decision_for_each_image_and_provider_that_lists_it() -> None:
    images = [diskimage("a"), diskimage("b"), diskimage("c")]
    clouds = [provider("north", "a", "b"), provider("south", "b")]
    decided = decide_uploads(config(*images, *clouds), snapshot(), NOW)
    assert [(d.image, d.provider) for d in decided] == [("a", "north"), ("b", "north"), ("b", "south")]


def due(image: str, where: str, in_service=None, **changes) -> UploadDecision:
    basic = decision(Verdict.NOW, "due", in_service=in_service)
    return replace(basic, image=image, provider=where, **changes)


def test_providers_take_turns_and_the_oldest_image_goes_first() -> None:
    decisions = [
        due("a", "north", NOW - DAY),
        due("b", "north", NOW - 3 * DAY),
        due("c", "north"),
        due("a", "south", NOW - 2 * DAY),
    ]
    order = [(d.image, d.provider) for d in claimable(decisions, HERE)]
    assert order == [("c", "north"), ("a", "south"), ("b", "north"), ("a", "north")]


def test_only_what_is_due_and_lies_on_this_machine_can_be_claimed() -> None:
    decisions = [
        due("a", "north", verdict=Verdict.LATER),
        due("b", "north", build=replace(TODAY, builder_id=ELSEWHERE)),
        due("c", "north", build=None),
        due("d", "north"),
    ]
    assert [d.image for d in claimable(decisions, HERE)] == ["d"]

"""Which build goes to which provider, when, and in what order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Provider
from builder.model import Cancellation, Deletion, FailureClass, ImageFormat, ImageRecords, Pause, UploadState
from builder.planning.actions import UploadDecision, Verdict
from builder.planning.retry import delay
from builder.planning.uploads import decide_upload, decide_uploads
from builder.ways import Capabilities
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    artifact,
    breaker_of,
    build_id,
    building,
    claimable,
    config,
    diskimage,
    doomed,
    held,
    provider,
    ready,
    records,
    snapshot,
    upload,
    wish,
)

TODAY = ready(2, NOW - HOUR)
YESTERDAY = ready(1, NOW - DAY)
SENT_YESTERDAY = upload(1, UploadState.READY, NOW - DAY)
NORTH = provider("north")
PAIR = (build_id(2), "north")
RETIRED = Deletion(by="imagepool", time=NOW, why="superseded")
RUNNING = building(3, NOW - MINUTE, formats=("qcow2",), artifacts=(artifact(),))
CANCELLED = Cancellation(image=IMAGE, build_id=RUNNING.id, by="ann", time=NOW)
FRESH = "Build 00000002, ready since 2026-11-21 13:30 UTC, is not in north yet; its files are on host-a."


def failed(number: int, ago=MINUTE, kind: FailureClass = FailureClass.CLOUD, build: int = 2):
    return upload(build, UploadState.FAILED, NOW - ago, kind=kind, id=f"{number:010}")


def after(failures: int, last: int, build: int = 2):
    wait = delay(config().upload_retry, failures, f"{build_id(build)}/north/{last:010}")
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
    "one that retention deletes does not stand in the way": (
        NORTH,
        records(TODAY, upload(2, UploadState.DELETING, NOW, deletion=RETIRED)),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "paused for this provider": (
        provider("north", pause=True),
        records(TODAY),
        decision(Verdict.NO, "Uploads to north are paused in the configuration (`pause: true`)."),
    ),
    "builds are paused by hand, uploads go on": (
        NORTH,
        records(TODAY, pause=Pause(by="ann", time=NOW)),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "the build lacks the provider's format": (
        provider("north", image_format=ImageFormat.VHD),
        records(TODAY),
        decision(Verdict.NO, "Build 00000002 has no vhd; a new build is due."),
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
            "The upload of build 00000002 to north failed, cloud: it broke."
            f" The next try is at {NOW - MINUTE + after(1, 1):%Y-%m-%d %H:%M} UTC.",
            due=NOW - MINUTE + after(1, 1),
        ),
    ),
    "the wait is over": (
        NORTH,
        records(TODAY, failed(1, HOUR)),
        decision(
            Verdict.NOW,
            f"{FRESH} The upload of build 00000002 to north failed, cloud: it broke.",
            due=NOW - HOUR + after(1, 1),
        ),
    ),
    "the wait is over this very moment": (
        NORTH,
        records(TODAY, failed(1, after(1, 1))),
        decision(
            Verdict.NOW,
            f"{FRESH} The upload of build 00000002 to north failed, cloud: it broke.",
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
            "The upload of build 00000002 to north failed 2 times, last: cloud: it broke."
            f" The next try is at {NOW - MINUTE + after(2, 2):%Y-%m-%d %H:%M} UTC.",
            due=NOW - MINUTE + after(2, 2),
        ),
    ),
    "at the limit only a new build or a human helps": (
        NORTH,
        records(TODAY, failed(1, DAY), failed(2, HOUR), failed(3)),
        decision(
            Verdict.NO,
            "The upload of build 00000002 to north failed 3 times, last: cloud: it broke."
            " There is no next try before a new build, or before"
            " `imagepool upload retry debian-bookworm --provider north`.",
        ),
    ),
    "a cancelled one is not begun again by itself": (
        NORTH,
        records(TODAY, failed(1, DAY, FailureClass.CANCELLED)),
        decision(
            Verdict.NO,
            "The upload of build 00000002 to north failed, cancelled: it broke."
            " There is no next try before a new build, or before"
            " `imagepool upload retry debian-bookworm --provider north`.",
        ),
    ),
    "interrupted ones don't count": (
        NORTH,
        records(TODAY, *(failed(n, kind=FailureClass.INTERRUPTED) for n in range(9))),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "somebody keeps it away from there": (
        NORTH,
        records(replace(TODAY, wishes=(wish(wanted=False),)), YESTERDAY, SENT_YESTERDAY),
        decision(
            Verdict.NO,
            "Build 00000002 is kept away from north by ann at 2026-11-21 14:29 UTC: it does not boot;"
            " `imagepool upload retry debian-bookworm --provider north` lets it go there again."
            " Build 00000001 stays in service there.",
            build=replace(TODAY, wishes=(wish(wanted=False),)),
            in_service=NOW - DAY,
        ),
    ),
    "kept away from there, no older build is brought back": (
        NORTH,
        records(replace(TODAY, wishes=(wish(wanted=False),)), YESTERDAY),
        decision(
            Verdict.NO,
            "Build 00000002 is kept away from north by ann at 2026-11-21 14:29 UTC: it does not boot;"
            " `imagepool upload retry debian-bookworm --provider north` lets it go there again.",
            build=replace(TODAY, wishes=(wish(wanted=False),)),
        ),
    ),
    "kept away from another provider": (
        NORTH,
        records(replace(TODAY, wishes=(wish(wanted=False, to="south"),))),
        decision(
            Verdict.NOW, FRESH, build=replace(TODAY, wishes=(wish(wanted=False, to="south"),)), due=NOW - HOUR
        ),
    ),
    "deleted with nodepool's CLI, it stays away": (
        NORTH,
        records(TODAY, upload(2, UploadState.DELETING, NOW - MINUTE)),
        decision(
            Verdict.NO,
            "Build 00000002 is kept away from north by another tool at 2026-11-21 14:29 UTC;"
            " `imagepool upload retry debian-bookworm --provider north` lets it go there again.",
        ),
    ),
    "deleted with nodepool's CLI, and wanted again since": (
        NORTH,
        records(
            replace(TODAY, wishes=(wish(wanted=True),)), upload(2, UploadState.DELETING, NOW - 2 * MINUTE)
        ),
        decision(Verdict.NOW, FRESH, build=replace(TODAY, wishes=(wish(wanted=True),)), due=NOW - HOUR),
    ),
    "wanted again, what failed before does not count": (
        NORTH,
        records(
            replace(TODAY, wishes=(wish(wanted=True),)),
            failed(1, DAY),
            failed(2, HOUR),
            failed(3, HOUR),
            failed(4, 2 * MINUTE, FailureClass.CANCELLED),
        ),
        decision(Verdict.NOW, FRESH, build=replace(TODAY, wishes=(wish(wanted=True),)), due=NOW - HOUR),
    ),
    "wanted again, what failed since does": (
        NORTH,
        records(
            replace(TODAY, wishes=(wish(NOW - HOUR, wanted=True),)),
            failed(1, DAY),
            failed(2, 2 * HOUR),
            failed(3, MINUTE),
        ),
        decision(
            Verdict.LATER,
            "The upload of build 00000002 to north failed, cloud: it broke."
            f" The next try is at {NOW - MINUTE + after(1, 3):%Y-%m-%d %H:%M} UTC.",
            build=replace(TODAY, wishes=(wish(NOW - HOUR, wanted=True),)),
            due=NOW - MINUTE + after(1, 3),
        ),
    ),
    "a build that still runs has no file yet": (
        NORTH,
        records(building(3, NOW - MINUTE), TODAY, build_claimed=True),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "a build that still runs has the file already": (
        NORTH,
        records(RUNNING, TODAY, upload(2, UploadState.READY, NOW - HOUR), build_claimed=True),
        decision(
            Verdict.NOW,
            "Build 00000003 is still being built, but its qcow2 is there and not in north yet;"
            " it is ready there when the build is, and its files are on host-a.",
            build=RUNNING,
            due=NOW - MINUTE,
            in_service=NOW - HOUR,
        ),
    ),
    "a build that still runs has another file already": (
        provider("north", image_format=ImageFormat.RAW),
        records(RUNNING, build_claimed=True),
        decision(Verdict.NO, "There is no ready build to upload.", build=None),
    ),
    "a build that still runs is on its way there": (
        NORTH,
        records(
            RUNNING,
            TODAY,
            upload(3, UploadState.UPLOADING, NOW, phase="hold", uploader="host-a"),
            build_claimed=True,
            uploads_claimed=frozenset({(RUNNING.id, "north")}),
        ),
        decision(
            Verdict.RUNNING,
            "Build 00000003 is being uploaded to north by host-a since 2026-11-21 14:29 UTC, phase hold.",
            build=RUNNING,
        ),
    ),
    "a build whose builder is gone is nothing to upload": (
        NORTH,
        records(RUNNING, TODAY),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "a build that was cancelled is nothing to upload": (
        NORTH,
        records(RUNNING, TODAY, build_claimed=True, cancellation=CANCELLED),
        decision(Verdict.NOW, FRESH, due=NOW - HOUR),
    ),
    "the upload of a build that still runs failed": (
        NORTH,
        records(RUNNING, TODAY, failed(1, build=3), build_claimed=True),
        decision(
            Verdict.LATER,
            "The upload of build 00000003 to north failed, cloud: it broke."
            f" The next try is at {NOW - MINUTE + after(1, 1, build=3):%Y-%m-%d %H:%M} UTC.",
            build=RUNNING,
            due=NOW - MINUTE + after(1, 1, build=3),
        ),
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
    settings = config(diskimage(), where)
    breaker = breaker_of(where.name, snapshot(known), settings.upload_breaker, NOW)
    decided = decide_upload(diskimage(), where, known, settings, NOW, breaker=breaker)
    assert replace(decided, tried=None) == expected
    assert decide_uploads(settings, snapshot(known), NOW) == (decided,)


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


def test_a_provider_that_sends_already_comes_after_those_that_do_not() -> None:
    """It takes two at a time, and has a whole day of images to catch up with."""
    decisions = [
        due("a", "north", verdict=Verdict.RUNNING),
        due("b", "north"),
        due("c", "north"),
        due("a", "south", NOW - DAY),
        due("b", "west", NOW - HOUR),
    ]
    order = [(d.image, d.provider) for d in claimable(decisions, HERE)]
    assert order == [("a", "south"), ("b", "west"), ("b", "north"), ("c", "north")]


def test_what_can_be_claimed_is_all_there_so_that_a_full_provider_holds_up_none() -> None:
    decisions = [due("a", "full"), due("b", "full"), due("c", "full"), due("a", "free", NOW)]
    order = [(d.image, d.provider) for d in claimable(decisions, HERE)]
    assert order.index(("a", "free")) == 1
    assert len(order) == 4


def test_a_probe_has_its_turn_like_any_other() -> None:
    decisions = [due("a", "north", NOW - DAY), due("b", "dead", probe=True), due("b", "north", NOW)]
    assert [d.provider for d in claimable(decisions, HERE)] == ["dead", "north", "north"]


def test_a_format_that_the_provider_is_known_not_to_take_is_not_sent() -> None:
    settings = config(diskimage(), NORTH)
    known = {"north": Capabilities(checked=NOW, disk_formats=frozenset({"raw", "vhd"}))}
    (decided,) = decide_uploads(settings, snapshot(records(TODAY)), NOW, capabilities=known)
    assert decided.verdict is Verdict.NO
    assert decided.reason == "The image service of north takes no qcow2, only raw and vhd."
    unsaid = {"north": Capabilities(checked=NOW)}
    (decided,) = decide_uploads(settings, snapshot(records(TODAY)), NOW, capabilities=unsaid)
    assert decided.verdict is Verdict.NOW


def test_it_is_on_record_when_an_image_failed_there_last_whatever_build_it_was() -> None:
    known = records(TODAY, YESTERDAY, failed(1, HOUR, build=1), failed(2, 2 * HOUR))
    (decided,) = decide_uploads(config(diskimage(), NORTH), snapshot(known), NOW)
    assert decided.tried == NOW - HOUR


# -- what is withheld -----------------------------------------------------------------------------


def decided(known: ImageRecords, where: Provider = NORTH) -> UploadDecision:
    settings = config(diskimage(), where)
    (found,) = decide_uploads(settings, snapshot(known), NOW)
    return found


BAD = "was put in quarantine by ann at 2026-11-21 14:29 UTC: it does not boot"


def test_what_is_withheld_is_not_sent_and_the_one_before_is() -> None:
    sent = decided(records(held(TODAY), YESTERDAY))
    assert (sent.verdict, sent.build) == (Verdict.NOW, YESTERDAY)
    assert sent.reason == (
        "Build 00000001, ready since 2026-11-20 14:30 UTC, is not in north yet; its files are on host-a."
        f" The newest build 00000002 {BAD}."
    )
    there = decided(records(held(TODAY), YESTERDAY, SENT_YESTERDAY))
    assert (there.verdict, there.build) == (Verdict.NO, YESTERDAY)
    assert there.reason == (
        f"Build 00000001 is ready in north since 2026-11-20 14:30 UTC. The newest build 00000002 {BAD}."
    )
    alone = decided(records(held(TODAY)))
    assert (alone.verdict, alone.build) == (Verdict.NO, None)
    assert alone.reason == f"There is no ready build to upload. The newest build 00000002 {BAD}."


def test_what_is_withheld_from_one_provider_goes_to_the_others() -> None:
    known = records(held(TODAY, "south"), YESTERDAY)
    assert decided(known).build == held(TODAY, "south")
    assert decided(known, provider("south")).build == YESTERDAY


def test_nobody_gets_it_there_by_wishing_for_its_upload() -> None:
    wanted = replace(held(TODAY), wishes=(wish(wanted=True),))
    assert decided(records(wanted, YESTERDAY)).build == YESTERDAY


def test_what_runs_and_is_withheld_is_not_sent_before_it_is_ready() -> None:
    running = records(RUNNING, TODAY, build_claimed=True)
    assert decided(running).build == RUNNING
    assert decided(replace(running, builds=(held(RUNNING), TODAY))).build == TODAY


def test_a_build_before_it_that_lost_its_file_waits_for_the_next_one() -> None:
    known = records(held(TODAY), replace(YESTERDAY, pruned=("qcow2",)))
    assert decided(known).reason.startswith(
        "The qcow2 file of build 00000001 was deleted after its uploads; the next build brings one."
    )


def test_what_is_in_service_is_as_old_as_it_is_whenever_it_took_over() -> None:
    renewed = replace(SENT_YESTERDAY.renewed(NOW), serving=NOW)
    assert decided(records(TODAY, YESTERDAY, renewed)).in_service == NOW - DAY

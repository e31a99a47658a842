"""What is cleaned up, what has to wait, and what never goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Config
from builder.model import (
    BuildState,
    Deletion,
    FailureClass,
    ImageFormat,
    ImageRecords,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadState,
)
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.cleanup import plan_cleanup
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    MINUTE,
    NOW,
    build_id,
    building,
    config,
    diskimage,
    doomed,
    failed,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

CONFIG = config(diskimage(), provider("north"), provider("south"))
READY, FAILED, UPLOADING, DELETING = (
    UploadState.READY,
    UploadState.FAILED,
    UploadState.UPLOADING,
    UploadState.DELETING,
)
NEW, OLD, OLDER = ready(3, NOW - HOUR), ready(2, NOW - DAY), ready(1, NOW - 2 * DAY)
IN_NORTH = [upload(n, READY, b.state_time) for n, b in ((3, NEW), (2, OLD), (1, OLDER))]
OUT_OF_REACH = (
    "The provider gone is not in the configuration and its cloud is not on record, so it can't be asked;"
    " configure it again to let this be cleaned up, or forget what it has with"
    " `imagepool cleanup --forget gone`."
)


def plan(
    known: ImageRecords, settings: Config = CONFIG, here: str = HERE, active=()
) -> tuple[CleanupAction, ...]:
    return plan_cleanup(settings, snapshot(known), NOW, builder_id=here, active=frozenset(active))


def act(
    kind: CleanupKind,
    reason: str,
    *,
    build=None,
    upload=None,
    verdict=Verdict.NOW,
    due=None,
    cancellation=None,
) -> CleanupAction:
    return CleanupAction(
        kind=kind,
        build=build,
        upload=upload,
        verdict=verdict,
        reason=reason,
        due=due,
        cancellation=cancellation,
    )


def cancelled(record: Upload) -> UploadCancellation:
    return UploadCancellation(upload=record.name, image=record.image, by="ann", time=NOW, why="wrong mirror")


RUNNING = building(4, NOW - MINUTE)
STALE = building(3, NOW - DAY)
SENDING = upload(3, UPLOADING, NOW - MINUTE)
SENDING_BEFORE = upload(3, UPLOADING, NOW - HOUR, id="0000000000")
LINGERING = upload(3, FAILED, NOW - MINUTE, external_id="left-over", external_name="img-1")
UNSEEN = upload(3, FAILED, NOW - 5 * MINUTE, external_name="img-1")
UNSEEN_YET = upload(3, FAILED, NOW - MINUTE, external_name="img-1")
LOST = upload(3, FAILED, NOW - 5 * MINUTE, "gone", external_name="img-1")
HIDDEN = upload(3, DELETING, NOW, hidden=True, deletion=Deletion(by="ann", time=NOW, why="it does not boot"))
FAILED_LONG_AGO = failed(2, NOW - 8 * DAY)
FAILED_LATELY = failed(2, NOW - 6 * DAY)

STORIES: dict[str, tuple[ImageRecords, list[CleanupAction]]] = {
    "an empty tree plans nothing": (records(), []),
    "all is well": (records(NEW, OLD, IN_NORTH[0], IN_NORTH[1]), []),
    # -- abandoned work
    "a build that runs is left alone": (records(RUNNING, build_claimed=True), []),
    "a build whose builder is gone has failed": (
        records(RUNNING),
        [act(CleanupKind.FAIL_BUILD, "Build 00000004 has no builder any more.", build=RUNNING)],
    ),
    "what a failed upload left behind goes at once": (
        records(NEW, LINGERING),
        [
            act(
                CleanupKind.REMOVE_LEFTOVER,
                "The upload of build 00000003 to north failed and left left-over behind.",
                build=NEW,
                upload=LINGERING,
            )
        ],
    ),
    "what a failed upload may have left without an id goes by its name": (
        records(NEW, UNSEEN),
        [
            act(
                CleanupKind.REMOVE_LEFTOVER,
                "The upload of build 00000003 to north failed and left img-1 behind.",
                build=NEW,
                upload=UNSEEN,
            )
        ],
    ),
    "what a cloud did not answer for a moment ago may come yet": (
        records(NEW, UNSEEN_YET),
        [
            act(
                CleanupKind.REMOVE_LEFTOVER,
                "The upload of build 00000003 to north failed without an answer; its cloud may make img-1"
                " yet, which is looked for at 2026-11-21 14:34 UTC.",
                build=NEW,
                upload=UNSEEN_YET,
                verdict=Verdict.LATER,
                due=NOW + 4 * MINUTE,
            )
        ],
    ),
    "what was left in a provider that is not configured waits": (
        records(NEW, LOST),
        [
            act(
                CleanupKind.REMOVE_LEFTOVER,
                f"The upload of build 00000003 to gone failed and left img-1 behind. {OUT_OF_REACH}",
                build=NEW,
                upload=LOST,
                verdict=Verdict.NO,
            )
        ],
    ),
    "an abandoned build beside one that runs waits for it": (
        records(RUNNING, STALE, build_claimed=True),
        [
            act(
                CleanupKind.FAIL_BUILD,
                "Build 00000003 has no builder any more;"
                " that is recorded when the build that runs has ended.",
                build=STALE,
                verdict=Verdict.NO,
            )
        ],
    ),
    "an upload that runs is left alone": (
        records(NEW, SENDING, uploads_claimed=frozenset({(NEW.id, "north")})),
        [],
    ),
    "an upload whose uploader is gone has failed": (
        records(NEW, SENDING, uploads_claimed=frozenset({(NEW.id, "south")})),
        [
            act(
                CleanupKind.FAIL_UPLOAD,
                "The upload of build 00000003 to north has no uploader any more.",
                build=NEW,
                upload=SENDING,
            )
        ],
    ),
    "an upload that was cancelled, and whose uploader is gone, says both": (
        records(NEW, SENDING, upload_cancellations=(cancelled(SENDING),)),
        [
            act(
                CleanupKind.FAIL_UPLOAD,
                "The upload of build 00000003 to north has no uploader any more"
                " and was cancelled by ann at 2026-11-21 14:30 UTC: wrong mirror.",
                build=NEW,
                upload=SENDING,
            )
        ],
    ),
    "the wish that an upload ends goes when it has ended, or is not there": (
        records(
            NEW,
            upload(3, READY, NOW),
            upload(3, UPLOADING, NOW, "south"),
            uploads_claimed=frozenset({(NEW.id, "south")}),
            upload_cancellations=(
                cancelled(upload(3, READY, NOW)),
                cancelled(upload(3, UPLOADING, NOW, "south")),
                cancelled(upload(9, UPLOADING, NOW)),
            ),
        ),
        [
            act(
                CleanupKind.WITHDRAW_CANCELLATION,
                f"The upload {build_id(n)}/north/0000000001,"
                " cancelled by ann at 2026-11-21 14:30 UTC: wrong mirror, has ended.",
                cancellation=cancelled(upload(n, READY, NOW)),
            )
            for n in (3, 9)
        ],
    ),
    "an upload of a build that still runs is left alone": (
        records(
            RUNNING,
            upload(4, UPLOADING, NOW),
            build_claimed=True,
            uploads_claimed=frozenset({(RUNNING.id, "north")}),
        ),
        [],
    ),
    "what an upload left in a provider that is gone is reached by what is on record": (
        records(NEW, replace(LOST, cloud="acme", region="lyon")),
        [
            act(
                CleanupKind.REMOVE_LEFTOVER,
                "The upload of build 00000003 to gone failed and left img-1 behind."
                " gone is not in the configuration; it was the cloud acme, region lyon.",
                build=NEW,
                upload=replace(LOST, cloud="acme", region="lyon"),
            )
        ],
    ),
    "an upload whose uploader is gone in a provider that is gone, too": (
        records(NEW, replace(SENDING, provider="gone", cloud="acme")),
        [
            act(
                CleanupKind.FAIL_UPLOAD,
                "The upload of build 00000003 to gone has no uploader any more."
                " gone is not in the configuration; it was the cloud acme.",
                build=NEW,
                upload=replace(SENDING, provider="gone", cloud="acme"),
            )
        ],
    ),
    "an abandoned upload beside one that runs waits for it": (
        records(NEW, SENDING, SENDING_BEFORE, uploads_claimed=frozenset({(NEW.id, "north")})),
        [
            act(
                CleanupKind.FAIL_UPLOAD,
                "The upload of build 00000003 to north has no uploader any more;"
                " that is recorded when the upload that runs has ended.",
                build=NEW,
                upload=SENDING_BEFORE,
                verdict=Verdict.NO,
            )
        ],
    ),
    "what an upload left in a cloud we can't reach is not forgotten": (
        records(NEW, replace(SENDING, provider="gone")),
        [
            act(
                CleanupKind.FAIL_UPLOAD,
                f"The upload of build 00000003 to gone has no uploader any more. {OUT_OF_REACH}",
                build=NEW,
                upload=replace(SENDING, provider="gone"),
                verdict=Verdict.NO,
            )
        ],
    ),
    # -- superseded uploads and builds
    "beyond the newest two an upload goes, and its build when the upload is gone": (
        records(NEW, OLD, OLDER, *IN_NORTH),
        [
            act(
                CleanupKind.RETIRE_UPLOAD,
                "The upload of build 00000001 to north is superseded:"
                " 2 newer uploads of debian-bookworm are ready there.",
                build=OLDER,
                upload=IN_NORTH[2],
            ),
            act(
                CleanupKind.RETIRE_BUILD,
                "Build 00000001 is superseded: 2 newer builds are ready;"
                " it stays as long as it is ready in north.",
                build=OLDER,
                verdict=Verdict.NO,
            ),
        ],
    ),
    "a superseded build that no cloud has goes": (
        records(NEW, OLD, OLDER, *IN_NORTH[:2]),
        [
            act(
                CleanupKind.RETIRE_BUILD,
                "Build 00000001 is superseded: 2 newer builds are ready.",
                build=OLDER,
            )
        ],
    ),
    "the last good image of a provider stays until its successor is ready there": (
        records(
            NEW,
            OLD,
            OLDER,
            upload(1, READY, NOW - 2 * DAY, "south"),
            upload(3, UPLOADING, NOW, "south"),
            uploads_claimed=frozenset({(NEW.id, "south")}),
        ),
        [
            act(
                CleanupKind.RETIRE_BUILD,
                "Build 00000001 is superseded: 2 newer builds are ready;"
                " it stays as long as it is ready in south.",
                build=OLDER,
                verdict=Verdict.NO,
            )
        ],
    ),
    "an old build that is being uploaded stays": (
        records(NEW, OLD, OLDER, upload(1, UPLOADING, NOW), uploads_claimed=frozenset({(OLDER.id, "north")})),
        [
            act(
                CleanupKind.RETIRE_BUILD,
                "Build 00000001 is superseded: 2 newer builds are ready;"
                " it stays as long as it is uploading in north.",
                build=OLDER,
                verdict=Verdict.NO,
            )
        ],
    ),
    "an image in a provider that left the configuration pins its build": (
        records(NEW, OLD, OLDER, upload(1, READY, NOW - 2 * DAY, "gone")),
        [
            act(
                CleanupKind.RETIRE_BUILD,
                "Build 00000001 is superseded: 2 newer builds are ready;"
                " it stays as long as it is ready in gone.",
                build=OLDER,
                verdict=Verdict.NO,
            )
        ],
    ),
    "nothing is retired in a provider that left the configuration": (
        records(NEW, OLD, *(replace(u, provider="gone") for u in IN_NORTH)),
        [],
    ),
    "an image that left the configuration loses nothing": (
        records(NEW, OLD, OLDER, FAILED_LONG_AGO, *IN_NORTH, name="left"),
        [],
    ),
    # -- failed records
    "a failed build stays while it may be looked at": (
        records(NEW, FAILED_LATELY),
        [
            act(
                CleanupKind.RETIRE_BUILD,
                "The failed build 00000002 has a ready successor"
                " and is kept until 2026-11-22 14:30 UTC to be looked at.",
                build=FAILED_LATELY,
                verdict=Verdict.LATER,
                due=NOW + DAY,
            )
        ],
    ),
    "a failed build goes after the retention": (
        records(NEW, FAILED_LONG_AGO),
        [
            act(
                CleanupKind.RETIRE_BUILD,
                "The failed build 00000002 has a ready successor"
                " and is kept until 2026-11-20 14:30 UTC to be looked at.",
                build=FAILED_LONG_AGO,
                due=NOW - DAY,
            )
        ],
    ),
    "a failed build without a successor stays, however old": (
        records(FAILED_LONG_AGO, ready(1, NOW - 9 * DAY)),
        [],
    ),
    "a failed upload goes after the retention": (
        records(
            NEW,
            OLD,
            upload(3, READY, NOW - 7 * DAY),
            upload(2, FAILED, NOW - 8 * DAY, kind=FailureClass.QUOTA),
        ),
        [
            act(
                CleanupKind.RETIRE_UPLOAD,
                "The failed upload of build 00000002 to north has a ready successor"
                " and is kept until 2026-11-21 14:30 UTC to be looked at.",
                build=OLD,
                upload=upload(2, FAILED, NOW - 8 * DAY, kind=FailureClass.QUOTA),
                due=NOW,
            )
        ],
    ),
    "a failed upload without a successor there stays, however old": (
        records(
            NEW, upload(3, READY, NOW, "south"), upload(3, FAILED, NOW - 70 * DAY, kind=FailureClass.QUOTA)
        ),
        [],
    ),
    # -- what somebody asked to go
    "a build that is to go takes its uploads along, then waits for them": (
        records(
            doomed(NEW),
            OLD,
            upload(3, READY, NOW),
            upload(3, FAILED, NOW, "south", kind=FailureClass.QUOTA),
            upload(3, DELETING, NOW - MINUTE, "south", id="0000000002"),
        ),
        [
            act(
                CleanupKind.REMOVE_UPLOAD,
                "The upload of build 00000003 to south is to go since 2026-11-21 14:29 UTC.",
                build=doomed(NEW),
                upload=upload(3, DELETING, NOW - MINUTE, "south", id="0000000002"),
            ),
            act(
                CleanupKind.REMOVE_BUILD,
                "Build 00000003 is to go since 2026-11-21 14:29 UTC;"
                " it waits until 3 uploads of it are gone.",
                build=doomed(NEW),
                verdict=Verdict.NO,
            ),
            act(
                CleanupKind.RETIRE_UPLOAD,
                "Build 00000003 is to go, and its upload to north with it.",
                build=doomed(NEW),
                upload=upload(3, READY, NOW),
            ),
            act(
                CleanupKind.RETIRE_UPLOAD,
                "Build 00000003 is to go, and its upload to south with it.",
                build=doomed(NEW),
                upload=upload(3, FAILED, NOW, "south", kind=FailureClass.QUOTA),
            ),
        ],
    ),
    "an upload that still runs holds back the build that is to go": (
        records(doomed(NEW), SENDING, uploads_claimed=frozenset({(NEW.id, "north")})),
        [
            act(
                CleanupKind.REMOVE_BUILD,
                "Build 00000003 is to go since 2026-11-21 14:29 UTC; it waits until 1 upload of it is gone.",
                build=doomed(NEW),
                verdict=Verdict.NO,
            )
        ],
    ),
    "a build that is to go, on the machine that has its files": (
        records(doomed(NEW)),
        [
            act(
                CleanupKind.REMOVE_BUILD,
                "Build 00000003 is to go since 2026-11-21 14:29 UTC.",
                build=doomed(NEW),
            )
        ],
    ),
    "a build that is to go, on another machine": (
        records(doomed(replace(NEW, builder_id=ELSEWHERE))),
        [
            act(
                CleanupKind.REMOVE_BUILD,
                "Build 00000003 is to go since 2026-11-21 14:29 UTC;"
                " its files are on host-a; that machine removes them.",
                build=doomed(replace(NEW, builder_id=ELSEWHERE)),
                verdict=Verdict.NO,
            )
        ],
    ),
    "a failed build left no files, so any machine removes it": (
        records(doomed(failed(3, NOW - HOUR, builder_id=ELSEWHERE))),
        [
            act(
                CleanupKind.REMOVE_BUILD,
                "Build 00000003 is to go since 2026-11-21 14:29 UTC.",
                build=doomed(failed(3, NOW - HOUR, builder_id=ELSEWHERE)),
            )
        ],
    ),
    "a build nodepool made has files, although their hashes are unknown": (
        records(doomed(replace(NEW, artifacts=(), builder_id=None, builder=None))),
        [
            act(
                CleanupKind.REMOVE_BUILD,
                "Build 00000003 is to go since 2026-11-21 14:29 UTC;"
                " its files are on an unknown machine; that machine removes them.",
                build=doomed(replace(NEW, artifacts=(), builder_id=None, builder=None)),
                verdict=Verdict.NO,
            )
        ],
    ),
    "an upload that is to go says who wanted that, and that it is hidden meanwhile": (
        records(NEW, HIDDEN),
        [
            act(
                CleanupKind.REMOVE_UPLOAD,
                "The upload of build 00000003 to north is to go since 2026-11-21 14:30 UTC,"
                " asked by ann at 2026-11-21 14:30 UTC: it does not boot;"
                " it is hidden meanwhile.",
                build=NEW,
                upload=HIDDEN,
            )
        ],
    ),
    "an upload that is to go, of an image that left the configuration": (
        records(upload(3, DELETING, NOW), name="left"),
        [
            act(
                CleanupKind.REMOVE_UPLOAD,
                "The upload of build 00000003 to north is to go since 2026-11-21 14:30 UTC.",
                upload=upload(3, DELETING, NOW),
            )
        ],
    ),
    "an upload that is to go, in a provider that left the configuration": (
        records(upload(3, DELETING, NOW, "gone")),
        [
            act(
                CleanupKind.REMOVE_UPLOAD,
                f"The upload of build 00000003 to gone is to go since 2026-11-21 14:30 UTC. {OUT_OF_REACH}",
                upload=upload(3, DELETING, NOW, "gone"),
                verdict=Verdict.NO,
            )
        ],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_plan(story: str) -> None:
    known, expected = STORIES[story]
    assert list(plan(known)) == expected


def test_an_upload_that_goes_with_its_build_makes_no_older_one_superseded() -> None:
    """Somebody rolls back with room for one image only: the one before must survive."""
    frugal = config(diskimage(keep=1), provider("north", keep=1))
    going = plan(records(doomed(NEW), OLD, *IN_NORTH[:2]), frugal)
    assert [a.upload for a in going if a.kind is CleanupKind.RETIRE_UPLOAD] == [IN_NORTH[0]]


@pytest.mark.parametrize("keep", [0, -1, 1])
def test_the_newest_stays_whatever_number_is_configured(keep: int) -> None:
    frugal = config(diskimage(keep=keep), provider("north", keep=keep))
    going = plan(records(NEW, OLD, *IN_NORTH[:2]), frugal)
    assert [a.upload for a in going if a.upload] == [IN_NORTH[1]]
    assert [a.build for a in going if not a.upload] == [OLD]


@pytest.mark.parametrize(
    ("known", "active"),
    [
        (records(RUNNING), RUNNING.id),
        (records(NEW, SENDING), SENDING.name),
        (records(doomed(NEW)), NEW.id),
        (records(doomed(NEW)), f"{NEW.id}/north/0000000007"),
        (records(NEW, OLD, OLDER), OLDER.id),
        (records(NEW, upload(3, DELETING, NOW)), upload(3, DELETING, NOW).name),
        (records(NEW, upload_cancellations=(cancelled(SENDING),)), SENDING.name),
    ],
)
def test_what_this_process_works_on_is_left_alone_although_its_claim_is_lost(known, active: str) -> None:
    assert plan(known), "there must be something to leave alone"
    assert plan(known, active=["provider north", active]) == ()


def test_failures_are_recorded_first_then_room_is_made() -> None:
    other = replace(building(9, NOW), image="zebra")
    world = Snapshot(
        images={
            "zebra": records(other, name="zebra"),
            NEW.image: records(doomed(NEW), OLD, SENDING, upload(2, DELETING, NOW), failed(1, NOW - 9 * DAY)),
        }
    )
    kinds = [a.kind for a in plan_cleanup(CONFIG, world, NOW, builder_id=HERE, active=frozenset())]
    assert kinds == [
        CleanupKind.FAIL_BUILD,
        CleanupKind.FAIL_UPLOAD,
        CleanupKind.REMOVE_UPLOAD,
        CleanupKind.REMOVE_BUILD,
        CleanupKind.RETIRE_BUILD,
    ]


def test_a_superseded_image_is_gone_in_the_end_and_the_newest_two_are_left() -> None:
    """Carry out plan after plan, as the janitor does, until nothing is left to do."""
    known = records(
        NEW, OLD, OLDER, *IN_NORTH, upload(1, READY, NOW - 2 * DAY, "south"), upload(3, READY, NOW, "south")
    )
    known = replace(known, uploads=(*known.uploads, upload(2, READY, NOW - DAY, "south")))
    for _ in range(10):
        due = [a for a in plan(known) if a.verdict is Verdict.NOW]
        for action in due:
            known = carry_out(known, action)
    assert plan(known) == ()
    assert {b.id for b in known.builds} == {build_id(3), build_id(2)}
    assert {(u.build_id, u.provider) for u in known.uploads} == {
        (build_id(n), p) for n in (3, 2) for p in ("north", "south")
    }


def carry_out(known: ImageRecords, action: CleanupAction) -> ImageRecords:
    """What the records are after a retirement or removal."""
    if action.upload:
        others = tuple(u for u in known.uploads if u != action.upload)
        if action.kind is CleanupKind.RETIRE_UPLOAD:
            others = (*others, action.upload.become(DELETING, NOW))
        return replace(known, uploads=others)
    assert action.build is not None
    builds = tuple(b for b in known.builds if b != action.build)
    if action.kind is CleanupKind.RETIRE_BUILD:
        builds = (*builds, action.build.become(BuildState.DELETING, NOW))
    return replace(known, builds=builds)


def test_files_that_stayed_of_a_build_over_its_budget_go_where_they_are() -> None:
    gone = doomed(failed(1, NOW - DAY, kept="/images/it.d"))
    for machine, verdict in ((HERE, Verdict.NOW), (ELSEWHERE, Verdict.NO)):
        world = snapshot(records(gone))
        (action,) = plan_cleanup(config(diskimage()), world, NOW, builder_id=machine, active=frozenset())
        assert action.verdict is verdict


def test_every_format_of_a_build_counts_as_files() -> None:
    only_raw = doomed(ready(3, NOW - HOUR, ImageFormat.RAW, builder_id=ELSEWHERE))
    assert [a.verdict for a in plan(records(only_raw))] == [Verdict.NO]

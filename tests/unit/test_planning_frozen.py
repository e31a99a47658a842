"""What a freeze holds back of all that goes, and what goes on; and what becomes of a builder that is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from builder.cloudimage import (
    BUILD_ID,
    IMAGE,
    INSTALLATION,
    SDK_OBJECT,
    CloudImage,
    GlanceStatus,
    Sighting,
)
from builder.model import BuildState, Cancellation, FailureClass, ImageFormat, Snapshot, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Trigger, Verdict
from builder.planning.builds import decide_build
from builder.planning.cleanup import plan_cleanup
from builder.planning.explain import explain
from builder.planning.leaks import judge_leaks
from builder.planning.promotion import plan_promotions
from builder.planning.vanished import is_vanished
from tests.unit import planning_world as world
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    MINUTE,
    NOW,
    TICK,
    build_id,
    building,
    config,
    configs,
    daemon,
    diskimage,
    doomed,
    failed,
    image_records,
    paused,
    provider,
    ready,
    records,
    snapshot,
    unhurried,
    upload,
)

FREEZE = paused(by="ben", why="the mirrors move")
FROZEN = (
    "Everything is frozen by ben at 2026-11-21 13:30 UTC: the mirrors move;"
    " `imagepool unfreeze` lets it go on."
)
GONE = {ELSEWHERE: paused(by="eve", why="its disk is dead")}
SETTLING = (CleanupKind.FAIL_BUILD, CleanupKind.WITHDRAW_CANCELLATION)


def plan(settings, known: Snapshot) -> tuple[CleanupAction, ...]:
    return plan_cleanup(settings, known, NOW, builder_id=HERE, active=frozenset())


# -- frozen -----------------------------------------------------------------------------------------


@unhurried
@given(configs(), image_records())
def test_while_frozen_nothing_goes_and_what_would_says_who_froze_it(settings, known) -> None:
    free, frozen = plan(settings, snapshot(known)), plan(settings, snapshot(known, frozen=FREEZE))
    assert len(free) == len(frozen)
    for before, after in zip(free, frozen, strict=True):
        if before.kind in SETTLING or before.verdict is Verdict.NO:
            assert after == before
        else:
            assert (after.verdict, after.due) == (Verdict.NO, None)
            assert after.reason == f"{before.reason} {FROZEN}"


def test_while_frozen_what_has_ended_is_still_put_on_record() -> None:
    wish = Cancellation(image=world.IMAGE, build_id=build_id(1), by="ann", time=NOW)
    known = records(building(2, NOW - HOUR), ready(1, NOW - DAY), cancellation=wish)
    kinds = {a.kind: a.verdict for a in plan(config(diskimage()), snapshot(known, frozen=FREEZE))}
    assert kinds == dict.fromkeys(SETTLING, Verdict.NOW)


def test_while_frozen_no_name_moves() -> None:
    settings = config(diskimage(stable_name="debian"), provider("north"))
    known = records(ready(1, NOW), upload(1, UploadState.READY, NOW))
    (free,) = plan_promotions(settings, snapshot(known), NOW)
    (frozen,) = plan_promotions(settings, snapshot(known, frozen=FREEZE), NOW)
    assert free.verdict is Verdict.NOW
    assert (frozen.verdict, frozen.reason) == (Verdict.NO, f"{free.reason} {FROZEN}")


@pytest.mark.parametrize("first_seen", [NOW - DAY, NOW])
def test_while_frozen_no_leak_goes_by_itself(first_seen) -> None:
    image = CloudImage(
        id="i",
        name="debian-1",
        status=GlanceStatus.QUEUED,
        size=None,
        hash_algorithm=None,
        hash_value=None,
        checksum=None,
        visibility="private",
        properties={
            INSTALLATION: "us",
            BUILD_ID: build_id(1),
            IMAGE: world.IMAGE,
            SDK_OBJECT: "images/debian-1",
        },
    )
    sighting = Sighting(provider="north", external_id="i", first=first_seen, last=first_seen)

    def verdict(known: Snapshot) -> Verdict:
        (leak,) = judge_leaks(
            "north",
            [image],
            known,
            installation_id="us",
            sightings=[sighting],
            builds_gone={build_id(1): NOW - DAY},
            now=NOW,
            sweep=HOUR,
            adopt_nodepool=False,
        )
        assert (FROZEN in leak.reason) == (known.frozen is not None)
        return leak.verdict

    assert verdict(snapshot()) is (Verdict.NOW if first_seen < NOW else Verdict.LATER)
    assert verdict(snapshot(frozen=FREEZE)) is Verdict.NO


def test_while_frozen_no_upload_is_given_up() -> None:
    gone = upload(1, UploadState.READY, NOW - DAY)
    since = {gone.name: NOW - DAY}
    assert is_vanished(gone, since, NOW, HOUR)
    assert not is_vanished(gone, since, NOW, HOUR, frozen=FREEZE)


def test_what_is_explained_while_frozen_says_so() -> None:
    known = records(doomed(ready(1, NOW - DAY)), failed(2, NOW))
    rows = {
        row.what: row
        for row in explain(config(diskimage()), snapshot(known, frozen=FREEZE), NOW, world.IMAGE, HERE)
    }
    assert rows["next build"].reason == FROZEN
    assert rows["clean-up of deleting build 00000001"].reason.endswith(FROZEN)


# -- builders that are gone for good ------------------------------------------------------------------

LOST = replace(ready(1, TICK + 10 * MINUTE), builder="host-b", builder_id=ELSEWHERE)
THERE = upload(1, UploadState.READY, NOW)


def test_a_lost_build_is_enough_as_long_as_nobody_needs_its_files() -> None:
    settings = config(diskimage(), provider("north"))
    known = snapshot(records(LOST, THERE), forgotten=GONE)
    assert decide_build(diskimage(), known, settings, NOW).verdict is Verdict.LATER
    assert [a for a in plan(settings, known) if a.verdict is Verdict.NOW] == []


def test_a_provider_that_needs_a_lost_file_makes_a_build_due() -> None:
    settings = config(diskimage(), provider("north"), provider("south"))
    known = snapshot(records(LOST, THERE))
    assert decide_build(diskimage(), known, settings, NOW).verdict is Verdict.LATER
    decision = decide_build(diskimage(), replace(known, forgotten=GONE), settings, NOW)
    assert (decision.verdict, decision.trigger) == (Verdict.NOW, Trigger.FORMAT)
    assert decision.reason == (
        "It is needed now for south, but the files of build 00000001 were on host-b, declared gone for good"
        " by eve at 2026-11-21 13:30 UTC: its disk is dead."
    )
    still = replace(known, forgotten=GONE, paused_providers={"south": paused()})
    assert decide_build(diskimage(), still, settings, NOW).verdict is Verdict.LATER


def test_a_build_that_somebody_deleted_loses_its_record_without_its_builder() -> None:
    gone = doomed(LOST)
    settings = config(diskimage())
    (waits,) = plan(settings, snapshot(records(gone)))
    assert (waits.kind, waits.verdict) == (CleanupKind.REMOVE_BUILD, Verdict.NO)
    (goes,) = plan(settings, snapshot(records(gone), forgotten=GONE))
    assert (goes.kind, goes.verdict) == (CleanupKind.REMOVE_BUILD, Verdict.NOW)
    assert goes.reason.endswith(
        "and the files of build 00000001 were on host-b,"
        " declared gone for good by eve at 2026-11-21 13:30 UTC: its disk is dead."
    )


def test_what_ran_on_it_fails_and_what_it_had_sent_is_settled_by_anybody() -> None:
    ran = replace(building(2, NOW - HOUR), builder_id=ELSEWHERE)
    sent = upload(1, UploadState.UPLOADING, NOW - HOUR)
    left = upload(1, UploadState.FAILED, NOW - HOUR, id="0000000002", external_name="x", external_id="y")
    going = upload(1, UploadState.DELETING, NOW - HOUR, id="0000000003")
    known = snapshot(records(ran, LOST, sent, left, going), forgotten=GONE)
    assert {a.kind for a in plan(config(diskimage(), provider()), known) if a.verdict is Verdict.NOW} == {
        CleanupKind.FAIL_BUILD,
        CleanupKind.FAIL_UPLOAD,
        CleanupKind.REMOVE_LEFTOVER,
        CleanupKind.REMOVE_UPLOAD,
    }


def test_nobody_deletes_files_that_went_with_their_builder() -> None:
    sparing = diskimage(delete_after_upload=True)
    settings = config(sparing, provider("north"))
    (prune,) = plan(settings, snapshot(records(LOST, THERE)))
    assert prune.kind is CleanupKind.PRUNE_BUILD
    assert plan(settings, snapshot(records(LOST, THERE), forgotten=GONE)) == ()


@unhurried
@given(configs(), image_records())
def test_nothing_of_a_lost_builder_is_retired_before_its_successors_are_ready(settings, known) -> None:
    """That a builder is gone makes no record superseded that was not before."""
    retiring = (CleanupKind.RETIRE_BUILD, CleanupKind.RETIRE_UPLOAD)

    def going(seen: Snapshot) -> list[CleanupAction]:
        return [a for a in plan(settings, seen) if a.kind in retiring and a.verdict is Verdict.NOW]

    assert going(snapshot(known, forgotten=GONE)) == going(snapshot(known))


# -- who builds, explained ----------------------------------------------------------------------------


def test_each_builder_is_told_whether_it_takes_the_next_build() -> None:
    arm = frozenset({"arm64"})
    image = diskimage(requires=arm, formats=(ImageFormat.QCOW2,))
    daemons = (
        daemon("a", "host-a"),
        daemon("b", "host-b", labels=arm, build_workers=2),
        daemon("c", "host-c", labels=arm),
        daemon("d", "host-d", roles=("uploader",)),
    )
    known = snapshot(records(ready(1, TICK - DAY), world.asked()), daemons=daemons)
    rows = [
        row
        for row in explain(config(image), known, NOW, world.IMAGE, HERE)
        if row.what.startswith("build on")
    ]
    assert [(row.what, row.verdict, row.reason) for row in rows] == [
        ("build on host-a", Verdict.NO, "It can't take it: it lacks the label arm64."),
        (
            "build on host-b",
            Verdict.NOW,
            "host-b takes it: it has 2 workers free, as many as any other or more.",
        ),
        (
            "build on host-c",
            Verdict.NO,
            "host-b takes it: it has 2 workers free, as many as any other or more."
            " Others wait until 2026-11-21 14:29 UTC, and take it if that did not.",
        ),
    ]
    later = snapshot(records(ready(1, NOW)), daemons=daemons[1:2])
    (row,) = [r for r in explain(config(image), later, NOW, world.IMAGE, HERE) if r.what == "build on host-b"]
    assert (row.verdict, row.due) == (Verdict.LATER, world.NEXT_TICK)
    assert row.reason == "It can take the next one; 0 of 2 workers are busy now."


def test_a_lost_build_that_counts_says_where_its_files_were() -> None:
    known = snapshot(records(LOST, failed(2, NOW, FailureClass.DISK)), forgotten=GONE)
    assert LOST.state is BuildState.READY
    rows = {row.what: row.reason for row in explain(config(diskimage()), known, NOW, world.IMAGE, HERE)}
    assert rows["clean-up of ready build 00000001"].endswith(
        "It counts as ready, although the files of build 00000001 were on host-b, declared gone for good"
        " by eve at 2026-11-21 13:30 UTC: its disk is dead."
    )

"""How many builds and uploads stay, for how long, and why some stay longer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from builder.config.model import Config
from builder.model import FailureClass, ImageRecords, Upload, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.cleanup import plan_cleanup
from builder.planning.explain import explain
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    IMAGE,
    NOW,
    build_id,
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

READY, FAILED, DELETING = UploadState.READY, UploadState.FAILED, UploadState.DELETING
#: One build a day, the newest an hour ago; and each of them in north.
BUILDS = [ready(n, NOW - HOUR - (9 - n) * DAY) for n in range(9, 0, -1)]
IN_NORTH = [upload(n, READY, NOW - (9 - n) * DAY) for n in range(9, 0, -1)]


def planned(settings: Config, known: ImageRecords) -> list[CleanupAction]:
    return list(plan_cleanup(settings, snapshot(known), NOW, builder_id=HERE, active=frozenset()))


def going(settings: Config, known: ImageRecords, kind: CleanupKind) -> set[str]:
    """Which builds, or uploads of which builds, are told to go now."""
    return {
        (a.upload.build_id if a.upload else a.build.id if a.build else "")[:8]
        for a in planned(settings, known)
        if a.kind is kind and a.verdict is Verdict.NOW
    }


def numbers(*builds: int) -> set[str]:
    return {f"{n:08}" for n in builds}


# -- how many, and how long -----------------------------------------------------------------------


def test_the_newest_build_stays_although_another_machine_s_clock_was_ahead() -> None:
    # Else it would be uploaded again and deleted again, for as long as that clock was ahead.
    ahead = [upload(n, READY, NOW + n * DAY) for n in (8, 7)]
    known = records(builds=BUILDS, uploads=[*ahead, upload(9, READY, NOW)])

    for keep in (1, 2):
        settings = config(diskimage(), provider("north", keep=keep))
        assert not going(settings, known, CleanupKind.RETIRE_UPLOAD) & numbers(9)
    once = config(diskimage(), provider("north", keep=1))
    assert going(once, known, CleanupKind.RETIRE_UPLOAD) == numbers(7, 8)


def test_builds_are_counted_by_the_diskimage_and_uploads_by_each_provider() -> None:
    settings = config(diskimage(keep=3), provider("north", keep=1), provider("south", keep=4))
    both = [*IN_NORTH, *(replace(u, provider="south") for u in IN_NORTH)]
    known = records(*BUILDS, *both)
    retired = [
        (a.upload.provider, a.upload.build_id)
        for a in planned(settings, known)
        if a.kind is CleanupKind.RETIRE_UPLOAD and a.upload
    ]
    assert {b for p, b in retired if p == "north"} == {build_id(n) for n in range(1, 9)}
    assert {b for p, b in retired if p == "south"} == {build_id(n) for n in range(1, 6)}
    assert going(settings, records(*BUILDS), CleanupKind.RETIRE_BUILD) == numbers(1, 2, 3, 4, 5, 6)


def test_what_is_young_stays_however_many_there_are() -> None:
    days = timedelta(days=4)
    settings = config(diskimage(keep=1, keep_for=days), provider(keep=1, keep_for=days))
    assert going(settings, records(*BUILDS, *IN_NORTH), CleanupKind.RETIRE_UPLOAD) == numbers(1, 2, 3, 4, 5)
    assert going(settings, records(*BUILDS), CleanupKind.RETIRE_BUILD) == numbers(1, 2, 3, 4, 5)
    (waiting,) = (a for a in planned(settings, records(*BUILDS[:2])) if a.build)
    assert (waiting.verdict, waiting.due) == (Verdict.LATER, BUILDS[1].state_time + days)
    assert waiting.reason == (
        "Build 00000008 is superseded: 1 newer build is ready; it is kept until 2026-11-24 13:30 UTC."
    )
    (waiting,) = (a for a in planned(settings, records(*BUILDS[:2], *IN_NORTH[:2])) if a.upload)
    assert (waiting.verdict, waiting.due) == (Verdict.LATER, NOW + 3 * DAY)
    assert waiting.reason == (
        "The upload of build 00000008 to north is superseded:"
        " 1 newer upload of debian-bookworm is ready there; it is kept until 2026-11-24 14:30 UTC."
    )


def test_what_is_old_stays_as_well_as_long_as_it_is_among_those_to_keep() -> None:
    settings = config(diskimage(keep=2, keep_for=HOUR), provider(keep=2, keep_for=HOUR))
    old = records(BUILDS[7], BUILDS[8], IN_NORTH[7], IN_NORTH[8])
    assert planned(settings, old) == []


# -- failed uploads -------------------------------------------------------------------------------

SETTINGS = config(diskimage(), provider("north"), provider("south"))


def broke(build: int, ago: timedelta, to: str = "north", **changes) -> Upload:
    return upload(build, FAILED, NOW - ago, to, kind=FailureClass.QUOTA, id="0000000005", **changes)


def seen(known: ImageRecords) -> CleanupAction | None:
    """What is planned for the failed upload."""
    return next((a for a in planned(SETTINGS, known) if a.upload and a.upload.state is FAILED), None)


def test_a_failed_upload_stays_until_a_later_one_there_is_ready() -> None:
    years_ago = broke(9, 700 * DAY)
    earlier = upload(8, READY, NOW - 701 * DAY)
    elsewhere = upload(9, READY, NOW, "south")
    assert seen(records(*BUILDS[:2], years_ago, earlier, elsewhere)) is None


def test_in_a_provider_that_stays_dead_the_last_try_of_each_build_stays() -> None:
    tries = [
        replace(broke(build, 20 * DAY - build * DAY - number * HOUR), id=f"{number:010}")
        for build in (1, 2, 9)
        for number in (1, 2, 3)
    ]
    plan = planned(SETTINGS, records(*BUILDS, *tries))
    gone = {(a.upload.build_id[:8], a.upload.id) for a in plan if a.upload and a.verdict is Verdict.NOW}
    # Of the newest build all tries are kept: they tell when the next one is.
    assert gone == {(f"{build:08}", f"{number:010}") for build in (1, 2) for number in (1, 2)}
    reasons = [a.reason for a in plan if a.upload and a.verdict is Verdict.NOW]
    assert all("was not the last try of it there" in reason for reason in reasons)


def test_then_it_stays_for_the_failed_retention_counted_from_that_one() -> None:
    known = records(*BUILDS[:2], broke(8, 3 * DAY), upload(9, READY, NOW - DAY))
    action = seen(known)
    assert action is not None
    assert (action.verdict, action.due) == (Verdict.LATER, NOW + 6 * DAY)
    assert (
        going(
            SETTINGS,
            records(*BUILDS[:2], broke(8, 300 * DAY), upload(9, READY, NOW - DAY)),
            kind=CleanupKind.RETIRE_UPLOAD,
        )
        == set()
    )
    known = records(*BUILDS[:2], broke(8, 8 * DAY), upload(9, READY, NOW - 7 * DAY))
    assert going(SETTINGS, known, CleanupKind.RETIRE_UPLOAD) == numbers(8)


def test_of_several_that_are_ready_since_the_first_counts() -> None:
    both = [upload(9, READY, NOW - DAY), upload(8, READY, NOW - 5 * DAY)]
    action = seen(records(*BUILDS[:2], broke(8, 6 * DAY), *both))
    assert action is not None
    assert action.due == NOW + 2 * DAY


def test_uploads_that_are_ready_every_day_do_not_put_that_off_for_ever() -> None:
    """By then the one that came first after it is gone, and only the newest two are on record."""
    lately = IN_NORTH[:2]
    for days, verdict in ((5, Verdict.LATER), (13, Verdict.LATER), (14, Verdict.NOW)):
        action = seen(records(*BUILDS[:2], broke(9, days * DAY), *lately))
        assert action is not None
        assert action.verdict is verdict, days


def test_its_build_keeps_its_record_as_long_and_loses_its_files() -> None:
    """South takes nothing for weeks, which must not fill the disk here."""
    known = records(*BUILDS[:3], *IN_NORTH[:2], broke(7, DAY, "south"))
    (prune, stays) = planned(SETTINGS, known)
    assert (prune.kind, prune.verdict, prune.formats) == (
        CleanupKind.PRUNE_BUILD,
        Verdict.NOW,
        ("qcow2",),
    )
    assert prune.reason == (
        "The qcow2 of build 00000007 can go from the disk:"
        " the build is superseded, and only its record is kept."
    )
    assert (stays.kind, stays.verdict) == (CleanupKind.RETIRE_BUILD, Verdict.NO)
    assert stays.reason == (
        "Build 00000007 is superseded: 2 newer builds are ready;"
        " its record stays as long as what failed of it in south may be looked at."
    )
    pruned = replace(known, builds=(*BUILDS[:2], replace(BUILDS[2], pruned=("qcow2",))))
    assert [a.kind for a in planned(SETTINGS, pruned)] == [CleanupKind.RETIRE_BUILD]


def test_a_build_that_is_kept_for_its_youth_keeps_its_files() -> None:
    young = replace(SETTINGS, diskimages={IMAGE: diskimage(keep_for=3 * DAY)})
    known = records(*BUILDS[:3], *IN_NORTH[:2], broke(7, DAY, "south"))
    assert CleanupKind.PRUNE_BUILD not in {a.kind for a in planned(young, known)}


@pytest.mark.parametrize(
    "pin", [upload(7, READY, NOW - DAY, "south"), upload(7, UploadState.UPLOADING, NOW, "south")]
)
def test_a_build_that_a_cloud_has_or_gets_keeps_its_files(pin: Upload) -> None:
    claimed = frozenset({(pin.build_id, "south")} if pin.state is UploadState.UPLOADING else ())
    known = records(*BUILDS[:3], *IN_NORTH[:2], broke(7, DAY), pin, uploads_claimed=claimed)
    assert CleanupKind.PRUNE_BUILD not in {a.kind for a in planned(SETTINGS, known)}


def test_once_nobody_needs_to_see_it_the_build_goes() -> None:
    long_ago = [upload(9, READY, NOW - 8 * DAY), upload(8, READY, NOW - 9 * DAY)]
    known = records(*BUILDS[:3], *long_ago, broke(7, 20 * DAY))
    assert going(SETTINGS, known, CleanupKind.RETIRE_BUILD) == numbers(7)


def test_a_failed_build_waits_for_what_failed_of_it_too() -> None:
    """It sent its qcow2 while the vhd was still being made."""
    broken = failed(3, NOW - 8 * DAY)
    known = records(BUILDS[0], broken, broke(3, 8 * DAY))
    (action,) = planned(SETTINGS, known)
    assert (action.kind, action.verdict) == (CleanupKind.RETIRE_BUILD, Verdict.NO)
    assert "as long as what failed of it in north may be looked at." in action.reason


def test_in_a_provider_that_left_the_configuration_nothing_will_ever_be_ready() -> None:
    known = records(*BUILDS[:3], *IN_NORTH[:2], broke(7, DAY, "gone"))
    assert going(SETTINGS, known, CleanupKind.RETIRE_BUILD) == numbers(7)


# -- the stable name ------------------------------------------------------------------------------

NAMED = config(diskimage(stable_name="debian", keep=1), provider(keep=1))
FIRST = replace(IN_NORTH[1], serving=NOW - DAY)


def test_the_image_that_has_the_stable_name_stays_until_its_successor_has_it() -> None:
    known = records(*BUILDS[:2], IN_NORTH[0], FIRST)
    (action,) = (a for a in planned(NAMED, known) if a.upload)
    assert (action.kind, action.verdict) == (CleanupKind.RETIRE_UPLOAD, Verdict.NO)
    assert action.reason == (
        "The upload of build 00000008 to north is superseded: 1 newer upload of debian-bookworm is ready"
        " there; it stays until one of those has the stable name debian."
    )
    moved = records(*BUILDS[:2], replace(IN_NORTH[0], serving=NOW), FIRST)
    assert going(NAMED, moved, CleanupKind.RETIRE_UPLOAD) == numbers(8)


def test_what_nodepool_told_to_go_waits_as_well_though_its_record_forgot_that_it_serves() -> None:
    keeping = config(diskimage(stable_name="debian"), provider())
    leaving = replace(IN_NORTH[0], state=DELETING)
    assert going(keeping, records(*BUILDS[:2], leaving, IN_NORTH[1]), CleanupKind.REMOVE_UPLOAD) == set()
    moved = records(*BUILDS[:2], leaving, FIRST)
    assert going(keeping, moved, CleanupKind.REMOVE_UPLOAD) == numbers(9)


def test_without_a_stable_name_the_image_in_service_stays_until_another_one_is() -> None:
    unnamed = config(diskimage(keep=1), provider(keep=1))
    known = records(*BUILDS[:2], IN_NORTH[0], FIRST)
    (action,) = (a for a in planned(unnamed, known) if a.upload)
    assert (action.kind, action.verdict) == (CleanupKind.RETIRE_UPLOAD, Verdict.NO)
    assert action.reason.endswith("is ready there; it stays until one of those is in service.")
    moved = records(*BUILDS[:2], replace(IN_NORTH[0], serving=NOW), FIRST)
    assert going(unnamed, moved, CleanupKind.RETIRE_UPLOAD) == numbers(8)
    # What nodepool told to go may have been any of them, and its launcher goes on by itself.
    leaving = replace(IN_NORTH[0], state=DELETING)
    left = records(*BUILDS[:2], leaving, IN_NORTH[1])
    assert going(unnamed, left, CleanupKind.REMOVE_UPLOAD) == numbers(9)


# -- what is withheld ------------------------------------------------------------------------------


def test_what_is_withheld_makes_nothing_superfluous_and_goes_in_its_turn() -> None:
    settings = config(diskimage(keep=1), provider("north", keep=1))
    good = records(*BUILDS[:3], *IN_NORTH[:3])
    assert going(settings, good, CleanupKind.RETIRE_UPLOAD) == numbers(7, 8)
    newest = records(held(BUILDS[0]), *BUILDS[1:3], *IN_NORTH[:3])
    assert going(settings, newest, CleanupKind.RETIRE_UPLOAD) == numbers(7)
    both = records(held(BUILDS[0]), held(BUILDS[1]), BUILDS[2], *IN_NORTH[:3])
    assert going(settings, both, CleanupKind.RETIRE_UPLOAD) == set()
    older = records(BUILDS[0], held(BUILDS[1]), BUILDS[2], *IN_NORTH[:3])
    assert going(settings, older, CleanupKind.RETIRE_UPLOAD) == numbers(7, 8)
    alone = records(*map(held, BUILDS[:3]), *IN_NORTH[:3])
    assert going(settings, alone, CleanupKind.RETIRE_UPLOAD) == set()


def test_what_is_withheld_from_one_provider_counts_in_the_others_and_as_a_build() -> None:
    settings = config(diskimage(keep=1), provider("north", keep=1), provider("south", keep=1))
    both = [*IN_NORTH[:2], *(replace(u, provider="south") for u in IN_NORTH[:2])]
    known = records(held(BUILDS[0], "north"), BUILDS[1], *both)
    (retired,) = (a.upload for a in planned(settings, known) if a.kind is CleanupKind.RETIRE_UPLOAD)
    assert retired is not None and (retired.provider, retired.build_id) == ("south", build_id(8))
    without = records(held(BUILDS[0], "north"), BUILDS[1])
    assert going(settings, without, CleanupKind.RETIRE_BUILD) == numbers(8)
    assert going(settings, records(held(BUILDS[0]), BUILDS[1]), CleanupKind.RETIRE_BUILD) == set()


def test_the_time_by_which_nodepool_picks_makes_no_image_newer() -> None:
    settings = config(diskimage(keep=1), provider("north", keep=1, keep_for=DAY))
    back = replace(IN_NORTH[1].renewed(NOW), serving=NOW)
    known = records(held(BUILDS[0]), BUILDS[1], BUILDS[2], IN_NORTH[0], back, IN_NORTH[2])
    assert going(settings, known, CleanupKind.RETIRE_UPLOAD) == numbers(7)
    # A failure from before has no successor by it.
    ready_then = replace(IN_NORTH[2], state_time=NOW - 9 * DAY).renewed(NOW)
    assert seen(records(*BUILDS[1:3], broke(8, 8 * DAY), ready_then)) is None


def test_one_that_never_had_the_name_waits_for_nothing() -> None:
    assert going(NAMED, records(*BUILDS[:2], *IN_NORTH[:2]), CleanupKind.RETIRE_UPLOAD) == numbers(8)


def test_where_the_image_is_not_wanted_any_more_nobody_takes_the_name_over() -> None:
    elsewhere = config(diskimage(stable_name="debian"), provider("north", "other"))
    leaving = replace(IN_NORTH[0], serving=NOW - DAY, state=DELETING)
    known = records(*BUILDS[:2], leaving, IN_NORTH[1])
    assert going(elsewhere, known, CleanupKind.REMOVE_UPLOAD) == numbers(9)


def test_one_that_is_to_go_keeps_its_image_until_another_has_the_name() -> None:
    leaving = replace(IN_NORTH[0], serving=NOW - DAY, state=DELETING)
    known = records(*BUILDS[:2], leaving, IN_NORTH[1])
    (action,) = (a for a in planned(NAMED, known) if a.kind is CleanupKind.REMOVE_UPLOAD)
    assert action.verdict is Verdict.NO
    assert action.reason == (
        "The upload of build 00000009 to north is to go since 2026-11-21 14:30 UTC;"
        " it waits until another one there has its stable name debian."
    )
    taken_over = records(*BUILDS[:2], leaving, replace(IN_NORTH[1], serving=NOW))
    assert going(NAMED, taken_over, CleanupKind.REMOVE_UPLOAD) == numbers(9)


def test_one_that_is_to_go_waits_for_nothing_where_nothing_else_is_ready() -> None:
    leaving = replace(IN_NORTH[0], serving=NOW - DAY, state=DELETING)
    for known in (
        records(BUILDS[0], leaving),
        records(BUILDS[0], doomed(BUILDS[1]), leaving, IN_NORTH[1]),
    ):
        assert numbers(9) <= going(NAMED, known, CleanupKind.REMOVE_UPLOAD)


def test_the_number_that_is_kept_is_explained() -> None:
    settings = config(diskimage(keep=3), provider(keep=2))
    rows = explain(settings, snapshot(records(*BUILDS[:2], *IN_NORTH[:2])), NOW, IMAGE, HERE)
    told = {row.what: row.reason for row in rows}
    assert told["clean-up of ready build 00000008"] == "It stays: it is one of the 3 newest ready builds."
    assert told["clean-up of ready upload of 00000008 in north"] == (
        "It stays: it is one of the 2 newest ready uploads there."
    )

"""`delete-after-upload` and `keep-formats`: which files go, and what happens when one is needed again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Config
from builder.model import BuildState, ImageFormat, ImageRecords, UploadState
from builder.planning.actions import CleanupKind, Trigger, UploadDecision, Verdict
from builder.planning.cleanup import plan_cleanup
from builder.planning.explain import explain
from builder.planning.uploads import decide_uploads
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    decide,
    diskimage,
    held,
    provider,
    ready,
    records,
    snapshot,
    upload,
    wish,
)

QCOW2, RAW, VHD = ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.VHD
SPARING = diskimage(schedule=(), formats=(QCOW2, RAW), delete_after_upload=True)
NORTH, SOUTH = provider("north"), provider("south", image_format=RAW)
CONFIG = config(SPARING, NORTH, SOUTH)
NEWEST = ready(2, NOW - HOUR, QCOW2, RAW)
IN_NORTH = upload(2, UploadState.READY, NOW - 30 * MINUTE, "north", format="qcow2")
IN_SOUTH = upload(2, UploadState.READY, NOW - 30 * MINUTE, "south", format="raw")


def pruned(known: ImageRecords, settings: Config = CONFIG, here: str = HERE) -> dict[str, set[str]]:
    """The formats of each build whose files go now."""
    plan = plan_cleanup(settings, snapshot(known), NOW, builder_id=here, active=frozenset())
    return {
        action.build.id: set(action.formats)
        for action in plan
        if action.kind is CleanupKind.PRUNE_BUILD and action.verdict is Verdict.NOW and action.build
    }


def decided(settings: Config, known: ImageRecords, where: str) -> UploadDecision:
    """The decision on the image and a provider."""
    (decision,) = (d for d in decide_uploads(settings, snapshot(known), NOW) if d.provider == where)
    return decision


def test_a_file_goes_as_soon_as_every_provider_that_takes_it_has_it() -> None:
    assert pruned(records(NEWEST)) == {}
    assert pruned(records(NEWEST, IN_NORTH)) == {NEWEST.id: {QCOW2}}
    assert pruned(records(NEWEST, IN_NORTH, IN_SOUTH)) == {NEWEST.id: {QCOW2, RAW}}


def test_of_two_providers_that_take_it_both_must_have_it() -> None:
    both = config(SPARING, NORTH, replace(SOUTH, image_format=QCOW2))
    assert pruned(records(NEWEST, IN_NORTH), both) == {}
    assert pruned(records(NEWEST, IN_NORTH, replace(IN_SOUTH, format="qcow2")), both) == {NEWEST.id: {QCOW2}}


def test_a_provider_whose_uploads_are_paused_still_needs_it() -> None:
    paused = config(SPARING, NORTH, provider("south", pause=True, image_format=QCOW2))
    assert pruned(records(NEWEST, IN_NORTH), paused) == {}


@pytest.mark.parametrize("state", [UploadState.FAILED, UploadState.DELETING])
def test_what_is_not_ready_there_is_not_there(state: UploadState) -> None:
    assert pruned(records(NEWEST, replace(IN_NORTH, state=state))) == {}


def test_while_an_upload_of_it_is_under_way_everything_stays() -> None:
    sending = upload(2, UploadState.UPLOADING, NOW, "south", format="raw")
    assert pruned(records(NEWEST, IN_NORTH, sending)) == {}
    claims = frozenset({(NEWEST.id, "south")})
    assert pruned(records(NEWEST, IN_NORTH, uploads_claimed=claims)) == {}


def test_formats_to_keep_stay() -> None:
    keeping = config(replace(SPARING, keep_formats=(QCOW2,)), NORTH, SOUTH)
    assert pruned(records(NEWEST, IN_NORTH, IN_SOUTH), keeping) == {NEWEST.id: {RAW}}


def test_a_format_that_no_provider_takes_is_the_only_copy_and_stays() -> None:
    extra = ready(2, NOW - HOUR, QCOW2, RAW, VHD)
    assert pruned(records(extra, IN_NORTH, IN_SOUTH)) == {NEWEST.id: {QCOW2, RAW}}


def test_without_delete_after_upload_all_files_stay() -> None:
    plain = config(replace(SPARING, delete_after_upload=False), NORTH, SOUTH)
    assert pruned(records(NEWEST, IN_NORTH, IN_SOUTH), plain) == {}


def test_files_of_an_image_that_left_the_configuration_stay() -> None:
    assert pruned(records(NEWEST, IN_NORTH, IN_SOUTH), config(NORTH, SOUTH)) == {}


def test_what_went_does_not_go_again() -> None:
    gone = replace(NEWEST, pruned=("qcow2",))
    assert pruned(records(gone, IN_NORTH)) == {}
    assert pruned(records(gone, IN_NORTH, IN_SOUTH)) == {NEWEST.id: {RAW}}


def test_an_older_build_is_not_kept_on_disk_for_a_provider_that_has_a_newer_one() -> None:
    old = ready(1, NOW - DAY, QCOW2, RAW)
    old_in_south = upload(1, UploadState.READY, NOW - DAY, "south", format="raw")
    # South takes no new image for days: its old one pins the build, but not the file for north.
    known = records(NEWEST, old, IN_NORTH, old_in_south)
    assert pruned(known) == {NEWEST.id: {QCOW2}, old.id: {QCOW2, RAW}}


def test_an_older_image_in_a_provider_does_not_stand_in_for_the_newest() -> None:
    old_in_north = upload(1, UploadState.READY, NOW - DAY, "north", format="qcow2")
    assert NEWEST.id not in pruned(records(NEWEST, ready(1, NOW - DAY, QCOW2, RAW), old_in_north))


def test_files_of_another_machine_are_that_machines() -> None:
    known = records(NEWEST, IN_NORTH)
    assert pruned(known, here="machine-b") == {}
    (row,) = [
        r for r in explain(CONFIG, snapshot(known), NOW, IMAGE, "machine-b") if "of ready build" in r.what
    ]
    assert row.verdict is Verdict.NO
    assert row.reason == (
        "The qcow2 of build 00000002 can go from the disk: who takes it has this build or a newer one;"
        " host-a has the files and deletes them."
    )


# -- afterwards -----------------------------------------------------------------------------------

PRUNED = replace(NEWEST, pruned=("qcow2", "raw"))


def test_what_is_everywhere_is_not_built_again() -> None:
    known = records(PRUNED, IN_NORTH, IN_SOUTH)
    assert decide(SPARING, known, CONFIG, NOW).verdict is Verdict.NO
    (row,) = [r for r in explain(CONFIG, snapshot(known), NOW, IMAGE, HERE) if "of ready build" in r.what]
    assert "Of its files qcow2 and raw went after the uploads." in row.reason


def test_a_provider_that_comes_later_gets_a_new_build() -> None:
    west = provider("west", image_format=RAW)
    settings = config(SPARING, NORTH, SOUTH, west)
    known = records(PRUNED, IN_NORTH, IN_SOUTH)
    decision = decide(SPARING, known, settings, NOW)
    assert (decision.verdict, decision.trigger) == (Verdict.NOW, Trigger.FORMAT)
    assert decision.reason == (
        "The raw of the newest ready build 00000002 was deleted after its uploads,"
        " and is needed now for west."
    )
    sending = decided(settings, known, "west")
    assert sending.verdict is Verdict.NO
    assert sending.reason == (
        "The raw file of build 00000002 was deleted after its uploads; a new build is due."
    )


def test_a_provider_that_comes_later_and_takes_a_format_that_stayed_needs_no_build() -> None:
    settings = config(SPARING, NORTH, SOUTH, provider("west"))
    known = records(replace(NEWEST, pruned=("raw",)), IN_NORTH, IN_SOUTH)
    assert decide(SPARING, known, settings, NOW).verdict is Verdict.NO
    sending = decided(settings, known, "west")
    assert sending.verdict is Verdict.NOW


def test_a_provider_that_takes_nothing_now_needs_no_build() -> None:
    settings = config(SPARING, NORTH, SOUTH, provider("west", pause=True, image_format=RAW))
    assert decide(SPARING, records(PRUNED, IN_NORTH, IN_SOUTH), settings, NOW).verdict is Verdict.NO


def test_an_image_that_was_deleted_in_its_provider_is_built_again() -> None:
    decision = decide(SPARING, records(PRUNED, IN_NORTH), CONFIG, NOW)
    assert (decision.verdict, decision.trigger) == (Verdict.NOW, Trigger.FORMAT)


def test_an_image_that_somebody_keeps_away_from_its_provider_is_not_built_again_for_it() -> None:
    """Deleting the newest image of one provider by hand must not make a new build everywhere."""
    kept_away = replace(PRUNED, wishes=(wish(wanted=False, to="south"),))
    assert decide(SPARING, records(kept_away, IN_NORTH), CONFIG, NOW).verdict is Verdict.NO
    going = replace(IN_SOUTH, state=UploadState.DELETING)
    assert decide(SPARING, records(PRUNED, IN_NORTH, going), CONFIG, NOW).verdict is Verdict.NO


def test_what_is_withheld_is_no_reason_to_delete_the_files_of_what_is_not() -> None:
    newer = held(ready(3, NOW - MINUTE, QCOW2, RAW))
    sent = [upload(3, UploadState.READY, NOW, to) for to in ("north", "south")]
    assert pruned(records(newer, NEWEST, IN_NORTH, *sent)) == {NEWEST.id: {QCOW2}}
    everything = {QCOW2, RAW}
    good = records(newer.released(None), NEWEST, IN_NORTH, *sent)
    assert pruned(good) == {newer.id: everything, NEWEST.id: everything}


def test_a_provider_that_may_not_have_the_newest_build_makes_none_due() -> None:
    kept_away = held(PRUNED, "south")
    assert decide(SPARING, records(kept_away, IN_NORTH), CONFIG, NOW).verdict is Verdict.NO


def test_a_build_without_files_is_superseded_and_removed_like_any() -> None:
    newer = [ready(n, NOW - HOUR + n * MINUTE, QCOW2, RAW) for n in (3, 4)]
    plan = plan_cleanup(CONFIG, snapshot(records(*newer, PRUNED)), NOW, builder_id=HERE, active=frozenset())
    assert [(a.kind, a.build.id) for a in plan if a.build] == [(CleanupKind.RETIRE_BUILD, build_id(2))]
    doomed = PRUNED.become(BuildState.DELETING, NOW)
    plan = plan_cleanup(CONFIG, snapshot(records(*newer, doomed)), NOW, builder_id=HERE, active=frozenset())
    assert [(a.kind, a.verdict) for a in plan] == [(CleanupKind.REMOVE_BUILD, Verdict.NOW)]

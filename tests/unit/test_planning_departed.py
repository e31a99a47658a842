"""What `imagepool cleanup` would tell to go: all that the configuration has no place for any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from builder.config.model import Config
from builder.model import ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import CleanupKind, Verdict
from builder.planning.cleanup import plan_cleanup
from builder.planning.departed import forgettable, plan_departed
from builder.planning.reach import provider_of
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    MINUTE,
    NOW,
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

READY, FAILED, DELETING, UPLOADING = (
    UploadState.READY,
    UploadState.FAILED,
    UploadState.DELETING,
    UploadState.UPLOADING,
)
NEW, OLD = ready(2, NOW - HOUR), ready(1, NOW - DAY)
IN_NORTH = upload(2, READY, NOW - HOUR, external_id="abc")
IN_SOUTH = replace(IN_NORTH, provider="south", cloud="acme", region="lyon")
HERE_STILL = config(diskimage(), provider("north"), provider("south"))
WITHOUT_SOUTH = config(diskimage(), provider("north"))
WITHOUT_IMAGE = config(provider("north", "other"), provider("south", "other"))


def plan(
    settings: Config, known: ImageRecords, reachable: Callable[[Upload], bool] = lambda upload: True
) -> list[tuple[CleanupKind, Verdict, str]]:
    actions = plan_departed(settings, snapshot(known), NOW, reachable=reachable)
    return [(a.kind, a.verdict, a.reason) for a in actions]


def test_nothing_departs_while_the_configuration_has_it() -> None:
    everything = records(
        NEW, OLD, failed(3, NOW), IN_NORTH, IN_SOUTH, upload(1, FAILED, NOW), upload(1, DELETING, NOW)
    )
    assert plan(HERE_STILL, everything) == []
    assert plan_departed(HERE_STILL, Snapshot(), NOW, reachable=lambda upload: True) == ()
    assert plan_departed(config(), Snapshot(), NOW, reachable=lambda upload: True) == ()


def test_what_a_provider_has_goes_when_its_block_is_gone() -> None:
    assert plan(WITHOUT_SOUTH, records(NEW, OLD, IN_NORTH, IN_SOUTH)) == [
        (
            CleanupKind.RETIRE_UPLOAD,
            Verdict.NOW,
            "The upload of build 00000002 to south goes: the provider south is not in the configuration.",
        )
    ]


def test_what_a_provider_has_goes_when_it_lists_the_image_no_more() -> None:
    elsewhere = config(diskimage(), provider("north"), provider("south", "other"))
    assert plan(elsewhere, records(NEW, IN_NORTH, IN_SOUTH)) == [
        (
            CleanupKind.RETIRE_UPLOAD,
            Verdict.NOW,
            "The upload of build 00000002 to south goes: south does not list debian-bookworm.",
        )
    ]


def test_a_diskimage_goes_with_its_builds_and_all_its_uploads() -> None:
    gone = "the diskimage debian-bookworm is not in the configuration."
    assert plan(WITHOUT_IMAGE, records(NEW, failed(1, NOW - DAY), IN_NORTH)) == [
        (CleanupKind.RETIRE_UPLOAD, Verdict.NOW, f"The upload of build 00000002 to north goes: {gone}"),
        (
            CleanupKind.RETIRE_BUILD,
            Verdict.NOW,
            f"Build 00000002 of 2026-11-21 13:30 UTC goes with its files: {gone}",
        ),
        (
            CleanupKind.RETIRE_BUILD,
            Verdict.NOW,
            f"Build 00000001 of 2026-11-20 14:30 UTC goes with its files: {gone}",
        ),
    ]


def test_what_can_not_be_reached_stays_and_it_says_what_and_where() -> None:
    south_is_gone = [
        (
            CleanupKind.RETIRE_UPLOAD,
            Verdict.NO,
            "The upload of build 00000002 to south stays, and with it abc in the cloud acme, region lyon:"
            " the provider south is not in the configuration, and its cloud can't be asked;"
            " let its credentials resolve again, or forget it with"
            " `imagepool cleanup --forget south`.",
        )
    ]
    assert plan(WITHOUT_SOUTH, records(NEW, IN_NORTH, IN_SOUTH), lambda upload: False) == south_is_gone
    (told,) = plan(WITHOUT_SOUTH, records(NEW, replace(IN_SOUTH, cloud=None)), lambda upload: False)
    assert "with it abc in a cloud that is not on record:" in told[2]
    asked = replace(IN_SOUTH, state=DELETING)
    (told,) = plan(WITHOUT_SOUTH, records(NEW, asked), lambda upload: False)
    assert told[:2] == (CleanupKind.REMOVE_UPLOAD, Verdict.NO)


def test_a_build_stays_as_long_as_something_of_it_can_not_be_reached() -> None:
    known = records(NEW, OLD, IN_NORTH, IN_SOUTH, upload(1, FAILED, NOW, "south"))
    told = plan(WITHOUT_IMAGE, known, lambda upload: upload.provider != "south")
    builds = [row for row in told if row[0] is CleanupKind.RETIRE_BUILD]
    assert [row[1] for row in builds] == [Verdict.NO, Verdict.NOW]
    assert builds[0][2] == (
        "Build 00000002 stays as long as it is on record in south, which can't be asked:"
        " the diskimage debian-bookworm is not in the configuration."
    )


def test_a_failed_upload_that_left_nothing_goes_without_asking_its_cloud() -> None:
    clean = upload(2, FAILED, NOW, "south")
    assert [row[1] for row in plan(WITHOUT_SOUTH, records(NEW, clean), lambda upload: False)] == [Verdict.NOW]
    lingering = replace(clean, external_name="img-1")
    (row,) = plan(WITHOUT_SOUTH, records(NEW, lingering), lambda upload: False)
    assert row[1] is Verdict.NO and "with it img-1 in" in row[2]


def test_what_runs_ends_first() -> None:
    sending = upload(3, UPLOADING, NOW)
    running = building(3, NOW - MINUTE)
    claims = frozenset({(sending.build_id, "north")})
    alive = records(running, sending, build_claimed=True, uploads_claimed=claims)
    assert plan(WITHOUT_IMAGE, alive) == [
        (
            CleanupKind.RETIRE_UPLOAD,
            Verdict.NO,
            "The upload of build 00000003 to north goes once it has ended:"
            " the diskimage debian-bookworm is not in the configuration.",
        ),
        (
            CleanupKind.RETIRE_BUILD,
            Verdict.NO,
            "Build 00000003 goes once it has ended:"
            " the diskimage debian-bookworm is not in the configuration.",
        ),
    ]
    left = plan(WITHOUT_IMAGE, records(running, sending))
    assert left[0][2].endswith("; its uploader is gone, and a janitor records that first.")
    assert left[1][2].endswith("; its builder is gone, and a janitor records that first.")


def test_what_goes_already_is_not_told_twice() -> None:
    assert plan(WITHOUT_IMAGE, records(doomed(NEW), replace(IN_NORTH, state=DELETING))) == []


def test_once_told_the_janitor_reaches_the_cloud_by_what_is_on_record() -> None:
    going = replace(IN_SOUTH, state=DELETING)
    known = records(NEW, OLD, going)
    (action,) = plan_cleanup(WITHOUT_SOUTH, snapshot(known), NOW, builder_id=HERE, active=frozenset())
    assert (action.kind, action.verdict) == (CleanupKind.REMOVE_UPLOAD, Verdict.NOW)
    assert action.reason == (
        "The upload of build 00000002 to south is to go since 2026-11-21 13:30 UTC."
        " south is not in the configuration; it was the cloud acme, region lyon."
    )


def test_the_cloud_on_record_holds_also_when_the_provider_has_moved_since() -> None:
    south = provider("south", rate=0.5, region="paris")
    settings = config(diskimage(), south)
    assert provider_of(settings, replace(IN_SOUTH, cloud=None)) == south
    moved = provider_of(settings, IN_SOUTH)
    assert moved == replace(south, cloud="acme", region="lyon")
    alone = provider_of(config(), IN_SOUTH)
    assert alone is not None and (alone.name, alone.cloud, alone.region) == ("south", "acme", "lyon")
    assert provider_of(config(), replace(IN_SOUTH, cloud=None)) is None


def test_only_what_a_provider_that_is_gone_has_can_be_forgotten() -> None:
    sending = upload(2, UPLOADING, NOW, "south", id="0000000009")
    stale = upload(1, UPLOADING, NOW, "south", id="0000000009")
    claims = frozenset({(sending.build_id, "south")})
    known = snapshot(records(NEW, OLD, IN_NORTH, IN_SOUTH, sending, stale, uploads_claimed=claims))
    names = {u.name for u in forgettable(WITHOUT_SOUTH, known, "south")}
    assert names == {IN_SOUTH.name, stale.name}
    assert forgettable(HERE_STILL, known, "south") == ()
    assert forgettable(WITHOUT_SOUTH, known, "north") == ()

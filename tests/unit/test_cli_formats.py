"""Lists and shows in every format: exact for machines, readable and harmless for people."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from builder.cli.render import BUILD_COLUMNS, IMAGE_COLUMNS
from builder.cli.render_uploads import UPLOAD_COLUMNS
from builder.config.model import Platform
from builder.model import Cancellation, Failure, FailureClass, UploadState
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    building,
    config,
    diskimage,
    failed,
    provider,
    ready,
    upload,
)

ESCAPES = "apt says \x1b[31mno\x07 and then\nmuch more of it: " + "x" * 100
BROKEN = Failure(
    failure_class=FailureClass.MIRROR, message=ESCAPES, phase="packages", exit_code=100, lines=("\x1b[2J",)
)
#: One of each list and show.
COMMANDS = [
    ("image", "list"),
    ("image", "show", IMAGE),
    ("image", "explain", IMAGE),
    ("build", "list"),
    ("build", "show", build_id(2)),
    ("upload", "list"),
    ("upload", "show", build_id(1)[:8] + "/south"),
    ("upload", "plan", IMAGE),
    ("image", "resolve", IMAGE),
    ("provider", "list"),
    ("provider", "show", "south"),
    ("cleanup", "--dry-run"),
    ("leak", "list"),
    ("image", "history", IMAGE),
    ("image", "rollback", IMAGE, "--to", build_id(1)[:8], "--dry-run"),
    ("build", "quarantine", build_id(1)[:8], "--dry-run"),
]


@pytest.fixture
def world() -> World:
    """A good build of yesterday in one of two providers, and a broken one of today."""
    there = World(
        config=config(
            diskimage(platform=Platform(name="debian-bookworm", distribution="debian", release="bookworm")),
            provider("north", region="RegionOne"),
            provider("south"),
        )
    )
    there.store.put(ready(1, NOW - DAY, log="/var/log/1.log", timings={"packages": 45.25}))
    there.store.put(failed(2, NOW - HOUR, reason=BROKEN))
    there.store.put(
        upload(
            1,
            UploadState.READY,
            NOW - DAY + HOUR,
            region="RegionOne",
            size=352_000_000,
            external_id="abc",
            external_name="debian-1",
            format="qcow2",
            ended=NOW - DAY + HOUR,
            way="put",
            sent=352_000_000,
            timings={"send": 10.0},
            serving=NOW,
        )
    )
    there.store.put(upload(1, UploadState.FAILED, NOW - HOUR, to="south", kind=FailureClass.QUOTA))
    return there


def test_build_list_has_exactly_the_promised_keys_and_values(world: World) -> None:
    broken, good = world.json("build", "list")
    assert list(good) == [*BUILD_COLUMNS]
    assert good == {
        "id": build_id(1),
        "image": IMAGE,
        "state": "ready",
        "phase": None,
        "builder": "host-a",
        "formats": ["qcow2"],
        "size": 1,
        "age": (DAY + 10 * MINUTE).total_seconds(),
        "duration": 600.0,
        "reason": None,
        "progress": None,
        "left": None,
        "withheld": None,
    }
    assert broken["reason"] == BROKEN.summary
    assert (broken["size"], broken["formats"]) == (None, [])


def test_upload_list_has_exactly_the_promised_keys_and_values(world: World) -> None:
    rows = {row["provider"]: row for row in world.json("upload", "list")}
    assert list(rows["north"]) == [*UPLOAD_COLUMNS]
    assert rows["north"] == {
        "id": f"{build_id(1)}/north/0000000001",
        "build_id": build_id(1),
        "image": IMAGE,
        "provider": "north",
        "region": "RegionOne",
        "state": "ready",
        "external_id": "abc",
        "external_name": "debian-1",
        "format": "qcow2",
        "size": 352_000_000,
        "age": (DAY - HOUR + MINUTE).total_seconds(),
        "duration": 60.0,
        "reason": None,
        "phase": None,
        "way": "put",
        "sent": 352_000_000,
        "progress": None,
        "rate": 35_200_000,
        "left": None,
        "serving": "2026-11-21T14:30:00Z",
        "hidden": False,
        "withheld": None,
        "check": None,
    }
    assert rows["south"]["reason"] == "quota: it broke"


def test_image_list_has_exactly_the_promised_keys_and_values(world: World) -> None:
    (row,) = world.json("image", "list")
    assert list(row) == [*IMAGE_COLUMNS]
    assert row == {
        "image": IMAGE,
        "platform": "debian-bookworm",
        "state": "failed",
        "schedule": "14 14 * * *",
        "next_build": "2026-11-21T14:14:00Z",
        "last_ready": "2026-11-20T14:30:00Z",
        "age": (DAY + 10 * MINUTE).total_seconds(),
        "uploads_ready": 1,
        "uploads_total": 2,
        "paused": False,
        "reason": BROKEN.summary,
        "checked": None,
        "pause": None,
        "next_builder": None,
        "withheld": [],
    }


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_yaml_says_what_json_says(world: World, argv: tuple[str, ...]) -> None:
    assert yaml.safe_load(world.run(*argv, "-f", "yaml").out) == world.json(*argv)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_csv_has_the_same_columns_and_as_many_records(world: World, argv: tuple[str, ...]) -> None:
    said = world.json(*argv)
    records = said if isinstance(said, list) else [said]
    rows = list(csv.DictReader(io.StringIO(world.run(*argv, "-f", "csv").out)))
    assert [list(row) for row in rows] == [list(record) for record in records]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", ["table", "csv", "value"])
def test_nothing_that_a_terminal_obeys_is_printed(world: World, argv: tuple[str, ...], kind: str) -> None:
    shown = world.run(*argv, "-f", kind)
    assert shown.code == 0
    assert all(character.isprintable() for character in shown.out.replace("\n", ""))


def test_csv_leaves_out_what_is_not_known_and_joins_lists(world: World) -> None:
    _, good = csv.DictReader(io.StringIO(world.run("build", "list", "-f", "csv").out))
    assert (good["phase"], good["formats"], good["size"]) == ("", "qcow2", "1")


def test_value_is_a_line_for_each_record_with_columns_in_place(world: World) -> None:
    shown = world.run("build", "list", "-f", "value", "-c", "id", "-c", "state", "-c", "phase").out
    assert shown.splitlines() == [f"{build_id(2)} failed None", f"{build_id(1)} ready None"]


def test_value_of_one_field_is_that_field_alone(world: World) -> None:
    assert world.run("build", "show", "00000001", "-f", "value", "-c", "log").out == "/var/log/1.log\n"


def test_a_table_is_for_people(world: World) -> None:
    shown = world.run("upload", "list").out
    assert "00000001/north/1" in shown and build_id(1) not in shown
    assert "352.0 MB" in shown and "23h 1m" in shown and "None" not in shown
    builds = world.run("build", "list").out
    assert "mirror: apt says \\x1b[31mno\\x07 and then much more of it:" in builds
    assert "…" in builds and "x" * 50 not in builds


def test_show_has_the_whole_id_and_reason(world: World) -> None:
    shown = world.run("build", "show", "00000002").out
    assert build_id(2) in shown and "x" * 100 in shown


def test_build_show_tells_why_as_data(world: World) -> None:
    shown = world.json("build", "show", build_id(2))
    assert shown["failure"] == {
        "class": "mirror",
        "message": ESCAPES,
        "phase": "packages",
        "step": None,
        "exit_code": 100,
        "lines": ["\x1b[2J"],
    }
    good = world.json("build", "show", build_id(1))
    assert good["timings"] == {"packages": 45.25}
    assert {(u["provider"], u["state"]) for u in good["uploads"]} == {("north", "ready"), ("south", "failed")}


def test_image_show_says_where_it_is_and_what_comes_next(world: World) -> None:
    shown = world.json("image", "show", IMAGE)
    assert shown["decision"] == "now" and "ticked" in shown["decision_reason"]
    north, south = shown["providers"]
    assert (north["provider"], north["current"], north["external_id"]) == ("north", True, "abc")
    assert (south["provider"], south["current"], south["reason"]) == ("south", False, "quota: it broke")
    assert (south["decision"], south["ready_build_id"]) == ("now", None)


def test_explain_has_a_row_for_each_decision(world: World) -> None:
    rows = world.json("image", "explain", IMAGE)
    assert [list(row) for row in rows] == [["what", "verdict", "due", "reason"]] * len(rows)
    assert {"next build", "upload to north", "upload to south"} <= {row["what"] for row in rows}


def test_lists_take_only_what_was_asked_for(world: World) -> None:
    world.store.put(building(3, NOW - MINUTE, image="other"))
    assert [b["id"] for b in world.json("build", "list", "--image", "other")] == [build_id(3)]
    assert [u["provider"] for u in world.json("upload", "list", "--provider", "south")] == ["south"]
    assert world.json("upload", "list", "--image", "other") == []
    assert world.run("build", "list", "--image", "nope").code == 3
    assert world.run("upload", "list", "--provider", "nope").code == 3
    for group in ("build", "upload"):
        nothing = world.run(group, "list", "--image", "")
        assert (nothing.code, nothing.out) == (3, "")


def test_an_unknown_column_is_wrong_usage(world: World) -> None:
    refused = world.run("build", "list", "-c", "id", "-c", "nope")
    assert refused.code == 2 and "nope" in refused.err and "duration" in refused.err and not refused.out


def test_sorting_by_an_unknown_column_is_wrong_usage(world: World) -> None:
    assert "ignored" not in world.run("build", "list", "--help").out
    refused = world.run("build", "list", "--sort-column", "nope")
    assert refused.code == 2 and "nope" in refused.err and "duration" in refused.err and not refused.out


def test_a_list_is_sorted_by_value_not_by_what_is_shown(world: World) -> None:
    world.store.put(ready(4, NOW - 10 * MINUTE, took=timedelta(seconds=90)))
    ages = [
        row["age"] for row in json.loads(world.run("build", "list", "-f", "json", "--sort-column", "age").out)
    ]
    assert ages == sorted(ages) and len(ages) == 3


def test_an_empty_list_is_empty_in_every_format() -> None:
    empty = World()
    assert empty.json("build", "list") == []
    assert empty.run("build", "list", "-f", "value").out == ""
    assert empty.run("build", "list", "-f", "csv").out == ",".join(BUILD_COLUMNS) + "\n"


# -- what a build is doing, and what became of it ----------------------------------------------------

TIMINGS = {"packages": 40.0, "convert qcow2": 11.0, "bootstrap": 30.0, "convert": 20.0, "convert raw": 2.0}


@pytest.fixture
def busy() -> World:
    """A build that runs and was cancelled, a good one before it, and a broken one before that."""
    there = World(config=config(diskimage(), provider("north"), provider("south")))
    there.store.put(
        ready(
            1,
            NOW - DAY,
            timings=TIMINGS,
            checked=NOW - 2 * HOUR,
            changes=("packages: openssl 3.0.1 -> 3.0.2", "elements: vm \x1b[31m"),
            inputs={"packages": "0d"},
            work_bytes=4_200_000_000,
            pruned=("raw",),
        )
    )
    there.store.put(failed(3, NOW - 2 * DAY, next_try=NOW - 2 * DAY + MINUTE))
    there.store.put(failed(4, NOW - 3 * DAY))
    there.store.put(
        building(
            2,
            NOW - 80 * timedelta(seconds=1),
            phase="convert",
            timings={"bootstrap": 30.0, "packages": 40.0},
            bytes_done=800_000_000,
            bytes_total=1_800_000_000,
        )
    )
    there.store.cancel_build(
        Cancellation(image=IMAGE, build_id=build_id(2), by="ann", time=NOW, why="wrong \x1b[31mmirror")
    )
    # The builder, whose session lives as long as the store.
    assert there.store.another_daemon().claim_image(IMAGE) is not None
    return there


def test_a_build_that_runs_tells_how_far_it_is(busy: World) -> None:
    shown = busy.json("build", "show", "00000002")
    # 0.8 GB took 10 s, so 1 GB takes 12.5.
    assert shown["bytes"] == {"done": 800_000_000, "total": 1_800_000_000}
    assert shown["estimate"] == {
        "total": 92.5,
        "left": 12.5,
        "share": 0.865,
        "over": 0.0,
        "ends": "2026-11-21T14:30:12Z",
    }
    assert (shown["progress"], shown["left"]) == (0.865, 12.5)
    table = busy.run("build", "show", "00000002").out
    assert "44 %, 0.8 of 1.8 GB" in table and "about 10s left of 1m 32s" in table
    row = next(r for r in busy.json("build", "list") if r["state"] == "building")
    assert (row["phase"], row["progress"], row["left"]) == ("convert", 0.865, 12.5)
    assert "86 %" in busy.run("build", "list").out


def test_a_build_that_takes_longer_than_ever_says_so(busy: World) -> None:
    busy.now = NOW + MINUTE
    shown = busy.json("build", "show", "00000002")
    assert shown["estimate"]["over"] == 50.0
    assert (shown["left"], shown["estimate"]["left"], shown["estimate"]["ends"]) == (None, None, None)
    assert next(r["left"] for r in busy.json("build", "list") if r["state"] == "building") is None
    assert "50s longer than ever" in busy.run("build", "show", "00000002").out


def test_how_long_a_build_is_in_its_phase_is_told_and_formats_count_once(busy: World) -> None:
    running = busy.store.get_build(IMAGE, build_id(2))
    busy.store.put(replace(running, timings={**running.timings, "convert raw": 7.0}))
    shown = busy.json("build", "show", "00000002")
    assert shown["phase_seconds"] == 10.0 and "convert" not in shown["timings"]
    assert "convert: 10s so far" in busy.run("build", "show", "00000002").out
    assert busy.json("build", "show", "00000001")["phase_seconds"] is None


def test_a_build_whose_builder_died_has_no_progress_and_says_who_ends_it(busy: World) -> None:
    busy.store.put(building(5, NOW - HOUR))  # the claim is for the newer one
    why = "no builder works on it any more; a janitor ends it"
    shown = busy.json("build", "show", "00000005")
    assert (shown["progress"], shown["left"], shown["estimate"], shown["phase_seconds"]) == (None,) * 4
    assert shown["reason"] == why
    rows = {row["id"]: row for row in busy.json("build", "list")}
    assert (rows[build_id(5)]["reason"], rows[build_id(5)]["left"]) == (why, None)
    assert rows[build_id(2)]["reason"] is None
    (row,) = busy.json("image", "list")
    assert (row["state"], row["reason"]) == ("building", None)


def test_an_image_that_nobody_builds_any_more_says_so() -> None:
    there = World(config=config(diskimage()))
    there.store.put(ready(1, NOW - DAY, timings=TIMINGS))
    there.store.put(building(2, NOW - MINUTE))
    (row,) = there.json("image", "list")
    assert row["reason"] == f"build {build_id(2)}: no builder works on it any more; a janitor ends it"
    assert there.json("image", "show", IMAGE)["estimate"] is None


def test_a_cancelled_build_is_not_said_to_be_so_twice() -> None:
    there = World(config=config(diskimage()))
    reason = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ann", phase="packages")
    there.store.put(failed(1, NOW, reason=reason))
    for row in (*there.json("image", "list"), there.json("build", "show", "00000001")):
        assert row["reason"] == "cancelled by ann (phase packages)"


def test_an_image_tells_how_far_its_build_is_and_how_long_one_takes(busy: World) -> None:
    shown = busy.json("image", "show", IMAGE)
    assert shown["estimate"]["left"] == 12.5
    assert shown["expected_duration"] == 90.0
    assert shown["cancellation"]["by"] == "ann"
    assert shown["checked"] == "2026-11-21T12:30:00Z"
    assert shown["changes"] == ["packages: openssl 3.0.1 -> 3.0.2", "elements: vm \x1b[31m"]
    assert shown["builds"][0] == {"id": build_id(2), "state": "building", "phase": "convert"}
    table = busy.run("image", "show", IMAGE).out
    assert "unchanged at 2026-11-21 12:30:00 UTC" in table and "building (convert)" in table
    (row,) = busy.json("image", "list")
    assert row["checked"] == "2026-11-21T12:30:00Z"


def test_who_cancels_a_build_is_shown_with_it_and_with_no_other(busy: World) -> None:
    assert busy.json("build", "show", "00000002")["cancellation"] == {
        "build_id": build_id(2),
        "by": "ann",
        "why": "wrong \x1b[31mmirror",
        "time": "2026-11-21T14:30:00Z",
    }
    shown = busy.run("build", "show", "00000002").out
    assert "cancelled by ann at 2026-11-21 14:30:00 UTC: wrong \\x1b[31mmirror" in shown
    assert busy.json("build", "show", "00000001")["cancellation"] is None


def test_a_good_build_tells_what_went_in_and_what_went_away(busy: World) -> None:
    shown = busy.json("build", "show", "00000001")
    assert shown["inputs"] == {"packages": "0d"}
    assert (shown["work_bytes"], shown["pruned"]) == (4_200_000_000, ["raw"])
    assert shown["checked"] == "2026-11-21T12:30:00Z"
    assert (shown["progress"], shown["left"], shown["estimate"], shown["bytes"]) == (None,) * 4
    assert "\x1b" not in busy.run("build", "show", "00000001").out


def test_timings_stand_in_the_order_of_the_phases_with_their_formats_below(busy: World) -> None:
    timings = busy.json("build", "show", "00000001")["timings"]
    assert list(timings) == ["bootstrap", "packages", "convert", "convert qcow2", "convert raw"]
    lines = [line.strip("| ") for line in busy.run("build", "show", "00000001").out.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.endswith("bootstrap: 30s"))
    assert lines[at + 1 : at + 5] == [
        "packages: 40s",
        "convert: 20s",
        "convert qcow2: 11s",
        "convert raw: 2s",
    ]


def test_a_failed_build_tells_when_it_is_tried_again(busy: World) -> None:
    assert busy.json("build", "show", "00000003")["next_try"] == "2026-11-19T14:31:00Z"
    assert busy.json("build", "show", "00000004")["next_try"] is None
    assert "not before the schedule or somebody asks" in busy.run("build", "show", "00000004").out
    assert "not before" not in busy.run("build", "show", "00000001").out


def test_an_image_whose_good_build_was_checked_after_a_failure_is_ready() -> None:
    there = World(config=config(diskimage()))
    there.store.put(ready(1, NOW - DAY))
    there.store.put(failed(2, NOW - HOUR, next_try=NOW + MINUTE))
    assert there.json("image", "show", IMAGE)["next_try"] == "2026-11-21T14:31:00Z"
    (row,) = there.json("image", "list")
    assert row["state"] == "failed"
    there.store.put(ready(1, NOW - DAY, checked=NOW))
    (row,) = there.json("image", "list")
    assert (row["state"], row["reason"]) == ("ready", None)
    assert there.json("image", "show", IMAGE)["next_try"] is None

"""Lists and shows in every format: exact for machines, readable and harmless for people."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest
import yaml

from builder.cli.render import BUILD_COLUMNS, IMAGE_COLUMNS, UPLOAD_COLUMNS
from builder.config.model import Platform
from builder.model import Failure, FailureClass, UploadState
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

"""`imagepool plan`: what is foreseen from a moment on, and what is not built, with the reasons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.config.model import DiskImage, ScheduleEntry
from builder.model import Build, Pause
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    building,
    config,
    diskimage,
    provider,
    ready,
)
from tests.unit.test_cli_builders import daemon


def timed(number: int, **changes: Any) -> Build:
    """A ready build of today that took a quarter of an hour."""
    return ready(number, NOW - MINUTE, took=15 * MINUTE, timings={"packages": 900.0}, **changes)


def scheduled(name: str, *crons: str, **changes: Any) -> DiskImage:
    return diskimage(name, schedule=tuple(ScheduleEntry(text=c, cron=c) for c in crons), **changes)


@pytest.fixture
def world() -> World:
    """One image that is built at 14:14, was built today, and goes to two providers."""
    made = World()
    made.store.register(daemon(started=NOW - DAY))
    made.store.put(timed(1))
    return made


def test_the_next_build_is_told_with_when_where_how_long_and_why(world: World) -> None:
    (row,) = world.json("plan")
    reason = row.pop("reason")
    assert "14 14 * * *" in reason
    assert row == {
        "image": IMAGE,
        "verdict": "later",
        "start": "2026-11-22T14:14:00Z",
        "end": "2026-11-22T14:29:00Z",
        "builder": "host-a",
        "trigger": "schedule",
        "expected": 900.0,
        "providers": ["north", "south"],
        "tick": "2026-11-22T14:14:00Z",
    }


def test_what_is_due_begins_at_once(world: World) -> None:
    world.config = config(scheduled("new", "0 0 * * *"), provider("north", "new"))
    first = world.json("plan")[0]
    assert (first["image"], first["verdict"], first["start"]) == ("new", "now", "2026-11-21T14:30:00Z")


def test_what_runs_is_in_the_plan(world: World) -> None:
    world.store.put(building(2, NOW - 5 * MINUTE))
    claim = world.store.claim_image(IMAGE)
    assert claim is not None
    first, second = world.json("plan")
    assert (first["verdict"], first["start"]) == ("running", "2026-11-21T14:25:00Z")
    assert (second["verdict"], second["start"]) == ("later", "2026-11-22T14:14:00Z")


def test_builds_that_are_due_together_take_turns(world: World) -> None:
    images = [scheduled(name, "0 18 * * *") for name in ("one", "three", "two")]
    world.config = config(*images, provider("north", "one", "three", "two"))
    for number, name in enumerate(("one", "three", "two")):
        world.store.put(timed(number + 5, image=name))
    starts = sorted(row["start"] for row in world.json("plan"))
    assert starts == ["2026-11-21T18:00:00Z", "2026-11-21T18:00:00Z", "2026-11-21T18:15:00Z"]


def test_what_is_not_built_has_the_reason(world: World) -> None:
    world.config = config(
        diskimage(pause=True), scheduled("never", requires=frozenset()), provider("north", IMAGE, "never")
    )
    world.store.put(timed(2, image="never"))
    rows = {row["image"]: row for row in world.json("plan")}
    assert {row["verdict"] for row in rows.values()} == {"no"}
    assert "paused in the configuration" in rows[IMAGE]["reason"]
    assert rows["never"]["reason"] and rows["never"]["start"] is None


def test_what_no_builder_can_take_is_not_built_and_says_why(world: World) -> None:
    world.config = config(diskimage("arm", requires=frozenset({"arm64"})), provider("north", "arm"))
    (row,) = world.json("plan")
    assert row["verdict"] == "no" and "host-a: it lacks the label arm64" in row["reason"]


def test_while_frozen_nothing_is_built(world: World) -> None:
    world.store.freeze(Pause(by="ann", time=NOW - HOUR, why="release day"))
    (row,) = world.json("plan")
    assert row["verdict"] == "no" and "release day" in row["reason"]


# -- from when, and for how long ------------------------------------------------------------------


@pytest.mark.parametrize(("hours", "builds"), [("1", 0), ("24", 1), ("48", 2), ("744", 31)])
def test_a_plan_is_as_long_as_it_is_asked_to_be(world: World, hours: str, builds: int) -> None:
    rows = world.json("plan", "--hours", hours)
    assert [row["verdict"] for row in rows] == (["later"] * builds or ["no"])


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-23T14:00",
        "2026-11-23T14:00:00Z",
        "2026-11-23 15:00+01:00",
        "2026-11-23T09:30-04:30",
        "2026-11-23T00:00",
        "2026-11-23",
    ],
)
def test_a_plan_begins_when_it_is_asked_to_and_knows_what_comes_before(world: World, time: str) -> None:
    (row,) = world.json("plan", "--at", time)
    assert row["start"] == "2026-11-23T14:14:00Z"


def test_at_the_very_moment_of_a_tick_the_build_begins(world: World) -> None:
    first = world.json("plan", "--at", "2026-11-22T14:14")[0]
    assert (first["verdict"], first["start"]) == ("now", "2026-11-22T14:14:00Z")


def test_what_runs_then_is_in_the_plan_and_what_is_over_is_not(world: World) -> None:
    (row,) = world.json("plan", "--at", "2026-11-22T14:20", "--hours", "1")
    assert (row["verdict"], row["start"]) == ("running", "2026-11-22T14:14:00Z")
    (row,) = world.json("plan", "--at", "2026-11-22T15:00", "--hours", "1")
    assert row["verdict"] == "no" and "2026-11-22 14:14:00 UTC" in row["reason"]


def test_a_time_that_passed_while_it_was_typed_is_now(world: World) -> None:
    world.now = NOW + 30 * MINUTE / 60
    assert world.json("plan", "--at", "2026-11-21T14:30") == world.json("plan")


@pytest.mark.parametrize(
    "words",
    [
        ("--at", "tomorrow"),
        ("--at", ""),
        ("--at", "2026-13-01"),
        ("--at", "14:14"),
        ("--at", "2026-11-23T25:00"),
        ("--at", "0001-01-01T00:00+23:00"),
        ("--at", "9999-12-31T23:59-23:00"),
        ("--at", "9999-12-31T23:59"),
        ("--at", "2026-11-21T14:00"),
        ("--at", "2028-01-01"),
        ("--hours", "0"),
        ("--hours", "-1"),
        ("--hours", "1.5"),
        ("--hours", "9999999999"),
        ("--hours", "745"),
        ("--hours", "soon"),
        (IMAGE,),
        ("--when", "now"),
    ],
)
def test_wrong_words_are_2_with_a_clear_error(world: World, words: tuple[str, ...]) -> None:
    refused = world.run("plan", *words)
    assert (refused.code, refused.out) == (2, "") and "Traceback" not in refused.err
    if words[0] in ("--at", "--hours") and words[1]:
        assert words[0] in refused.err


# -- how it is shown ------------------------------------------------------------------------------


def test_json_has_a_short_word(world: World) -> None:
    short = world.run("plan", "--json")
    assert json.loads(short.out) == world.json("plan")


def test_a_plan_is_a_table_for_people(world: World) -> None:
    shown = world.run("plan")
    assert shown.code == 0
    assert "2026-11-22 14:14:00 UTC" in shown.out and "15m 0s" in shown.out and "north, south" in shown.out


def test_a_plan_changes_nothing(world: World) -> None:
    before = world.store.snapshot()
    world.run("plan", "--hours", "100")
    assert world.store.snapshot() == before

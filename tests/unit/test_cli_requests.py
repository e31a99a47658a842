"""Asking for builds, several at once; seeing what they wait for; taking the wish back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.cli.context import Parts
from builder.config.model import ScheduleEntry
from builder.model import Pause, Request
from tests.fakes.store import FakeStore
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    TICK,
    asked,
    build_id,
    building,
    config,
    diskimage,
    provider,
    ready,
)
from tests.unit.test_cli_builders import daemon

BY_ANN = Pause(by="ann@nb01", time=NOW - HOUR, why="release day")
TOLD = "by ann@nb01 at 2026-11-21 13:30 UTC: release day"
ALL = ("one", "three", "two")


@pytest.fixture
def world() -> World:
    """Three images, all of which one builder can make."""
    made = World(config=config(*map(diskimage, ALL), provider("north", *ALL)), environ={"SUDO_USER": "bob"})
    made.store.register(daemon())
    return made


def wished(world: World) -> dict[str, Request]:
    images = world.store.snapshot().images
    return {name: r.request for name, r in images.items() if r.request is not None}


# -- asking for several ---------------------------------------------------------------------------


def test_several_are_asked_for_with_a_line_of_answer_each(world: World) -> None:
    done = world.run("image", "build", "one", "two", "one", "--why", "new kernel")
    assert done.code == 0 and len(done.out.splitlines()) == 2
    assert {name: request.why for name, request in wished(world).items()} == {
        "one": "new kernel",
        "two": "new kernel",
    }


@pytest.mark.parametrize("wrong", ["four", "", "../x", "a b"])
def test_every_name_is_checked_before_anything_is_asked(world: World, wrong: str) -> None:
    refused = world.run("image", "build", "one", wrong, "two")
    assert refused.code == 3 and repr(wrong) in refused.err
    assert not wished(world)


def test_an_image_that_left_the_configuration_keeps_the_others_from_being_asked_for(world: World) -> None:
    world.store.put(ready(1, NOW - DAY, image="old"))
    assert world.run("image", "build", "one", "old").code == 3
    assert not wished(world)


def test_of_several_one_that_is_refused_is_told_and_the_others_are_built(world: World) -> None:
    images = (diskimage("one"), diskimage("two", pause=True), diskimage("three", formats=()))
    world.config = config(*images, provider("north", "one", "two"))
    done = world.run("image", "build", "one", "two", "three")
    assert done.code == 4 and set(wished(world)) == {"one"}
    first, second, third = done.out.splitlines()
    assert "a build of one is requested" in first or "a build of one is requested" in third
    assert "paused by the configuration" in done.out and "no provider lists it" in done.out
    assert second


def test_what_has_no_format_to_be_made_in_is_refused_whatever_the_force(world: World) -> None:
    world.config = config(diskimage("one", formats=()))
    for force in ((), ("--force",)):
        refused = world.run("image", "build", "one", *force)
        assert refused.code == 4 and "no provider lists it" in refused.err
    assert not wished(world)


@pytest.mark.parametrize("words", [(), ("one", "--all"), ("--all", "--why", "two\nlines"), ("one", "--whom")])
def test_asking_in_wrong_words_is_2(world: World, words: tuple[str, ...]) -> None:
    assert world.run("image", "build", *words).code == 2
    assert not wished(world)


@pytest.mark.parametrize("verb", [("image", "build"), ("request", "cancel")])
def test_names_and_all_at_once_are_told_to_exclude_each_other(world: World, verb: tuple[str, ...]) -> None:
    assert "not both" in world.run(*verb, "one", "--all").err
    assert "not both" not in world.run(*verb).err


# -- all ------------------------------------------------------------------------------------------


def test_all_are_asked_for_but_those_that_can_not_be_built(world: World) -> None:
    images = (
        diskimage("one"),
        diskimage("two", pause=True),
        diskimage("three", formats=()),
        diskimage("four"),
    )
    world.config = config(*images, provider("north", "one", "two", "four"))
    world.store.pause("four", BY_ANN)
    done = world.run("image", "build", "--all")
    assert done.code == 0 and set(wished(world)) == {"one"}
    assert "left out: two: it is paused by the configuration" in done.err
    assert "left out: three: it has no format" in done.err
    assert f"left out: four: it is paused by hand, {TOLD}" in done.err
    assert world.run("image", "build", "--all", "--force").code == 0
    assert set(wished(world)) == {"one", "two", "four"}


def test_all_of_nothing_is_refused(world: World) -> None:
    world.config = config(diskimage("one", pause=True), provider("north", "one"))
    refused = world.run("image", "build", "--all")
    assert refused.code == 4 and "--force" in refused.err and not wished(world)


# -- force and haste ------------------------------------------------------------------------------


def test_what_the_file_pauses_is_built_by_force(world: World) -> None:
    world.config = config(diskimage("one", pause=True), provider("north", "one"))
    refused = world.run("image", "build", "one")
    assert refused.code == 4 and "--force" in refused.err
    assert world.run("image", "build", "one", "--force").code == 0
    assert wished(world)["one"].force


def test_while_frozen_nothing_is_asked_for_but_by_force(world: World) -> None:
    world.store.freeze(BY_ANN)
    for which in (("one",), ("one", "two"), ("--all",)):
        refused = world.run("image", "build", *which)
        assert refused.code == 4 and TOLD in refused.err
        assert "unfreeze" in refused.err and "--force" in refused.err
    assert not wished(world)
    assert world.run("image", "build", "one", "--force").code == 0
    assert wished(world)["one"].force


def test_what_is_wanted_now_is_urgent(world: World) -> None:
    done = world.run("image", "build", "one", "--now")
    assert done.code == 0 and "before all others" in done.out
    assert (wished(world)["one"].urgent, wished(world)["one"].force) == (True, False)


def test_asking_twice_is_one_build_to_which_force_and_haste_are_added(world: World) -> None:
    world.run("image", "build", "one", "--why", "first")
    joined = world.run("image", "build", "one", "--why", "second", "--now", "--force")
    assert joined.code == 0 and "joins it" in joined.out
    request = wished(world)["one"]
    assert (request.why, request.urgent, request.force) == ("first", True, True)


def test_that_no_builder_can_take_it_is_said_when_it_is_asked_for(world: World) -> None:
    world.config = config(diskimage("one", requires=frozenset({"arm64"})), provider("north", "one"))
    done = world.run("image", "build", "one")
    assert (
        done.code == 0 and "one waits: No builder can take it: host-a: it lacks the label arm64." in done.err
    )
    (row,) = world.json("request", "list")
    assert row["verdict"] == "no" and "it lacks the label arm64" in row["reason"]


def test_what_follows_a_build_that_began_before_it_was_asked_for_does_not_run(world: World) -> None:
    world.store.put(building(1, NOW - MINUTE, image="one"))
    assert world.store.claim_image("one") is not None
    world.store.request_build(replace(asked(), image="one"))
    (row,) = world.json("request", "list")
    assert row["verdict"] == "no" and "which follows" in row["reason"]


def test_a_request_whose_build_runs_is_running(world: World) -> None:
    request = world.store.request_build(replace(asked(), image="one"))
    world.store.put(building(1, NOW - MINUTE, image="one", request=request))
    assert world.store.claim_image("one") is not None
    (row,) = world.json("request", "list")
    assert row["verdict"] == "running" and "Build 00000001 runs" in row["reason"]


# -- the list -------------------------------------------------------------------------------------


def test_what_is_asked_for_is_listed_with_who_why_and_which_builder_takes_it(world: World) -> None:
    world.store.request_build(replace(asked(NOW - MINUTE), image="one"))
    (row,) = world.json("request", "list")
    assert row.pop("reason")
    assert row == {
        "image": "one",
        "by": "ann",
        "why": "new kernel",
        "age": 60.0,
        "manual": True,
        "force": False,
        "urgent": False,
        "tick": None,
        "verdict": "now",
        "builder": "host-a",
    }


def test_requests_are_listed_in_the_order_in_which_they_are_served(world: World) -> None:
    scheduled = replace(asked(NOW - HOUR, manual=False, by="scheduler"), image="one", tick=TICK)
    world.store.request_build(scheduled)
    world.store.request_build(replace(asked(), image="two"))
    world.store.request_build(replace(asked(), image="three", urgent=True))
    rows = world.json("request", "list")
    assert [row["image"] for row in rows] == ["three", "two", "one"]
    assert rows[-1]["tick"] == "2026-11-21T14:14:00Z"


def test_what_a_request_waits_for_is_said(world: World) -> None:
    world.store.request_build(replace(asked(), image="one"))
    world.store.freeze(BY_ANN)
    (row,) = world.json("request", "list")
    assert row["verdict"] == "no" and "ann@nb01" in row["reason"] and row["builder"] is None


def test_a_request_for_an_image_that_left_the_configuration_is_listed_last(world: World) -> None:
    world.store.request_build(replace(asked(), image="a-gone"))
    world.store.request_build(replace(asked(), image="one"))
    rows = world.json("request", "list")
    assert [row["image"] for row in rows] == ["one", "a-gone"]
    assert "configuration" in rows[1]["reason"]


@pytest.mark.parametrize("words", [("one",), ("--all",), ("-c", "colour")])
def test_listing_in_wrong_words_is_2(world: World, words: tuple[str, ...]) -> None:
    assert world.run("request", "list", *words).code == 2


# -- taking it back -------------------------------------------------------------------------------


def test_a_request_is_withdrawn(world: World) -> None:
    world.store.put(ready(1, NOW - MINUTE, image="one"))
    world.store.request_build(replace(asked(), image="one"))
    done = world.run("request", "cancel", "one")
    assert done.code == 0 and "new kernel, ann" in done.out and not done.err
    assert not wished(world)


def test_that_the_same_cause_asks_again_is_said(world: World) -> None:
    world.store.request_build(replace(asked(), image="one"))
    done = world.run("request", "cancel", "one")
    assert done.code == 0 and not wished(world)
    assert "one will be asked for again at once: There is no ready build" in done.err


def test_a_time_of_the_schedule_whose_request_is_withdrawn_is_not_asked_for_again(world: World) -> None:
    world.store.put(ready(1, NOW - DAY, image="one"))
    scheduled = replace(asked(TICK, manual=False, by="scheduler"), image="one", tick=TICK)
    assert world.store.request_build(scheduled, ticks={"14 14 * * *": TICK})
    done = world.run("request", "cancel", "one")
    assert done.code == 0 and not done.err and not wished(world)
    assert world.json("image", "show", "one")["next_build"] == "2026-11-22T14:14:00Z"


class Rival(World):
    """A world in which somebody else serves each request just before it is withdrawn."""

    def parts(self) -> Parts:
        class Served(FakeStore):
            def withdraw_request(self, request: Request) -> bool:
                super().withdraw_request(request)
                return super().withdraw_request(request)

        return replace(super().parts(), open_store=lambda *_: Served(self.store.tree))


def test_a_request_that_was_served_meanwhile_is_said_to_be(world: World) -> None:
    world.store.request_build(replace(asked(), image="one"))
    done = Rival(config=world.config, store=world.store).run("request", "cancel", "one")
    assert done.code == 0 and "served or withdrawn meanwhile" in done.out


def test_a_build_that_runs_is_ended_by_another_command(world: World) -> None:
    request = world.store.request_build(replace(asked(), image="one"))
    world.store.put(building(1, NOW - MINUTE, image="one", request=request))
    claim = world.store.claim_image("one")
    assert claim is not None
    refused = world.run("request", "cancel", "one")
    assert refused.code == 4 and build_id(1) in refused.err
    assert "imagepool build cancel 00000001" in refused.err
    assert set(wished(world)) == {"one"}


def test_a_request_that_a_dead_build_has_left_is_withdrawn(world: World) -> None:
    request = world.store.request_build(replace(asked(), image="one"))
    world.store.put(building(1, NOW - MINUTE, image="one", request=request))
    assert world.run("request", "cancel", "one").code == 0
    assert not wished(world)


def test_a_build_for_another_request_keeps_nobody_from_withdrawing(world: World) -> None:
    world.store.put(building(1, NOW - MINUTE, image="one"))
    claim = world.store.claim_image("one")
    assert claim is not None
    world.store.request_build(replace(asked(), image="one"))
    assert world.run("request", "cancel", "one").code == 0
    assert not wished(world)


def test_of_several_each_has_its_answer(world: World) -> None:
    world.store.request_build(replace(asked(), image="one"))
    done = world.run("request", "cancel", "one", "two")
    assert done.code == 3 and not wished(world)
    assert "the request for one" in done.out and "no build of two is asked for" in done.out


def test_all_are_withdrawn_but_what_runs(world: World) -> None:
    for name in ALL:
        request = world.store.request_build(replace(asked(), image=name))
        if name == "two":
            world.store.put(building(1, NOW - MINUTE, image="two", request=request))
    claim = world.store.claim_image("two")
    assert claim is not None
    done = world.run("request", "cancel", "--all")
    assert done.code == 0 and f"left: build {build_id(1)} of two runs already" in done.err
    assert set(wished(world)) == {"two"}


def test_of_none_all_are_withdrawn(world: World) -> None:
    done = world.run("request", "cancel", "--all")
    assert done.code == 0 and "no build is asked for" in done.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("one", "--all"), 2),
        (("one", "--force"), 2),
        (("unknown",), 3),
        (("one", "unknown"), 3),
        (("two",), 3),
        (("../x",), 3),
    ],
)
def test_withdrawing_in_wrong_words_changes_nothing(world: World, words: tuple[str, ...], code: int) -> None:
    world.store.request_build(replace(asked(), image="one"))
    assert world.run("request", "cancel", *words).code == code
    assert set(wished(world)) == {"one"}


# -- images ---------------------------------------------------------------------------------------


def test_an_image_says_who_builds_it_next_or_why_nobody_can(world: World) -> None:
    rows: dict[str, Any] = {row["image"]: row for row in world.json("image", "list")}
    assert rows["one"]["next_builder"] == "host-a" and rows["one"]["reason"] is None
    world.config = config(diskimage(requires=frozenset({"arm64"})), provider())
    (row,) = world.json("image", "list")
    assert row["next_builder"] is None
    assert row["reason"] == "No builder can take it: host-a: it lacks the label arm64."
    shown = world.json("image", "show", IMAGE)
    assert shown["requires"] == ["arm64"] and "lacks the label arm64" in shown["waits"]


def test_an_image_waits_for_a_free_worker_without_anything_being_wrong(world: World) -> None:
    world.store.put(building(1, NOW - MINUTE, image="one"))
    world.store.put(building(2, NOW - MINUTE, image="two"))
    claims = [world.store.claim_image(name) for name in ("one", "two")]
    assert all(claims)
    rows = {row["image"]: row for row in world.json("image", "list")}
    assert (rows["three"]["next_builder"], rows["three"]["reason"]) == (None, None)
    assert "free worker" in world.json("image", "show", "three")["waits"]


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        ((), "never"),
        (("0 4 * * 1-5 Europe/Berlin",), "0 4 * * 1-5 Europe/Berlin"),
        (("0 4 * * *", "@after base"), "0 4 * * *; @after base"),
    ],
)
def test_a_schedule_is_shown_as_it_is_written(entries: tuple[str, ...], shown: str) -> None:
    schedule = tuple(
        ScheduleEntry(text=text, after="base")
        if text.startswith("@")
        else ScheduleEntry(text=text, cron=" ".join(text.split()[:5]))
        for text in entries
    )
    world = World(config=config(diskimage(schedule=schedule), provider()))
    assert world.json("image", "list")[0]["schedule"] == shown
    assert world.json("image", "show", IMAGE)["schedule"] == shown


def test_an_image_shows_how_its_next_build_was_asked_for(world: World) -> None:
    world.run("image", "build", "one", "--now", "--force", "--why", "new kernel")
    request = world.json("image", "show", "one")["request"]
    assert (request["why"], request["force"], request["urgent"]) == ("new kernel", True, True)
    assert "2026-11-21 14:30:00 UTC, force, urgent)" in world.run("image", "show", "one").out

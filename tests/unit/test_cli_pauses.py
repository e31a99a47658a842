"""Standing still: images, providers and everything; on whose word, since when, why, and where it is shown."""

from __future__ import annotations

import pytest

from builder.model import Pause, UploadState
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    NOW,
    build_id,
    config,
    diskimage,
    ready,
    upload,
)

BY_ANN = Pause(by="ann@nb01", time=NOW - HOUR, why="it does not boot")
TOLD = "by ann@nb01 at 2026-11-21 13:30 UTC: it does not boot"


@pytest.fixture
def world() -> World:
    return World(environ={"SUDO_USER": "bob"})


# -- who, when and why are on record --------------------------------------------------------------


def test_an_image_is_paused_with_who_when_and_why(world: World) -> None:
    assert world.run("image", "pause", IMAGE, "--reason", "bad kernel").code == 0
    pause = world.store.snapshot().image(IMAGE).pause
    assert pause is not None and pause.by.startswith("bob@")
    assert (pause.time, pause.why) == (NOW, "bad kernel")


def test_a_provider_is_paused_with_who_when_and_why(world: World) -> None:
    assert world.run("provider", "pause", "north", "--reason", "its disks are full").code == 0
    ((name, pause),) = world.store.snapshot().paused_providers.items()
    assert name == "north" and pause.by.startswith("bob@")
    assert (pause.time, pause.why) == (NOW, "its disks are full")
    assert world.run("provider", "unpause", "north").code == 0
    assert not world.store.snapshot().paused_providers


def test_everything_is_frozen_with_who_when_and_why(world: World) -> None:
    assert world.run("freeze", "--reason", "release day").code == 0
    frozen = world.store.snapshot().frozen
    assert frozen is not None and frozen.by.startswith("bob@")
    assert (frozen.time, frozen.why) == (NOW, "release day")
    assert world.run("unfreeze").code == 0
    assert world.store.snapshot().frozen is None


# -- twice ----------------------------------------------------------------------------------------


def test_who_paused_an_image_first_stays_on_record(world: World) -> None:
    world.store.pause(IMAGE, BY_ANN)
    again = world.run("image", "pause", IMAGE, "--reason", "me too")
    assert again.code == 0 and f"already, {TOLD}" in again.out
    assert world.store.snapshot().image(IMAGE).pause == BY_ANN


def test_who_paused_a_provider_first_stays_on_record(world: World) -> None:
    world.store.pause_provider("north", BY_ANN)
    again = world.run("provider", "pause", "north", "--reason", "me too")
    assert again.code == 0 and f"already, {TOLD}" in again.out
    assert world.store.snapshot().paused_providers == {"north": BY_ANN}


def test_who_froze_first_stays_on_record(world: World) -> None:
    world.store.freeze(BY_ANN)
    again = world.run("freeze", "--reason", "me too")
    assert again.code == 0 and f"already, {TOLD}" in again.out and "your reason doesn't go there" in again.out
    assert "reason" not in world.run("freeze").out
    assert world.store.snapshot().frozen == BY_ANN


@pytest.mark.parametrize(
    ("back", "said"),
    [
        (("image", "unpause", IMAGE), "were not paused by hand"),
        (("provider", "unpause", "north"), "were not paused"),
        (("unfreeze",), "nothing was frozen"),
    ],
)
def test_what_stands_not_still_is_let_go_on_all_the_same(
    world: World, back: tuple[str, ...], said: str
) -> None:
    done = world.run(*back)
    assert done.code == 0 and said in done.out


def test_who_lets_it_go_on_learns_how_long_it_stood_still_and_for_whom(world: World) -> None:
    world.store.pause(IMAGE, BY_ANN)
    world.store.pause_provider("north", BY_ANN)
    world.store.freeze(BY_ANN)
    for back in (("image", "unpause", IMAGE), ("provider", "unpause", "north"), ("unfreeze",)):
        assert f"after 1h 0m, {TOLD}" in world.run(*back).out


def test_an_image_that_a_paused_provider_lacks_says_so_in_the_list(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.pause_provider("north", BY_ANN)
    (row,) = world.json("image", "list", "--sort-column", "image")
    assert row["uploads_ready"] == 0 and row["reason"] == f"north: uploads are paused {TOLD}"


# -- which ----------------------------------------------------------------------------------------


def test_a_provider_that_only_records_know_can_be_paused_and_shown(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(upload(1, UploadState.READY, NOW - DAY, to="old"))
    assert world.run("provider", "pause", "old").code == 0
    world.store.delete_upload(next(world.store.snapshot().uploads()))
    rows = {row["provider"]: row for row in world.json("provider", "list")}
    assert (rows["old"]["configured"], rows["old"]["paused"]) == (False, True)
    assert world.run("provider", "unpause", "old").code == 0


@pytest.mark.parametrize("verb", ["pause", "unpause"])
@pytest.mark.parametrize("name", ["nowhere", "", "../x", "a b", "x" * 300])
def test_a_provider_nobody_knows_is_3_and_leaves_no_trace(world: World, verb: str, name: str) -> None:
    done = world.run("provider", verb, name)
    assert done.code == 3 and not done.out
    assert not world.store.snapshot().paused_providers


@pytest.mark.parametrize("command", [("image", "pause", IMAGE), ("provider", "pause", "north"), ("freeze",)])
@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "a\u2028b"])
def test_a_reason_is_one_line(world: World, command: tuple[str, ...], reason: str) -> None:
    refused = world.run(*command, "--reason", reason)
    assert refused.code == 2 and "one line" in refused.err
    snapshot = world.store.snapshot()
    assert (snapshot.frozen, snapshot.image(IMAGE).pause, dict(snapshot.paused_providers)) == (None, None, {})


@pytest.mark.parametrize(
    "words",
    [
        ("freeze", IMAGE),
        ("freeze", "--reason"),
        ("freeze", "--why", "x"),
        ("unfreeze", IMAGE),
        ("unfreeze", "--force"),
        ("unfreeze", "--reason", "x"),
        ("provider", "pause"),
        ("provider", "pause", "north", "south"),
        ("provider", "pause", "north", "--force"),
        ("provider", "unpause"),
        ("provider", "unpause", "north", "south"),
        ("provider", "unpause", "north", "--why", "x"),
        ("image", "pause"),
        ("image", "pause", IMAGE, IMAGE),
        ("image", "unpause", IMAGE, "--reason", "x"),
    ],
)
def test_wrong_words_are_2(world: World, words: tuple[str, ...]) -> None:
    assert world.run(*words).code == 2
    assert world.store.snapshot().frozen is None


# -- where it is shown ----------------------------------------------------------------------------


def test_an_image_paused_by_hand_says_so_in_list_and_show(world: World) -> None:
    world.store.pause(IMAGE, BY_ANN)
    (row,) = world.json("image", "list")
    assert (row["paused"], row["pause"]) == (True, TOLD)
    assert world.json("image", "show", IMAGE)["pause"] == {
        "by": "ann@nb01",
        "why": "it does not boot",
        "time": "2026-11-21T13:30:00Z",
    }
    assert "ann@nb01" in world.run("image", "explain", IMAGE).out


def test_a_pause_of_the_configuration_is_told_apart() -> None:
    world = World(config=config(diskimage(pause=True)))
    assert world.json("image", "list")[0]["pause"] == "in the configuration"
    world.store.pause(IMAGE, BY_ANN)
    assert world.json("image", "list")[0]["pause"] == f"in the configuration and {TOLD}"


def test_a_paused_provider_says_so_in_list_and_show(world: World) -> None:
    world.store.pause_provider("north", BY_ANN)
    rows = {row["provider"]: row for row in world.json("provider", "list")}
    assert (rows["north"]["paused"], rows["north"]["pause"]) == (True, TOLD)
    assert (rows["south"]["paused"], rows["south"]["pause"]) == (False, None)
    assert world.json("provider", "show", "north")["pause"]["by"] == "ann@nb01"


def test_an_upload_plan_says_that_a_provider_is_paused(world: World) -> None:
    world.store.put(ready(1, NOW - HOUR))
    world.store.pause_provider("north", BY_ANN)
    plan = {row["provider"]: row for row in world.json("upload", "plan", IMAGE)}
    assert plan["north"]["decision"] == "no" and "ann@nb01" in plan["north"]["reason"]
    assert "ann@nb01" not in plan["south"]["reason"]


@pytest.mark.parametrize(
    "command",
    [
        ("image", "list"),
        ("image", "show", IMAGE),
        ("image", "explain", IMAGE),
        ("build", "list"),
        ("upload", "list"),
        ("upload", "plan", IMAGE),
        ("provider", "list"),
        ("provider", "show", "north"),
        ("request", "list"),
        ("builder", "list"),
        ("plan",),
    ],
)
def test_while_frozen_every_list_says_so_in_one_line_on_stderr(
    world: World, command: tuple[str, ...]
) -> None:
    world.store.put(ready(1, NOW - HOUR))
    assert "frozen" not in world.run(*command).err
    world.store.freeze(BY_ANN)
    listed = world.run(*command, "-f", "json")
    assert listed.code == 0
    assert listed.err == f"frozen {TOLD}; nothing begins by itself until 'imagepool unfreeze'\n"


def test_a_reason_can_not_act_on_the_terminal_of_who_reads_it(world: World) -> None:
    world.store.freeze(Pause(by="a\x1b[2J", time=NOW, why="one\nimagepool: all is well"))
    listed = world.run("build", "list")
    assert len(listed.err.splitlines()) == 1 and "\x1b" not in listed.err


def test_what_is_shown_of_a_pause_that_says_nothing_of_itself(world: World) -> None:
    """nodepool's mark is an empty node: only its time is known."""
    world.store.put(ready(1, NOW - DAY))
    world.store.pause(IMAGE, Pause(by="", time=NOW - HOUR))
    assert world.json("image", "list")[0]["pause"] == "by somebody at 2026-11-21 13:30 UTC"
    assert build_id(1) in world.run("build", "list", "-f", "csv").out

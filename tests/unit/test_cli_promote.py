"""`image promote`: what goes on record, how regions move, what is refused; and what a build waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.config.model import Canary
from builder.errors import NotFoundError
from builder.model import Build, Checked, CheckVerdict, Clearance, Pause, UploadState, Withholding
from tests.fakes.store import FakeStore
from tests.unit.cli_world import Result, World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    daemon,
    diskimage,
    failed,
    provider,
    ready,
)
from tests.unit.test_cli_rollback import moving, rows, serving, there

ONE, TWO, THREE, FOUR = (build_id(number)[:8] for number in (1, 2, 3, 4))
CANARY = Canary(providers=("north",), soak=2 * HOUR, check=("/etc/check",))


@pytest.fixture
def world() -> World:
    """By hand; builds 1 to 3, a day apart. 2 serves in north and south, 3 is ready behind it in both."""
    world = World(environ={"SUDO_USER": "bob"})
    world.config = config(diskimage(promote="manual"), provider("north"), provider("south"))
    for number in (1, 2, 3):
        time = NOW - (4 - number) * DAY
        world.store.put(ready(number, time))
        for region in ("north", "south") if number > 1 else ():
            world.store.put(there(number, region, time + HOUR))
    for region in ("north", "south"):
        world.store.put(replace(there(2, region, NOW - HOUR), ended=NOW - 2 * DAY, serving=NOW - 2 * DAY))
    return world


def words(world: World) -> dict[str, list[tuple[str | None, str, str]]]:
    """Who let which build serve where, and why."""
    builds = world.store.snapshot().builds()
    return {b.id[:8]: [(w.provider, w.by, w.why) for w in b.cleared] for b in builds if b.cleared}


def test_the_newest_serves_everywhere_and_who_said_so_is_on_record(world: World) -> None:
    assert serving(world) == {"north": TWO, "south": TWO}
    with moving(world):
        done = world.run("image", "promote", IMAGE, "--reason", "it is urgent", "-f", "json")
    assert done.code == 0, done.err
    assert serving(world) == {"north": THREE, "south": THREE}
    (word,) = words(world)[THREE]
    assert word[0] is None and word[1].startswith("bob@") and word[2] == "it is urgent"
    assert {name: (row["fate"], row["outcome"]) for name, row in rows(done).items()} == {
        "north": ("moves", "serves"),
        "south": ("moves", "serves"),
    }
    assert f"build {THREE} of {IMAGE} is promoted everywhere" in done.err
    turn = world.store.history(IMAGE)["north"][0]
    assert turn.by.startswith("bob@") and turn.why.endswith("it is urgent.")


def test_one_provider_alone(world: World) -> None:
    with moving(world):
        done = world.run("image", "promote", IMAGE, "--build", THREE, "--provider", "south", "-f", "json")
    assert done.code == 0 and serving(world) == {"north": TWO, "south": THREE}
    assert [word[0] for word in words(world)[THREE]] == ["south"] and rows(done).keys() == {"south"}


def test_a_dry_run_says_what_would_serve_and_changes_nothing(world: World) -> None:
    done = world.run("image", "promote", IMAGE, "--dry-run", "-f", "json")
    assert (done.code, words(world)) == (0, {})
    assert rows(done)["north"]["fate"] == "moves" and "would be promoted everywhere" in done.err


def test_what_could_not_be_put_on_record_is_not_said_to_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> Build:
        raise NotFoundError("there is no such build any more")

    monkeypatch.setattr(FakeStore, "clear", gone)
    done = world.run("image", "promote", IMAGE)
    assert done.code == 3 and "any more" in done.err and "is promoted" not in done.err


def test_said_again_it_stays_as_it_was_said_first(world: World) -> None:
    with moving(world):
        world.run("image", "promote", IMAGE, "--reason", "first")
        done = world.run("image", "promote", IMAGE, "--reason", "second")
    assert done.code == 0 and "was promoted already" in done.err
    assert [word[2] for word in words(world)[THREE]] == ["first"]


def test_it_takes_the_place_of_what_the_canaries_said(world: World) -> None:
    """The check still keeps it from a region; a person's word does not wait for that."""
    world.store.clear(IMAGE, build_id(3), Clearance(provider=None, by="imagepool", time=NOW))
    assert world.run("image", "promote", IMAGE, "--no-wait").code == 0
    assert [word[1].startswith("bob@") for word in words(world)[THREE]] == [True]


def test_where_it_is_not_ready_yet_it_takes_over_later(world: World) -> None:
    world.store.delete_upload(
        world.store.update_upload(
            world.store.list_uploads(IMAGE, build_id(3), "south")[0].become(UploadState.DELETING, NOW)
        )
    )
    with moving(world):
        done = world.run("image", "promote", IMAGE, "-f", "json")
    assert done.code == 0 and serving(world) == {"north": THREE, "south": TWO}
    assert rows(done)["south"]["reason"] == (
        f"Build {TWO} stays. Build {THREE} is not ready there: it takes over there when it is."
    )


def test_without_a_daemon_it_is_on_record_and_5(world: World) -> None:
    done = world.run("image", "promote", IMAGE)
    assert done.code == 5 and THREE in words(world)


def test_while_everything_is_frozen_it_moves_all_the_same(world: World) -> None:
    world.store.clear(IMAGE, build_id(3), Clearance(provider=None, by="ann", time=NOW - DAY))
    world.store.freeze(Pause(by="ann", time=NOW - HOUR))
    with moving(world):
        assert world.run("image", "promote", IMAGE).code == 0
    assert serving(world) == {"north": THREE, "south": THREE}


def refused(done: Result, code: int, said: str) -> None:
    assert done.code == code and said in done.err, done.err


def test_what_is_withheld_is_refused_and_how_that_ends_is_said(world: World) -> None:
    world.store.withhold(IMAGE, build_id(3), Withholding(provider="south", by="ann", time=NOW, why="bad"))
    done = world.run("image", "promote", IMAGE, "--build", THREE, "--provider", "south")
    refused(done, 4, f"imagepool build unquarantine {THREE}")
    assert "withheld from south by ann" in done.err and words(world) == {}
    world.store.withhold(IMAGE, build_id(3), Withholding(provider=None, by="ann", time=NOW, why="bad"))
    refused(world.run("image", "promote", IMAGE, "--build", THREE), 4, "put in quarantine by ann")


def test_what_is_held_is_refused_and_who_decides_is_said(world: World) -> None:
    hold = Withholding(provider=None, by="imagepool", time=NOW, why="over budget: it is fat", held=True)
    world.store.put(ready(4, NOW - MINUTE, withheld=(hold,)))
    for where in ((), ("--provider", "north")):
        done = world.run("image", "promote", IMAGE, "--build", FOUR, *where)
        refused(done, 4, f"`imagepool build release {FOUR}` lets it go")
        assert f"`imagepool build reject {FOUR}` keeps it out" in done.err
        assert "unquarantine" not in done.err and words(world) == {}
    newest = world.run("image", "promote", IMAGE, "--dry-run")
    assert newest.code == 0 and f"build {FOUR} is held: over budget: it is fat; " in newest.err
    assert f"build {THREE} of {IMAGE} would be promoted everywhere" in newest.err
    assert image_row(world)["reason"].startswith(f"build {FOUR} is held: over budget: it is fat; ")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("--build", ONE), 4, "is not ready in north and south"),
        (("--build", "ffff"), 3, "ffff"),
        (("--provider", "west"), 3, "west"),
        (("--build", FOUR), 4, "is failed, not ready"),
        (("--reason", "a\nb"), 2, "--reason"),
    ],
)
def test_what_can_not_be(world: World, argv: tuple[str, ...], code: int, said: str) -> None:
    world.store.put(failed(4, NOW - MINUTE))
    refused(world.run("image", "promote", IMAGE, *argv), code, said)
    assert words(world) == {}


def test_where_nothing_is_ready_it_says_where_to_look(world: World) -> None:
    for number in (2, 3):
        word = Withholding(provider=None, by="ann", time=NOW, why="bad")
        world.store.withhold(IMAGE, build_id(number), word)
    done = world.run("image", "promote", IMAGE)
    refused(done, 4, f"no image of {IMAGE} is ready in north and south that may serve")
    assert f"`imagepool image explain {IMAGE}`" in done.err


def test_an_older_build_is_what_a_rollback_is_for(world: World) -> None:
    with moving(world):
        world.run("image", "promote", IMAGE)
    done = world.run("image", "promote", IMAGE, "--build", TWO)
    refused(done, 4, f"imagepool image rollback {IMAGE} --to {TWO}")


# -- shown ------------------------------------------------------------------------------------------


def image_row(world: World) -> dict[str, Any]:
    """What is listed of the image, where a builder is alive."""
    if not world.store.snapshot().daemons:
        world.store.register(daemon())
    (row,) = world.json("image", "list")
    return row


def test_to_go_back_to_one_that_waits_is_a_word_that_it_may_serve(world: World) -> None:
    world.store.put(ready(4, NOW - HOUR))
    for region in ("north", "south"):
        world.store.put(replace(there(2, region, NOW - HOUR), ended=NOW - 2 * DAY))
        world.store.put(there(4, region, NOW, serving=NOW))
    with moving(world):
        done = world.run("image", "rollback", IMAGE, "--to", THREE, "--reason", "no network")
    assert done.code == 0, done.err
    assert serving(world) == {"north": THREE, "south": THREE}
    assert words(world) == {THREE: [(None, "bob@vm", "no network")]}


def test_image_list_says_what_a_build_waits_for_by_hand(world: World) -> None:
    waits = f"Build {THREE} waits for `imagepool image promote {IMAGE} --build {THREE}`"
    assert waits in image_row(world)["reason"]
    world.store.clear(IMAGE, build_id(3), Clearance(provider=None, by="ann", time=NOW))
    assert image_row(world)["reason"] is None


def test_image_list_explain_and_upload_list_say_how_far_the_canaries_are(world: World) -> None:
    world.config = config(diskimage(promote=CANARY), provider("north"), provider("south"))
    (mine,) = world.store.list_uploads(IMAGE, build_id(3), "north")
    checked = Checked(verdict=CheckVerdict.RUNNING, time=NOW - MINUTE)
    serves = replace(mine.renewed(NOW), serving=NOW - HOUR, checked=checked)
    world.store.put(serves)
    world.store.put(replace(world.store.list_uploads(IMAGE, build_id(2), "north")[0], serving=None))
    assert "waits for the check in north: it runs since" in image_row(world)["reason"]
    told = {row["what"]: row["reason"] for row in world.json("image", "explain", IMAGE)}
    assert "it runs since" in told[f"check of build {THREE} in north"]
    assert f"build {THREE} in the canaries" in told
    (row,) = [r for r in world.json("upload", "list") if r["check"] is not None]
    assert row["provider"] == "north" and row["check"].startswith("running since ")
    world.store.put(replace(serves, checked=Checked(verdict=CheckVerdict.GOOD, time=NOW, why="all well")))
    assert image_row(world)["reason"] == f"Build {THREE} soaks in north until 2026-11-21 15:30 UTC."
    shown = world.json("upload", "show", serves.name)
    assert shown["check"].startswith("good at ") and shown["check"].endswith(": all well")

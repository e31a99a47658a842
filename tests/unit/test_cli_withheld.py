"""Where builds that somebody keeps out of service are shown, and what other commands make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.cli.follow import Follower, Scene
from builder.model import BuildState, Request, Upload, UploadState, Withholding
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    NOW,
    build_id,
    building,
    failed,
    ready,
    records,
    snapshot,
    upload,
)

OLD, NEW = build_id(1)[:8], build_id(2)[:8]
BY_ANN = Withholding(provider=None, by="ann@nb01", time=NOW - HOUR, why="no network")
IN_NORTH = replace(BY_ANN, provider="north")
TOLD = "put in quarantine by ann@nb01 at 2026-11-21 13:30 UTC: no network"


def there(number: int, to: str = "north", serves: bool = False) -> Upload:
    time = NOW - (3 - number) * DAY
    front = NOW if serves else time
    return upload(
        number,
        UploadState.READY,
        front,
        to=to,
        external_id=f"{to}-{number}",
        started=time - HOUR,
        ended=time,
        serving=NOW if serves else None,
    )


@pytest.fixture
def world() -> World:
    """Build 2 is withheld from everywhere; 1 serves in north, and 2 in south, which has nothing else."""
    world = World()
    world.store.put(ready(1, NOW - 2 * DAY))
    world.store.put(ready(2, NOW - DAY, withheld=(BY_ANN,)))
    for record in (there(1, serves=True), there(2), there(2, "south", serves=True)):
        world.store.put(record)
    return world


# -- lists and shows ------------------------------------------------------------------------------


def test_build_list_and_show_say_what_is_withheld_from_where_by_whom_and_why(world: World) -> None:
    world.store.put(ready(1, NOW - 2 * DAY, withheld=(IN_NORTH, replace(IN_NORTH, provider="east"))))
    listed = {row["id"][:8]: row["withheld"] for row in world.json("build", "list")}
    assert listed[NEW] == TOLD
    assert listed[OLD].startswith("withheld from east by ann@nb01") and "; withheld from north" in listed[OLD]
    shown = world.json("build", "show", NEW)["withheld"]
    assert shown == [
        {
            "provider": None,
            "by": "ann@nb01",
            "why": "no network",
            "time": "2026-11-21T13:30:00Z",
            "held": False,
        }
    ]
    assert TOLD in world.run("build", "show", NEW).out


def test_upload_list_and_show_say_it_of_each_provider_alone(world: World) -> None:
    world.store.put(ready(2, NOW - DAY, withheld=(IN_NORTH,)))
    told = "withheld from north by ann@nb01 at 2026-11-21 13:30 UTC: no network"
    listed = {(row["build_id"][:8], row["provider"]): row["withheld"] for row in world.json("upload", "list")}
    assert listed == {(NEW, "north"): told, (NEW, "south"): None, (OLD, "north"): None}
    assert world.json("upload", "show", f"{NEW}/north")["withheld"] == told


def test_image_list_says_so_while_a_build_runs_and_when_it_failed(world: World) -> None:
    claim = world.store.another_daemon().claim_image(IMAGE)
    for newer, first in ((building(3, NOW), ""), (failed(3, NOW), "mirror: it broke; ")):
        world.store.put(newer)
        (row,) = world.json("image", "list")
        assert claim is not None and f"south: build {NEW} serves although it was {TOLD}" in row["reason"]
        assert row["state"] == newer.state and first in row["reason"]


def test_image_list_names_what_is_withheld_and_the_region_that_serves_it_all_the_same(world: World) -> None:
    (row,) = world.json("image", "list")
    assert row["withheld"] == [build_id(2)]
    said = f"south: build {NEW} serves although it was {TOLD}; nothing else is ready there"
    assert row["reason"].startswith(said)
    assert NEW in world.run("image", "list", "-c", "withheld").out


def test_what_is_wanted_counts_and_not_what_is_withheld(world: World) -> None:
    (row,) = world.json("image", "list")
    assert (row["uploads_ready"], row["uploads_total"]) == (1, 2)
    assert row["age"] == (2 * DAY).total_seconds() + 600
    counted = {each["provider"]: each["images_ready"] for each in world.json("provider", "list")}
    assert counted == {"north": 1, "south": 0}


def test_image_show_says_what_serves_and_since_when_it_is_ready(world: World) -> None:
    north, south = world.json("image", "show", IMAGE)["providers"]
    assert (north["ready_build_id"], north["current"], north["withheld"]) == (build_id(1), True, None)
    assert north["age"] == (2 * DAY).total_seconds()  # though its time of state was renewed
    assert (south["ready_build_id"], south["current"]) == (build_id(2), False)
    assert TOLD in south["withheld"] and TOLD in world.run("image", "show", IMAGE).out


def test_while_another_is_about_to_take_over_that_is_what_is_said(world: World) -> None:
    world.store.put(there(1, "south"))
    assert "another is to take over" in world.json("image", "list")[0]["reason"]


def test_explain_says_it_of_every_provider(world: World) -> None:
    said = [row["reason"] for row in world.json("image", "explain", IMAGE)]
    assert any(f"The newest build {NEW} was {TOLD}" in reason for reason in said)


def test_the_word_of_others_can_not_act_on_a_terminal(world: World) -> None:
    word = Withholding(provider=None, by="a\x1b[2J", time=NOW, why="one\nimagepool: all is well")
    world.store.put(ready(2, NOW - DAY, withheld=(word,)))
    for command in (("build", "list"), ("build", "show", NEW), ("upload", "list"), ("image", "show", IMAGE)):
        out = world.run(*command).out
        assert "\x1b" not in out and "\nimagepool: all" not in out


def test_resolve_prints_what_serves(world: World) -> None:
    found = {row["provider"]: row["id"] for row in world.json("image", "resolve", IMAGE)}
    assert found == {"north": "north-1", "south": "south-2"}


# -- what else is done with them ------------------------------------------------------------------


def test_the_last_build_that_may_serve_is_not_deleted_without_insisting(world: World) -> None:
    refused = world.run("build", "delete", OLD)
    assert refused.code == 4 and "last ready build" in refused.err
    assert "north has no other ready image" in refused.err
    assert world.run("build", "delete", OLD, "--force").code == 0


def test_a_build_that_is_withheld_is_deleted_where_anything_else_is_ready(world: World) -> None:
    assert world.run("upload", "delete", f"{NEW}/north").code == 0
    assert world.run("upload", "delete", f"{NEW}/south").code == 4


def test_a_retry_sends_the_newest_that_may_go_there(world: World) -> None:
    world.store.put(ready(2, NOW - DAY, withheld=(IN_NORTH,)))
    world.store.delete_upload(world.store.get_upload(IMAGE, build_id(1), "north", "0000000001"))
    assert world.run("upload", "retry", IMAGE, "--provider", "north").code == 0
    wished = {b.id: b.wishes for b in world.store.snapshot().builds()}
    assert [wish.provider for wish in wished[build_id(1)]] == ["north"] and not wished[build_id(2)]


def test_there_is_nothing_to_send_where_all_is_withheld(world: World) -> None:
    world.store.put(ready(1, NOW - 2 * DAY, withheld=(BY_ANN,)))
    refused = world.run("upload", "retry", IMAGE)
    assert refused.code == 3 and "every ready build" in refused.err and "unquarantine" in refused.err


def test_who_waits_for_a_build_learns_that_it_was_put_in_quarantine(world: World) -> None:
    request = Request(image=IMAGE, by="bob", why="new", time=NOW - DAY)
    build = ready(2, NOW, request=request, withheld=(BY_ANN,))
    follower = Follower(request=request, known=frozenset(), since=NOW - DAY)
    news = follower.look(Scene(world.config, snapshot(records(build, ready(1, NOW - DAY))), NOW))
    assert news.outcome is not None and news.outcome.reason == f"build {build.id} was {TOLD}"


def test_who_waits_for_an_upload_is_told_of_its_last_try(world: World) -> None:
    """A ready upload's time of state is behind that of what serves, and of earlier failures."""
    request = Request(image=IMAGE, by="bob", why="new", time=NOW - DAY)
    tries = [
        upload(2, UploadState.FAILED, NOW - HOUR, to=to, id=f"{number:010}")
        for number, to in ((1, "north"), (1, "south"))
    ]
    done = [replace(there(2, to), id="0000000002") for to in ("north", "south")]
    build = ready(2, NOW - 2 * HOUR, request=request)
    assert build.state is BuildState.READY
    follower = Follower(request=request, known=frozenset(), since=NOW - DAY)
    news = follower.look(Scene(world.config, snapshot(records(build, *tries, *done)), NOW))
    assert news.outcome is not None and news.outcome.reason is None

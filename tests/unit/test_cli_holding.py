"""`build release` and `build reject`: who decides on a held build, and what people see of it until then."""

from __future__ import annotations

import pytest

from builder.config.model import Canary
from builder.model import BudgetAction, BudgetCheck, Build, Release, UploadState, Withholding
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
    daemon,
    diskimage,
    failed,
    provider,
    ready,
    upload,
)
from tests.unit.test_cli_rollback import refused

ONE, TWO, THREE = (build_id(number)[:8] for number in (1, 2, 3))
WHY = "over budget: size is 1.3 GB, 0.2 GB over 1.1 GB"
HOLD = Withholding(provider=None, by="imagepool", time=NOW - HOUR, why=WHY, held=True)
TOLD = f"held by imagepool at 2026-11-21 13:30 UTC: {WHY}"
CHECKS = (
    BudgetCheck(
        measure="size",
        sentence="size is 1.3 GB, 0.2 GB over 1.1 GB",
        over=BudgetAction.HOLD,
        value=1.3e9,
        limit=1.1e9,
    ),
    BudgetCheck(measure="ssh-seconds", sentence="ssh-seconds: not measured"),
)


@pytest.fixture
def world() -> World:
    """Build 1 serves in two regions, and build 2 is held."""
    world = World(environ={"SUDO_USER": "bob"})
    world.store.put(ready(1, NOW - 2 * DAY))
    world.store.put(ready(2, NOW - 5 * MINUTE, withheld=(HOLD,), budgets=CHECKS))
    for region in ("north", "south"):
        world.store.put(
            upload(
                1, UploadState.READY, NOW - DAY, to=region, external_id=region, ended=NOW - DAY, serving=NOW
            )
        )
    return world


def there(world: World, number: int = 2) -> Build:
    return world.store.get_build(IMAGE, build_id(number))


# -- what people see --------------------------------------------------------------------------------


def test_lists_say_what_is_held_and_what_to_do(world: World) -> None:
    listed = {row["id"][:8]: row for row in world.json("build", "list")}
    assert (listed[TWO]["state"], listed[TWO]["withheld"]) == ("ready", TOLD)
    (row,) = world.json("image", "list")
    assert row["state"] == "ready"
    assert row["reason"] == (
        f"build {TWO} is held: {WHY}; 'imagepool build release {TWO}' lets it go,"
        f" 'imagepool build reject {TWO}' keeps it out"
    )
    assert row["withheld"] == [build_id(2)]


def test_a_newer_good_build_leaves_nothing_to_decide(world: World) -> None:
    world.store.put(ready(3, NOW - MINUTE))
    (row,) = world.json("image", "list")
    assert row["reason"] is None


def test_show_says_what_came_of_each_budget(world: World) -> None:
    shown = world.json("build", "show", TWO)
    assert [(each["measure"], each["over"], each["value"]) for each in shown["budgets"]] == [
        ("size", "hold", 1.3e9),
        ("ssh-seconds", None, None),
    ]
    assert shown["withheld"][0]["held"] is True
    table = world.run("build", "show", TWO).out
    assert "over budget (hold): size is 1.3 GB, 0.2 GB over 1.1 GB" in table
    assert "ssh-seconds: not measured" in table


def test_explain_says_why_no_upload_begins(world: World) -> None:
    rows = {row["what"]: row["reason"] for row in world.json("image", "explain", IMAGE)}
    said = f"build {TWO} was {TOLD}; `imagepool build release {TWO}` lets it go."
    assert said in rows["upload to north"]
    assert f"The newest build {TWO} is ready since" in rows["next build"]
    assert "but held by imagepool at" in rows["next build"]


def test_where_its_files_stay_is_shown_of_a_build_that_failed(world: World) -> None:
    world.store.put(failed(3, NOW - MINUTE, kept="/srv/images/img-3.d"))
    assert world.json("build", "show", THREE)["kept"] == "/srv/images/img-3.d"


# -- release ----------------------------------------------------------------------------------------


def test_a_released_build_goes_out_and_it_is_on_record_who_let_it(world: World) -> None:
    world.store.another_daemon().register(daemon())
    done = world.run("build", "release", TWO, "--reason", "it is meant", "-f", "json")
    assert done.code == 0, done.err
    assert {row["fate"] for row in done.json} == {"upload"}
    assert f"build {TWO} of {IMAGE} is released: it was {TOLD}" in done.err
    build = there(world)
    assert build.withheld == ()
    release = build.release
    assert release is not None and release.by.startswith("bob@")
    assert (release.time, release.why) == (NOW, "it is meant")
    assert world.json("build", "show", TWO)["release"]["why"] == "it is meant"
    assert "released by bob@" in world.run("build", "show", TWO).out


def test_typed_again_the_first_word_stays(world: World) -> None:
    first = Release(by="ann@nb01", time=NOW - HOUR, why="it is meant")
    world.store.let_go(IMAGE, build_id(2), first)
    done = world.run("build", "release", TWO)
    assert done.code == 0
    assert "was released by ann@nb01 at 2026-11-21 13:30 UTC: it is meant already; that stays" in done.err
    assert there(world).release == first


def test_a_dry_run_changes_nothing(world: World) -> None:
    before = world.store.snapshot()
    for command in ("release", "reject"):
        done = world.run("build", command, TWO, "--dry-run")
        assert done.code == 0 and "nothing was changed" in done.err
    assert world.store.snapshot() == before


def test_released_it_takes_its_turn_among_the_canaries(world: World) -> None:
    canary = Canary(providers=("north",))
    world.config = config(diskimage(promote=canary), provider("north"), provider("south"))
    world.store.another_daemon().register(daemon())
    done = world.run("build", "release", TWO, "--dry-run", "-f", "json")
    assert {row["reason"] for row in done.json} == {
        f"Build {TWO} is sent there; it serves as `promote` says, and Build {ONE} serves until then."
    }


def test_released_where_the_configuration_lets_it_go_nowhere_it_is_said(world: World) -> None:
    gone = World(config=config(provider("north", "other")), store=world.store)
    done = gone.run("build", "release", TWO, "-f", "json")
    assert (done.code, done.json) == (0, []), done.err
    assert f"the configuration lets {IMAGE} go to no provider, so nothing of it is sent" in done.err
    assert there(world).hold is None


# -- reject -----------------------------------------------------------------------------------------


def test_a_rejected_build_is_in_quarantine_like_any_other(world: World) -> None:
    done = world.run("build", "reject", TWO, "--reason", "a compiler", "-f", "json")
    assert done.code == 0, done.err
    assert {row["fate"] for row in done.json} == {"stays"}
    (word,) = there(world).withheld
    assert (word.provider, word.held, word.why) == (None, False, "a compiler")
    assert word.by.startswith("bob@")
    again = world.run("build", "reject", TWO)
    assert again.code == 0 and "put in quarantine by bob@" in again.err and "already; that stays" in again.err
    assert there(world).withheld == (word,)
    refused(world, 4, "is not held: it was put in quarantine", "build", "release", TWO)
    assert world.run("build", "unquarantine", TWO, "--no-wait").code == 0
    assert there(world).withheld == ()


def test_what_was_put_in_quarantine_and_never_held_can_not_be_rejected(world: World) -> None:
    assert world.run("build", "quarantine", ONE).code in (0, 1, 5)
    done = world.run("build", "reject", ONE)
    assert done.code == 4 and "is not held" in done.err


def test_without_a_reason_it_is_that_of_the_hold(world: World) -> None:
    assert world.run("build", "reject", TWO).code == 0
    (word,) = there(world).withheld
    assert word.why == WHY


def test_a_quarantine_takes_the_place_of_a_hold(world: World) -> None:
    done = world.run("build", "quarantine", TWO, "--reason", "a compiler")
    assert done.code == 0 and "already" not in done.err
    assert [(word.held, word.why) for word in there(world).withheld] == [(False, "a compiler")]


def test_a_hold_is_no_quarantine_to_be_ended(world: World) -> None:
    refused(world, 4, "is not in quarantine: it was held", "build", "unquarantine", TWO)
    assert there(world).hold == HOLD


def test_what_is_said_of_one_region_outlives_the_hold(world: World) -> None:
    world.store.another_daemon().register(daemon())
    argv = ("build", "quarantine", TWO, "--provider", "north", "--reason", "no driver", "--no-wait")
    done = world.run(*argv)
    assert done.code == 0 and "already" not in done.err
    assert [(word.provider, word.held) for word in there(world).withheld] == [(None, True), ("north", False)]
    assert "was withheld from north by" in world.run(*argv).err
    freed = world.run("build", "release", TWO, "-f", "json")
    assert {row["provider"]: row["fate"] for row in freed.json} == {"north": "stays", "south": "upload"}
    assert [word.provider for word in there(world).withheld] == ["north"]


def test_what_is_said_of_one_region_ends_without_the_hold(world: World) -> None:
    world.store.withhold(IMAGE, build_id(2), Withholding(provider="north", by="ann", time=NOW))
    argv = ("build", "unquarantine", TWO, "--provider", "north", "--no-wait")
    done = world.run(*argv)
    assert done.code == 0 and f"build {TWO} of {IMAGE} stays held: it was {TOLD}" in done.err
    assert there(world).withheld == (HOLD,)
    refused(world, 4, "is not in quarantine: it was held", *argv)


def test_a_rollback_says_nothing_of_what_is_held(world: World) -> None:
    world.store.put(ready(9, NOW - 5 * DAY))
    image = upload(9, UploadState.READY, NOW - 5 * DAY, external_id="old", ended=NOW - 5 * DAY)
    world.store.put(image)
    done = world.run("image", "rollback", IMAGE, "--dry-run")
    assert done.code == 0, done.err
    assert f"would go back to build {build_id(9)[:8]}" in done.err and "further" not in done.err
    assert f"build {ONE} of {IMAGE} would be in quarantine" in done.err
    assert f"build {TWO} of {IMAGE} would be" not in done.err


# -- what can't be decided on -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["release", "reject"])
def test_what_is_not_held_is_refused(world: World, command: str) -> None:
    refused(world, 4, f"build {ONE} of {IMAGE} is not held", "build", command, ONE)
    world.store.put(failed(3, NOW - MINUTE))
    refused(world, 4, "is failed: only ready builds are held", "build", command, THREE)
    world.store.put(building(4, NOW - MINUTE, withheld=(HOLD,)))
    refused(world, 4, "is building: only ready builds are held", "build", command, build_id(4)[:8])
    refused(world, 3, "there is no build", "build", command, "ffff")


def test_going_back_to_a_held_build_says_how_it_is_let_go(world: World) -> None:
    world.store.put(ready(3, NOW - MINUTE))
    refused(world, 4, f"`imagepool build release {TWO}` lets it go", "image", "rollback", IMAGE, "--to", TWO)

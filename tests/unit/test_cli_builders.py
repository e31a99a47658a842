"""`imagepool builder ...`: who is there, who is gone, and declaring one gone for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.model import BuildState, Daemon, Pause, UploadState
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    IMAGE,
    NOW,
    build_id,
    building,
    doomed,
    ready,
    upload,
)

BY_ANN = Pause(by="ann@nb01", time=NOW - HOUR, why="it burnt")
TOLD = "by ann@nb01 at 2026-11-21 13:30 UTC: it burnt"


def daemon(hostname: str = "host-a", builder_id: str | None = HERE, **changes: Any) -> Daemon:
    return replace(
        Daemon(
            hostname=hostname,
            roles=("scheduler", "builder"),
            version="9.9",
            started=NOW - DAY,
            builder_id=builder_id,
            labels=frozenset({"amd64", "fast"}),
            build_workers=2,
        ),
        **changes,
    )


@pytest.fixture
def world() -> World:
    return World(environ={"SUDO_USER": "bob"})


def listed(world: World) -> dict[str, Any]:
    return {row["id"]: row for row in world.json("builder", "list")}


# -- the list -------------------------------------------------------------------------------------


def test_a_builder_that_is_alive(world: World) -> None:
    world.store.register(daemon())
    lead = world.store.claim_lead("host-a")
    assert lead is not None
    world.store.put(ready(1, NOW - DAY))
    world.store.put(ready(2, NOW - DAY, pruned=("qcow2",)))
    world.store.put(building(3, NOW - HOUR))
    claim = world.store.claim_image(IMAGE)
    assert claim is not None
    assert world.json("builder", "list") == [
        {
            "host": "host-a",
            "id": HERE,
            "state": "alive",
            "roles": ["scheduler", "builder"],
            "labels": ["amd64", "fast"],
            "workers": 2,
            "running": [IMAGE],
            "holds": 1,
            "version": "9.9",
            "unfit": None,
            "draining": False,
            "leader": True,
            "since": "2026-11-20T14:30:00Z",
            "last_build": "2026-11-21T13:30:00Z",
            "forgotten": None,
        }
    ]


def test_why_a_builder_takes_nothing(world: World) -> None:
    world.store.register(daemon(unfit="qemu-img is missing", draining=True))
    row = listed(world)[HERE]
    assert (row["unfit"], row["draining"], row["leader"]) == ("qemu-img is missing", True, False)


def test_a_builder_that_only_records_know_is_gone(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    row = listed(world)[HERE]
    assert (row["host"], row["state"], row["holds"], row["roles"]) == ("host-a", "gone", 1, [])


def test_a_forgotten_builder_holds_nothing(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.forget_builder(HERE, BY_ANN)
    row = listed(world)[HERE]
    assert (row["state"], row["holds"], row["forgotten"]) == ("forgotten", 0, TOLD)


def test_a_forgotten_builder_is_listed_when_all_its_builds_are_gone(world: World) -> None:
    world.store.forget_builder(HERE, BY_ANN)
    assert listed(world)[HERE]["state"] == "forgotten"


def test_a_daemon_that_does_not_say_whose_files_it_has_is_not_gone(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.register(daemon(builder_id=None, labels=frozenset()))
    (row,) = world.json("builder", "list")
    assert (row["host"], row["id"], row["state"]) == ("host-a", HERE, "alive")


def test_a_daemon_that_builds_nothing_has_no_workers(world: World) -> None:
    world.store.register(daemon(roles=("uploader",)))
    row = listed(world)[HERE]
    assert (row["roles"], row["workers"], row["holds"]) == (["uploader"], None, 0)


def test_those_that_are_alive_come_first(world: World) -> None:
    world.store.put(ready(1, NOW - DAY, builder="a-host", builder_id="gone"))
    world.store.put(ready(2, NOW - DAY, builder="0-host", builder_id="forgotten"))
    world.store.forget_builder("forgotten", BY_ANN)
    world.store.register(daemon("z-host"))
    assert [row["state"] for row in world.json("builder", "list")] == ["alive", "gone", "forgotten"]


def test_without_any_builder_the_list_is_empty(world: World) -> None:
    assert world.json("builder", "list") == []


# -- forgetting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["host-a", HERE, HERE[:6]])
def test_a_builder_is_forgotten_with_who_when_and_why(world: World, name: str) -> None:
    world.store.put(ready(1, NOW - DAY))
    assert world.run("builder", "forget", name, "--why", "it burnt").code == 0
    word = world.store.snapshot().forgotten[HERE]
    assert word.by.startswith("bob@") and (word.time, word.why) == (NOW, "it burnt")


def test_what_becomes_of_its_builds_and_uploads_is_said(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(upload(1, UploadState.READY, NOW - DAY, to="south"))
    world.store.put(upload(1, UploadState.UPLOADING, NOW - HOUR, to="north", uploader_id=HERE))
    world.store.put(building(2, NOW - HOUR))
    world.store.put(doomed(ready(3, NOW - 2 * DAY)))
    done = world.run("builder", "forget", "host-a")
    assert done.code == 0
    assert "Build 00000002 of debian-bookworm will be failed" in done.out
    assert "1 ready build of it (debian-bookworm): what is in the clouds stays in use" in done.out
    assert "north waits for build 00000001 of debian-bookworm, so a new one is due" in done.out
    assert "only the records go" in done.out
    assert "1 upload that it worked on will be failed" in done.out


def test_where_everything_is_uploaded_nothing_is_due(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    for place in ("north", "south"):
        world.store.put(upload(1, UploadState.READY, NOW - DAY, to=place))
    assert "a new one is due" not in world.run("builder", "forget", "host-a").out


def test_for_a_provider_that_is_paused_by_hand_no_new_build_is_due(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(upload(1, UploadState.READY, NOW - DAY, to="south"))
    world.store.pause_provider("north", BY_ANN)
    assert "a new one is due" not in world.run("builder", "forget", "host-a").out


def test_one_that_is_alive_is_not_forgotten(world: World) -> None:
    world.store.register(daemon())
    refused = world.run("builder", "forget", "host-a")
    assert refused.code == 4 and "alive" in refused.err and "--force" in refused.err
    assert not world.store.snapshot().forgotten
    assert world.run("builder", "forget", "host-a", "--force").code == 0
    assert HERE in world.store.snapshot().forgotten


def test_one_whose_build_runs_is_alive_although_it_does_not_show_itself(world: World) -> None:
    """nodepool-builder is no daemon of ours; its lock tells."""
    world.store.put(building(1, NOW - HOUR))
    claim = world.store.claim_image(IMAGE)
    assert claim is not None
    refused = world.run("builder", "forget", "host-a")
    assert refused.code == 4 and build_id(1) in refused.err
    assert listed(world)[HERE]["state"] == "alive"


def test_a_host_name_that_fits_two_wants_the_id(world: World) -> None:
    """A machine that was installed anew has the old name, and another id."""
    world.store.put(ready(1, NOW - DAY))
    world.store.register(daemon("host-a", ELSEWHERE))
    refused = world.run("builder", "forget", "host-a")
    assert refused.code == 3 and HERE in refused.err and ELSEWHERE in refused.err
    assert not world.store.snapshot().forgotten
    assert world.run("builder", "forget", HERE).code == 0
    assert set(world.store.snapshot().forgotten) == {HERE}


def test_who_forgot_it_first_stays_on_record(world: World) -> None:
    world.store.forget_builder(HERE, BY_ANN)
    again = world.run("builder", "forget", HERE)
    assert again.code == 0 and f"already, {TOLD}" in again.out
    assert world.store.snapshot().forgotten == {HERE: BY_ANN}


@pytest.mark.parametrize("verb", ["forget", "recall"])
@pytest.mark.parametrize("name", ["nobody", "", "../x", "machine-"])
def test_a_builder_nobody_knows_is_3_and_leaves_no_trace(world: World, verb: str, name: str) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(ready(2, NOW - DAY, builder_id=ELSEWHERE))
    assert world.run("builder", verb, name).code == 3
    assert not world.store.snapshot().forgotten


@pytest.mark.parametrize(
    "words",
    [
        ("forget",),
        ("forget", "host-a", "host-b"),
        ("forget", "host-a", "--why", "two\nlines"),
        ("recall",),
        ("recall", "host-a", "--force"),
        ("recall", "host-a", "host-b"),
        ("list", "host-a"),
        ("list", "--all"),
        ("list", "-c", "colour"),
    ],
)
def test_wrong_words_are_2(world: World, words: tuple[str, ...]) -> None:
    world.store.put(ready(1, NOW - DAY))
    assert world.run("builder", *words).code == 2
    assert not world.store.snapshot().forgotten


@pytest.mark.parametrize("verb", ["forget", "recall"])
@pytest.mark.parametrize("builder_id", ["../x", "a/b", "\ud800", "x" * 300])
def test_no_word_is_kept_of_an_id_that_none_of_us_made(world: World, verb: str, builder_id: str) -> None:
    world.store.put(ready(1, NOW - DAY, builder="odd", builder_id=builder_id))
    refused = world.run("builder", verb, "odd")
    assert refused.code == 4 and "no word on odd" in refused.err
    assert not world.store.snapshot().forgotten


def test_a_host_name_on_record_can_not_act_on_the_terminal(world: World) -> None:
    world.store.put(ready(1, NOW - DAY, builder="a\x1b[2J"))
    done = world.run("builder", "forget", HERE)
    assert done.code == 0 and "\x1b" not in done.out + world.run("builder", "list").out


# -- recalling ------------------------------------------------------------------------------------


def test_a_forgotten_builder_is_recalled(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.forget_builder(HERE, BY_ANN)
    done = world.run("builder", "recall", "host-a")
    assert done.code == 0 and TOLD in done.out
    row = listed(world)[HERE]
    assert (row["state"], row["holds"]) == ("gone", 1)


def test_recalling_one_that_was_not_forgotten_is_done(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    done = world.run("builder", "recall", "host-a")
    assert done.code == 0 and "was not forgotten" in done.out
    assert next(world.store.snapshot().builds()).state is BuildState.READY

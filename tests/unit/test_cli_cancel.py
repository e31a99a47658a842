"""`build cancel`: the wish is put on record, and what comes of it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from builder.cli.commands import build as commands
from builder.model import Build, BuildState, Cancellation, Failure, FailureClass
from builder.store.base import Store
from tests.fakes.store import FakeStore
from tests.unit.cli_world import World
from tests.unit.planning_world import HOUR, IMAGE, MINUTE, NOW, build_id, building, failed, ready

RUNNING = building(2, NOW - MINUTE)
BY_ANN = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ann: wrong mirror")


class Builder:
    """A stand-in for the daemon: holds the image's claim, and when told to cancel ends the build as given."""

    def __init__(self, store: FakeStore, end: Callable[[Build, Cancellation], Build | None]) -> None:
        self._store = store.another_daemon()
        self._claim = self._store.claim_image(IMAGE)
        self._end = end
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        seen, wish = -1, None
        while wish is None:
            seen = self._store.wait(seen, 10)
            wish = self._store.snapshot().image(IMAGE).cancellation
        record = self._store.get_build(IMAGE, wish.build_id)
        if final := self._end(record, wish):
            self._store.update_build(final)
        else:
            self._store.delete_build(record)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def cancelled(record: Build, wish: Cancellation) -> Build:
    reason = Failure(
        failure_class=FailureClass.CANCELLED, message=f"cancelled by {wish.by}: {wish.why}", phase="packages"
    )
    return record.become(BuildState.FAILED, NOW, ended=NOW, reason=reason)


@pytest.fixture
def world() -> World:
    there = World(environ={"SUDO_USER": "ann"})
    there.store.put(ready(1, NOW - HOUR))
    there.store.put(RUNNING)
    return there


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "CANCEL_PATIENCE", 0.1)


def wish_of(store: Store) -> Cancellation | None:
    return store.snapshot().image(IMAGE).cancellation


def test_a_build_that_runs_ends_as_cancelled_by_who_asked(world: World) -> None:
    daemon = Builder(world.store, cancelled)
    done = world.run("build", "cancel", "00000002", "--reason", "wrong mirror")
    daemon.join()
    assert done.code == 0, done.err
    assert f"build {build_id(2)} of {IMAGE} was cancelled by ann@" in done.out
    assert done.out.endswith(": wrong mirror\n") and done.err == ""


def test_who_when_and_why_are_on_record_at_once(world: World) -> None:
    claim = world.store.claim_image(IMAGE)
    done = world.run("build", "cancel", "00000002", "--reason", " wrong mirror\n", "--no-wait")
    assert (done.code, done.err) == (0, "")
    wish = wish_of(world.store)
    assert wish is not None and wish.by.startswith("ann@")
    assert wish == Cancellation(image=IMAGE, build_id=build_id(2), by=wish.by, time=NOW, why="wrong mirror")
    assert claim is not None and claim.valid


@pytest.mark.parametrize("why", ["wrong\nbuild ready", "red \x1b[31m", "\u202eback"])
@pytest.mark.parametrize(
    "command", [("build", "cancel", "00000002", "--reason"), ("image", "build", IMAGE, "--why")]
)
def test_what_could_forge_a_line_does_not_get_on_record(
    world: World, command: tuple[str, ...], why: str
) -> None:
    done = world.run(*command, why)
    assert done.code == 2 and f"{command[-1]} has line ends or control characters" in done.err
    assert wish_of(world.store) is None and world.store.get_request(IMAGE) is None


def test_what_others_put_on_record_is_shown_on_one_line(world: World) -> None:
    world.store.cancel_build(
        Cancellation(image=IMAGE, build_id=build_id(2), by="bob", time=NOW, why="bad\nmirror")
    )
    assert "UTC: bad mirror" in world.run("build", "show", "00000002").out


def test_who_cancelled_first_stays_on_record(world: World) -> None:
    first = Cancellation(image=IMAGE, build_id=build_id(2), by="bob \x1b[31m", time=NOW - MINUTE)
    world.store.cancel_build(first)
    done = world.run("build", "cancel", "00000002", "--no-wait")
    assert done.code == 0
    assert "was cancelled by bob \\x1b[31m" in done.err
    assert wish_of(world.store) == first


def test_the_wish_for_a_build_that_is_over_makes_place(world: World) -> None:
    world.store.cancel_build(Cancellation(image=IMAGE, build_id=build_id(1), by="bob", time=NOW))
    assert world.run("build", "cancel", "00000002", "--no-wait").code == 0
    wish = wish_of(world.store)
    assert wish is not None and wish.build_id == build_id(2)


def test_cancelling_what_was_cancelled_is_done(world: World) -> None:
    world.store.put(failed(3, NOW, reason=BY_ANN))
    done = world.run("build", "cancel", "00000003")
    assert done.code == 0 and "was cancelled by ann: wrong mirror" in done.out
    assert wish_of(world.store) is None


@pytest.mark.parametrize(
    "over", [ready(3, NOW), failed(3, NOW), ready(3, NOW).become(BuildState.DELETING, NOW)]
)
def test_a_build_that_does_not_run_is_refused(world: World, over: Build) -> None:
    world.store.put(over)
    done = world.run("build", "cancel", "00000003")
    assert done.code == 4 and f"is {over.state}, not in progress" in done.err
    assert wish_of(world.store) is None


def test_a_build_nobody_knows_is_3(world: World) -> None:
    assert world.run("build", "cancel", "dead").code == 3


def test_a_build_that_was_ready_first_is_no_success(world: World) -> None:
    daemon = Builder(world.store, lambda record, _: record.become(BuildState.READY, NOW))
    done = world.run("build", "cancel", "00000002")
    daemon.join()
    assert done.code == 1 and "was ready before it could be cancelled" in done.err


def test_a_build_that_failed_first_is_no_success_and_says_why(world: World) -> None:
    disk = Failure(failure_class=FailureClass.DISK, message="no room")
    daemon = Builder(world.store, lambda record, _: record.become(BuildState.FAILED, NOW, reason=disk))
    done = world.run("build", "cancel", "00000002")
    daemon.join()
    assert done.code == 1 and "failed before it could be cancelled: disk: no room" in done.err


def test_a_build_that_is_gone_meanwhile_is_no_success(world: World) -> None:
    daemon = Builder(world.store, lambda *_: None)
    done = world.run("build", "cancel", "00000002")
    daemon.join()
    assert done.code == 1 and "deleted meanwhile" in done.err


@pytest.mark.usefixtures("impatient")
def test_a_build_that_does_not_end_stays_cancelled(world: World) -> None:
    claim = world.store.claim_image(IMAGE)
    done = world.run("build", "cancel", "00000002")
    assert done.code == 1 and "it stays cancelled" in done.err and "no builder" not in done.err
    assert wish_of(world.store) is not None
    assert claim is not None and claim.valid


@pytest.mark.usefixtures("impatient")
def test_of_a_build_whose_builder_died_it_says_that_the_janitor_ends_it(world: World) -> None:
    done = world.run("build", "cancel", "00000002")
    assert done.code == 1 and "no builder works on it any more; the janitor" in done.err


@pytest.mark.usefixtures("impatient")
def test_the_claim_for_a_newer_build_keeps_no_older_one_alive(world: World) -> None:
    world.store.put(replace(building(3, NOW), builder="host-b"))
    claim = world.store.claim_image(IMAGE)
    assert "no builder works on it" in world.run("build", "cancel", "00000002").err
    assert "no builder works on it" not in world.run("build", "cancel", "00000003").err
    assert claim is not None and claim.valid


def test_who_may_not_delete_a_running_build_is_told_how_to_end_it(world: World) -> None:
    done = world.run("build", "delete", "00000002")
    assert done.code == 4 and f"imagepool build cancel {build_id(2)}" in done.err

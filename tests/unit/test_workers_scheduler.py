"""The scheduler on a fake store: what is due is asked for once, and two schedulers don't quarrel."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.model import BuildState, Failure, FailureClass, Request
from builder.workers.builder import Builder
from builder.workers.scheduler import DOUBT, Scheduler
from tests.unit.worker_world import NOW, Stage, build


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def request(stage: Stage) -> Request | None:
    return stage.store.get_request("img")


def test_what_is_due_is_asked_for_once(stage: Stage) -> None:
    scheduler = Scheduler(stage.world, "scheduler")
    assert scheduler.step().did
    first = request(stage)
    assert first is not None and not first.manual and "no ready build" in first.why
    assert not scheduler.step().did
    assert request(stage) == first


def test_what_is_not_due_any_more_is_taken_back_after_a_moment_of_doubt(stage: Stage) -> None:
    scheduler = Scheduler(stage.world, "scheduler")
    scheduler.step()
    stage.store.put(build(1, formats=("qcow2",)))
    waits = scheduler.step()
    assert request(stage) is not None
    assert waits.due == NOW + DOUBT
    stage.now += DOUBT
    scheduler.step()
    assert request(stage) is None


def test_what_a_person_asked_for_is_never_taken_back(stage: Stage) -> None:
    stage.store.put(build(1, formats=("qcow2",)))
    wish = stage.store.request_build(Request(image="img", by="me", why="now", time=NOW))
    stage.now += timedelta(days=1)
    Scheduler(stage.world, "scheduler").step()
    assert request(stage) == wish


def test_two_schedulers_with_two_configurations_do_not_write_in_turns(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path, store=stage.store.another_daemon())
    paused = replace(other.config.diskimages["img"], pause=True)
    other.config = replace(other.config, diskimages={"img": paused})
    before = stage.store.tree.clock
    for _ in range(10):
        Scheduler(stage.world, "one").step()
        Scheduler(other.world, "two").step()
    assert stage.store.tree.clock - before == 1


def test_a_builder_whose_clock_is_behind_wakes_when_its_own_tick_comes(stage: Stage) -> None:
    daily = replace(stage.config.diskimages["img"], schedule="14 14 * * *")
    stage.config = replace(stage.config, diskimages={"img": daily})
    stage.store.put(build(80, formats=("qcow2",)))  # it began after yesterday's tick
    tick = stage.now = NOW.replace(hour=14, minute=14)
    assert Scheduler(stage.world, "scheduler").step().did
    stage.now = tick - timedelta(milliseconds=50)
    waits = Builder(stage.world, "builder").step()
    assert (waits.did, waits.due) == (False, tick)


def test_what_was_checked_is_not_asked_for_again(stage: Stage) -> None:
    image = replace(stage.config.diskimages["img"], rebuild_age=timedelta(hours=1), skip_unchanged=True)
    stage.config = replace(stage.config, diskimages={"img": image})
    old = build(1, formats=("qcow2",), inputs={"packages": "a1"})
    stage.store.put(old)
    scheduler = Scheduler(stage.world, "scheduler")
    assert scheduler.step().did
    wish = request(stage)
    assert wish is not None and "unless nothing that goes into it has changed" in wish.why
    stage.store.update_build(replace(stage.store.get_build("img", old.id), checked=stage.now))
    stage.store.withdraw_request(wish)
    waits = scheduler.step()
    assert request(stage) is None
    assert waits.due == NOW + timedelta(hours=1)


def test_a_wish_whose_builds_kill_their_daemons_is_taken_back_in_the_end(stage: Stage) -> None:
    wish = stage.store.request_build(Request(image="img", by="me", why="now", time=NOW))
    scheduler = Scheduler(stage.world, "scheduler")
    why = Failure(failure_class=FailureClass.INTERRUPTED, message="gone")
    for number in range(1, 6):
        assert request(stage) == wish
        stage.store.put(build(number, BuildState.FAILED, reason=why, request=wish))
        scheduler.step()
    assert request(stage) is None
    scheduler.step()
    assert request(stage) is None

"""The scheduler on a fake store: what is due is asked for once, and two schedulers don't quarrel."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import DEFAULT_SCHEDULE
from builder.errors import RefusedError
from builder.model import BuildState, Failure, FailureClass, Pause, Request
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


def test_an_image_whose_request_can_not_be_kept_delays_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.image("other")
    keep = stage.store.request_build

    def request_build(wish: Request, **more: Any) -> Request | None:
        if wish.image == "img":
            raise RefusedError("ZooKeeper takes no more than a megabyte at once")
        return keep(wish, **more)

    monkeypatch.setattr(stage.store, "request_build", request_build)
    scheduler = Scheduler(stage.world, "scheduler")
    assert scheduler.step().did
    assert request(stage) is None and stage.store.get_request("other") is not None
    assert scheduler.failures == 1


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
    schedulers = [Scheduler(stage.world, "one"), Scheduler(other.world, "two")]
    before = stage.store.tree.clock
    for _ in range(10):
        for scheduler in schedulers:
            scheduler.step()
    # One takes the lead and asks, and nothing more happens.
    assert stage.store.tree.clock - before == 2


def test_a_builder_whose_clock_is_behind_wakes_when_its_own_tick_comes(stage: Stage) -> None:
    daily = replace(stage.config.diskimages["img"], schedule=DEFAULT_SCHEDULE)
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


# -- one leads --------------------------------------------------------------------------------------


def pair(stage: Stage, tmp_path: Path) -> tuple[Scheduler, Scheduler]:
    """The schedulers of two daemons, of which the first one leads."""
    other = Stage(tmp_path / "other", store=stage.store.another_daemon())
    identity = replace(other.world.identity, hostname="there.test")
    one = Scheduler(stage.world, "one")
    two = Scheduler(replace(other.world, identity=identity), "two")
    stage.config = other.config = replace(stage.config, diskimages={})
    one.step()
    two.step()
    return one, two


def test_one_scheduler_leads_and_the_other_stands_by(stage: Stage, tmp_path: Path) -> None:
    pair(stage, tmp_path)
    assert stage.store.snapshot().leader == "here.test"


def test_who_stands_by_asks_for_nothing(stage: Stage, tmp_path: Path) -> None:
    _, two = pair(stage, tmp_path)
    due = Stage(tmp_path / "due").config
    standby = replace(two.world, config=lambda: due)
    waits = Scheduler(standby, "two").step()
    assert (waits.did, waits.due) == (False, None)
    assert request(stage) is None


def test_when_the_leader_is_gone_the_other_leads_and_says_so(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = pair(stage, tmp_path)
    assert "stands by: the one on here.test leads" in caplog.text
    caplog.clear()
    stage.store.lose_session()
    two.step()
    assert stage.store.snapshot().leader == "there.test"
    assert "this scheduler leads" in caplog.text
    caplog.clear()
    one.step()
    assert stage.store.snapshot().leader == "there.test"
    assert "leads no longer: the session with ZooKeeper was lost" in caplog.text


def test_a_leader_whose_session_was_lost_leads_again_when_nobody_else_does(stage: Stage) -> None:
    scheduler = Scheduler(stage.world, "scheduler")
    scheduler.step()
    stage.store.lose_session()
    assert stage.store.snapshot().leader is None
    scheduler.step()
    assert stage.store.snapshot().leader == "here.test"


# -- times of the schedule --------------------------------------------------------------------------


@pytest.fixture
def daily(stage: Stage) -> Stage:
    """A stage with an image that is built at 14:14, and was yesterday; now it is that time."""
    stage.image("img", schedule=DEFAULT_SCHEDULE)
    stage.store.put(build(80, formats=("qcow2",)))
    stage.now = NOW.replace(hour=14, minute=14)
    return stage


def test_a_time_of_the_schedule_is_on_the_request_and_remembered(daily: Stage) -> None:
    Scheduler(daily.world, "scheduler").step()
    asked = request(daily)
    assert asked is not None and asked.tick == daily.now
    assert dict(daily.store.snapshot().image("img").ticks) == {"14 14 * * *": daily.now}


def test_it_is_asked_for_once_although_somebody_takes_the_request_away(daily: Stage) -> None:
    scheduler = Scheduler(daily.world, "scheduler")
    scheduler.step()
    asked = request(daily)
    assert asked is not None
    daily.store.withdraw_request(asked)
    daily.store.lose_session()  # and another one leads
    Scheduler(daily.world, "another").step()
    assert request(daily) is None


def test_a_request_that_is_open_is_for_the_time_that_comes_as_well(stage: Stage) -> None:
    stage.image("img", schedule=DEFAULT_SCHEDULE)
    scheduler = Scheduler(stage.world, "scheduler")
    scheduler.step()
    asked = request(stage)
    assert asked is not None and "no ready build" in asked.why
    stage.now = NOW.replace(hour=14, minute=14)
    scheduler.step()
    assert request(stage) == asked
    assert stage.store.snapshot().image("img").ticks["14 14 * * *"] == stage.now


def test_what_is_frozen_is_not_asked_for_and_an_open_request_stays(daily: Stage) -> None:
    daily.store.freeze(Pause(by="ann", time=NOW, why="a storm"))
    scheduler = Scheduler(daily.world, "scheduler")
    scheduler.step()
    assert request(daily) is None
    daily.store.unfreeze()
    scheduler.step()
    asked = request(daily)
    daily.store.freeze(Pause(by="ann", time=NOW, why="a storm"))
    daily.now += 2 * DOUBT
    scheduler.step()
    assert asked is not None and request(daily) == asked

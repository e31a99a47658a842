"""The keeper: a daemon that is on the wrong tree, cut off, or declared gone for good."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.model import BuildState, Pause, Request
from builder.planning.cleanup import plan_cleanup
from builder.workers.builder import Builder
from builder.workers.janitor import Janitor
from builder.workers.keeper import REMINDER, SILENCE, Keeper
from builder.workers.scheduler import Scheduler
from tests.unit.worker_world import NOW, Stage, build


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def keeper(stage: Stage) -> Keeper:
    return Keeper(stage.world, "keeper", where="zk.test:2181")


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- gone for good ----------------------------------------------------------------------------------


def test_a_builder_that_was_declared_gone_takes_that_back(
    stage: Stage, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    word = Pause(by="ann@desk", time=NOW, why="it burnt down")
    stage.store.forget_builder("here", word)
    stage.store.forget_builder("there", word)
    keeper.step()
    assert set(stage.store.snapshot().forgotten) == {"there"}
    assert "ann@desk had declared this builder gone for good (it burnt down)" in problems(caplog)[0]


# -- another tree -----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["", "f" * 32], ids=["emptied", "another"])
def test_on_a_tree_of_others_nothing_is_done_until_ours_is_back(
    stage: Stage, keeper: Keeper, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    ours = stage.store.installation_id()
    stage.store.put(build(1, BuildState.DELETING))
    stage.store.request_build(Request(image="img", by="ann", why="now", time=NOW))
    world = stage.world
    # Were it ours, there would be enough to do.
    assert plan_cleanup(stage.config, stage.store.snapshot(), NOW, builder_id="here", active=frozenset())
    stage.store.tree.belong_to(other)
    before = stage.store.tree.clock
    for worker in (Scheduler(world, "s"), Builder(world, "b"), Janitor(world, "j")):
        step = worker.step()
        assert (step.did, step.due) == (False, None)
        worker.drain()
    assert stage.store.tree.clock == before
    assert keeper.step().due == NOW + REMINDER
    (told,) = problems(caplog)
    assert ours in told and "Nothing is done and nothing is deleted" in told and "zk.test:2181" in told
    keeper.step()
    assert len(problems(caplog)) == 1
    stage.store.tree.belong_to(ours)
    assert Scheduler(world, "s").step().due is None
    assert keeper.step().due is None
    janitor = Janitor(world, "j")
    janitor.step()
    assert janitor.drain()


def test_while_it_lasts_it_is_told_again_from_time_to_time(
    stage: Stage, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    stage.store.tree.belong_to("")
    keeper.step()
    stage.now += REMINDER
    keeper.step()
    assert len(problems(caplog)) == 2


# -- cut off ----------------------------------------------------------------------------------------


def test_a_long_silence_is_told_a_short_one_is_not(
    stage: Stage, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    assert keeper.cut_off(NOW) == NOW + SILENCE
    assert keeper.cut_off(NOW + SILENCE / 2) == NOW + SILENCE
    assert problems(caplog) == []
    assert keeper.cut_off(NOW + SILENCE) == NOW + SILENCE + REMINDER
    keeper.cut_off(NOW + SILENCE + timedelta(seconds=1))
    (told,) = problems(caplog)
    assert "gives no answer since 30 s" in told and "zk.test:2181" in told
    caplog.set_level(logging.INFO)
    keeper.step()
    assert "ZooKeeper answers again" in caplog.text


# -- what is shown ----------------------------------------------------------------------------------


def test_what_could_not_be_shown_at_once_is_shown_later(stage: Stage, keeper: Keeper) -> None:
    stage.store.disconnect()
    stage.world.presence.show(labels=frozenset({"amd64", "fast"}))
    stage.store.reconnect()
    assert stage.store.snapshot().daemons[0].labels == frozenset()
    keeper.step()
    assert stage.store.snapshot().daemons[0].labels == {"amd64", "fast"}


def test_what_is_shown_already_is_not_written_again(stage: Stage, keeper: Keeper) -> None:
    before = stage.store.tree.clock
    keeper.step()
    stage.world.presence.show(draining=False)
    assert stage.store.tree.clock == before


def test_it_is_shown_anew_after_a_lost_session(stage: Stage, keeper: Keeper) -> None:
    stage.world.presence.show(unfit="a disk is full")
    stage.store.lose_session()
    keeper.step()
    (shown,) = stage.store.snapshot().daemons
    assert shown == replace(stage.world.presence.daemon, unfit="a disk is full")

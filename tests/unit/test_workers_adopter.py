"""Builds that were done when their daemon died, or lost its session: what is whole is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.dib.limits import Limits
from builder.dib.output import artifacts
from builder.model import (
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Pause,
    Request,
    UploadWish,
)
from builder.workers.adopter import Adopter, look_back
from builder.workers.builder import Builder
from builder.workers.janitor import Janitor
from builder.workers.keeper import Keeper
from builder.workers.unsettled import Open
from tests.unit.worker_world import NOW, Stage, build, raw_artifact

CONTENT = b"an image" * 512
LOST = Failure(failure_class=FailureClass.INTERRUPTED, message="the builder went away")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def finished(stage: Stage, state: BuildState = BuildState.BUILDING, **more: object) -> Build:
    """A build of this machine whose files are published, and whose record says something else."""
    record = build(1, state, **more)
    publish(stage, record).finish(stage.root / "none", None, (raw_artifact(CONTENT),), NOW)
    stage.store.put(record)
    return record


def publish(stage: Stage, record: Build) -> artifacts.Publication:
    proof = artifacts.Proof(
        installation_id=stage.world.identity.installation_id,
        image="img",
        build_id=record.id,
        created=NOW,
        environment={},
        tools={"dib": "3"},
    )
    publication = artifacts.Publication(stage.config.images_dir, proof)
    publication.begin()
    (stage.root / "made").write_bytes(CONTENT)
    publication.add(stage.root / "made", ImageFormat.RAW, Limits())
    return publication


def start(stage: Stage) -> Adopter:
    """What the daemon does at its start."""
    look_back(stage.world)
    return Adopter(stage.world, "adopter")


def record_of(stage: Stage, known: Build) -> Build:
    return stage.store.get_build("img", known.id)


# -- after others took this machine for gone ----------------------------------------------------------


def test_files_of_a_build_whose_record_was_removed_meanwhile_go(stage: Stage) -> None:
    removed = finished(stage, BuildState.READY)
    stage.store.delete_build(record_of(stage, removed))
    start(stage)
    assert stage.files() == set()


def test_they_go_too_when_the_machine_was_alive_all_the_while(stage: Stage) -> None:
    removed = finished(stage, BuildState.READY)
    stage.store.delete_build(record_of(stage, removed))
    stage.store.forget_builder("here", Pause(by="ann", time=NOW))
    Keeper(stage.world, "keeper", where="zk.test:2181").step()
    assert stage.files() == set()


def test_files_of_a_build_that_no_record_ever_knew_stay(stage: Stage) -> None:
    publish(stage, build(1, BuildState.READY))
    before = stage.files()
    start(stage)
    assert before
    assert stage.files() == before


# -- after a crash ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason"), [(BuildState.BUILDING, None), (BuildState.FAILED, LOST)], ids=["alone", "failed"]
)
def test_a_build_that_was_published_before_the_crash_is_ready(
    stage: Stage, state: BuildState, reason: Failure | None
) -> None:
    wish = stage.store.request_build(Request(image="img", by="ann", why="now", time=NOW))
    wanted = UploadWish(provider="one", wanted=False, by="ann", time=NOW)
    lost = finished(stage, state, reason=reason, request=wish, wishes=(wanted,), next_try=NOW)
    assert start(stage).step().did
    kept = record_of(stage, lost)
    assert (kept.state, kept.reason, kept.next_try, kept.phase) == (BuildState.READY, None, None, None)
    assert (kept.artifacts, kept.formats) == ((raw_artifact(CONTENT),), ("raw",))
    assert (kept.ended, kept.tools, kept.wishes) == (NOW, {"dib": "3"}, (wanted,))
    assert stage.store.get_request("img") is None
    assert stage.world.unsettled.all() == {}
    assert stage.world.active.names() == frozenset()
    assert stage.store.claim_image("img") is not None


def _changed(stage: Stage, lost: Build) -> None:
    file = artifacts.path(stage.config.images_dir, "img", lost.id, ImageFormat.RAW)
    file.write_bytes(CONTENT[:-1] + b"?")


def _shorter(stage: Stage, lost: Build) -> None:
    file = artifacts.path(stage.config.images_dir, "img", lost.id, ImageFormat.RAW)
    file.write_bytes(CONTENT[:-1])


def _gone(stage: Stage, lost: Build) -> None:
    artifacts.path(stage.config.images_dir, "img", lost.id, ImageFormat.RAW).unlink()


@pytest.mark.parametrize("spoil", [_changed, _shorter, _gone])
def test_one_whose_files_are_not_whole_is_cleaned_up_as_ever(
    stage: Stage, spoil: Callable[[Stage, Build], None]
) -> None:
    lost = finished(stage)
    spoil(stage, lost)
    start(stage).step()
    assert record_of(stage, lost).state is BuildState.BUILDING
    janitor = Janitor(stage.world, "janitor")
    janitor.step()
    janitor.drain()
    assert record_of(stage, lost).interrupted
    assert stage.files() == set()


def test_one_that_was_only_half_published_is_not_taken_for_done(stage: Stage) -> None:
    half = build(1, BuildState.FAILED, reason=LOST)
    publish(stage, half)
    stage.store.put(half)
    assert not start(stage).step().did
    assert record_of(stage, half).interrupted
    assert stage.files() == set()


def test_what_somebody_cancelled_is_gone_after_the_start(stage: Stage) -> None:
    cancelled = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ann")
    lost = finished(stage, BuildState.FAILED, reason=cancelled)
    start(stage).step()
    assert record_of(stage, lost).reason == cancelled
    assert stage.files() == set()


def test_a_build_of_another_machine_is_not_touched(stage: Stage) -> None:
    theirs = finished(stage, builder_id="there")
    before = stage.files()
    assert not start(stage).step().did
    assert record_of(stage, theirs).state is BuildState.BUILDING
    assert stage.files() == before


def test_files_of_another_installation_prove_nothing(stage: Stage) -> None:
    lost = finished(stage)
    identity = replace(stage.world.identity, installation_id="f" * 32)
    stage.world = replace(stage.world, identity=identity)
    before = stage.files()
    assert not start(stage).step().did
    assert record_of(stage, lost).state is BuildState.BUILDING
    assert stage.files() == before


def test_it_goes_when_somebody_has_made_a_newer_one_meanwhile(stage: Stage) -> None:
    lost = finished(stage, BuildState.FAILED, reason=LOST)
    stage.store.put(build(2, builder_id="there"))
    start(stage).step()
    assert record_of(stage, lost).interrupted
    assert stage.files() == set()
    assert stage.world.unsettled.all() == {}


# -- while it waits ---------------------------------------------------------------------------------


def test_while_somebody_builds_the_image_it_waits_without_a_sound(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = finished(stage, BuildState.FAILED, reason=LOST)
    adopter = start(stage)
    theirs = stage.store.another_daemon().claim_image("img")
    assert theirs is not None
    with monkeypatch.context() as patch:
        patch.setattr(stage.store, "claim_image", lambda image: pytest.fail("it can't have the image"))
        assert not adopter.step().did
    theirs.release()
    assert adopter.step().did
    assert record_of(stage, lost).state is BuildState.READY


def test_until_it_is_settled_neither_builder_nor_janitor_touch_it(stage: Stage) -> None:
    lost = finished(stage)
    look_back(stage.world)
    stage.store.request_build(Request(image="img", by="ann", why="now", time=NOW))
    before = stage.files()
    assert not Builder(stage.world, "builder").step().did
    janitor = Janitor(stage.world, "janitor")
    janitor.step()
    janitor.drain()
    assert record_of(stage, lost).state is BuildState.BUILDING
    assert stage.files() == before


def test_a_build_of_this_life_that_waits_is_written_when_the_image_is_free(stage: Stage) -> None:
    running = build(1, BuildState.BUILDING)
    stage.store.put(running)
    final = running.become(BuildState.READY, NOW, artifacts=(raw_artifact(CONTENT),))
    stage.world.unsettled.add(Open(record=final, known=True, hold=ExitStack()))
    adopter = Adopter(stage.world, "adopter")
    assert adopter.step().did
    assert record_of(stage, running) == final
    assert adopter.done == 1


def test_a_stopping_daemon_leaves_it_to_the_next_start(stage: Stage) -> None:
    lost = finished(stage)
    adopter = start(stage)
    stage.world.draining.set()
    assert not adopter.step().did
    later = stage.next_life()
    assert start(later).step().did
    assert later.store.get_build("img", lost.id).state is BuildState.READY


def test_a_clock_that_was_set_back_keeps_nothing_from_being_adopted(stage: Stage) -> None:
    lost = finished(stage)
    stage.now = lost.began - timedelta(days=1)
    start(stage).step()
    assert record_of(stage, lost).state is BuildState.READY

"""A daemon that is about to stop: what may still end, what is cut at once, and who takes over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.dib import engine
from builder.errors import ActionFailedError
from builder.model import (
    Build,
    BuildPhase,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Request,
    UploadPhase,
    UploadState,
    Withholding,
)
from builder.workers.base import Worker
from builder.workers.builder import Builder
from builder.workers.janitor import Janitor
from builder.workers.scheduler import Scheduler
from builder.workers.stopping import BuildStop, UploadStop
from builder.workers.uploader import Uploader
from tests.unit.worker_world import DEADLINE, NOW, Stage, build, make_image, upload

#: A build of an hour: ten minutes of packages, forty in the image, ten in converting.
TIMINGS = {BuildPhase.PACKAGES: 600.0, BuildPhase.IMAGE: 2400.0, BuildPhase.CONVERT: 600.0}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    for name in stage.config.providers:
        stage.provider(name, image_format=ImageFormat.RAW)
    stage.image("img", formats=(ImageFormat.RAW,))
    stage.config = replace(stage.config, shutdown_grace=timedelta(seconds=30))
    return stage


@contextmanager
def running(*workers: Worker) -> Iterator[tuple[threading.Thread, ...]]:
    """Workers in threads of their own; they are stopped when the block ends."""
    threads = tuple(threading.Thread(target=each.run, name=each.name) for each in workers)
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for each in workers:
            each.world.stopping.set()
            each.world.draining.set()
            each.world.store.wake()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def stop_of(stage: Stage, running: Build, *, earlier: bool) -> BuildStop:
    before = (build(1, timings=TIMINGS, ended=NOW),) if earlier else ()
    records = replace(stage.store.snapshot().image("img"), builds=before)
    return BuildStop(stage.world, lambda: running, records)


def at(phase: BuildPhase, seconds: float, **more: object) -> Build:
    """A build that has been in a phase for so long, after the phases before it took what they take."""
    order = list(TIMINGS)
    before = {each: TIMINGS[each] for each in order[: order.index(phase)]} if phase in order else {}
    started = NOW - timedelta(seconds=sum(before.values()) + seconds)
    return build(2, BuildState.BUILDING, phase=phase, timings=before, started=started, **more)


# -- builds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running", "earlier", "goes_on"),
    [
        (at(BuildPhase.PACKAGES, 60), True, False),
        (at(BuildPhase.IMAGE, 2399), True, False),  # converting is still to come
        (at(BuildPhase.CONVERT, 60), True, False),
        (at(BuildPhase.CONVERT, 580), True, True),
        (at(BuildPhase.CONVERT, 60, bytes_done=95, bytes_total=100), True, True),  # it is quicker today
        (at(BuildPhase.CONVERT, 6000), True, True),  # it should have ended: any moment
        (at(BuildPhase.PACKAGES, 1), False, False),  # the first build of an image: who knows
        (at(BuildPhase.CONVERT, 1), False, True),
    ],
)
def test_a_build_goes_on_if_it_can_end_in_time(
    stage: Stage, running: Build, earlier: bool, goes_on: bool
) -> None:
    stop = stop_of(stage, running, earlier=earlier)
    assert stop() is None
    stage.world.draining.set()
    cut = stop()
    assert (cut is None) is goes_on
    if cut is not None:
        assert cut.failure_class is FailureClass.INTERRUPTED


def test_the_second_signal_cuts_whatever_runs(stage: Stage) -> None:
    stop = stop_of(stage, at(BuildPhase.CONVERT, 590), earlier=True)
    stage.world.draining.set()
    assert stop() is None
    stage.world.stopping.set()
    assert stop() is not None


def test_without_grace_nothing_goes_on_that_takes_any_time(stage: Stage) -> None:
    stage.config = replace(stage.config, shutdown_grace=timedelta(0))
    stop = stop_of(stage, at(BuildPhase.CONVERT, 580), earlier=True)
    stage.world.draining.set()
    assert stop() is not None


def test_a_build_that_is_cut_leaves_its_request_to_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def endless(job: object, *, stop: Callable[[], object], **_: object) -> None:
        begun.set()
        stage.until(stop)
        raise ActionFailedError("cut", stage_failure(stop))

    monkeypatch.setattr(engine, "run", endless)
    wish = stage.store.request_build(Request(image="img", by="ann", why="now", time=NOW))
    with running(Builder(stage.world, "builder")) as (thread,):
        assert begun.wait(DEADLINE)
        stage.world.draining.set()
        stage.store.wake()
        thread.join(DEADLINE)
        assert not thread.is_alive()
    records = stage.store.snapshot().image("img")
    assert [each.interrupted for each in records.builds] == [True]
    assert records.request == wish
    assert not records.build_claimed


def stage_failure(stop: Callable[[], object]) -> Failure:
    failure = stop()
    assert isinstance(failure, Failure)
    return failure


def test_a_draining_daemon_begins_no_build(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "run", make_image)
    stage.store.request_build(Request(image="img", by="ann", why="now", time=NOW))
    stage.world.draining.set()
    assert not Builder(stage.world, "builder").step().did
    assert stage.store.snapshot().image("img").builds == ()


# -- uploads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "sent", "seconds", "goes_on"),
    [
        (UploadPhase.SEND, 900, 90.0, True),  # ten seconds to go
        (UploadPhase.SEND, 500, 50.0, False),  # fifty
        (UploadPhase.SEND, 0, 0.0, True),  # it has only begun: nobody knows yet
        (UploadPhase.WAIT, 1000, 900.0, True),
        (UploadPhase.HOLD, 1000, 900.0, True),
    ],
)
def test_an_upload_goes_on_if_its_bytes_can_arrive_in_time(
    stage: Stage, phase: UploadPhase, sent: int, seconds: float, goes_on: bool
) -> None:
    timings = {UploadPhase.SEND: seconds}
    under_way = upload(
        build(1), UploadState.UPLOADING, phase=phase, size=1000, sent=sent, timings=timings, started=NOW
    )
    stop = UploadStop(stage.world, lambda: under_way)
    assert stop() is None
    stage.world.draining.set()
    assert (stop() is None) is goes_on


def test_an_upload_that_is_nearly_there_ends_well_before_the_daemon_does(stage: Stage) -> None:
    stage.published(1)
    gate = stage.clouds["one"].hold("send")
    with running(Uploader(stage.world, "uploader")) as (thread,):
        stage.until(lambda: stage.phase("one") == UploadPhase.SEND)
        stage.until(lambda: stage.uploads("two") and stage.uploads("two")[0].state is UploadState.READY)
        stage.world.draining.set()
        stage.store.wake()
        gate.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert [u.state for u in stage.uploads("one")] == [UploadState.READY]


def test_an_upload_ends_once_its_build_is_withheld_and_is_due_again_when_that_is_over(stage: Stage) -> None:
    sent = stage.published(1)
    gates = [cloud.hold("send") for cloud in stage.clouds.values()]
    word = Withholding(provider="one", by="ann", time=NOW, why="no SSH server")
    with running(Uploader(stage.world, "uploader")):
        stage.until(lambda: all(stage.phase(name) == UploadPhase.SEND for name in stage.clouds))
        stage.store.withhold("img", sent.id, word)
        stage.until(lambda: stage.uploads("one")[0].state is not UploadState.UPLOADING)
        for gate in gates:
            gate.set()
        stage.until(lambda: stage.uploads("two")[0].state is not UploadState.UPLOADING)
        (ended,) = stage.uploads("one")
        assert ended.reason is not None and ended.reason.failure_class is FailureClass.INTERRUPTED
        assert "withheld from one by ann" in ended.reason.message and word.why in ended.reason.message
        assert [u.state for u in stage.uploads("two")] == [UploadState.READY]
        assert stage.clouds["one"].images == {}
        stage.store.release("img", sent.id, None)
        stage.until(lambda: stage.uploads("one")[0].state is UploadState.READY)


# -- the rest ---------------------------------------------------------------------------------------


def test_every_worker_ends_when_it_drains(stage: Stage) -> None:
    world = stage.world
    workers = (Scheduler(world, "s"), Builder(world, "b"), Uploader(world, "u"), Janitor(world, "j"))
    stage.config = replace(stage.config, diskimages={})
    with running(*workers) as threads:
        world.draining.set()
        world.store.wake()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert not world.stopping.is_set()


def test_the_lead_is_somebody_elses_as_soon_as_the_leader_drains(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path / "other", store=stage.store.another_daemon())
    other.world = replace(other.world, identity=replace(other.world.identity, hostname="other.test"))
    stage.config = other.config = replace(stage.config, diskimages={})
    with running(Scheduler(stage.world, "here")), running(Scheduler(other.world, "there")):
        stage.until(lambda: stage.store.snapshot().leader is not None)
        first = stage.store.snapshot().leader
        leader, heir = (stage, other) if first == "here.test" else (other, stage)
        leader.world.draining.set()
        leader.store.wake()
        successor = heir.world.identity.hostname
        stage.until(lambda: stage.store.snapshot().leader == successor)

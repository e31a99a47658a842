"""Every step of a build and of an upload is the last one once: what the next life makes of it is right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.dib import engine
from builder.dib.job import Job
from builder.dib.output import artifacts
from builder.dib.product import Product
from builder.model import Build, BuildState, ImageFormat, Request, Upload, UploadState
from builder.store.base import Store
from builder.workers import settle
from builder.workers.adopter import Adopter, look_back
from builder.workers.base import Worker
from builder.workers.builder import Builder
from builder.workers.janitor import Janitor
from builder.workers.scheduler import Scheduler
from builder.workers.stopping import abandoned
from builder.workers.uploader import Uploader
from tests.fakes.store import FakeStore, FakeTree
from tests.unit.worker_world import NOW, Stage, build, make_image

#: More steps than a build, or an upload, has.
STEPS = 60
#: What every store does to the tree, or asks of it: whatever may be the last thing a process does.
CALLS = sorted(Store.__abstractmethods__ - {"start", "close", "connected", "wait", "wake", "register"})


class Killed(BaseException):
    """The process is gone: nobody catches it."""


class Mortal(FakeStore):
    """Something happens before its n-th call, or after it, and never again."""

    def __init__(self, tree: FakeTree) -> None:
        super().__init__(tree)
        self.calls = 0
        self.fatal = 0
        self.late = False
        self.accident: Callable[[], None] = lambda: None
        self.dead = False
        self.written: Upload | None = None  #: by the call that is made

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            if self.dead:
                raise Killed
            self.calls += 1
            hit = self.calls == self.fatal
            self.written = next((each for each in arguments if isinstance(each, Upload)), None)
            if hit and not self.late:
                self.accident()
            answer = found(*arguments, **named)
            if hit and self.late:
                self.accident()
            return answer

        return call

    def doom(self, step: int, accident: Callable[[], None], *, late: bool) -> None:
        """Let the accident happen before that call from now on, or after it."""
        self.calls, self.fatal, self.accident, self.late = 0, step, accident, late

    def die(self) -> None:
        """The process ends here."""
        self.dead = True
        raise Killed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "run", make_image)


def stage_of(root: Path, tree: FakeTree) -> Stage:
    stage = Stage(root, store=Mortal(tree))
    for name in stage.config.providers:
        stage.provider(name, image_format=ImageFormat.RAW)
    stage.image("img", formats=(ImageFormat.RAW,))
    return stage


def mortal(stage: Stage) -> Mortal:
    assert isinstance(stage.store, Mortal)
    return stage.store


def until_quiet(stage: Stage, *workers: Worker, pause: timedelta = timedelta(seconds=5)) -> None:
    """Everybody works until nobody has anything to do."""
    for _ in range(20):
        before = stage.store.tree.clock
        for worker in workers:
            while worker.step().did:
                pass
            worker.drain()
        # What one could not do at once, such as what another held, it puts off for a moment.
        stage.now += pause
        if stage.store.tree.clock == before:
            return
    raise AssertionError("they never come to rest")


def everybody(stage: Stage) -> tuple[Worker, ...]:
    world = stage.world
    return (
        Adopter(world, "adopter"),
        Scheduler(world, "scheduler"),
        Builder(world, "builder"),
        Uploader(world, "uploader"),
        Janitor(world, "janitor"),
    )


def reborn(stage: Stage) -> Stage:
    """The next life of a daemon that was killed."""
    FakeStore.close(stage.store)
    later = Stage(stage.root, store=Mortal(stage.store.tree), clouds=stage.clouds, now=stage.now)
    later.config = stage.config
    look_back(later.world)
    return later


def ready_builds(stage: Stage) -> tuple[Build, ...]:
    return stage.store.snapshot().image("img").ready_builds


def check_build(stage: Stage) -> None:
    """All is as it should be after a build, whatever happened on the way."""
    records = stage.store.snapshot().image("img")
    assert records.request is None
    assert [b for b in records.builds if b.state is BuildState.BUILDING] == []
    (made,) = records.ready_builds
    for artifact in made.artifacts:
        file = artifacts.path(stage.config.images_dir, "img", made.id, artifact.format)
        assert artifacts.check(file, artifact, hashes=True) is None
    assert {name.partition(".")[0] for name in stage.files()} == {f"img-{made.id}"}
    assert not records.build_claimed
    assert stage.world.active.names() == frozenset()


def check_uploads(stage: Stage) -> None:
    """Each cloud has one image, and it is the one on record as ready."""
    records = stage.store.snapshot().image("img")
    assert [u for u in records.uploads if u.state is UploadState.UPLOADING] == []
    for name, cloud in stage.clouds.items():
        ready = [u for u in records.uploads_to(name) if u.state is UploadState.READY]
        assert [u.external_id for u in ready] == [image.id for image in cloud.find({})]
        assert len(ready) == 1
    assert records.uploads_claimed == frozenset()


def ask(stage: Stage) -> None:
    stage.store.request_build(Request(image="img", by="ann", why="now", time=NOW))


def steps_of(root: Path, worker: Callable[[Stage], Worker], prepare: Callable[[Stage], None]) -> int:
    """How many calls it takes when nothing happens."""
    stage = stage_of(root, FakeTree())
    prepare(stage)
    mortal(stage).calls = 0
    one = worker(stage)
    one.step()
    one.drain()
    return mortal(stage).calls


def _builder(stage: Stage) -> Worker:
    return Builder(stage.world, "builder")


def _uploader(stage: Stage) -> Worker:
    return Uploader(stage.world, "uploader")


def _built(stage: Stage) -> None:
    ask(stage)
    Builder(stage.world, "builder").step()


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_at_any_step_of_a_build_the_next_life_has_one_good_build(tmp_path: Path, late: bool) -> None:
    count = steps_of(tmp_path / "whole", _builder, ask)
    assert 10 < count < STEPS
    kept = 0
    for step in range(1, count + 1):
        stage = stage_of(tmp_path / str(step), FakeTree())
        ask(stage)
        mortal(stage).doom(step, mortal(stage).die, late=late)
        with pytest.raises(Killed):
            _builder(stage).step()
        published = {name for name in stage.files() if name.endswith(".raw")}
        later = reborn(stage)
        workers = [each for each in everybody(later) if not isinstance(each, Uploader)]
        until_quiet(later, *workers)
        check_build(later)
        (made,) = ready_builds(later)
        kept += f"img-{made.id}.raw" in published
    # What was published is not thrown away, unless the daemon died before it was finished.
    assert kept >= 3


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_session_lost_at_any_step_of_a_build_costs_nothing_that_was_built(
    tmp_path: Path, late: bool
) -> None:
    count = steps_of(tmp_path / "whole", _builder, ask)
    for step in range(1, count + 1):
        stage = stage_of(tmp_path / str(step), FakeTree())
        ask(stage)
        mortal(stage).doom(step, stage.store.lose_session, late=late)
        workers = [each for each in everybody(stage) if not isinstance(each, Uploader)]
        until_quiet(stage, *workers)
        check_build(stage)
        assert [b for b in stage.store.snapshot().image("img").builds if b.state is BuildState.FAILED] == []


def test_a_session_lost_at_any_step_while_others_clean_up_at_once(tmp_path: Path) -> None:
    """Another daemon finds the build abandoned in that very moment; it has no files, and builds nothing."""
    count = steps_of(tmp_path / "whole", _builder, ask)
    for step in range(1, count + 1):
        tree = FakeTree()
        stage, other = stage_of(tmp_path / str(step), tree), stage_of(tmp_path / f"{step}-other", tree)
        identity = replace(other.world.identity, hostname="other.test", builder_id="other")
        other.world = replace(other.world, identity=identity)
        ask(stage)
        janitor = Janitor(other.world, "janitor")

        def accident(stage: Stage = stage, janitor: Janitor = janitor) -> None:
            stage.store.lose_session()
            janitor.step()
            janitor.drain()

        mortal(stage).doom(step, accident, late=False)
        workers = [each for each in everybody(stage) if not isinstance(each, Uploader)]
        until_quiet(stage, *workers)
        check_build(stage)
        assert len(stage.store.snapshot().image("img").builds) == 1


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_killed_at_any_step_of_an_upload_the_next_life_has_one_good_image_in_each_cloud(
    tmp_path: Path, late: bool
) -> None:
    count = steps_of(tmp_path / "whole", _uploader, _built)
    assert count > 10
    for step in range(1, count + 1):
        stage = stage_of(tmp_path / str(step), FakeTree())
        _built(stage)
        mortal(stage).doom(step, mortal(stage).die, late=late)
        uploader = Uploader(stage.world, "uploader")
        try:
            uploader.step()
            uploader.drain()
        except Killed:
            pass
        later = reborn(stage)
        later.now += timedelta(minutes=10)  # what a cloud may still be making has come to its end
        until_quiet(later, *everybody(later))
        check_uploads(later)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_session_lost_at_any_step_of_an_upload_costs_nothing_that_was_sent(
    tmp_path: Path, late: bool
) -> None:
    count = steps_of(tmp_path / "whole", _uploader, _built)
    for step in range(1, count + 1):
        stage = stage_of(tmp_path / str(step), FakeTree())
        _built(stage)
        mortal(stage).doom(step, stage.store.lose_session, late=late)
        until_quiet(stage, *everybody(stage))
        check_uploads(stage)
        assert {u.state for u in stage.store.snapshot().image("img").uploads} == {UploadState.READY}


def test_a_session_lost_at_any_step_while_others_delete_the_image_and_die_over_it(tmp_path: Path) -> None:
    """Their janitor takes the upload for abandoned, deletes its image, and never comes to write it down.

    When that is in the very moment of the last word, the search for vanished images finds it out.
    """
    count = steps_of(tmp_path / "whole", _uploader, _built)
    for step in range(1, count + 1):
        stage = stage_of(tmp_path / str(step), FakeTree())
        del stage.clouds["two"]
        stage.config = replace(stage.config, providers={"one": stage.config.providers["one"]})
        _built(stage)

        def accident(stage: Stage = stage) -> None:
            written = mortal(stage).written
            if written is not None and written.state is UploadState.READY:
                return
            stage.store.lose_session()
            for each in stage.store.snapshot().uploads():
                if each.state is UploadState.UPLOADING:
                    stage.clouds[each.provider].images.pop(each.external_id or "", None)

        mortal(stage).doom(step, accident, late=False)
        until_quiet(stage, *everybody(stage), pause=timedelta(minutes=1))
        check_uploads(stage)


# -- two builders for one image -----------------------------------------------------------------------


@pytest.mark.parametrize("theirs_ends_well", [True, False])
def test_a_build_that_ends_while_another_builds_the_image_anew_waits_and_keeps_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs_ends_well: bool
) -> None:
    stage = stage_of(tmp_path, FakeTree())
    ask(stage)
    other, theirs_claim = stage.store.another_daemon(), ExitStack()
    monkeypatch.setattr(settle, "DOUBT", 0.01)

    def long_build(job: Job, **told: Any) -> Product:
        """The session is lost meanwhile, and another builder takes the request."""
        made = make_image(job, **told)
        stage.store.lose_session()
        theirs_claim.enter_context(other.claim_image("img") or pytest.fail("the image is free"))
        (ours,) = other.list_builds("img")
        other.update_build(abandoned(ours, NOW, None))
        other.create_build(build(200, BuildState.BUILDING, builder_id="there"))
        return made

    monkeypatch.setattr(engine, "run", long_build)
    builder = Builder(stage.world, "builder")
    assert builder.step().did  # and it is free for other images
    (ours,) = [b for b in other.list_builds("img") if b.builder_id == "here"]
    assert ours.interrupted
    assert not Adopter(stage.world, "adopter").step().did
    (theirs,) = [b for b in other.list_builds("img") if b.builder_id == "there"]
    end = BuildState.READY if theirs_ends_well else BuildState.FAILED
    other.update_build(theirs.become(end, NOW + timedelta(hours=1)))
    theirs_claim.close()
    assert Adopter(stage.world, "adopter").step().did
    assert stage.world.unsettled.all() == {}
    if theirs_ends_well:
        assert stage.files() == set()
        assert stage.store.get_build("img", ours.id).interrupted
    else:
        assert [b.id for b in ready_builds(stage)] == [ours.id]
        check_build(stage)

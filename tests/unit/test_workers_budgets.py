"""The builder and images with budgets: what is held, what fails and keeps its files, what is only said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import Budget
from builder.dib import engine
from builder.dib.checks import space
from builder.dib.job import Job
from builder.dib.output import kept, withheld
from builder.dib.product import Finished, Judgement, Product
from builder.errors import ActionFailedError
from builder.model import (
    BudgetAction,
    Build,
    BuildState,
    Failure,
    FailureClass,
    Measure,
    Release,
    Request,
    Snapshot,
    Withholding,
)
from builder.workers.adopter import look_back
from builder.workers.builder import Builder
from builder.workers.fitness import Fitness
from builder.workers.uploader import Uploader
from tests.fakes.store import FakeTree
from tests.unit.test_workers_crashes import Killed, ask, everybody, mortal, reborn, stage_of, until_quiet
from tests.unit.worker_world import NOW, Stage, make_image

#: The engine of these tests makes images with 300 packages.
FEW = Budget(measure=Measure.PACKAGES, most=200)
MANY = Budget(measure=Measure.PACKAGES, most=400)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(engine, "run", make_image)
    return stage_of(tmp_path, FakeTree())


def budgets(stage: Stage, *found: Budget) -> None:
    stage.image("img", budgets=found)


def built(stage: Stage) -> Build:
    """Somebody asks for a build; what comes of it."""
    before = {build.id for build in stage.store.snapshot().image("img").builds}
    stage.now += timedelta(hours=1)
    stage.store.request_build(Request(image="img", by="ann", why="new", time=stage.now))
    assert Builder(stage.world, "builder").step().did
    (made,) = [b for b in stage.store.snapshot().image("img").builds if b.id not in before]
    return made


def uploads(stage: Stage) -> int:
    """How many there are once the uploader has nothing to do."""
    uploader = Uploader(stage.world, "uploader")
    for _ in range(10):
        did = uploader.step().did
        uploader.drain()
        if not did:
            break
    return sum(1 for _ in stage.store.snapshot().uploads())


def beside(stage: Stage, build: Build) -> tuple[Withholding, ...]:
    return withheld.read(stage.config.images_dir, "img", build.id)


def test_what_keeps_to_its_budgets_says_so_and_goes_out(stage: Stage) -> None:
    budgets(stage, MANY)
    made = built(stage)
    assert made.state is BuildState.READY
    assert made.withheld == ()
    assert [(c.measure, c.over, c.value) for c in made.budgets] == [("packages", None, 300)]
    assert made.measures == {"packages": 300}
    assert uploads(stage) == 2


def test_a_warning_is_on_record_and_in_the_log_and_keeps_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    budgets(stage, replace(FEW, over=BudgetAction.WARN))
    with caplog.at_level(logging.WARNING):
        made = built(stage)
    assert [check.sentence for check in made.over_budget(BudgetAction.WARN)] == [
        "packages is 300, 100 over 200"
    ]
    assert "over budget: packages is 300, 100 over 200" in caplog.text
    assert made.withheld == ()
    assert uploads(stage) == 2


def test_a_held_build_is_ready_and_goes_nowhere_before_it_is_released(stage: Stage) -> None:
    budgets(stage, FEW)
    made = built(stage)
    assert made.state is BuildState.READY
    assert made.hold == Withholding(
        provider=None,
        by="imagepool",
        time=stage.now,
        why="over budget: packages is 300, 100 over 200",
        held=True,
    )
    assert beside(stage, made) == made.withheld
    assert uploads(stage) == 0

    freed = stage.store.let_go("img", made.id, Release(by="ann", time=stage.now, why="it is meant"))
    assert (freed.hold, freed.release) == (None, Release(by="ann", time=stage.now, why="it is meant"))
    assert uploads(stage) == 2


def test_what_was_held_or_withheld_anywhere_is_nothing_to_compare_with(stage: Stage) -> None:
    grows = Budget(measure=Measure.SIZE, grows=0)
    first = built(stage)
    stage.store.withhold("img", first.id, Withholding(provider="one", by="ann", time=stage.now))
    budgets(stage, grows)
    (check,) = built(stage).budgets
    assert check.baseline is None
    assert check.sentence.endswith("nothing to compare with")
    (check,) = built(stage).budgets
    assert check.baseline is not None


def test_records_that_are_lost_while_it_is_made_make_no_first_build_of_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built(stage)
    budgets(stage, Budget(measure=Measure.SIZE, grows=0))

    def meanwhile(job: Job, *, judge: Callable[[Finished], Judgement], **told: Any) -> Product:
        def blind(finished: Finished) -> Judgement:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(stage.store, "snapshot", Snapshot)
                return judge(finished)

        return make_image(job, judge=blind, **told)

    monkeypatch.setattr(engine, "run", meanwhile)
    (check,) = built(stage).budgets
    assert check.baseline == first.artifacts[0].size


def test_an_image_put_in_quarantine_while_it_is_made_stays_there(stage: Stage) -> None:
    budgets(stage, FEW)
    word = Withholding(provider=None, by="ann", time=NOW, why="wrong kernel")

    def meanwhile(*args: object, **told: object) -> object:
        (running,) = stage.store.snapshot().image("img").builds
        stage.store.withhold("img", running.id, word)
        return make_image(*args, **told)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", meanwhile)
        made = built(stage)
    assert made.withheld == (word,)


def test_what_breaks_after_it_was_judged_waits_for_nobody_and_keeps_no_files(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(job: Job, *, judge: Callable[[Finished], Judgement], **told: Any) -> Product:
        judge(Finished(artifacts=(), measures={"packages": 300.0}))
        raise ActionFailedError("full", Failure(failure_class=FailureClass.DISK, message="full"))

    monkeypatch.setattr(engine, "run", breaks)
    for over in (BudgetAction.HOLD, BudgetAction.FAIL):
        budgets(stage, replace(FEW, over=over))
        made = built(stage)
        assert (made.state, made.withheld, made.kept) == (BuildState.FAILED, (), None)
        assert made.reason is not None and made.reason.failure_class is FailureClass.DISK


def test_what_fails_keeps_its_files_to_be_looked_at_until_the_next_build(stage: Stage) -> None:
    budgets(stage, replace(FEW, over=BudgetAction.FAIL), Budget(measure=Measure.SIZE, most=0))
    made = built(stage)
    assert made.state is BuildState.FAILED
    reason = made.reason
    assert reason is not None
    assert (reason.failure_class, reason.phase, reason.step) == (FailureClass.TEST, "test", "budget packages")
    assert reason.message == "over budget: packages is 300, 100 over 200"
    assert reason.lines == ("packages is 300, 100 over 200", *(c.sentence for c in made.budgets[1:]))
    assert made.artifacts == ()
    assert made.kept == str(stage.config.images_dir / f"img-{made.id}.d")
    assert f"img-{made.id}.raw" in stage.files()
    assert uploads(stage) == 0
    # Whoever finds them without a record is told that they are no good build's; the next start leaves them.
    (found,) = kept.find(stage.config.images_dir)
    assert (found.failed is not None, found.finished, found.withheld) == (True, None, ())
    look_back(stage.world)
    assert f"img-{made.id}.raw" in stage.files()

    budgets(stage)
    again = built(stage)
    assert again.state is BuildState.READY
    assert stage.files() == {f"img-{again.id}.raw", f"img-{again.id}.d"}
    assert stage.store.get_build("img", made.id).kept is None


def test_files_of_what_fails_go_when_the_disk_has_no_room_for_as_much_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets(stage, replace(FEW, over=BudgetAction.FAIL))
    full = space.file_system(stage.root)
    monkeypatch.setattr(space, "file_system", lambda path: replace(full, free=stage.config.disk_reserve))
    made = built(stage)
    assert made.state is BuildState.FAILED
    assert made.kept is None
    assert stage.files() == set()


def other_is_built(stage: Stage) -> bool:
    """Somebody asks for a build of another image; whether it is made."""
    stage.now += timedelta(hours=1)
    stage.store.request_build(Request(image="other", by="ann", why="new", time=stage.now))
    return Builder(stage.world, "builder").step().did


def test_what_stays_of_one_image_goes_when_another_needs_the_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets(stage, replace(FEW, over=BudgetAction.FAIL))
    made = built(stage)
    stage.image("other", budgets=())
    disk = space.file_system(stage.root)
    monkeypatch.setattr(space, "file_system", lambda path: replace(disk, free=1 << 40))
    assert other_is_built(stage)
    assert f"img-{made.id}.raw" in stage.files()
    # The last one took as much, and the next may take a little more.
    full = replace(disk, free=stage.config.disk_reserve + 4096)
    monkeypatch.setattr(space, "file_system", lambda path: full)
    assert other_is_built(stage)
    assert f"img-{made.id}.raw" not in stage.files()
    assert stage.store.get_build("img", made.id).kept is None


def test_what_stays_keeps_no_machine_from_building(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets(stage, replace(FEW, over=BudgetAction.FAIL))
    made = built(stage)
    stage.image("other", budgets=())
    full = replace(space.file_system(stage.root), free=stage.config.disk_reserve - 1)
    monkeypatch.setattr(space, "file_system", lambda path: full)
    stage.world = replace(stage.world, fitness=Fitness())
    assert not other_is_built(stage)
    assert stage.world.presence.daemon.unfit is not None
    assert stage.files() == set()
    assert stage.store.get_build("img", made.id).kept is None


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_at_any_step_a_held_build_goes_nowhere_in_the_next_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr(engine, "run", make_image)
    killed = 0
    for step in range(1, 100):
        stage = stage_of(tmp_path / str(step), FakeTree())
        budgets(stage, FEW)
        ask(stage)
        mortal(stage).doom(step, mortal(stage).die, late=late)
        try:
            Builder(stage.world, "builder").step()
            break
        except Killed:
            killed += 1
        later = reborn(stage)
        until_quiet(later, *everybody(later))
        records = later.store.snapshot().image("img")
        (made,) = records.ready_builds
        assert made.hold is not None
        assert beside(later, made) == made.withheld
        assert records.uploads == ()
    assert killed > 10

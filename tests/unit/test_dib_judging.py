"""The engine asks what becomes of a finished build before anybody is told of its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.config.model import Budget
from builder.dib import engine
from builder.dib.job import Job
from builder.dib.output import artifacts, kept, withheld
from builder.dib.product import Finished, Judgement, Product
from builder.errors import ActionFailedError
from builder.model import (
    Artifact,
    BudgetAction,
    Failure,
    FailureClass,
    ImageFormat,
    Measure,
    Withholding,
)
from tests.unit.dib_world import BUILD, image, job, need_root

NAME = "debian-bookworm"
FORMATS = (ImageFormat.QCOW2, ImageFormat.RAW)
HOLD = Withholding(
    provider=None, by="imagepool", time=datetime(2026, 11, 22, tzinfo=UTC), why="it is fat", held=True
)
BAD = Failure(failure_class=FailureClass.TEST, message="it is fat", phase="test", step="budget size")


@pytest.fixture
def control(tmp_path: Path) -> Path:
    need_root()
    directory = tmp_path / "control"
    directory.mkdir()
    return directory


class Judge:
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, says: Judgement = engine.GOOD) -> None:
        self.says = says
        self.asked: list[Finished] = []
        self.told: list[Artifact] = []  #: the files that others were told of
        self.before = 0  #: how many of them before it was asked
        self.on_asked: Callable[[], None] = lambda: None

    def __call__(self, finished: Finished) -> Judgement:
        self.asked.append(finished)
        self.before = len(self.told)
        self.on_asked()
        return self.says

    def run(self, work: Job) -> Product:
        return engine.run(
            work, on_phase=lambda _: None, on_artifact=self.told.append, judge=self, stop=lambda: None
        )


def work_of(place: Path, control: Path, over: BudgetAction = BudgetAction.HOLD) -> Job:
    budget = Budget(measure=Measure.SIZE, most=0, over=over)
    return job(place, image(control, formats=FORMATS, budgets=(budget,)))


def test_it_is_asked_once_all_is_made_and_measured(tmp_path: Path, control: Path) -> None:
    work, judge = work_of(tmp_path, control), Judge()
    product = judge.run(work)
    (asked,) = judge.asked
    assert asked.artifacts == product.artifacts
    assert asked.measures["allocated-size"] > 0
    assert {artifact.format for artifact in judge.told} == set(FORMATS)
    assert judge.before == 0
    assert withheld.read(work.images_dir, NAME, BUILD) == ()


def test_files_are_told_at_once_where_no_budget_decides(tmp_path: Path, control: Path) -> None:
    judge = Judge()
    judge.run(work_of(tmp_path, control, BudgetAction.WARN))
    assert judge.before == len(FORMATS)


def test_the_word_that_holds_it_is_beside_the_files_before_they_count_as_whole(
    tmp_path: Path, control: Path
) -> None:
    work, judge = work_of(tmp_path, control), Judge(Judgement(withheld=(HOLD,)))
    home = artifacts.directory(work.images_dir, NAME, BUILD)
    whole: list[bool] = []
    judge.on_asked = lambda: whole.append("finished" in json.loads((home / artifacts.PROOF).read_text()))
    judge.run(work)
    assert whole == [False]
    (found,) = kept.find(work.images_dir)
    assert found.finished is not None
    assert found.withheld == (HOLD,)


def test_what_fails_is_described_and_left_and_never_whole(tmp_path: Path, control: Path) -> None:
    work = work_of(tmp_path, control, BudgetAction.FAIL)
    judge = Judge(Judgement(failure=BAD))
    with pytest.raises(ActionFailedError) as caught:
        judge.run(work)
    assert caught.value.failure == BAD
    assert judge.told == []
    (found,) = kept.find(work.images_dir)
    assert (found.finished, found.described) == (None, True)
    assert found.failed is not None
    assert set(found.formats) == set(FORMATS)
    assert (artifacts.directory(work.images_dir, NAME, BUILD) / "packages.json").is_file()
    assert list(work.work_dir.iterdir()) == []
    artifacts.delete(work.images_dir, NAME, BUILD, work.installation_id)
    assert list(work.images_dir.iterdir()) == []


def test_trouble_with_the_word_ends_the_build_and_leaves_nothing(
    tmp_path: Path, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(withheld, "write", full)
    work = work_of(tmp_path, control)
    with pytest.raises(ActionFailedError) as caught:
        Judge(Judgement(withheld=(HOLD,))).run(work)
    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is FailureClass.DISK
    assert list(work.images_dir.iterdir()) == []


def test_a_bug_of_the_judge_leaves_nothing(tmp_path: Path, control: Path) -> None:
    judge, work = Judge(), work_of(tmp_path, control)

    def breaks() -> None:
        raise ZeroDivisionError

    judge.on_asked = breaks
    with pytest.raises(ZeroDivisionError):
        judge.run(work)
    assert list(work.images_dir.iterdir()) == []

"""The janitor removes what nodepool-builder left, and only where it provably was nodepool-builder's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.model import Build, BuildState
from builder.workers.janitor import Janitor
from tests.unit.worker_world import Stage, build


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def work(stage: Stage) -> None:
    """Pass after pass until one has nothing to do."""
    janitor, did = Janitor(stage.world, "janitor"), True
    while did:
        janitor.step()
        did = janitor.drain()


def theirs(stage: Stage, **changes: object) -> tuple[Build, Path]:
    """A build of nodepool-builder's that is to go, with its files; where its image is."""
    record = replace(
        build(1),
        state=BuildState.DELETING,
        started=None,
        ended=None,
        artifacts=(),
        builder_id=stage.world.identity.builder_id,
        **changes,
    )
    stage.store.put(record)
    file = stage.config.images_dir / f"{record.image}-{record.id}.qcow2"
    file.write_text("good")
    file.with_suffix(".qcow2.md5").write_text("sum")
    file.with_suffix(".d").mkdir()
    return record, file


def test_a_build_of_nodepool_s_goes_with_its_files(stage: Stage) -> None:
    record, file = theirs(stage)
    other = stage.config.images_dir / f"{record.image}-{'f' * 32}.qcow2"
    other.write_text("somebody's")
    work(stage)
    assert stage.store.snapshot().image(record.image).builds == ()
    assert [left.name for left in file.parent.glob(f"{record.image}-*")] == [other.name]


def test_files_of_nodepool_s_on_another_machine_are_left_to_it(stage: Stage) -> None:
    record, file = theirs(stage)
    stage.store.put(replace(record, builder_id="another"))
    work(stage)
    assert file.exists()


def test_files_that_say_otherwise_stay_and_so_does_the_record(stage: Stage) -> None:
    record, file = theirs(stage)
    (file.with_suffix(".d") / "build.json").write_text("{}")
    work(stage)
    assert file.exists()
    assert [b.id for b in stage.store.snapshot().image(record.image).builds] == [record.id]


def test_a_build_that_died_with_nodepool_builder_fails_and_leaves_nothing(stage: Stage) -> None:
    record, file = theirs(stage)
    stage.store.put(replace(record, state=BuildState.BUILDING, formats=()))
    work(stage)
    (failed,) = stage.store.snapshot().image(record.image).builds
    assert failed.state is BuildState.FAILED and failed.reason is not None
    assert not file.exists()

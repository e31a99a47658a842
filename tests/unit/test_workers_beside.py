"""Beside the files of a build it is written who withheld it, so that this outlives the records."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from builder.dib.output import artifacts, kept, withheld
from builder.model import Build, BuildState, Withholding
from builder.workers.adopter import Adopter
from tests.unit.test_workers_adopter import publish
from tests.unit.worker_world import NOW, Stage, build

QUARANTINE = Withholding(provider=None, by="ann", time=NOW, why="no SSH server")
HERE = Withholding(provider="one", by="bob", time=NOW + timedelta(hours=1))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def made(stage: Stage) -> Build:
    """A ready build of this machine."""
    record = build(1)
    publish(stage, record)
    stage.store.put(record)
    return record


def told(stage: Stage, made: Build) -> tuple[Withholding, ...]:
    """What `imagepool recover` finds."""
    (found,) = kept.find(stage.config.images_dir)
    assert found.build_id == made.id
    return found.withheld


def file(stage: Stage, made: Build) -> Path:
    return artifacts.directory(stage.config.images_dir, "img", made.id) / withheld.NAME


def test_it_is_written_changed_and_taken_away_with_the_record(stage: Stage, made: Build) -> None:
    adopter = Adopter(stage.world, "adopter")
    adopter.step()
    assert told(stage, made) == ()
    stage.store.withhold("img", made.id, QUARANTINE)
    adopter.step()
    assert told(stage, made) == (QUARANTINE,)
    stage.store.withhold("img", made.id, HERE)
    adopter.step()
    assert set(told(stage, made)) == {QUARANTINE, HERE}
    stage.store.release("img", made.id, None)
    adopter.step()
    assert told(stage, made) == ()
    assert not file(stage, made).exists()


def test_what_changed_while_no_daemon_ran_is_found_at_the_start(stage: Stage, made: Build) -> None:
    withheld.write(stage.config.images_dir, "img", made.id, (QUARANTINE,))
    Adopter(stage.world, "adopter").step()
    assert told(stage, made) == ()
    stage.store.withhold("img", made.id, HERE)
    Adopter(stage.next_life().world, "adopter").step()
    assert told(stage, made) == (HERE,)


def test_a_build_of_another_machine_is_left_to_that(stage: Stage) -> None:
    theirs = build(2, builder_id="there")
    stage.store.put(theirs)
    stage.store.withhold("img", theirs.id, QUARANTINE)
    Adopter(stage.world, "adopter").step()
    assert stage.files() == set()


def test_a_build_that_is_not_done_gets_it_when_it_is(stage: Stage) -> None:
    running = build(3, BuildState.BUILDING)
    stage.store.put(running)
    stage.store.withhold("img", running.id, QUARANTINE)
    adopter = Adopter(stage.world, "adopter")
    adopter.step()
    assert stage.files() == set()
    publish(stage, running)
    stage.store.update_build(stage.store.get_build("img", running.id).become(BuildState.READY, NOW))
    adopter.step()
    assert told(stage, running) == (QUARANTINE,)


def test_a_disk_that_will_not_take_it_is_asked_again(stage: Stage, made: Build) -> None:
    file(stage, made).mkdir()
    stage.store.withhold("img", made.id, QUARANTINE)
    adopter = Adopter(stage.world, "adopter")
    due = adopter.step().due
    assert due is not None and due > stage.now
    file(stage, made).rmdir()
    stage.now = due
    assert adopter.step().due is None
    assert told(stage, made) == (QUARANTINE,)


def test_a_disk_that_will_not_take_it_is_not_asked_at_each_change(
    stage: Stage, made: Build, caplog: pytest.LogCaptureFixture
) -> None:
    file(stage, made).mkdir()
    stage.store.withhold("img", made.id, QUARANTINE)
    adopter = Adopter(stage.world, "adopter")
    due = adopter.step().due
    for number in range(2, 6):
        stage.store.put(build(number, builder_id="there"))
        assert adopter.step().due == due
    assert sum("can't be written" in each.message for each in caplog.records) == 1


def test_what_a_build_said_is_forgotten_with_it(stage: Stage, made: Build) -> None:
    """A build of the same id comes back with its records: what its file says is read, not remembered."""
    adopter = Adopter(stage.world, "adopter")
    stage.store.withhold("img", made.id, QUARANTINE)
    adopter.step()
    stage.store.delete_build(stage.store.get_build("img", made.id))
    adopter.step()
    file(stage, made).unlink()
    stage.store.put(made)
    stage.store.withhold("img", made.id, QUARANTINE)
    adopter.step()
    assert told(stage, made) == (QUARANTINE,)


def test_a_build_of_which_that_alone_is_there_still_counts_as_half(stage: Stage, made: Build) -> None:
    withheld.write(stage.config.images_dir, "img", made.id, (QUARANTINE,))
    (found,) = kept.find(stage.config.images_dir)
    assert not found.described


def test_the_file_goes_with_the_build(stage: Stage, made: Build) -> None:
    withheld.write(stage.config.images_dir, "img", made.id, (QUARANTINE,))
    artifacts.delete(stage.config.images_dir, "img", made.id, stage.world.identity.installation_id)
    assert stage.files() == set()


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "{}", "[7]", '[{"provider": "../etc", "time": 9, "by": [], "why": null}]', "[" * 99_999],
)
def test_what_makes_no_sense_in_it_withholds_the_build_everywhere(
    stage: Stage, made: Build, text: str
) -> None:
    file(stage, made).write_text(text)
    assert [each.provider for each in told(stage, made)] == [None]


def test_times_and_reasons_are_read_as_far_as_they_make_sense(stage: Stage, made: Build) -> None:
    said = [{"provider": "one", "by": "ann", "time": "2026-11-21T12:00:00", "why": "x" * 5000}]
    file(stage, made).write_text(json.dumps(said))
    (each,) = told(stage, made)
    assert (each.provider, each.by, len(each.why)) == ("one", "ann", 2000)
    assert each.time.tzinfo is not None  # without a zone it says nothing: the file's own

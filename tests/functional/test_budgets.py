"""Builds that are over budget: with the real daemon, ZooKeeper and commands, in scripted clouds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.dib.output import withheld
from builder.model import Build, BuildState, FailureClass
from tests.fakes.glance import FakeGlance
from tests.functional.installation import Installation, wait_until
from tests.functional.test_withholding import built_twice, done, serves

#: No file is that small.
TINY = {"size": {"most": 1}}


def budgets(place: Installation, found: dict[str, dict[str, object]]) -> None:
    place.image["budgets"] = found
    place.write()


def served_and_held(place: Installation) -> tuple[Build, Build]:
    """A build that serves in both regions, and a newer one that is held, by daemons of two lives."""
    place.start()
    first = place.ready_build()
    place.until(lambda _: serves(place, first))
    assert place.daemons[-1].stop() == 0
    budgets(place, TINY)
    place.start()
    assert place.cli("image", "build", "img").returncode == 0
    second = place.ready_build(after=first.id)
    return first, second


def beside(place: Installation, build: Build) -> list[dict[str, object]]:
    """What is written beside a build's files of who withholds it."""
    file = place.root / "state" / "images" / f"img-{build.id}.d" / withheld.NAME
    found: list[dict[str, object]] = json.loads(file.read_text()) if file.exists() else []
    return found


def bytes_of(glance: FakeGlance, build: Build) -> list[str]:
    """The images of a build in all clouds."""
    return [image["id"] for image in glance.images() if image.get("imagepool_build_id") == build.id]


def test_a_held_build_goes_nowhere_until_it_is_released(place: Installation, glance: FakeGlance) -> None:
    first, second = served_and_held(place)
    assert second.hold is not None and second.hold.why.startswith("over budget: size is ")
    assert [word["held"] for word in beside(place, second)] == [True]
    row = place.json("image", "list")[0]
    assert f"build {second.id[:8]} is held: over budget" in row["reason"]
    # A daemon that does all there is to do, and ends.
    assert place.daemons[-1].stop() == 0
    place.start("--once").wait()
    assert serves(place, first)
    assert place.snapshot().image("img").uploads_of(second.id) == ()
    assert bytes_of(glance, second) == []

    place.start()
    told = done(place, "build", "release", second.id, "--reason", "it is meant")
    assert "was held by imagepool" in told
    place.until(lambda _: serves(place, second))
    released = place.store.get_build("img", second.id).release
    assert released is not None and released.why == "it is meant"
    wait_until(lambda: beside(place, second) == [], place.story)


def test_a_rejected_build_is_in_quarantine_and_the_next_good_one_takes_over(place: Installation) -> None:
    first, second = served_and_held(place)
    done(place, "build", "reject", second.id, "--reason", "a compiler")
    (word,) = place.store.get_build("img", second.id).withheld
    assert (word.held, word.why) == (False, "a compiler")
    assert serves(place, first)
    budgets(place, {"size": {"most": "1T"}})
    done(place, "image", "build", "img", "--wait")
    third = place.ready_build(after=second.id)
    assert [check.over for check in third.budgets] == [None]
    place.until(lambda _: serves(place, third))


def test_a_hold_outlives_the_loss_of_all_records(place: Installation, glance: FakeGlance) -> None:
    first, second = served_and_held(place)
    assert place.daemons[-1].stop() == 0
    place.lose_records()
    done(place, "recover", "--yes")
    known = place.snapshot().image("img").build(second.id)
    assert known is not None and known.hold is not None
    place.start("--once").wait()
    assert serves(place, first) and bytes_of(glance, second) == []
    place.start()
    done(place, "build", "release", second.id)
    place.until(lambda _: serves(place, second))


def test_what_fails_leaves_its_files_to_be_looked_at(place: Installation, glance: FakeGlance) -> None:
    budgets(place, {"size": {"most": 1, "over": "fail"}})
    place.start()
    failed = place.failed_build()
    assert failed.reason is not None
    assert (failed.reason.failure_class, failed.reason.step) == (FailureClass.TEST, "budget size")
    if failed.kept is None:
        pytest.fail(f"its files are gone\n{place.story()}")
    home = Path(failed.kept)
    assert (home / "packages.json").exists() and home.with_suffix(".qcow2").exists()
    assert glance.images() == []
    # They are there in the next life, and go when the image is built anew.
    assert place.daemons[-1].stop() == 0
    budgets(place, {})
    place.start()
    assert home.exists()
    done(place, "image", "build", "img", "--wait")
    wait_until(lambda: not home.exists(), place.story)


def test_a_warning_keeps_nothing(place: Installation) -> None:
    budgets(place, {"size": {"most": 1, "over": "warn"}})
    first, second = built_twice(place)
    assert {build.state for build in (first, second)} == {BuildState.READY}
    assert "over budget: size is " in place.story()

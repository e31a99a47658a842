"""The judge of the simulation sees what is wrong: the code under test is broken, and it says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.cloud import ownership
from builder.cloud.transfer import finishing
from builder.config.model import Budget
from builder.dib.output import artifacts
from builder.dib.output.artifacts import Publication
from builder.model import Build, BuildState, Measure, Pause, UploadState, Withholding
from builder.planning import builds, cleanup, leaks, promotion, ticks, uploads
from builder.planning.records import newest_good, newest_ready
from builder.store.base import Claim
from builder.workers import cleaning, promoter, settle, stopping
from builder.workers.cleaning import Cleaner
from builder.workers.leaks import LeakSweeper
from builder.workers.stopping import UploadStop
from tests.fakes import store as fake_store
from tests.fakes.store import FakeClaim, FakeStore
from tests.simulation.cloud import SimCloud
from tests.simulation.store import SimStore
from tests.simulation.world import Simulation, simulated


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Simulation]:
    """Two machines, two clouds, two diskimages, a day old."""
    with simulated(tmp_path, seed=3, leak_sweep=timedelta(minutes=30)) as made:
        made.foreign_images()
        made.start()
        made.run(hours=2)
        made.promises.check()
        yield made


#: So much has to be broken before a story ends early.
ENOUGH = 5


def _live(world: Simulation, hours: float) -> None:
    """So long at most, or until something is found broken for good."""
    for _ in range(round(hours * 6)):
        if len(world.promises.broken) > ENOUGH:
            return
        world.run(minutes=10)


def _next_days(world: Simulation) -> None:
    _live(world, 72)


def _crash_in_a_build(world: Simulation) -> None:
    world.run(hours=12, minutes=20)  # into the builds of 14:14
    for machine in world.machines:
        machine.crash()
    world.run(minutes=5)
    world.start()
    _live(world, 2)


def _pause(world: Simulation) -> None:
    world.outside.pause_provider("region-1", Pause(by="ann", time=world.kernel.clock()))
    world.promises.note_word()
    _live(world, 14)


def _freeze(world: Simulation) -> None:
    world.outside.freeze(Pause(by="ann", time=world.kernel.clock()))
    world.promises.note_word()
    _live(world, 14)


def _freeze_amid_work(world: Simulation) -> None:
    for cloud in world.clouds.values():
        cloud.pace.request = 50.0
    world.run(hours=36, minutes=25)  # the third build is on its way
    third = max(world.tree.builds.values(), key=lambda build: build.began).id
    for _ in range(1000):
        if any(u.serving for u in world.tree.uploads.values() if u.build_id == third):
            break  # what served before the second has to go
        world.run(seconds=10)
    _freeze(world)


def _word(world: Simulation) -> Withholding:
    return Withholding(provider=None, by="ann", time=world.kernel.clock(), why="no SSH server")


def _withhold_what_is_built(world: Simulation) -> None:
    world.run(hours=12, minutes=20)
    for build in list(world.tree.builds.values()):
        if build.state is BuildState.BUILDING:
            world.outside.withhold(build.image, build.id, _word(world))
    _live(world, 2)


def _make_images_grow(world: Simulation) -> None:
    budget = Budget(measure=Measure.PACKAGES, most=400)
    images = {name: replace(i, budgets=(budget,)) for name, i in world.config.diskimages.items()}
    world.config = replace(world.config, diskimages=images)
    world.engine.packages = lambda: 500.0
    _live(world, 24)


def _withhold_what_serves(world: Simulation) -> None:
    world.run(hours=50)  # the next build is due in ten hours
    for build in [each for each in world.tree.builds.values() if each.state is BuildState.READY]:
        if build == newest_good(world.outside.snapshot().image(build.image)):
            world.outside.withhold(build.image, build.id, _word(world))
    _live(world, 2)


def _forgetful(*_: object) -> None:
    return None


def _other_bytes(self: SimCloud, body) -> bytes:
    return bytes(len(body.read(len(body))))


Breaking = Callable[[pytest.MonkeyPatch], None]
Story = Callable[[Simulation], None]


def _sets(target: object, name: str, value: object) -> Breaking:
    return lambda patch: patch.setattr(target, name, value)


def _both(*breakings: Breaking) -> Breaking:
    def both(patch: pytest.MonkeyPatch) -> None:
        for breaking in breakings:
            breaking(patch)

    return both


_claim = FakeStore._claim


def _builds_for_all(self: FakeStore, path: str) -> Claim | None:
    return FakeClaim(self, path) if path.endswith("/builds/lock") else _claim(self, path)


def _no_reason(build, now, wish):
    return build.become(BuildState.FAILED, now, ended=now, reason=None, artifacts=())


def _newest_goes(config, records, now):
    """What is newest is superseded."""
    for upload in records.uploads:
        if upload.state is UploadState.READY:
            yield cleanup.CleanupAction(
                kind=cleanup.CleanupKind.RETIRE_UPLOAD,
                build=records.build(upload.build_id),
                upload=upload,
                verdict=cleanup.Verdict.NOW,
                reason="It is there.",
            )


BROKEN: dict[str, tuple[Breaking, Story, str]] = {
    "the janitor lets the last good image go": (
        _both(
            _sets(cleanup, "superseded_uploads", _newest_goes),
            _sets(Cleaner, "_demand_successor", lambda *_: None),
        ),
        _next_days,
        "the last good one in",
    ),
    "an upload's record goes, its image stays": (
        _sets(Cleaner, "_delete_image", lambda *_: "nothing"),
        _next_days,
        "loses its record before its image",
    ),
    "whatever a cloud has and no record knows is a leak": (
        _both(
            _sets(leaks, "_is_none_of_ours", lambda image: False),
            _sets(
                leaks, "_judge", lambda case, image, seen: case.leak(image, seen, leaks.Verdict.NOW, "It.")
            ),
            _sets(ownership, "why_not_ours", lambda *_: None),
            _sets(LeakSweeper, "_is_known", lambda *_: False),
        ),
        _next_days,
        "which is none of ours",
    ),
    "an abandoned build has no reason": (
        _both(
            _sets(cleaning, "abandoned", _no_reason),
            _sets(stopping, "abandoned", _no_reason),
        ),
        _crash_in_a_build,
        "failed without a reason",
    ),
    "uploads don't know of pauses": (
        _sets(uploads, "_paused", _forgetful),
        _pause,
        "while region-1 is paused",
    ),
    "the schedule is not remembered": (
        _both(
            _sets(ticks, "_mark", _forgetful),
            _sets(fake_store, "not_remembered", lambda times, marks, now: times),
        ),
        _next_days,
        "fire a second time",
    ),
    "a lock is everybody's": (_sets(FakeStore, "_claim", _builds_for_all), _next_days, "under a valid claim"),
    "builds don't know of a freeze": (
        _sets(builds, "_frozen", _forgetful),
        _freeze,
        "begins while everything is frozen",
    ),
    "a janitor does not know of a freeze": (
        _sets(cleanup, "_unless_frozen", lambda action, freeze: action),
        _freeze_amid_work,
        "while everything is frozen",
    ),
    "a cloud's bytes are not looked at": (
        _both(
            _sets(SimCloud, "_receive", _other_bytes),
            _sets(finishing, "verify", lambda *_: None),
        ),
        _next_days,
        "its image has other bytes",
    ),
    "a build is ready before its files": (
        _sets(Publication, "add", lambda *_, **more: None),
        _next_days,
        "becomes ready, but",
    ),
    "files stay": (_sets(artifacts, "delete", lambda *_: None), _next_days, "belongs to no build"),
    "uploads don't know of a quarantine": (
        _both(
            _sets(uploads, "newest_good", lambda records, provider: newest_ready(records)),
            _sets(uploads, "may_go_out", lambda build, provider: True),
            _sets(UploadStop, "_withheld", _forgetful),
        ),
        _withhold_what_is_built,
        "begins although its build is withheld",
    ),
    "a build that is over budget is let go": (
        _sets(Build, "over", lambda final, known: replace(final, withheld=(), version=known.version)),
        _make_images_grow,
        "over its budget, and is not held",
    ),
    "uploads don't know of what is held": (
        _both(
            _sets(uploads, "newest_good", lambda records, provider: newest_ready(records)),
            _sets(uploads, "may_go_out", lambda build, provider: True),
            _sets(UploadStop, "_withheld", _forgetful),
        ),
        _make_images_grow,
        "begins although its build is held",
    ),
    "what is withheld goes on serving": (
        _sets(promotion._Line, "withheld", _forgetful),
        _withhold_what_serves,
        "although it is withheld",
    ),
    "what is withheld begins to serve": (
        _both(
            _sets(promotion._Line, "withheld", _forgetful),
            _sets(UploadStop, "_withheld", _forgetful),
            _sets(uploads, "newest_good", lambda records, provider: newest_ready(records)),
            _sets(uploads, "may_go_out", lambda build, provider: True),
        ),
        _withhold_what_is_built,
        "begins to serve, although it is withheld",
    ),
    "a ready upload is in front at once": (
        _sets(settle, "behind", lambda records, upload, now: now),
        _next_days,
        "before it is to serve",
    ),
    "images are not told that their build is withheld": (
        _sets(promoter, "mark", lambda *_: False),
        _withhold_what_serves,
        "tells None of its build",
    ),
    "nobody keeps the history": (
        _sets(SimStore, "begin_turn", _forgetful),
        _next_days,
        "the history of",
    ),
    "nobody uploads": (
        _sets(uploads, "_due", lambda case, build, due, now, further="": case.decide(uploads.Verdict.NO, "")),
        _next_days,
        "is not in region-1",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_it_sees_that(what: str, world: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking, live, expected = BROKEN[what]
    breaking(monkeypatch)
    live(world)
    found = [*world.promises.broken, *world.promises.unsettled()]
    assert any(expected in each for each in found), found[:5]


def test_it_has_nothing_to_say_when_all_is_well(world: Simulation) -> None:
    _next_days(world)
    assert not [*world.promises.broken, *world.promises.unsettled()]

"""What is foreseen: when each image is built, by whom, for how long, and what is not built at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import BuildPhase
from builder.planning.actions import Trigger, Verdict
from builder.planning.builds import decide_build
from builder.planning.forecast import PlannedBuild, foresee
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NEXT_TICK,
    NOW,
    TICK,
    asked,
    building,
    config,
    configs,
    daemon,
    decide,
    diskimage,
    every,
    failed,
    following,
    image_records,
    paused,
    provider,
    ready,
    records,
    snapshot,
    unhurried,
)

UNTIL = NOW + DAY
TIMED = {BuildPhase.PACKAGES: 1200.0}  #: a build of 20 minutes


def done(number: int, ended=TICK + 10 * MINUTE, **changes):
    return ready(number, ended, timings=TIMED, **changes)


def brief(builds: tuple[PlannedBuild, ...]) -> list[tuple[str, object, object, str | None]]:
    return [(b.image, b.start, b.end, b.hostname) for b in builds]


def test_tomorrows_build_is_foreseen_with_its_time_its_builder_and_where_it_goes() -> None:
    settings = config(diskimage(), provider("north"), provider("south", pause=True), provider("west"))
    known = snapshot(records(done(1)), paused_providers={"west": paused()})
    (build,) = foresee(settings, known, NOW, UNTIL).builds
    assert build == PlannedBuild(
        image=IMAGE,
        start=NEXT_TICK,
        end=NEXT_TICK + 20 * MINUTE,
        hostname="host-a",
        builder_id="machine-a",
        trigger=Trigger.SCHEDULE,
        reason="The schedule `14 14 * * *` ticked at 2026-11-22 14:14 UTC and no ready build began since.",
        expected=1200.0,
        providers=("north",),
        tick=NEXT_TICK,
    )


def test_with_one_worker_builds_follow_each_other_the_oldest_first() -> None:
    names = ("a", "b", "c")
    settings = config(*map(diskimage, names))
    known = snapshot(
        records(done(1, TICK - DAY), name="a"),
        records(done(2, TICK - 3 * DAY), name="b"),
        records(done(3, TICK - 2 * DAY), name="c"),
    )
    builds = foresee(settings, known, NOW, NOW + HOUR).builds
    assert [(b.image, b.start) for b in builds] == [
        ("b", NOW),
        ("c", NOW + 20 * MINUTE),
        ("a", NOW + 40 * MINUTE),
    ]


def test_two_builders_share_them() -> None:
    settings = config(*map(diskimage, "abcd"))
    known = snapshot(
        *(records(done(1, TICK - DAY), name=name) for name in "abcd"),
        daemons=(daemon(), daemon("machine-b", "host-b")),
    )
    builds = foresee(settings, known, NOW, NOW + HOUR).builds
    assert sorted((b.start, b.hostname) for b in builds) == [
        (start, host) for start in (NOW, NOW + 20 * MINUTE) for host in ("host-a", "host-b")
    ]


def test_a_worker_that_is_busy_is_waited_for() -> None:
    runs = building(2, NOW - 5 * MINUTE, phase=BuildPhase.PACKAGES, builder_id="machine-a")
    known = snapshot(
        records(runs, done(1, TICK - DAY), name="a", build_claimed=True),
        records(done(3, TICK - DAY), name="b"),
    )
    first, second = foresee(config(diskimage("a"), diskimage("b")), known, NOW, NOW + HOUR).builds
    assert first.running
    assert (first.start, first.end, first.expected) == (NOW - 5 * MINUTE, NOW + 15 * MINUTE, 1200.0)
    assert (second.image, second.start, second.running) == ("b", NOW + 15 * MINUTE, False)


def test_an_image_that_follows_another_is_built_after_it() -> None:
    images = (diskimage("base"), diskimage("leaf", schedule=following("base")))
    known = snapshot(
        records(done(1), name="base"),
        records(done(2, TICK + 30 * MINUTE), name="leaf", ticks={"@after base": TICK + 10 * MINUTE}),
    )
    builds = foresee(config(*images), known, NOW, UNTIL + HOUR).builds
    assert brief(builds) == [
        ("base", NEXT_TICK, NEXT_TICK + 20 * MINUTE, "host-a"),
        ("leaf", NEXT_TICK + 20 * MINUTE, NEXT_TICK + 40 * MINUTE, "host-a"),
    ]


def test_a_spread_schedule_is_foreseen_as_spread() -> None:
    settings = config(*map(diskimage, "abc"), spread=3 * HOUR)
    known = snapshot(*(records(done(1), name=name, ticks={"14 14 * * *": TICK}) for name in "abc"))
    starts = [b.start for b in foresee(settings, known, NOW, UNTIL + 3 * HOUR).builds]
    assert starts == [NEXT_TICK, NEXT_TICK + HOUR, NEXT_TICK + 2 * HOUR]


def test_each_tick_of_the_day_is_foreseen_once() -> None:
    image = diskimage(schedule=every("0 */6 * * *"))
    builds = foresee(config(image), snapshot(records(done(1))), NOW, UNTIL).builds
    six = TICK.replace(hour=18, minute=0)
    assert [b.start for b in builds] == [six + n * 6 * HOUR for n in range(4)]


def test_a_request_is_foreseen_at_once_and_a_retry_in_its_time() -> None:
    asked_for = snapshot(records(done(1), asked()))
    assert foresee(config(diskimage()), asked_for, NOW, NOW + HOUR).builds[0].trigger is Trigger.MANUAL
    known = records(failed(2, NOW - MINUTE), done(1, TICK - DAY))
    (build,) = foresee(config(diskimage()), snapshot(known), NOW, NOW + HOUR).builds
    assert build.start == decide(diskimage(), known, config(diskimage())).due


def test_without_earlier_builds_the_time_is_a_guess_and_says_so() -> None:
    settings = config(diskimage("new"), diskimage("old", schedule=()))
    known = snapshot(records(done(1), name="old"))
    (build,) = foresee(settings, known, NOW, NOW + HOUR).builds
    assert (build.image, build.expected, build.end - build.start) == ("new", None, 20 * MINUTE)


def test_what_is_not_built_says_why() -> None:
    settings = config(
        diskimage("still", pause=True),
        diskimage("arm", requires=frozenset({"arm64"})),
        diskimage("never", schedule=()),
        diskimage("fine"),
    )
    known = snapshot(
        records(done(1), name="still"),
        records(done(1, TICK - DAY), name="arm"),
        records(done(1), name="never"),
        records(done(1), name="fine"),
    )
    outlook = foresee(settings, known, NOW, UNTIL)
    assert [b.image for b in outlook.builds] == ["fine"]
    assert [(d.image, d.verdict) for d in outlook.others] == [
        ("still", Verdict.NO),
        ("arm", Verdict.NOW),
        ("never", Verdict.NO),
    ]
    assert "host-a: it lacks the label arm64" in outlook.others[1].reason


def test_while_frozen_nothing_is_foreseen_but_the_reason() -> None:
    outlook = foresee(config(diskimage()), snapshot(records(), frozen=paused()), NOW, UNTIL)
    assert outlook.builds == ()
    assert outlook.others[0].reason.startswith("Everything is frozen by ann")


def test_too_much_to_foresee_ends_early_and_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.planning.forecast.LIMIT", 50)
    image = diskimage(schedule=every("* * * * *"))
    quick = ready(1, NOW, timings={BuildPhase.PACKAGES: 1.0})
    outlook = foresee(config(image), snapshot(records(quick)), NOW, NOW + 30 * DAY)
    assert len(outlook.builds) == 50
    assert outlook.until == outlook.builds[-1].start


def test_two_hundred_images_are_foreseen() -> None:
    names = [f"image-{n:03}" for n in range(200)]
    settings = config(*map(diskimage, names), spread=2 * HOUR)
    known = snapshot(
        *(records(done(1), done(2, TICK - DAY), name=name) for name in names),
        daemons=tuple(daemon(f"m{n}", f"host-{n}", build_workers=2) for n in range(4)),
    )
    builds = foresee(settings, known, NOW, NOW + 60 * HOUR).builds
    assert len(builds) == 400


@unhurried
@given(configs(), image_records(), st.integers(1, 40))
def test_what_is_foreseen_begins_when_it_is_due_and_never_overlaps(settings, known, hours: int) -> None:
    until = NOW + hours * HOUR
    outlook = foresee(settings, snapshot(known), NOW, until)
    assert outlook == foresee(settings, snapshot(known), NOW, until)
    mine = [b for b in outlook.builds if not b.running]
    assert all(NOW <= b.start <= until for b in mine)
    for earlier, later in pairwise(mine):
        assert earlier.end <= later.start
    ticks = [b.tick for b in mine if b.tick is not None]
    assert len(ticks) == len(set(ticks)), "a tick is foreseen twice"
    assert {d.image for d in outlook.others} | {b.image for b in outlook.builds} >= set(settings.diskimages)


@unhurried
@given(configs(), image_records(), st.lists(st.integers(1, 60 * 24 * 3), max_size=8))
def test_a_decision_stays_the_same_as_long_as_it_says(settings, known, minutes: list[int]) -> None:
    """What is remembered until then, by the daemon and here, is what would be decided anew."""
    world = snapshot(known, records(ready(9, NOW - HOUR), name="base"))
    for image in settings.diskimages.values():
        decision = decide_build(image, world, settings, NOW)
        end = decision.valid_until
        times = [NOW + m * MINUTE for m in minutes]
        if end is not None:
            times.append(end - timedelta(microseconds=1))
        for moment in times:
            if end is None or moment < end:
                then = decide_build(image, world, settings, moment)
                # Since when it is due may be "now", where nothing says it.
                assert replace(then, due=decision.due) == decision

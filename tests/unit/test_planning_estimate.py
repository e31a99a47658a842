"""How long a build takes and how far it is, told by the builds before it."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import Build, BuildPhase, ImageRecords
from builder.planning.estimate import Estimate, estimate, expected_duration, phase_seconds
from tests.unit.planning_world import (
    DAY,
    MINUTE,
    NOW,
    build_id,
    building,
    doomed,
    failed,
    image_records,
    ready,
    records,
    unhurried,
)

SECOND = timedelta(seconds=1)
USUAL = {"bootstrap": 30.0, "packages": 40.0, "image": 10.0, "convert": 20.0, "convert qcow2": 20.0}


def earlier(number: int, **timings: float) -> Build:
    """A build of so many days ago; without timings, it took 100 s: 30, 40, 10 and 20."""
    return ready(number, NOW - number * DAY, timings=timings or USUAL)


def running(seconds: float, phase: str | None = "packages", **changes: object) -> Build:
    """A build that began so long ago and now does that phase."""
    return building(9, NOW - timedelta(seconds=seconds), phase=phase, **changes)


def test_of_an_image_that_was_never_built_nothing_is_known() -> None:
    untimed, broken = ready(1, NOW - DAY), failed(2, NOW - DAY, timings=USUAL)
    for known in (records(running(5)), records(running(5), untimed, broken)):
        assert estimate(known.builds[0], known, NOW) is None
        assert expected_duration(known) is None


def test_a_build_takes_what_builds_usually_take_and_formats_count_once() -> None:
    assert expected_duration(records(earlier(1))) == 100.0


def test_one_slow_day_changes_nothing() -> None:
    slow = {**USUAL, "packages": 4000.0}
    assert expected_duration(records(earlier(1, **slow), earlier(2), earlier(3))) == 100.0


def test_only_the_newest_five_count_and_those_told_to_go_too() -> None:
    old = [earlier(number, bootstrap=500.0) for number in range(6, 20)]
    new = [earlier(number) for number in range(1, 5)]
    assert expected_duration(records(*old, *new, doomed(earlier(5)))) == 100.0


def test_what_is_left_is_the_rest_of_the_phase_and_all_later_ones() -> None:
    build = running(40, timings={"bootstrap": 28.0})
    # 12 s of packages are over, 28 are to come, then image and convert.
    assert estimate(build, records(build, earlier(1)), NOW) == Estimate(
        total=98.0, left=58.0, share=pytest.approx(40 / 98)
    )


def test_a_phase_that_takes_longer_than_usual_leaves_the_later_ones() -> None:
    build = running(90, timings={"bootstrap": 30.0})
    assert estimate(build, records(build, earlier(1)), NOW) == Estimate(
        total=120.0, left=30.0, share=pytest.approx(0.75)
    )


def test_what_a_phase_did_before_it_was_taken_up_again_counts_for_it() -> None:
    build = running(50, timings={"bootstrap": 30.0, "packages": 15.0})
    found = estimate(build, records(build, earlier(1)), NOW)
    assert found is not None and found.left == 50.0


def test_bytes_tell_better_than_the_clock() -> None:
    # A quarter of the bytes in 12 s: 36 s more, whatever is usual.
    build = running(92, "convert", timings={"bootstrap": 80.0}, bytes_done=25, bytes_total=100)
    found = estimate(build, records(build, earlier(1)), NOW)
    assert found is not None and found.left == pytest.approx(36.0)


def test_the_first_bytes_tell_nothing_yet() -> None:
    build = running(85, "convert", timings={"bootstrap": 80.0}, bytes_done=1, bytes_total=100)
    found = estimate(build, records(build, earlier(1)), NOW)
    assert found is not None and found.left == 15.0


def test_what_takes_longer_than_ever_says_so() -> None:
    build = running(150, "convert", timings={"bootstrap": 100.0})
    longest = earlier(2, bootstrap=110.0, convert=20.0)
    found = estimate(build, records(build, earlier(1), longest), NOW)
    assert found == Estimate(total=150.0, left=0.0, share=1.0, over=20.0)


def test_how_long_a_build_is_in_its_phase_is_what_the_others_leave() -> None:
    timings = {"bootstrap": 30.0, "packages": 15.0, "convert raw": 8.0}
    assert phase_seconds(running(50, timings=timings), NOW) == 20.0
    assert phase_seconds(running(20, timings=timings), NOW) == 0.0
    assert phase_seconds(running(50, "prepare"), NOW) is None
    assert phase_seconds(earlier(1), NOW) is None


def test_what_should_have_ended_has_nothing_known_left() -> None:
    for seconds, left in ((90, 10.0), (100, None), (200, None)):
        build = running(seconds, "convert", timings={"bootstrap": 80.0})
        found = estimate(build, records(build, earlier(1)), NOW)
        assert found is not None and found.known_left == left


def test_a_phase_of_another_version_leaves_the_clock_to_tell() -> None:
    for phase in (None, "prepare"):
        build = running(40, phase)
        found = estimate(build, records(build, earlier(1)), NOW)
        assert found is not None and (found.left, found.total) == (60.0, 100.0)


def test_a_build_that_has_ended_has_nothing_left() -> None:
    assert estimate(earlier(1), records(earlier(1), earlier(2)), NOW) is None


def test_a_builder_whose_clock_is_ahead_has_just_begun() -> None:
    build = running(-60, "preflight")
    assert estimate(build, records(build, earlier(1)), NOW) == Estimate(total=100.0, left=100.0, share=0.0)


@unhurried
@given(
    image_records(),
    st.dictionaries(st.sampled_from([*BuildPhase, "convert raw", "x"]), st.floats(0, 1e9), max_size=6),
    st.sampled_from([None, "x", *map(str, BuildPhase)]),
    st.tuples(st.integers(-5, 10**12), st.integers(-5, 10**12)),
    st.integers(-100, 10**6),
)
def test_whatever_is_on_record_an_estimate_makes_sense(
    known: ImageRecords, timings: dict[str, float], phase: str | None, count: tuple[int, int], seconds: int
) -> None:
    build = running(seconds, phase, timings=timings, bytes_done=count[0], bytes_total=count[1])
    before = ready(8, NOW - MINUTE, timings=timings)
    found = estimate(build, records(build, before, *known.builds), NOW)
    assert build.id == build_id(9)
    if found is not None:
        assert 0 <= found.share <= 1
        assert found.left >= 0 and found.over >= 0
        assert found.total == pytest.approx(max(0, seconds) + found.left)
        assert math.isfinite(found.total)

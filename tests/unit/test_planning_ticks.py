"""A tick of the schedule fires once and is served or told: restarts, clocks, pauses and cancellations."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import Build, BuildState, FailureClass, ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.builds import decide_build, decide_builds, next_try, served
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
    daemon,
    decide,
    diskimage,
    doomed,
    every,
    failed,
    following,
    paused,
    ready,
    records,
    snapshot,
    unhurried,
)

YESTERDAY = ready(1, TICK - DAY + 10 * MINUTE)
DAILY = diskimage()
ENTRY = "14 14 * * *"
FIRED = {ENTRY: TICK}


def by_schedule(tick: datetime = TICK, time: datetime = TICK) -> Request:
    return replace(asked(time, manual=False, by="scheduler on host-a"), tick=tick)


def told(known: ImageRecords, now: datetime = NOW, image=DAILY, **changes) -> BuildDecision:
    return decide(image, known, config(image), now, **changes)


# -- firing once ----------------------------------------------------------------------------------


def test_a_tick_is_fired_with_its_mark_in_one_step() -> None:
    decision = told(records(YESTERDAY))
    assert (decision.verdict, decision.tick, dict(decision.ticks)) == (Verdict.NOW, TICK, FIRED)


def test_while_what_was_asked_for_waits_it_is_due_and_not_asked_for_again() -> None:
    decision = told(records(YESTERDAY, by_schedule(), ticks=FIRED))
    assert (decision.verdict, decision.tick, dict(decision.ticks)) == (Verdict.NOW, TICK, {})


def test_what_somebody_took_back_is_not_asked_for_again() -> None:
    decision = told(records(YESTERDAY, ticks=FIRED))
    assert (decision.verdict, decision.due) == (Verdict.LATER, NEXT_TICK)
    assert (
        "The tick of 2026-11-21 14:14 UTC by `14 14 * * *` was served: what was asked for" in decision.reason
    )


def test_a_request_that_a_build_has_answered_is_open_no_more() -> None:
    request = by_schedule()
    known = records(YESTERDAY, failed(2, NOW, FailureClass.TOOL, request=request), request, ticks=FIRED)
    assert served(known, request)
    assert told(known).due == NEXT_TICK


def test_todays_image_was_deleted_and_its_record_too_and_is_not_built_again() -> None:
    assert told(records(YESTERDAY, ticks=FIRED)).verdict is Verdict.LATER
    assert told(records(YESTERDAY, doomed(ready(2, NOW)), ticks=FIRED)).verdict is Verdict.LATER


def test_a_failure_is_tried_again_for_the_same_tick_and_fires_nothing() -> None:
    known = records(YESTERDAY, failed(2, TICK + MINUTE, request=by_schedule()), ticks=FIRED)
    decision = told(known)
    assert (decision.verdict, decision.tick, dict(decision.ticks)) == (Verdict.NOW, TICK, {})


def test_a_mark_of_a_clock_that_was_an_hour_ahead_holds_its_tick_is_not_fired_again() -> None:
    known = records(YESTERDAY, ticks={ENTRY: NEXT_TICK})
    assert told(known, NEXT_TICK - HOUR).due == NEXT_TICK + DAY
    assert told(known, NEXT_TICK + MINUTE).due == NEXT_TICK + DAY


def test_what_a_clock_that_was_ahead_asked_for_is_built_when_its_time_has_come() -> None:
    known = records(ready(1, TICK + 20 * MINUTE), by_schedule(NEXT_TICK, NEXT_TICK), ticks={ENTRY: NEXT_TICK})
    early = told(known, NEXT_TICK - HOUR)
    assert (early.verdict, early.due) == (Verdict.LATER, NEXT_TICK)
    assert told(known, NEXT_TICK).verdict is Verdict.NOW


def test_a_mark_more_than_a_day_ahead_is_a_broken_clocks_and_says_nothing() -> None:
    decision = told(records(YESTERDAY, ticks={ENTRY: NOW + 400 * DAY}))
    assert (decision.verdict, dict(decision.ticks)) == (Verdict.NOW, FIRED)


def test_what_a_broken_clock_wrote_counts_when_it_is_near_and_the_decision_knows_when_that_is() -> None:
    known = records(YESTERDAY, ticks={ENTRY: NOW + DAY + HOUR})
    decision = told(known)
    assert (decision.verdict, decision.valid_until) == (Verdict.NOW, NOW + HOUR)
    assert told(known, NOW + HOUR).verdict is Verdict.LATER


def test_builds_more_than_a_day_ahead_neither_serve_a_tick_nor_put_it_off() -> None:
    future = NOW + 400 * DAY
    decision = told(records(YESTERDAY, ready(2, future), failed(3, future)))
    assert (decision.verdict, dict(decision.ticks)) == (Verdict.NOW, FIRED)


def test_a_failure_more_than_a_day_ahead_does_not_hide_the_others() -> None:
    known = records(YESTERDAY, failed(3, NOW + 400 * DAY), failed(2, NOW - MINUTE), ticks=FIRED)
    assert told(known) == told(replace(known, builds=(known.builds[0], known.builds[2])))
    assert told(known).verdict is Verdict.LATER


def test_what_is_due_for_one_cause_is_decided_anew_when_another_comes() -> None:
    image = diskimage(rebuild_age=2 * DAY)
    old = ready(1, NOW - 2 * DAY + HOUR)
    decision = told(records(old), image=image)
    assert (decision.trigger, decision.valid_until) == (Trigger.SCHEDULE, NOW + HOUR)
    assert told(records(old), NOW + HOUR, image).trigger is Trigger.AGE


def test_an_image_whose_only_build_is_of_the_future_is_built() -> None:
    decision = told(records(ready(2, NOW + 400 * DAY)))
    assert (decision.verdict, decision.trigger) == (Verdict.NOW, Trigger.MISSING)
    assert "00000002 says it is of 2027-12-26 14:30 UTC, by a clock that was wrong." in decision.reason


# -- whose build it is, when clocks differ ----------------------------------------------------------


@pytest.mark.parametrize("off", [-6 * HOUR, -10 * MINUTE, timedelta(), 10 * MINUTE, 6 * HOUR])
def test_a_build_for_a_tick_serves_it_whatever_its_builders_clock_says(off: timedelta) -> None:
    known = records(YESTERDAY, ready(2, TICK + 10 * MINUTE + off, request=by_schedule()))
    assert told(known).verdict is Verdict.LATER
    assert "called off" not in told(replace(known, ticks=FIRED)).reason


@pytest.mark.parametrize("off", [-6 * HOUR, -10 * MINUTE, timedelta(), DAY])
def test_a_failure_for_a_tick_is_waited_out_whatever_its_builders_clock_says(off: timedelta) -> None:
    five = [failed(n, TICK + n * MINUTE + off, request=by_schedule()) for n in (6, 5, 4, 3, 2)]
    decision = told(records(*five, YESTERDAY, ticks=FIRED))
    assert (decision.verdict, decision.due) == (Verdict.LATER, NEXT_TICK)
    assert "That is the limit" in decision.reason


def test_failures_for_yesterdays_tick_by_a_clock_ahead_do_not_hold_up_todays() -> None:
    old = by_schedule(TICK - DAY, TICK - DAY)
    five = [failed(n, TICK + n * MINUTE, request=old) for n in (6, 5, 4, 3, 2)]
    decision = told(records(*five, YESTERDAY, ticks={ENTRY: TICK - DAY}), TICK)
    assert (decision.verdict, dict(decision.ticks)) == (Verdict.NOW, FIRED)


def test_a_request_of_yesterday_that_waited_for_a_builder_until_today_is_tried_again() -> None:
    """Today's tick joined it, so its failure is today's too."""
    old = by_schedule(TICK - DAY, TICK - DAY)
    known = records(failed(2, TICK + 5 * MINUTE, request=old), ready(1, TICK - 3 * DAY), ticks=FIRED)
    assert told(known).verdict is Verdict.NOW


# -- missed ticks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "verdict"), [(12 * HOUR, Verdict.NOW), (12 * HOUR + MINUTE, Verdict.LATER)])
def test_a_missed_tick_is_caught_up_until_it_is_too_old(late: timedelta, verdict: Verdict) -> None:
    assert told(records(YESTERDAY), TICK + late).verdict is verdict


def test_a_tick_that_is_left_out_is_told() -> None:
    decision = told(records(YESTERDAY), TICK + 13 * HOUR)
    assert decision.due == NEXT_TICK
    assert decision.reason.endswith(
        "The tick of 2026-11-21 14:14 UTC by `14 14 * * *` was missed by more than the catch-up of 12 h,"
        " and is left out."
    )


def test_with_no_time_to_catch_up_a_tick_in_time_still_fires() -> None:
    image = diskimage(catch_up=timedelta())
    assert told(records(YESTERDAY), TICK + timedelta(seconds=2), image).verdict is Verdict.NOW
    assert told(records(YESTERDAY), TICK + 2 * MINUTE, image).verdict is Verdict.LATER


def test_of_several_missed_ticks_the_newest_fires_and_settles_all() -> None:
    image = diskimage(schedule=every("0 * * * *") + every("30 1 * * *") + every("30 3 * * *"))
    decision = told(records(ready(1, TICK - 5 * DAY)), image=image)
    day = TICK.replace(minute=0)
    assert decision.verdict is Verdict.NOW
    assert decision.tick == day
    assert dict(decision.ticks) == {
        "0 * * * *": day,
        "30 1 * * *": day.replace(hour=1, minute=30),
        "30 3 * * *": day.replace(hour=3, minute=30),
    }


def test_a_tick_that_was_tried_is_not_left_out_however_late_it_is() -> None:
    last = failed(2, TICK + 13 * HOUR, request=by_schedule())
    known = records(YESTERDAY, last, ticks=FIRED)
    due = told(known, TICK + 13 * HOUR).due
    assert due is not None
    assert due < NEXT_TICK
    assert told(known, due).verdict is Verdict.NOW


# -- spread ---------------------------------------------------------------------------------------


def test_a_spread_tick_waits_for_its_turn_and_keeps_its_name() -> None:
    images = [diskimage("a"), diskimage("b")]
    settings = config(*images, spread=2 * HOUR)
    known = snapshot(records(YESTERDAY, name="a"), records(YESTERDAY, name="b"))
    first, second = (decide_build(i, known, settings, NOW) for i in images)
    assert (first.verdict, second.verdict) == (Verdict.NOW, Verdict.LATER)
    assert second.due == TICK + HOUR
    turn = decide_build(images[1], known, settings, TICK + HOUR)
    assert (turn.verdict, dict(turn.ticks), turn.due) == (Verdict.NOW, FIRED, TICK + HOUR)
    assert (
        "ticked at 2026-11-21 14:14 UTC, was put off until 2026-11-21 15:14 UTC by `spread`," in turn.reason
    )


def test_a_build_that_somebody_asked_for_before_its_turn_serves_the_tick() -> None:
    images = [diskimage("a"), diskimage("b")]
    settings = config(*images, spread=2 * HOUR)
    known = snapshot(records(ready(2, NOW, request=asked()), name="b"))
    assert decide_build(images[1], known, settings, TICK + HOUR).due == NEXT_TICK + HOUR
    assert decide_build(images[1], known, settings, NOW).due == NEXT_TICK + HOUR


def test_what_is_caught_up_is_measured_from_its_turn() -> None:
    images = [diskimage("a"), diskimage("b", catch_up=HOUR)]
    known = snapshot(records(YESTERDAY, name="b"))
    decision = decide_build(images[1], known, config(*images, spread=6 * HOUR), TICK + 3 * HOUR + MINUTE)
    assert decision.verdict is Verdict.NOW


# -- following another image ------------------------------------------------------------------------

FOLLOWS = diskimage(schedule=following("base"))
ONE = ready(7, NOW - HOUR)


def follows(known: ImageRecords, *base: Build, now: datetime = NOW) -> BuildDecision:
    world = snapshot(known, records(*base, name="base"))
    return decide_build(FOLLOWS, world, config(FOLLOWS, diskimage("base")), now)


def test_an_image_is_built_when_the_one_it_follows_became_ready() -> None:
    decision = follows(records(YESTERDAY), ONE)
    assert (decision.verdict, decision.trigger) == (Verdict.NOW, Trigger.SCHEDULE)
    assert dict(decision.ticks) == {"@after base": NOW - HOUR}
    assert decision.reason == (
        "Build 00000007 of base became ready at 2026-11-21 13:30 UTC,"
        " which the schedule `@after base` follows, and no ready build began since."
    )


def test_an_image_that_was_built_since_waits_for_the_next_one() -> None:
    decision = follows(records(ready(2, NOW)), ONE)
    assert (decision.verdict, decision.due) == (Verdict.NO, None)
    assert decision.reason.endswith("the next is due when a build of base becomes ready.")


def test_what_is_followed_fires_once_even_if_it_goes_back_to_an_older_build() -> None:
    marked = {"@after base": NOW - HOUR}
    assert follows(records(YESTERDAY, ticks=marked), ONE).verdict is Verdict.NO
    assert (
        follows(records(YESTERDAY, ticks=marked), doomed(ONE), ready(6, NOW - 2 * HOUR)).verdict is Verdict.NO
    )
    assert follows(records(YESTERDAY, ticks=marked), ready(8, NOW)).verdict is Verdict.NOW


def test_nothing_to_follow_makes_nothing_due() -> None:
    assert follows(records(YESTERDAY)).verdict is Verdict.NO
    assert follows(records(YESTERDAY), building(7, NOW), failed(6, NOW)).verdict is Verdict.NO


def test_a_followed_build_of_a_clock_ahead_is_due_now_and_once() -> None:
    decision = follows(records(YESTERDAY), ready(7, NOW + 5 * MINUTE))
    assert (decision.verdict, decision.due) == (Verdict.NOW, NOW)
    assert follows(records(YESTERDAY, ticks=decision.ticks), ready(7, NOW + 5 * MINUTE)).verdict is Verdict.NO


def test_both_a_clock_and_an_image_to_follow() -> None:
    image = diskimage(schedule=every(ENTRY) + following("base"))
    decision = decide_build(
        image, snapshot(records(ready(2, NOW)), records(ONE, name="base")), config(image), NOW
    )
    assert decision.due == NEXT_TICK
    assert decision.reason.endswith("by the schedule `14 14 * * *`, or when a build of base becomes ready.")


# -- freezes, pauses, force -------------------------------------------------------------------------

FREEZE = paused(by="ben", why="the mirrors move")
FORCED = replace(asked(), force=True)


def test_while_frozen_nothing_is_built_but_what_is_forced() -> None:
    frozen = "Everything is frozen by ben at 2026-11-21 13:30 UTC: the mirrors move; `imagepool unfreeze`"
    for known in (
        records(),
        records(YESTERDAY),
        records(YESTERDAY, by_schedule(), ticks=FIRED),
        records(asked()),
    ):
        decision = told(known, frozen=FREEZE)
        assert (decision.verdict, decision.held, decision.due) == (Verdict.NO, True, None)
        assert decision.reason.startswith(frozen)
    assert told(records(asked()), frozen=FREEZE).reason.endswith("new kernel, waits.")
    assert told(records(FORCED), frozen=FREEZE).verdict is Verdict.NOW
    assert told(records(building(2, NOW), build_claimed=True), frozen=FREEZE).verdict is Verdict.RUNNING


def test_a_pause_in_the_file_yields_to_force_alone() -> None:
    still = diskimage(pause=True)
    assert told(records(asked()), image=still).held
    assert told(records(FORCED), image=still).verdict is Verdict.NOW
    assert told(records(FORCED), image=diskimage(formats=())).verdict is Verdict.NO


def test_what_was_asked_for_before_a_pause_is_built_after_it() -> None:
    known = records(YESTERDAY, by_schedule(), ticks=FIRED)
    pausing = told(replace(known, pause=paused()))
    assert (pausing.verdict, pausing.held) == (Verdict.NO, True)
    assert told(known, NOW + 20 * HOUR).verdict is Verdict.NOW


def test_a_failure_while_frozen_has_no_next_try() -> None:
    last = failed(2, NOW, request=by_schedule())
    known = snapshot(records(YESTERDAY, ticks=FIRED))
    assert next_try(DAILY, known, last, config(DAILY), NOW) is not None
    assert next_try(DAILY, replace(known, frozen=FREEZE), last, config(DAILY), NOW) is None


# -- order and builders -----------------------------------------------------------------------------


def test_what_is_wanted_at_once_comes_first_then_wishes_then_the_oldest() -> None:
    names = ("scheduled", "asked", "urgent and newer", "urgent", "older")
    now = replace(asked(), urgent=True)
    known = snapshot(
        records(ready(1, TICK - 2 * DAY), name="scheduled"),
        records(ready(2, TICK - 9 * DAY), asked(), name="asked"),
        records(ready(3, TICK - HOUR), now, name="urgent and newer"),
        records(ready(4, TICK - 2 * HOUR), now, name="urgent"),
        records(ready(5, TICK - 3 * DAY), name="older"),
    )
    order = [d.image for d in decide_builds(config(*map(diskimage, names)), known, NOW)]
    assert order == ["urgent", "urgent and newer", "asked", "older", "scheduled"]


def test_that_no_builder_can_take_it_is_told_and_changes_nothing_else() -> None:
    image = diskimage(requires=frozenset({"arm64", "kvm"}))
    amd = daemon("a", "host-a", labels=frozenset({"amd64", "kvm"}))
    ill = daemon("b", "host-b", labels=frozenset({"arm64", "kvm"}), unfit="qemu-img is missing.")
    decision = told(records(YESTERDAY), image=image, daemons=(amd, ill))
    assert decision.verdict is Verdict.NOW
    assert decision.reason.endswith(
        "No builder can take it: host-a: it lacks the label arm64;"
        " host-b: it takes no builds now: qemu-img is missing."
    )
    well = replace(ill, unfit=None)
    assert "No builder" not in told(records(YESTERDAY), image=image, daemons=(amd, well)).reason
    assert told(records(asked()), daemons=()).reason.endswith("No builder is alive.")


# -- what holds whatever happens ----------------------------------------------------------------------


class Life:
    """An image through the days, with a scheduler that may lose its memory, its clock and its builders."""

    def __init__(self, image, start: datetime) -> None:
        self.image, self.settings = image, config(image)
        self.now = start
        self.world = snapshot(records(ready(1, start - MINUTE)))
        self.fired: list[tuple[str, datetime]] = []
        self.number = 1

    @property
    def known(self) -> ImageRecords:
        return self.world.image(IMAGE)

    def write(self, **changes) -> None:
        self.world = self.world.with_image(replace(self.known, **changes))

    def schedule(self, skew: timedelta, seen: Snapshot | None = None) -> None:
        """What a scheduler does whose clock is off, and whose view may be old; the store refuses doubles."""
        decision = decide_build(self.image, seen or self.world, self.settings, self.now + skew)
        if decision.verdict is not Verdict.NOW:
            return
        marks = self.known.ticks
        fresh = {e: t for e, t in decision.ticks.items() if e not in marks or marks[e] < t}
        if seen is None:
            assert fresh == dict(decision.ticks), "it asks for what is fired already"
        elif decision.ticks and not fresh:
            return
        self.fired += fresh.items()
        request = self.known.request or replace(
            by_schedule(time=self.now + skew), tick=decision.tick, stamp=len(self.fired)
        )
        self.write(request=request, ticks={**marks, **fresh})

    def build(self, skew: timedelta, *, well: bool) -> None:
        request = self.known.request
        if request is None or decide_build(self.image, self.world, self.settings, self.now).verdict != "now":
            return
        self.number += 1
        state = ready if well else failed
        made = state(self.number, self.now + skew, took=MINUTE, request=request)
        self.write(builds=(made, *self.known.builds), request=None)


SKEWS = st.sampled_from([timedelta(), -5 * MINUTE, 5 * MINUTE, HOUR])
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 14 * 60)),
    st.tuples(st.just("schedule"), SKEWS),
    st.tuples(st.just("stale"), SKEWS),
    st.tuples(st.just("build"), SKEWS),
    st.tuples(st.just("fail"), SKEWS),
    st.tuples(st.just("cancel"), st.none()),
)


@unhurried
@given(
    st.sampled_from(
        [every(ENTRY), every(ENTRY) + every("0 2 * * *", zone="Europe/Berlin"), every("0 */3 * * *")]
    ),
    st.lists(STEPS, max_size=60),
)
def test_no_tick_fires_twice_whatever_clocks_schedulers_and_builders_do(schedule, steps) -> None:
    life = Life(diskimage(schedule=schedule), NOW)
    old = life.world
    for what, how in steps:
        if what == "wait":
            life.now += how * MINUTE
            old = life.world
        elif what == "cancel":
            life.write(request=None)
        elif what in ("schedule", "stale"):
            life.schedule(how, old if what == "stale" else None)
        else:
            life.build(how, well=what == "build")
    assert len(life.fired) == len(set(life.fired))
    made_for = [b.request.tick for b in life.known.builds if b.state is BuildState.READY and b.request]
    ticks = [tick for tick in made_for if tick is not None]
    assert len(ticks) == len(set(ticks)), "two good builds for one tick"


@unhurried
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_each_tick_of_a_quiet_week_is_built_once(waits: list[int]) -> None:
    """However often the scheduler looks, and however late, up to five hours."""
    life = Life(diskimage(schedule=every("0 */6 * * *")), NOW)
    for wait in waits:
        life.now += wait * MINUTE
        life.schedule(timedelta())
        life.build(timedelta(), well=True)
    passed = int((life.now - NOW.replace(hour=12, minute=0)) / (6 * HOUR))
    assert len([b for b in life.known.builds if b.state is BuildState.READY]) == 1 + passed

"""`if-unchanged: skip` and `max-age`: what may be left out, until when, and what an operator is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import DiskImage
from builder.model import Build, FailureClass, ImageFormat, ImageRecords
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.builds import decide_build
from builder.planning.explain import explain
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NEXT_TICK,
    NOW,
    TICK,
    asked,
    config,
    diskimage,
    doomed,
    every,
    failed,
    held,
    ready,
    records,
    snapshot,
)

YESTERDAY = TICK - DAY + 10 * MINUTE
SKIPPING = diskimage(skip_unchanged=True)
BY_AGE = diskimage(skip_unchanged=True, schedule=(), rebuild_age=DAY)
INPUTS = {"packages": "a1"}


def made(number: int = 1, time=YESTERDAY, **changes: object) -> Build:
    """A ready build that says what went into it."""
    return ready(number, time, inputs=INPUTS, **changes)


def decide(image: DiskImage, known: ImageRecords, now=NOW) -> BuildDecision:
    return decide_build(image, snapshot(known), config(image), now)


def test_a_build_that_is_due_by_the_schedule_may_turn_out_needless() -> None:
    decision = decide(SKIPPING, records(made()))
    assert (decision.verdict, decision.trigger) == (Verdict.NOW, Trigger.SCHEDULE)
    assert decision.skippable
    assert decision.reason.endswith("It is made unless nothing that goes into it has changed.")


def test_a_build_that_is_due_by_its_age_may_turn_out_needless() -> None:
    decision = decide(BY_AGE, records(made(time=NOW - 2 * DAY)))
    assert (decision.verdict, decision.trigger, decision.skippable) == (Verdict.NOW, Trigger.AGE, True)


def test_another_try_after_a_failure_may_turn_out_needless() -> None:
    # Whatever broke it may have been taken back: then the good build is what a new one would be.
    decision = decide(SKIPPING, records(failed(2, TICK + MINUTE), made()))
    assert (decision.verdict, decision.skippable) == (Verdict.NOW, True)


@pytest.mark.parametrize(
    ("image", "known", "trigger"),
    [
        (SKIPPING, records(made(), asked()), Trigger.MANUAL),
        (SKIPPING, records(), Trigger.MISSING),
        (replace(SKIPPING, formats=(ImageFormat.RAW,)), records(made()), Trigger.FORMAT),
        (diskimage(), records(made()), Trigger.SCHEDULE),
        (SKIPPING, records(ready(1, YESTERDAY)), Trigger.SCHEDULE),
        (replace(SKIPPING, max_age=DAY), records(made(time=NOW - 2 * DAY)), Trigger.AGE),
    ],
    ids=["somebody asked", "none", "format", "not configured", "nothing to compare with", "max-age"],
)
def test_a_build_is_made_whatever_has_changed_when(
    image: DiskImage, known: ImageRecords, trigger: Trigger
) -> None:
    decision = decide(image, known)
    assert (decision.verdict, decision.trigger, decision.skippable) == (Verdict.NOW, trigger, False)


def test_a_check_serves_the_tick_and_is_told() -> None:
    decision = decide(SKIPPING, records(made(checked=TICK + MINUTE), asked(manual=False)))
    assert decision == BuildDecision(
        image=IMAGE,
        verdict=Verdict.LATER,
        trigger=Trigger.SCHEDULE,
        due=NEXT_TICK,
        reason="The newest build 00000001 is ready since 2026-11-20 14:24 UTC, and checked, unchanged"
        " at 2026-11-21 14:15 UTC; the next is due at 2026-11-22 14:14 UTC by the schedule `14 14 * * *`.",
    )
    assert decide(SKIPPING, records(made(checked=TICK + MINUTE)), NEXT_TICK).verdict is Verdict.NOW


def test_a_check_before_the_tick_does_not_serve_it() -> None:
    assert decide(SKIPPING, records(made(checked=TICK - MINUTE))).verdict is Verdict.NOW


def test_a_check_by_a_machine_whose_clock_is_ahead_serves_its_tick() -> None:
    hourly = replace(SKIPPING, schedule=every("0 * * * *"))
    decision = decide(hourly, records(made(checked=NOW + 90 * MINUTE)))
    assert decision.verdict is Verdict.LATER
    assert decision.due is not None and decision.due > NOW + 90 * MINUTE


def test_a_check_counts_although_the_build_was_told_to_go_since() -> None:
    known = records(doomed(made(2, checked=TICK + MINUTE)), made(1, YESTERDAY - DAY))
    assert decide(SKIPPING, known).verdict is Verdict.LATER


def test_the_rebuild_age_counts_from_the_check() -> None:
    known = records(made(time=NOW - 2 * DAY, checked=NOW - HOUR))
    decision = decide(BY_AGE, known)
    assert (decision.verdict, decision.due) == (Verdict.LATER, NOW - HOUR + DAY)
    late = decide(BY_AGE, known, NOW + DAY)
    assert late.verdict is Verdict.NOW
    assert late.reason.startswith(
        "The newest ready build 00000001 of 2026-11-19 14:30 UTC, checked at 2026-11-21 13:30 UTC,"
        " is older than the rebuild-age since 2026-11-22 13:30 UTC."
    )


def test_the_max_age_counts_from_the_build_whatever_was_checked() -> None:
    image = replace(SKIPPING, max_age=DAY)
    known = records(made(time=NOW - 23 * HOUR, checked=TICK + MINUTE))
    decision = decide(image, known)
    assert (decision.verdict, decision.trigger, decision.due) == (
        Verdict.LATER,
        Trigger.AGE,
        NOW + HOUR,
    )
    assert decision.reason.endswith("when the max-age is over.")
    late = decide(image, known, NOW + HOUR)
    assert (late.verdict, late.skippable, late.due) == (Verdict.NOW, False, NOW + HOUR)
    assert late.reason == (
        "The newest ready build 00000001 of 2026-11-20 15:30 UTC is older than the max-age"
        " since 2026-11-21 15:30 UTC."
    )


def test_failures_before_the_check_are_forgotten() -> None:
    bad = [failed(n, NOW - (10 - n) * HOUR) for n in range(2, 8)]
    image = diskimage(schedule=(), rebuild_age=HOUR)
    given_up = decide(image, records(*bad, made(time=NOW - 20 * HOUR)))
    assert given_up.verdict is Verdict.NO
    checked = decide(image, records(*bad, made(time=NOW - 20 * HOUR, checked=NOW - 2 * HOUR)))
    assert checked.verdict is Verdict.NOW
    after = failed(9, NOW - MINUTE, FailureClass.TOOL)
    again = decide(image, records(after, *bad, made(time=NOW - 20 * HOUR, checked=NOW - 2 * HOUR)))
    assert again.verdict is Verdict.NO


def test_what_is_in_quarantine_is_nothing_to_keep_to_and_counts_as_built() -> None:
    bad = held(made(2, NOW - MINUTE))
    waits = decide(SKIPPING, records(bad, made()))
    assert (waits.verdict, waits.due) == (Verdict.LATER, NEXT_TICK), "no second one of the same at once"
    assert waits.reason.startswith(
        "The newest build 00000002 is ready since 2026-11-21 14:29 UTC, but in quarantine by ann at"
        " 2026-11-21 14:29 UTC: it does not boot; the next is due"
    )
    before = held(made(2, TICK - HOUR))
    # It is compared with the good one, and where there is none, or none that tells, it is made.
    assert decide(SKIPPING, records(before, made())).skippable
    assert not decide(SKIPPING, records(before)).skippable
    assert not decide(SKIPPING, records(before, ready(1, YESTERDAY))).skippable
    assert decide(SKIPPING, records(held(made(2, TICK - HOUR), "north"))).skippable, "good elsewhere"


def test_a_good_build_that_was_checked_answers_for_the_one_in_quarantine() -> None:
    """Or it would be compared again and again."""
    bad, good = held(made(2, NOW - 2 * DAY)), made(1, NOW - 3 * DAY)
    assert decide(BY_AGE, records(bad, good)).skippable
    checked = decide(BY_AGE, records(bad, replace(good, checked=NOW - MINUTE)))
    assert (checked.verdict, checked.due) == (Verdict.LATER, NOW - MINUTE + DAY)


def test_what_had_changed_is_explained_in_few_words() -> None:
    changes = ("packages: openssl 3.0.1 -> 3.0.2", "elements: vm\nchanged.", "environment", "git x", "git y")
    known = records(made(time=TICK + 20 * MINUTE, changes=changes))
    rows = explain(config(SKIPPING), snapshot(known), NOW + HOUR, IMAGE, HERE)
    (row,) = [row for row in rows if "had changed" in row.reason]
    assert row.what == "next build"
    assert row.reason.endswith(
        " Before build 00000001 was begun, this had changed: packages: openssl 3.0.1 -> 3.0.2;"
        " elements: vm changed; environment; 2 more."
    )

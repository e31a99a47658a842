"""When a failed build is tried again, what its record says of it, and when enough is enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.model import Build, Cancellation, FailureClass, ImageRecords
from builder.planning.actions import CleanupKind, Verdict
from builder.planning.builds import next_try, served
from builder.planning.cleanup import plan_cleanup
from builder.planning.retry import INTERRUPTIONS, delay
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
    build_id,
    building,
    config,
    decide,
    diskimage,
    failed,
    ready,
    records,
    snapshot,
)

DAILY = diskimage()
UNSCHEDULED = diskimage(schedule=(), rebuild_age=HOUR)
YESTERDAY = ready(1, TICK - DAY)
WISH = asked(NOW - 5 * HOUR)


def after(image, last: Build, *known, now=NOW):
    """When the record of that failure says the next try is."""
    return next_try(image, snapshot(records(*known)), last, config(image), now)


def test_after_a_failure_it_is_told_to_the_second() -> None:
    wait = delay(config().build_retry, 1, build_id(2))
    assert wait is not None
    assert after(DAILY, failed(2, NOW), YESTERDAY) == NOW + wait


def test_the_record_that_still_says_building_and_the_claim_stand_in_nobodys_way() -> None:
    known = replace(records(building(2, NOW - MINUTE), YESTERDAY), build_claimed=True)
    wait = delay(config().build_retry, 1, build_id(2))
    assert wait is not None
    assert next_try(DAILY, snapshot(known), failed(2, NOW), config(DAILY), NOW) == NOW + wait


def test_after_the_limit_it_is_the_next_tick_or_nothing() -> None:
    before = [failed(n, TICK + n * MINUTE, took=MINUTE) for n in (2, 3, 4, 5)]
    assert after(DAILY, failed(6, NOW), *before, YESTERDAY) == NEXT_TICK
    assert after(UNSCHEDULED, failed(6, NOW), *before, YESTERDAY) is None


@pytest.mark.parametrize("kind", [FailureClass.CONFIG, FailureClass.TOOL, FailureClass.CANCELLED])
def test_what_a_retry_cannot_mend_waits_for_the_next_tick_or_somebody(kind: FailureClass) -> None:
    assert after(DAILY, failed(2, NOW, kind), YESTERDAY) == NEXT_TICK
    assert after(UNSCHEDULED, failed(2, NOW, kind), YESTERDAY) is None


def test_an_image_that_fails_its_test_is_built_once_more_after_the_longest_wait() -> None:
    longest = config().build_retry.longest
    again = after(DAILY, failed(2, NOW, FailureClass.TEST), YESTERDAY)
    assert again is not None
    assert NOW + longest <= again <= NOW + longest * 5 / 4
    first = failed(2, TICK + MINUTE, FailureClass.TEST)
    assert after(DAILY, failed(3, NOW, FailureClass.TEST), first, YESTERDAY) == NEXT_TICK
    assert after(UNSCHEDULED, failed(3, NOW, FailureClass.TEST), first, YESTERDAY) is None
    # A mirror that failed in between is another matter.
    broken = failed(3, NOW - MINUTE, took=MINUTE)
    between = after(DAILY, failed(4, NOW, FailureClass.TEST), broken, first, YESTERDAY)
    assert between is not None
    assert between >= NOW + longest


def test_the_limit_of_retries_holds_for_tests_as_well() -> None:
    settings = replace(config(DAILY), build_retry=replace(config().build_retry, limit=1))
    last = failed(2, NOW, FailureClass.TEST)
    assert next_try(DAILY, snapshot(records(YESTERDAY)), last, settings, NOW) == NEXT_TICK


def test_a_paused_image_has_no_next_try() -> None:
    assert after(diskimage(pause=True), failed(2, NOW), YESTERDAY) is None


def test_an_interrupted_build_is_begun_again_at_once() -> None:
    assert after(DAILY, failed(2, NOW, FailureClass.INTERRUPTED), YESTERDAY) == NOW
    wished = failed(2, NOW, FailureClass.INTERRUPTED, request=WISH)
    assert after(DAILY, wished, WISH, YESTERDAY) == NOW


# -- builds that kill their daemons -------------------------------------------------------------------


def interrupted(count: int, **changes: object) -> list[Build]:
    """So many interrupted builds in a row, since the tick."""
    return [
        failed(n, TICK + n * MINUTE, FailureClass.INTERRUPTED, took=MINUTE, **changes)
        for n in range(count + 1, 1, -1)
    ]


def test_builds_that_are_interrupted_again_and_again_are_given_up() -> None:
    few = records(*interrupted(INTERRUPTIONS - 1), YESTERDAY)
    assert decide(DAILY, few, config(DAILY), NOW).verdict is Verdict.NOW
    enough = records(*interrupted(INTERRUPTIONS), YESTERDAY)
    decision = decide(DAILY, enough, config(DAILY), NOW)
    assert (decision.verdict, decision.due) == (Verdict.LATER, NEXT_TICK)
    assert "5 builds in a row failed, last: interrupted: it broke. That is the limit;" in decision.reason
    assert decide(DAILY, enough, config(DAILY), NEXT_TICK).verdict is Verdict.NOW


def test_anything_else_between_makes_it_no_row() -> None:
    mixed = [*interrupted(INTERRUPTIONS), YESTERDAY]
    mixed[2] = failed(4, mixed[2].state_time)
    later = NOW + HOUR
    assert decide(UNSCHEDULED, records(*mixed), config(UNSCHEDULED), later).verdict is Verdict.NOW


def test_somebodys_wish_is_not_tried_for_ever() -> None:
    few = records(*interrupted(INTERRUPTIONS - 1, request=WISH), WISH, YESTERDAY)
    assert not served(few, WISH)
    assert decide(DAILY, few, config(DAILY), NOW).verdict is Verdict.NOW
    enough = records(*interrupted(INTERRUPTIONS, request=WISH), WISH, YESTERDAY)
    assert served(enough, WISH)
    # The wish is gone, and the tick of today is given up as well.
    assert decide(DAILY, enough, config(DAILY), NOW).due == NEXT_TICK


def test_a_new_wish_is_tried_anew() -> None:
    again = asked(NOW)
    known = records(*interrupted(INTERRUPTIONS, request=WISH), again, YESTERDAY)
    assert not served(known, again)
    assert decide(DAILY, known, config(DAILY), NOW).verdict is Verdict.NOW


# -- cancellations --------------------------------------------------------------------------------

RUNNING = building(2, NOW - MINUTE)
CANCELLED = Cancellation(image=IMAGE, build_id=RUNNING.id, by="ann", time=NOW, why="wrong\nmirror.")


def kinds(known: ImageRecords) -> list[tuple[CleanupKind, Verdict]]:
    plan = plan_cleanup(config(DAILY), snapshot(known), NOW, builder_id=HERE, active=frozenset())
    return [(action.kind, action.verdict) for action in plan]


def test_a_build_that_was_cancelled_says_so_while_it_runs() -> None:
    known = records(RUNNING, build_claimed=True, cancellation=CANCELLED)
    assert decide(DAILY, known, config(DAILY), NOW).reason.endswith(
        "phase packages. It was cancelled by ann at 2026-11-21 14:30 UTC: wrong mirror, and is about to end."
    )
    assert kinds(known) == []


def test_the_wish_to_cancel_another_build_says_nothing_of_this_one() -> None:
    other = replace(CANCELLED, build_id=build_id(7))
    known = records(RUNNING, build_claimed=True, cancellation=other)
    assert "cancelled" not in decide(DAILY, known, config(DAILY), NOW).reason


def test_a_cancelled_build_whose_builder_is_gone_is_failed_first() -> None:
    known = records(RUNNING, cancellation=CANCELLED)
    (action,) = plan_cleanup(config(DAILY), snapshot(known), NOW, builder_id=HERE, active=frozenset())
    assert action.kind is CleanupKind.FAIL_BUILD
    assert action.reason == (
        "Build 00000002 has no builder any more"
        " and was cancelled by ann at 2026-11-21 14:30 UTC: wrong mirror."
    )


@pytest.mark.parametrize("left", [[], [ready(2, NOW)], [failed(2, NOW)]])
def test_a_wish_that_outlived_its_build_is_withdrawn(left: list[Build]) -> None:
    assert kinds(records(*left, cancellation=CANCELLED)) == [(CleanupKind.WITHDRAW_CANCELLATION, Verdict.NOW)]

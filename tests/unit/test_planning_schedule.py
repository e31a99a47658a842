"""When a schedule ticks, and how long failures are waited out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config.model import RetryPolicy, ScheduleEntry
from builder.planning.retry import delay
from builder.planning.schedule import last_tick, next_tick
from tests.unit.planning_world import unhurried

DAILY = "14 14 * * *"


def entry(cron: str, zone: str = "UTC") -> ScheduleEntry:
    return ScheduleEntry(text=f"{cron} {zone}", cron=cron, zone=zone)


TICK = datetime(2026, 11, 21, 14, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "now", "last", "following"),
    [
        (DAILY, TICK, TICK, TICK + timedelta(days=1)),
        (DAILY, TICK + timedelta(microseconds=1), TICK, TICK + timedelta(days=1)),
        (DAILY, TICK - timedelta(microseconds=1), TICK - timedelta(days=1), TICK),
        (DAILY, TICK + timedelta(hours=5), TICK, TICK + timedelta(days=1)),
        ("0 6 * * 1", TICK, datetime(2026, 11, 16, 6, tzinfo=UTC), datetime(2026, 11, 23, 6, tzinfo=UTC)),
        ("0 0 29 2 *", TICK, datetime(2024, 2, 29, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_ticks_around_a_moment(cron: str, now: datetime, last: datetime, following: datetime) -> None:
    assert last_tick(entry(cron), now) == last
    assert next_tick(entry(cron), now) == following


def test_a_schedule_is_in_utc_whatever_zone_the_moment_is_given_in() -> None:
    in_tokyo = TICK.astimezone(timezone(timedelta(hours=9)))
    assert last_tick(entry(DAILY), in_tokyo) == TICK
    assert last_tick(entry(DAILY), in_tokyo).tzinfo is UTC


@pytest.mark.parametrize("cron", ["no cron", "0 0 30 2 *", "61 * * * *"])
def test_an_expression_without_a_tick_is_a_value_error(cron: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        next_tick(entry(cron), TICK)


@unhurried
@given(
    st.sampled_from([DAILY, "* * * * *", "*/7 3 * * *", "0 0 1 * *", "5 4 * * sun"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
)
def test_no_tick_lies_between_the_last_and_the_next(cron: str, now: datetime) -> None:
    last, following = last_tick(entry(cron), now), next_tick(entry(cron), now)
    assert last <= now < following
    assert next_tick(entry(cron), last) == following
    assert last_tick(entry(cron), following) == following
    assert last.fold == following.fold == 0


POLICY = RetryPolicy(first=timedelta(minutes=1), longest=timedelta(minutes=6), limit=6)


@pytest.mark.parametrize(("failures", "minutes"), [(1, 1), (2, 2), (3, 4), (4, 6), (5, 6)])
def test_each_failure_doubles_the_wait_up_to_the_longest(failures: int, minutes: int) -> None:
    base = timedelta(minutes=minutes)
    waits = {delay(POLICY, failures, f"build {n}") for n in range(200)}
    assert all(wait is not None and base <= wait <= base * 1.25 for wait in waits)
    assert len(waits) > 100, "different builds must spread out"


@pytest.mark.parametrize("failures", [6, 7, 100_000])
def test_at_the_limit_there_is_no_next_try(failures: int) -> None:
    assert delay(POLICY, failures, "x") is None


def test_the_same_question_has_the_same_answer() -> None:
    assert delay(POLICY, 3, "x") == delay(POLICY, 3, "x")


def test_thousands_of_failures_do_not_overflow() -> None:
    patient = RetryPolicy(first=timedelta(days=1), longest=timedelta(days=2), limit=1_000_000)
    wait = delay(patient, 100_000, "x")
    assert wait is not None
    assert wait <= timedelta(days=2.5)

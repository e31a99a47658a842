"""When a schedule ticks where clocks are changed: every tick once, in order, and none lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config.model import ScheduleEntry
from builder.planning.schedule import delays, last_tick, next_tick
from tests.unit.planning_world import HOUR, config, diskimage, every, following, unhurried

SECOND = timedelta(seconds=1)


def entry(cron: str, zone: str) -> ScheduleEntry:
    return ScheduleEntry(text=f"{cron} {zone}", cron=cron, zone=zone)


def utc(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


#: What the clocks do, an entry, and its ticks around that, all of them.
DAYS = {
    "Berlin skips 02:00 to 03:00, so 02:30 is at 03:00": (
        entry("30 2 * * *", "Europe/Berlin"),
        ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"],
    ),
    "Berlin shows 02:00 to 03:00 twice, so 02:30 is the first one": (
        entry("30 2 * * *", "Europe/Berlin"),
        ["2026-10-24 00:30", "2026-10-25 00:30", "2026-10-26 01:30"],
    ),
    "what is skipped in Berlin is one tick, whichever comes to it": (
        entry("*/20 2,3 * * *", "Europe/Berlin"),
        ["2026-03-29 01:00", "2026-03-29 01:20", "2026-03-29 01:40", "2026-03-30 00:00"],
    ),
    "while Berlin shows an hour for the second time, nothing ticks": (
        entry("*/30 * * * *", "Europe/Berlin"),
        ["2026-10-25 00:00", "2026-10-25 00:30", "2026-10-25 02:00", "2026-10-25 02:30"],
    ),
    "a day in Berlin has its tick at noon, whatever became of its night": (
        entry("0 12 * * *", "Europe/Berlin"),
        ["2026-03-28 11:00", "2026-03-29 10:00", "2026-03-30 10:00"],
    ),
    "New York skips 02:00 to 03:00": (
        entry("30 2 * * *", "America/New_York"),
        ["2026-03-07 07:30", "2026-03-08 07:00", "2026-03-09 06:30"],
    ),
    "New York shows 01:00 to 02:00 twice": (
        entry("30 1 * * *", "America/New_York"),
        ["2026-10-31 05:30", "2026-11-01 05:30", "2026-11-02 06:30"],
    ),
    "Lord Howe skips half an hour": (
        entry("15 2 * * *", "Australia/Lord_Howe"),
        ["2026-10-02 15:45", "2026-10-03 15:30", "2026-10-04 15:15"],
    ),
    "Lord Howe shows half an hour twice": (
        entry("45 1 * * *", "Australia/Lord_Howe"),
        ["2026-04-03 14:45", "2026-04-04 14:45", "2026-04-05 15:15"],
    ),
    "Apia had no 30 December 2011: its noon is when the day after begins": (
        entry("0 12 * * *", "Pacific/Apia"),
        ["2011-12-29 22:00", "2011-12-30 10:00", "2011-12-30 22:00", "2011-12-31 22:00"],
    ),
    "Apia had no 30 December 2011, so its hours are one tick": (
        entry("0 */12 * * *", "Pacific/Apia"),
        ["2011-12-29 22:00", "2011-12-30 10:00", "2011-12-30 22:00"],
    ),
    "Kolkata is half an hour off all year": (
        entry("0 2 * * *", "Asia/Kolkata"),
        ["2026-03-28 20:30", "2026-03-29 20:30"],
    ),
    "a weekday is one of the zone, not of UTC": (
        entry("0 6 * * mon", "Asia/Tokyo"),
        ["2026-11-15 21:00", "2026-11-22 21:00"],
    ),
}


@pytest.mark.parametrize("story", DAYS)
def test_ticks_where_clocks_are_changed(story: str) -> None:
    each, written = DAYS[story]
    ticks = [utc(text) for text in written]
    for tick, following_tick in pairwise(ticks):
        assert next_tick(each, tick) == following_tick
        assert next_tick(each, following_tick - SECOND) == following_tick
        assert last_tick(each, following_tick - SECOND) == tick
        assert last_tick(each, following_tick) == following_tick
        for part in range(1, 12):
            between = tick + (following_tick - tick) * part / 12
            assert (last_tick(each, between), next_tick(each, between)) == (tick, following_tick)


#: When clocks were changed, or will be.
CHANGES = [
    ("Europe/Berlin", "2026-03-29 01:00"),
    ("Europe/Berlin", "2026-10-25 01:00"),
    ("America/New_York", "2026-03-08 07:00"),
    ("America/New_York", "2026-11-01 06:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Asia/Tehran", "2021-03-21 20:30"),
    ("UTC", "2026-03-29 01:00"),
]


@unhurried
@given(
    where=st.sampled_from(CHANGES),
    cron=st.sampled_from(["*/15 * * * *", "30 2 * * *", "0 0 * * *", "45 1 * * 0", "*/7 1-3 * * *"]),
    before=st.integers(0, 36 * 60).map(lambda minutes: timedelta(minutes=minutes)),
    steps=st.lists(st.integers(1, 5 * 3600).map(lambda s: timedelta(seconds=s)), min_size=1, max_size=25),
)
def test_whenever_one_looks_each_tick_is_seen_once_and_in_order(
    where: tuple[str, str], cron: str, before: timedelta, steps: list[timedelta]
) -> None:
    """Around changes of clocks: who looks at any moments finds each tick that was, and none twice."""
    zone, change = where
    each = entry(cron, zone)
    start = now = utc(change) - before
    end = start + sum(steps, timedelta())
    ticks = [last_tick(each, start)]
    while (tick := next_tick(each, ticks[-1])) <= end:
        assert tick > ticks[-1]
        ticks.append(tick)
    for step in steps:
        now += step
        last = last_tick(each, now)
        assert last == max(t for t in ticks if t <= now)
        assert next_tick(each, now) > now
        assert last_tick(each, next_tick(each, now)) == next_tick(each, now)
        assert last.tzinfo is UTC


@unhurried
@given(
    zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/New_York"]),
    day=st.integers(0, 364).map(lambda days: datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=days)),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
)
def test_a_daily_entry_ticks_on_each_day_of_the_calendar(
    zone: str, day: datetime, hour: int, minute: int
) -> None:
    each = entry(f"{minute} {hour} * * *", zone)
    first = next_tick(each, day)
    second = next_tick(each, first)
    days = [tick.astimezone(ZoneInfo(zone)).date() for tick in (first, second)]
    assert days[1] - days[0] == timedelta(days=1)


def test_an_entry_that_follows_an_image_has_no_ticks_of_its_own() -> None:
    (each,) = following("base")
    with pytest.raises(ValueError, match="@after base"):
        last_tick(each, utc("2026-11-21 14:14"))


def test_images_that_share_an_entry_are_spread_by_name() -> None:
    nightly, weekly = every("0 2 * * *"), every("0 3 * * 0")
    images = [
        diskimage("c", schedule=nightly),
        diskimage("a", schedule=nightly + weekly),
        diskimage("b", schedule=nightly),
        diskimage("d", schedule=()),
        diskimage("e", schedule=following("a")),
        diskimage("f", schedule=following("a")),
    ]
    assert delays(config(*images, spread=3 * HOUR)) == {
        ("b", "0 2 * * *"): HOUR,
        ("c", "0 2 * * *"): 2 * HOUR,
    }
    assert delays(config(*images)) == {}
    assert delays(config(*reversed(images), spread=3 * HOUR)) == delays(config(*images, spread=3 * HOUR))

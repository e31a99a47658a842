"""Values as people read them, and as nothing that a terminal would obey."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import text
from builder.cli.cells import Cell, Seconds


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (41.4, "41s"),
        (59.6, "1m 0s"),
        (725, "12m 5s"),
        (3 * 3600 + 12 * 60 + 59, "3h 12m"),
        (5 * 86400 + 2 * 3600, "5d 2h"),
        (-90, "-1m 30s"),
    ],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (352_000_000, "352.0 MB"),
        (999_949_999, "999.9 MB"),
        (999_950_000, "1.0 GB"),
        (10**17, "100000.0 TB"),
    ],
)
def test_a_size_has_one_digit_after_the_point(count: int, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [
        (0, 10, "0 %, 0 of 10 B"),
        (810_000_000, 1_800_000_000, "45 %, 0.8 of 1.8 GB"),
        (8_100, 1_800_000_000, "0 %, 0.0 of 1.8 GB"),
        (1_800_000_001, 1_800_000_000, "100 %, 1.8 of 1.8 GB"),
        (-5, 10, "0 %, 0 of 10 B"),
        (5, 0, "0 %, 5 of 0 B"),
    ],
)
def test_bytes_that_move_are_shown_in_the_unit_of_the_whole(done: int, total: int, shown: str) -> None:
    assert text.progress(done, total) == shown


@pytest.mark.parametrize(
    ("left", "over", "shown"),
    [
        (0, 0, "about to end"),
        (1, 0, "about 5s left"),
        (38, 0, "about 40s left"),
        (101, 0, "about 1m 40s left"),
        (0, 123, "2m 3s longer than ever"),
    ],
)
def test_what_is_left_is_no_more_exact_than_it_can_be(left: float, over: float, shown: str) -> None:
    assert text.rest(left, over) == shown


def test_times_are_shown_in_utc_wherever_they_come_from() -> None:
    there = datetime(2026, 1, 31, 16, 14, tzinfo=timezone(timedelta(hours=2)))
    assert text.iso(there) == "2026-01-31T14:14:00Z"
    assert text.moment(there) == "2026-01-31 14:14:00 UTC"
    assert datetime.fromisoformat(text.iso(there)) == there.astimezone(UTC)


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("back\bspace", "back\\x08space"),
        ("one\x9bm", "one\\x9bm"),
        ("abc\u202edef", "abc\\u202edef"),
        ("Grüße, 画像", "Grüße, 画像"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(evil: str, shown: str) -> None:
    assert text.visible(evil) == shown


@given(st.text())
def test_no_text_whatever_reaches_a_table_with_controls_in_it(anything: str) -> None:
    shown = text.one_line(anything)
    assert "\n" not in shown
    assert shown.isprintable()


def test_a_long_text_is_cut_where_it_is_seen() -> None:
    assert text.one_line("one  two\nthree", 8) == "one two…"
    assert text.one_line("one two", 7) == "one two"


def test_what_is_not_known_sorts_last_and_shows_as_nothing() -> None:
    cells = [Seconds(None), Seconds(3), Seconds(1)]
    assert [c.machine_readable() for c in sorted(cells)] == [1, 3, None]
    assert Cell(None).human_readable() == ""

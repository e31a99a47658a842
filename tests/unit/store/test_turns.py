"""Turns of builds follow each other, and come back as they were written."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import Turn
from builder.store.turns import TURNS, begun, decode_turns, encode_turns, ended
from tests.contract.records import NOON, a_turn
from tests.unit.store.test_codec import odd_values, texts, times

turns = st.builds(
    Turn,
    build_id=texts,
    upload=texts,
    since=times,
    until=st.none() | times,
    by=texts,
    why=texts,
    ended_why=texts,
)


@given(st.lists(turns, max_size=4))
def test_turns_come_back_as_they_were(written: list[Turn]) -> None:
    assert decode_turns(encode_turns(written)) == tuple(written)


@pytest.mark.parametrize("data", [b"", b"null", b"7", b"{}", b"[", b"\xff", b'{"since": 1}'])
def test_what_is_no_list_of_turns_says_nothing(data: bytes) -> None:
    assert decode_turns(data) == ()


@given(st.dictionaries(st.sampled_from(["build", "upload", "since", "until", "by", "why"]), odd_values))
def test_a_turn_that_can_not_be_read_takes_no_other_with_it(odd: dict[str, Any]) -> None:
    good = json.loads(encode_turns([a_turn()]))
    read = decode_turns(json.dumps([7, None, *good, {**odd, "upload": 7}]).encode())
    assert read == (a_turn(),)


def test_what_a_later_version_wrote_stays_on_a_turn() -> None:
    said = {**json.loads(encode_turns([a_turn()]))[0], "canary": {"deep": [1]}}
    read = decode_turns(json.dumps([said]).encode())
    after = begun(read, a_turn(2, hours=1))
    assert json.loads(encode_turns(after))[1]["canary"] == {"deep": [1]}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12))
def test_however_they_begin_one_lasts_and_none_ends_before_it_began(played: list[tuple[int, int]]) -> None:
    there: tuple[Turn, ...] = ()
    for number, hours in played:
        there = begun(there, a_turn(number, hours=hours))
        assert there[0].upload == a_turn(number).upload
        assert [turn.until is None for turn in there] == [True] + [False] * (len(there) - 1)
        assert all(turn.until is None or turn.until >= turn.since for turn in there)
    assert len(there) <= TURNS


def test_a_turn_that_goes_on_after_another_was_broken_off_begins_no_sooner_than_that() -> None:
    serves, broken_off = a_turn(1), a_turn(2, hours=2)
    again, other, first = begun(begun((serves,), broken_off), serves)
    assert (other.since, other.until) == (broken_off.since, broken_off.since)
    assert (again.since, again.until, first.until) == (broken_off.since, None, broken_off.since)


def test_a_turn_of_another_upload_does_not_end() -> None:
    there = (a_turn(),)
    assert ended(there, a_turn(2).upload, NOON + timedelta(hours=1), "x") == there
    over = replace(there[0], until=NOON, ended_why="it went")
    assert ended(there, there[0].upload, NOON - timedelta(hours=1), "it went") == (over,)

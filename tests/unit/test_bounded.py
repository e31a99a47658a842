"""Calls that are made at the same time, and those that never come back."""

from __future__ import annotations

import threading
import time

import pytest

from builder.bounded import at_once


def test_results_come_in_the_order_of_the_calls() -> None:
    first_may_end = threading.Event()

    def first() -> str:
        assert first_may_end.wait(30)
        return "first"

    def second() -> str:
        first_may_end.set()
        return "second"

    # One after the other, the first would wait for ever.
    assert at_once([first, second], seconds=30) == ["first", "second"]


def test_nothing_to_do_is_done_at_once() -> None:
    assert at_once([], seconds=30) == []


def test_who_does_not_answer_in_time_is_left_behind() -> None:
    forever = threading.Event()
    began = time.monotonic()
    try:
        assert at_once([lambda: "here", lambda: str(forever.wait(60))], seconds=0.5) == ["here", None]
    finally:
        forever.set()
    assert time.monotonic() - began < 30


def test_what_a_call_raises_is_raised() -> None:
    def broken() -> str:
        raise LookupError("a bug")

    forever = threading.Event()
    with pytest.raises(LookupError, match="a bug"):
        at_once([broken, lambda: str(forever.wait(60))], seconds=60)
    forever.set()


def test_waiting_ends_when_somebody_says_so() -> None:
    forever = threading.Event()

    def enough() -> None:
        raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        at_once([lambda: str(forever.wait(60))], seconds=60, on_look=enough)
    forever.set()

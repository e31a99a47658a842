"""A withholding in the property of an image comes back as it was; whatever else is there withholds, too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import Withholding
from builder.withheldmark import LIMIT, from_text, to_text

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
moments = st.datetimes(datetime(2016, 1, 1), datetime(2100, 1, 1)).map(lambda each: each.replace(tzinfo=UTC))


def word(provider: str | None = None, why: str = "", time: datetime = NOW) -> Withholding:
    return Withholding(provider=provider, by="ann", time=time, why=why)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (word(), "2026-11-22T08:00:00+00:00 everywhere"),
        (word(why="no SSH"), "2026-11-22T08:00:00+00:00 everywhere: no SSH"),
        (word("north"), "2026-11-22T08:00:00+00:00 here"),
        (word("north", why="no\n  SSH"), "2026-11-22T08:00:00+00:00 here: no SSH"),
        (word(why="\U0001f600 üß"), "2026-11-22T08:00:00+00:00 everywhere: üß"),
    ],
)
def test_it_is_told_shortly(said: Withholding, text: str) -> None:
    assert to_text(said) == text


@given(st.sampled_from([None, "north"]), moments, st.text(max_size=400))
def test_what_was_told_comes_back(provider: str | None, time: datetime, why: str) -> None:
    text = to_text(word(provider, why, time))
    assert len(text) <= LIMIT and text.isprintable()
    told = from_text(text, "north")
    assert told is not None
    assert (told.provider, told.time) == (provider, time)
    assert to_text(told) == text


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_nothing_told_is_nothing_withheld(text: str) -> None:
    assert from_text(text, "north") is None


@pytest.mark.parametrize(
    "text",
    ["yes", "2026-11-22 somewhere", "2026-11-22T08:00:00+00:00", "9999-99-99T00:00:00+00:00 here: x", "\x00"],
)
def test_whatever_else_is_there_withholds_it_where_the_image_is(text: str) -> None:
    told = from_text(text, "north")
    assert told is not None and told.provider == "north"
    assert told.why.isprintable()

"""Tables of plain text look as PrettyTable's do."""

from __future__ import annotations

import argparse
import io

import pytest
from cliff.formatters.table import TableFormatter
from hypothesis import given, settings
from hypothesis import strategies as st
from prettytable import PrettyTable

from builder.cli import grid
from builder.cli.cells import Bytes, Cell, Lines
from builder.cli.formatters import QuickTableFormatter

WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("…"), max_size=20)


@settings(deadline=None)  # PrettyTable imports much at its first table
@given(st.data(), st.lists(WORDS.filter(bool), min_size=1, max_size=5, unique=True))
def test_it_draws_what_prettytable_draws(data: st.DataObject, columns: list[str]) -> None:
    cells = st.lists(WORDS, min_size=len(columns), max_size=len(columns))
    rows = data.draw(st.lists(cells, min_size=1, max_size=5))
    table = PrettyTable(columns)
    table.align = "l"
    table.add_rows(rows)
    assert all(map(grid.is_plain, [*columns, *(cell for row in rows for cell in row)]))
    assert grid.draw(columns, rows) == table.get_string()


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "\x1b[1m", "日本", "e\u0301", "\u200b"])
def test_what_takes_another_width_is_not_plain(text: str) -> None:
    assert not grid.is_plain(text)


@pytest.mark.parametrize(
    "rows",
    [
        [(Cell("a"), Bytes(7)), (Cell(None), Bytes(None))],
        [(Cell("日本"), Cell("b"))],
        [(Cell("a"), Lines(["b", "c"], ["b", "c"]))],
        [("text", 7)],
        [],
    ],
)
@pytest.mark.parametrize("options", [{}, {"max_width": 20}, {"fit_width": True}, {"print_empty": True}])
def test_every_table_is_what_cliff_makes_of_it(
    rows: list[tuple[object, ...]], options: dict[str, object]
) -> None:
    parsed = argparse.Namespace(**{"max_width": 0, "fit_width": False, "print_empty": False, **options})
    ours, cliffs = io.StringIO(), io.StringIO()
    QuickTableFormatter().emit_list(["one", "two"], iter(rows), ours, parsed)
    TableFormatter().emit_list(["one", "two"], rows, cliffs, parsed)
    assert ours.getvalue() == cliffs.getvalue()

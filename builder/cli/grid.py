"""Draws a table of plain text as PrettyTable draws it, in a tenth of its time.

PrettyTable measures, wraps and aligns each cell for whatever script and width it may come to; thousands of
uploads take it longer than everything else that shows them. What it takes more than this for (other scripts,
cells of several lines, tables that have to fit) stays with it.
"""

from __future__ import annotations

from collections.abc import Sequence

#: The one character beyond ASCII that we put into tables ourselves: what was cut ends with it.
_CUT = "…"


def is_plain(text: str) -> bool:
    """Whether each character of a cell takes one place on one line."""
    return (text.isascii() or text.replace(_CUT, "").isascii()) and text.isprintable()


def draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table, its cells to the left; all of them have to be plain."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    rule = f"+{'+'.join('-' * (width + 2) for width in widths)}+"
    line = f"| {' | '.join(f'{{:<{width}}}' for width in widths)} |"
    lines = [line.format(*row) for row in rows]
    return "\n".join([rule, line.format(*columns), rule, *lines, rule])

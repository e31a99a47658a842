"""Prints a comparison for people, in the manner of a unified diff."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from builder.cli.text import visible
from builder.config.differences import ABSENT, Change, Comparison, steps


def lines(comparison: Comparison) -> Iterator[str]:
    """The lines; none but the first two when nothing differs."""
    yield f"--- {comparison.kind} {comparison.before}"
    yield f"+++ {comparison.kind} {comparison.after}"
    yield from _changed(comparison.changes, "")


def _changed(changes: Sequence[Change], indent: str) -> Iterator[str]:
    for change in changes:
        if change.inner:
            yield f"  {indent}{visible(change.key)}:"
            yield from _changed(change.inner, f"{indent}  ")
        elif change.is_list:
            yield f"  {indent}{visible(change.key)}:"
            yield from (f"{sign} {indent}  {_shown(item)}" for sign, item in steps(change))
        else:
            sides = (("-", change.before), ("+", change.after))
            for sign, value in sides:
                if value is not ABSENT:
                    yield f"{sign} {indent}{visible(change.key)}: {_shown(value)}"


def _shown(value: Any) -> str:
    """A text as it is, unless it is empty, anything else as JSON, on one line."""
    if value == "":
        return "''"
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

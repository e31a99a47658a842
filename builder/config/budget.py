"""Counts what the templates of one load make, so that rendering a small file never takes long or much memory.

One text is bounded by itself (template.MAX_LENGTH), and so are the values a file can have; a template that is
rendered for each row of a matrix multiplies the two. Loops and the texts that are put together on the way
count as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

#: Characters that all templates of a configuration may make. A thousand platforms with fifty templates of
#: fifty characters each make 2.5 million.
MOST: Final = 16_000_000
#: What a step of a loop, or an item that a filter looks at, counts as.
STEP: Final = 16


class OverBudgetError(Exception):
    """The templates of this load make too much; says what to do about it."""

    def __init__(self) -> None:
        super().__init__(
            f"with this, the templates of the configuration make more than {MOST} characters in all, each"
            f" step of a loop counted as {STEP}: let loops go over less, and write long texts where they are"
            " used instead of in variables of every platform"
        )


class AbandonedError(Exception):
    """The budget was spent by a text before this one, and that was told: the rest is not looked at."""


@dataclass(kw_only=True)
class _Budget:
    left: int = MOST


_CURRENT: Final[ContextVar[_Budget | None]] = ContextVar("budget of the load", default=None)


@contextmanager
def budget() -> Iterator[None]:
    """All that is rendered inside counts together."""
    before = _CURRENT.set(_Budget())
    try:
        yield
    finally:
        _CURRENT.reset(before)


def charge(characters: int) -> None:
    """Note that so many are made; raises OverBudgetError. Outside of a load nothing is counted."""
    current = _CURRENT.get()
    if current is None:
        return
    current.left -= characters
    if current.left < 0:
        raise OverBudgetError


def check() -> None:
    """Raise AbandonedError when nothing is left for another text."""
    current = _CURRENT.get()
    if current is not None and current.left < 0:
        raise AbandonedError


def steps(items: Iterable[Any]) -> Iterator[Any]:
    """The items; each one taken is a step."""
    for item in items:
        charge(STEP)
        yield item


def joined(texts: Iterable[Any], between: str = "") -> str:
    """The texts put together."""
    words = [str(text) for text in texts]
    charge(sum(map(len, words)) + len(between) * len(words))
    return between.join(words)


def replaced(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """str.replace, of whatever has a text."""
    before, limit = str(text), -1 if count is None else count
    found = before.count(str(old))
    charge(len(before) + (found if limit < 0 else min(limit, found)) * len(str(new)))
    return before.replace(str(old), str(new), limit)


def charged(work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja2 that counts what it is given."""
    # Those that want to know where they are called get that first.
    position = 1 if hasattr(work, "jinja_pass_arg") else 0

    @wraps(work)
    def counted(*arguments: Any, **named: Any) -> Any:
        value = arguments[position] if len(arguments) > position else None
        if isinstance(value, str):
            charge(len(value))
        elif isinstance(value, list | tuple | dict | range):
            charge(STEP * len(value))
        return work(*arguments, **named)

    return counted

"""Makes of `budgets` what the builds of a diskimage may come to, and what follows when one comes to more."""

from __future__ import annotations

import re
from typing import Any, Final

from builder.config.inheritance import Recipe
from builder.config.model import BootTest, Budget
from builder.config.problems import Problems, suggestion
from builder.config.schema import BudgetEntry
from builder.config.values import BadValueError, size
from builder.model import BudgetAction, Measure

_PERCENT: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*%\Z")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?\Z")
_COUNT: Final = re.compile(r"[0-9]{1,9}\Z")


def budgets(recipe: Recipe, boot_test: BootTest, problems: Problems) -> tuple[Budget, ...]:
    """What the diskimage's `budgets` come to, in the order of `Measure`; what can't be used is a problem."""
    found: dict[Measure, Budget] = {}
    for name, entry in (recipe.entry.budgets or {}).items():
        if entry is None:
            continue  # a parent's budget that is taken back
        try:
            measure = _measure(name)
            found[measure] = _budget(measure, entry)
            if measure.is_booted and not boot_test.is_done:
                raise BadValueError(
                    "only an image that is booted tells it: say `boot-test: on`, or take this budget out"
                )
        except BadValueError as problem:
            problems.add(recipe.where("budgets", name), str(problem))
    return tuple(found[measure] for measure in Measure if measure in found)


def as_data(found: tuple[Budget, ...]) -> dict[str, Any]:
    """The keys of the file for them."""
    return {str(budget.measure): _keys(budget) for budget in found}


def _keys(budget: Budget) -> dict[str, Any]:
    # All digits that a percentage may have.
    grows = f"{budget.grows:.9g}%" if budget.relative and budget.grows is not None else budget.grows
    limits = {"most": budget.most, "grows": grows}
    return {**{key: limit for key, limit in limits.items() if limit is not None}, "over": str(budget.over)}


def _measure(name: str) -> Measure:
    try:
        return Measure(name)
    except ValueError:
        hint = suggestion(name, Measure) or f"; known: {', '.join(Measure)}"
        raise BadValueError(f"nothing called {name!r} is measured{hint}") from None


def _budget(measure: Measure, entry: BudgetEntry) -> Budget:
    if entry.most is None and entry.grows is None:
        raise BadValueError(f"a budget says {'`most`' if measure.is_new else '`most`, `grows` or both'}")
    if measure.is_new and entry.grows is not None:
        raise BadValueError("what is new is counted against the last good build already: say `most` alone")
    percent = None if entry.grows is None else _PERCENT.match(entry.grows.strip())
    grows = None
    if entry.grows is not None:
        grows = float(percent[1]) if percent else _amount(measure, entry.grows, or_percent=True)
    return Budget(
        measure=measure,
        most=None if entry.most is None else _amount(measure, entry.most),
        grows=grows,
        relative=percent is not None,
        over=BudgetAction(entry.over or Budget.over),
    )


def _amount(measure: Measure, text: str, *, or_percent: bool = False) -> float:
    """A number in the unit of a measure, from 0 on."""
    text = text.strip()
    if measure.is_bytes:
        try:
            return size(text)
        except BadValueError as problem:
            either = "must be a percentage as in '10%', or a size: " if or_percent else ""
            raise BadValueError(f"{either}{problem}") from None
    if not (_SECONDS if measure.is_seconds else _COUNT).match(text):
        what = "a number of seconds" if measure.is_seconds else "a whole number"
        more = ", or a percentage as in '10%'" if or_percent else ""
        raise BadValueError(f"must be {what} from 0 on{more}, not {text!r}")
    return float(text) if measure.is_seconds else int(text)

"""Reads and writes what came of a build's budgets, as a list of objects in its record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from builder.model import BudgetAction, BudgetCheck
from builder.store.fields import Fields, a_number, a_text, a_word, present, unknown

_FIELDS: Final = frozenset({"measure", "sentence", "over", "value", "limit", "baseline"})
_ACTIONS: Final = frozenset(map(str, BudgetAction))


def fields_of(checks: Iterable[BudgetCheck]) -> list[dict[str, Any]]:
    """The list."""
    return [
        {
            **check.extra,
            "measure": check.measure,
            "sentence": check.sentence,
            **present(over=check.over, value=check.value, limit=check.limit, baseline=check.baseline),
        }
        for check in checks
    ]


def read(value: Any) -> tuple[BudgetCheck, ...]:
    """What such a list says, without those from which something follows that nobody here has heard of
    (`strange`)."""
    return tuple(_check(Fields(item, "a budget")) for item in value if not _is_strange(item))


def strange(value: Any) -> list[Any]:
    """Those objects in such a list that `read` leaves out, to be written back as they are."""
    return [item for item in value if _is_strange(item)] if isinstance(value, list) else []


def _check(fields: Fields) -> BudgetCheck:
    return BudgetCheck(
        measure=fields.need("measure", a_word),
        sentence=fields.get("sentence", a_text, ""),
        over=fields.get("over", BudgetAction, None),
        value=fields.get("value", a_number, None),
        limit=fields.get("limit", a_number, None),
        baseline=fields.get("baseline", a_number, None),
        extra=unknown(fields.all, _FIELDS),
    )


def _is_strange(item: Any) -> bool:
    over = item.get("over") if isinstance(item, dict) else None
    return isinstance(over, str) and over not in _ACTIONS

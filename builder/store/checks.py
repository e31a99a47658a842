"""Turns what a check said of an upload's image into an object of its record, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from builder.model import Checked, CheckVerdict
from builder.store.fields import Fields, a_count, a_text, a_time, present, unknown

_FIELDS: Final = frozenset({"verdict", "time", "why", "tries"})
_VERDICTS: Final = frozenset(map(str, CheckVerdict))


def fields_of(checked: Checked | None) -> dict[str, Any] | None:
    """What it said, as an object."""
    if checked is None:
        return None
    return {
        **checked.extra,
        "verdict": str(checked.verdict),
        "time": checked.time.timestamp(),
        **present(why=checked.why or None, tries=checked.tries or None),
    }


def checked_of(value: Any) -> Checked:
    """What it said, of an object; RecordError, ValueError or TypeError."""
    fields = Fields(value, "a check")
    return Checked(
        verdict=fields.need("verdict", CheckVerdict),
        time=fields.need("time", a_time),
        why=fields.get("why", a_text, ""),
        tries=fields.get("tries", a_count, 0),
        extra=unknown(fields.all, _FIELDS),
    )


def is_strange(value: Any) -> bool:
    """Whether it is such an object with a verdict of which nobody here has heard."""
    word = value.get("verdict") if isinstance(value, Mapping) else None
    return isinstance(word, str) and word not in _VERDICTS

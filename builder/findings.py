"""What a check found out: fine, worth knowing, or in the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from builder.model import FailureClass


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  #: work goes on, but worse than it could
    PROBLEM = "problem"  #: work will fail


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    name: str  #: what was looked at, such as "disk" or "mirror"
    level: Level
    text: str  #: what was found and where; no secret, no full stop
    hint: str = ""  #: what to do about it
    failure_class: FailureClass = FailureClass.UNKNOWN  #: of the failure a problem leads to


def fine(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name=name, level=Level.OK, text=text)


def warning(name: str, text: str, *, hint: str = "") -> Finding:
    """It works, but somebody should know."""
    return Finding(name=name, level=Level.WARNING, text=text, hint=hint)


def problem(
    name: str, text: str, *, hint: str = "", failure_class: FailureClass = FailureClass.UNKNOWN
) -> Finding:
    """It can't work like this."""
    return Finding(name=name, level=Level.PROBLEM, text=text, hint=hint, failure_class=failure_class)

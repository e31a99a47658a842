"""What a metric is, and who takes metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """What a metric's value means; the words are statsd's."""

    GAUGE = "g"  #: holds until another value comes
    TIMING = "ms"  #: how long something took, in milliseconds
    COUNT = "c"  #: so many more


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One value under a name of words joined by dots."""

    name: str
    kind: Kind
    value: int


class Sink(Protocol):
    """Who takes metrics."""

    def send(self, metrics: Iterable[Metric], /) -> None:
        """Pass them on. Never raises and never waits: no metric is worth a build."""

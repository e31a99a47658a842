"""Reads the fields of one JSON object into checked values, and writes such values as JSON knows them.

What can't be read is told by the record's and the field's name (RecordError). Times are float seconds of
the epoch, and no value gets in that can't be reckoned with later on: no infinite number, no year 9999.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from sys import intern
from types import MappingProxyType
from typing import Any, Final, TypeVar

from builder.errors import NotFoundError

Value = TypeVar("Value")

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
#: 2200-01-01: far enough from the last year Python knows that retry times can be added.
_LATEST: Final = 7_258_118_400
_LARGEST: Final = 1 << 63


class RecordError(NotFoundError):
    """A node holds no record that we can read; for whoever asks for the record, there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A node's data, and what ZooKeeper says of it."""

    data: bytes
    version: int
    written_by: int  #: id of the transaction that wrote the data (mzxid)
    created: datetime
    modified: datetime


class Fields:
    """The fields of one JSON object, read with an error that says which record is broken."""

    def __init__(self, source: bytes | Mapping[str, Any], what: str) -> None:
        self._what = what
        self.all: Mapping[str, Any] = source if isinstance(source, Mapping) else self._parse(source)

    def need(self, name: str, read: Callable[[Any], Value]) -> Value:
        """A field that has to be there."""
        value = self.all.get(name)
        if value is None:
            raise RecordError(f"the record of {self._what} has no field {name!r}")
        return self._read(name, value, read)

    def _read(self, name: str, value: Any, read: Callable[[Any], Value]) -> Value:
        try:
            return read(value)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError) as error:
            raise RecordError(f"the record of {self._what} has a bad {name!r}: {error}") from error

    def get(self, name: str, read: Callable[[Any], Value], default: Value) -> Value:
        """A field that may be missing or null."""
        value = self.all.get(name)
        return default if value is None else self._read(name, value, read)

    def lenient(self, name: str, read: Callable[[Any], Value], default: Value) -> Value:
        """A field that may be missing, null or unreadable."""
        try:
            return self.get(name, read, default)
        except RecordError:
            return default

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"the record of {self._what} is no JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise RecordError(f"the record of {self._what} is no JSON object")
        return parsed


def as_bytes(record: Mapping[str, Any]) -> bytes:
    """The object as the bytes of a node."""
    return json.dumps(record).encode()


def unknown(fields: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
    """The fields that nobody here knows, to be written back as they were."""
    more = {name: value for name, value in fields.items() if name not in known}
    return MappingProxyType(more) if more else NOTHING


def present(**fields: Any) -> dict[str, Any]:
    """Those fields that say something."""
    return {name: value for name, value in fields.items() if value is not None and value not in ([], {})}


def as_seconds(time: datetime | None) -> float | None:
    """A time as JSON has it."""
    return None if time is None else time.timestamp()


def a_time(value: Any) -> datetime:
    """A time between 1970 and 2200."""
    seconds = a_number(value)
    if not 0 <= seconds < _LATEST:
        raise ValueError(f"{value!r} is no time of this or the next century")
    return datetime.fromtimestamp(seconds, UTC)


def a_number(value: Any) -> float:
    """A finite number, also one written as text."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


def a_text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def a_word(value: Any) -> str:
    """Text that many records have in common, of which one is kept for all."""
    return intern(a_text(value))


def an_integer(value: Any) -> int:
    """A whole number that fits into eight bytes."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")
    # What is larger is no fact, and overflows the floats that it meets later on.
    if not -_LARGEST < value < _LARGEST:
        raise ValueError("a number is out of all bounds")
    return value


def a_flag(value: Any) -> bool:
    """Yes or no, and nothing that merely counts as such."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def a_count(value: Any) -> int:
    """Bytes, or how many."""
    count = an_integer(value)
    if count < 0:
        raise ValueError(f"{count} is no count")
    return count


def some_texts(value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(a_text(item) for item in value)


def some_formats(value: Any) -> tuple[str, ...]:
    """Formats as nodepool joins them."""
    return tuple(part for part in a_text(value).split(",") if part)


def a_text_map(value: Any) -> Mapping[str, str]:
    """Texts by their names."""
    return MappingProxyType({name: a_text(item) for name, item in value.items()})


def some_timings(value: Any) -> Mapping[str, float]:
    """Numbers by their names."""
    return MappingProxyType({name: a_number(item) for name, item in value.items()})

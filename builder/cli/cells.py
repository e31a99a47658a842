"""Values of a table that read well on a screen and exactly in JSON, YAML, CSV and `value`.

A Cell keeps the machine's value (seconds, bytes, ISO 8601 text, a list, None) and knows the text
for people. None is shown as nothing. Cells sort by their value, None last.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cliff.columns import FormattableColumn

from builder.cli import text

#: Characters of a reason in a table; `show` has all of it.
REASON_WIDTH = 60
#: Characters of a line of what is to be read whole in a table.
PARAGRAPH_WIDTH = 56
#: Digits of a build id in a list; the length of the ids that nodepool gave before version 9.
SHORT_ID, OLD_ID = 8, 10


class Cell(FormattableColumn[Any]):
    """A value shown as it is, on one line, with nothing in it that acts on a terminal."""

    def __init__(self, value: Any) -> None:
        # A StrEnum is text in JSON but unknown to YAML's safe dumper.
        super().__init__(str(value) if isinstance(value, str) else value)

    def human_readable(self) -> str:
        """The text of a table."""
        return "" if self._value is None else self.shown()

    def shown(self) -> str:
        """The text of a value that is not None."""
        return text.one_line(str(self._value))

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Cell):
            return NotImplemented
        if self._value is None or other._value is None:
            return self._value is not None
        return bool(self._value < other._value)


class Flag(Cell):
    """Yes or no."""

    def shown(self) -> str:
        return "yes" if self._value else "no"


class Seconds(Cell):
    """A duration: seconds, to the millisecond, for machines; `3h 12m` for people."""

    def __init__(self, value: float | None) -> None:
        super().__init__(None if value is None else round(value, 3))

    def shown(self) -> str:
        return text.duration(self._value)


class Bytes(Cell):
    """A size: bytes for machines, `352.0 MB` for people."""

    def shown(self) -> str:
        return text.size(self._value)


class Rate(Cell):
    """Bytes per second, whole ones for machines; `35.2 MB/s` for people."""

    def __init__(self, value: float | None) -> None:
        super().__init__(None if value is None else round(value))

    def shown(self) -> str:
        return f"{text.size(self._value)}/s"


class Share(Cell):
    """A part of a whole: 0 to 1, to the thousandth, for machines; `45 %` for people."""

    def __init__(self, value: float | None) -> None:
        super().__init__(None if value is None else round(value, 3))

    def shown(self) -> str:
        return f"{int(self._value * 100)} %"


class Moment(Cell):
    """A time: ISO 8601 in UTC for machines, `2026-01-31 14:14:00 UTC` for people."""

    def __init__(self, value: datetime | None) -> None:
        super().__init__(None if value is None else text.iso(value))
        self._when = value

    def shown(self) -> str:
        return "" if self._when is None else text.moment(self._when)


class Words(Cell):
    """A list of words: a list for machines, `qcow2, raw` for people."""

    def __init__(self, value: Sequence[str]) -> None:
        super().__init__([str(word) for word in value])

    def shown(self) -> str:
        return text.one_line(", ".join(self._value))


class Reason(Cell):
    """Why: the whole text for machines, its beginning for people."""

    def shown(self) -> str:
        return text.one_line(self._value, REASON_WIDTH)


class Paragraph(Cell):
    """Text that is to be read whole, on as many lines as it takes."""

    def shown(self) -> str:
        return "\n".join(textwrap.wrap(text.one_line(self._value), PARAGRAPH_WIDTH))


class BuildId(Cell):
    """A build's id; people see the first digits, which is what they will type."""

    def shown(self) -> str:
        return text.one_line(short(self._value))


class BuildIds(Words):
    """Several builds: their whole ids for machines, the first digits of each for people."""

    def shown(self) -> str:
        return text.one_line(", ".join(short(build_id) for build_id in self._value))


class UploadName(Cell):
    """An upload's name; people see `5b1e2c3d/devcloud-one/1`."""

    def shown(self) -> str:
        if self._value.count("/") != 2:
            return text.one_line(self._value)  # somebody else wrote that
        build_id, provider, number = self._value.split("/")
        return text.one_line(f"{short(build_id)}/{provider}/{number.lstrip('0') or '0'}")


def short(build_id: str) -> str:
    """The first eight digits of a build id; nodepool's old ten-digit numbers differ in the last ones."""
    return build_id[:SHORT_ID] if len(build_id) > OLD_ID else build_id


class Lines(Cell):
    """Several values that belong together: plain data for machines, a line for each for people."""

    def __init__(self, value: Any, lines: Sequence[str]) -> None:
        super().__init__(value)
        self._lines = tuple(lines)

    def shown(self) -> str:
        return "\n".join(text.visible(line) for line in self._lines)


def pairs(values: Mapping[str, Any]) -> Lines:
    """A mapping: an object for machines, `key: value` lines for people."""
    return Lines(dict(values), [f"{key}: {value}" for key, value in values.items()])

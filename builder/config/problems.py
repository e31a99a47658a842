"""Problems of a configuration, collected so that all of them are told at once."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ConfigError

#: What an entry is reached by: keys of mappings and positions in lists, outermost first.
KeyPath = tuple[str | int, ...]

_SHOWN_LENGTH = 60
#: A template in one place may fail for each of a thousand platforms.
_TOLD_AT_ONE_PLACE = 3
#: Characters of a secret that are looked for in other texts: shorter ones may be part of anything.
_LEAST_SECRET = 6
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SECRET_PARTS = (
    *("PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "SECRET", "CREDENTIAL"),
    *("PRIVATE_KEY", "API_KEY", "ACCESS_KEY"),
)


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Where something is written: a file, a line counted from 1, and the path of keys to it."""

    file: Path
    line: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.path}: " if self.path else f"{self.file}:{self.line}: "


class Problems:
    """Collects what is wrong, each thing once, and raises it in the order of the file."""

    def __init__(self) -> None:
        self._found: dict[tuple[Place, str], None] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: Place, message: str) -> None:
        """Note what is wrong at a place; the same thing said twice counts once."""
        self._found[(place, message)] = None

    def told_of(self, place: Place) -> bool:
        """Whether anything is wrong with what a place is about already."""
        return any((known.file, known.path) == (place.file, place.path) for known, _message in self._found)

    def raise_any(self) -> None:
        """Raise ConfigError with every problem noted so far; do nothing when there is none."""
        if self._found:
            told = sorted(self._told(), key=lambda entry: (entry[0].file, entry[0].line))
            raise ConfigError([_one_line(f"{place}{message}") for place, message in told])

    def _told(self) -> Iterator[tuple[Place, str]]:
        """Every problem, but of many at one place only the first, and how many there are besides."""
        counts: Counter[Place] = Counter()
        for place, message in self._found:
            counts[place] += 1
            if counts[place] <= _TOLD_AT_ONE_PLACE:
                yield place, message
        for place, count in counts.items():
            if count > _TOLD_AT_ONE_PLACE:
                yield place, f"and {count - _TOLD_AT_ONE_PLACE} more such problems"


def _one_line(text: str) -> str:
    """The text without line ends and other control characters, which keys and values may have."""
    return _CONTROL.sub(" ", text)


def path_text(path: KeyPath) -> str:
    """A path as people write it: ("diskimages", 0, "name") is "diskimages[0].name"."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def suggestion(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" when a known word is much like `word`, else all of a few, else ""."""
    choices = sorted(map(str, known))
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if 0 < len(choices) <= 8:
        return f"; known: {', '.join(choices)}"
    return ""


def shown(value: object) -> str:
    """What was written, by kind and shortened, for a message: "text 'abc'", "number 5", "a list"."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"number {shortened(value)}"
        case str():
            return f"text {shortened(value)!r}"
        case list():
            return "a list"
    return "a mapping"


def shortened(value: object) -> str:
    """At most one line's worth of a value."""
    text = str(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


def looks_secret(name: str) -> bool:
    """Whether a variable or key of that name probably holds a secret."""
    upper = name.upper().replace("-", "_")
    return any(part in upper for part in _SECRET_PARTS)


def secret_texts(values: Mapping[str, object]) -> frozenset[str]:
    """The texts and numbers in values whose names look secret, at any depth, long enough to be told from
    ordinary words."""
    found = (text for name, value in values.items() for text in _secrets_of(value, looks_secret(str(name))))
    return frozenset(text for text in found if len(text) >= _LEAST_SECRET)


def _secrets_of(value: object, is_secret: bool) -> Iterator[str]:
    match value:
        case dict():
            for name, inner in value.items():
                yield from _secrets_of(inner, is_secret or looks_secret(str(name)))
        case list() | tuple():
            for inner in value:
                yield from _secrets_of(inner, is_secret)
        case str() | int() | float() if is_secret and not isinstance(value, bool):
            yield str(value).strip()


def text_problem(text: str) -> str | None:
    """Why `text` can't reach a file name, a child process or ZooKeeper; None when it can."""
    if "\0" in text:
        return "must not contain a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a surrogate pair, which no program can be given"
    return None

"""Lays the rows of a platform's matrix over its other keys: one platform as written for each row and
architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from builder.config.checking import Checked
from builder.config.document import MAX_ENTRIES
from builder.config.problems import KeyPath, Place, Problems
from builder.config.schema import Library, MatrixRow, PlatformEntry

#: Platforms that all matrices of a configuration come to.
MAX_EXPANDED: Final = 1_000

#: Keys of a platform that are one text, as PlatformEntry names them.
_TEXTS: Final = (
    *("name", "distribution", "release", "architecture"),
    *("mirror", "security_mirror", "updates_mirror"),
)


@dataclass(frozen=True, kw_only=True)
class WrittenPlatform:
    """A platform as written, with its row of a matrix laid over it; nothing is rendered.

    `texts` are its keys that are one text, where given; `places` tells where a key, or an entry of one, was
    written: ("mirror",), ("variables", "x"); `place` is where the platform, or its row, is.
    """

    texts: Mapping[str, str]
    place: Place
    entry: Place  #: where what the row is laid over begins
    keep_mirrors: bool | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[KeyPath, Place] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, a template until it is rendered."""
        return self.texts["name"]

    def where(self, *path: str | int) -> Place:
        """Where a key of this platform was written, by the names of PlatformEntry."""
        return self.places.get(path, self.place)

    def laid_over(self, other: WrittenPlatform) -> WrittenPlatform:
        """The other one with all that this one says instead."""
        return replace(
            self,
            texts={**other.texts, **self.texts},
            keep_mirrors=other.keep_mirrors if self.keep_mirrors is None else self.keep_mirrors,
            properties={**other.properties, **self.properties},
            variables={**other.variables, **self.variables},
            places={**other.places, **self.places},
        )


class Expansion:
    """Expands one entry after the other, as long as all of them together stay within bounds."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._count = 0
        self._weight = 0

    def expanded(self, file: Checked[Library], position: int) -> Iterator[WrittenPlatform]:
        """The platforms that an entry of `platforms` stands for."""
        entry = (file.content.platforms or [])[position]
        path: KeyPath = ("platforms", position)
        alone = _written(file, path, entry)
        if entry.matrix is None:
            yield alone
            return
        if not entry.matrix and not file.is_cut(*path, "matrix"):
            self._problems.add(file.place(*path, "matrix"), "has no rows, and so there is no such platform")
        weight = _weight(entry.variables) + _weight(entry.properties)
        for number, row in enumerate(entry.matrix):
            for platform in _of_row(file, (*path, "matrix", number), row, alone, self._problems):
                self._weight += weight + _weight(row.variables) + _weight(row.properties)
                if not self._bounded(platform.place):
                    return
                yield platform

    def _bounded(self, place: Place) -> bool:
        self._count += 1
        if self._count > MAX_EXPANDED:
            self._problems.add(place, f"more than {MAX_EXPANDED} platforms come of matrices")
            return False
        if self._weight > MAX_ENTRIES:
            self._problems.add(
                place,
                f"more than {MAX_ENTRIES} variables and properties come of matrices, lists counted by entry",
            )
            return False
        return True


def _of_row(
    file: Checked[Library], path: KeyPath, row: MatrixRow, alone: WrittenPlatform, problems: Problems
) -> Iterator[WrittenPlatform]:
    """A row's platforms, one for each of its architectures."""
    own = _written(file, path, row)
    if row.architectures is None:
        yield own.laid_over(alone)
        return
    if not row.architectures:
        problems.add(file.place(*path, "architectures"), "names no architecture, and so the row no platform")
    for number, architecture in enumerate(row.architectures):
        place = file.place(*path, "architectures", number)
        yield replace(
            own,
            texts={**own.texts, "architecture": architecture},
            place=place,
            places={**own.places, ("architecture",): place},
        ).laid_over(alone)


def _written(file: Checked[Library], path: KeyPath, entry: PlatformEntry | MatrixRow) -> WrittenPlatform:
    """What an entry, or a row of its matrix, says by itself."""
    places: dict[KeyPath, Place] = {}
    for name, info in type(entry).model_fields.items():
        value = getattr(entry, name)
        if value is None:
            continue
        key = info.alias or name
        places[(name,)] = file.place(*path, key)
        if name in ("properties", "variables"):
            places.update({(name, inner): file.place(*path, key, inner) for inner in value})
    texts = {name: getattr(entry, name, None) for name in _TEXTS}
    return WrittenPlatform(
        texts={name: text for name, text in texts.items() if text is not None},
        place=file.place(*path),
        entry=file.place(*path[:2]),
        keep_mirrors=getattr(entry, "keep_mirrors", None),
        properties=entry.properties or {},
        variables=entry.variables or {},
        places=places,
    )


def _weight(value: Any) -> int:
    """How many values there are in one."""
    if isinstance(value, dict):
        return sum(map(_weight, value.values())) + 1
    if isinstance(value, list):
        return sum(map(_weight, value)) + 1
    return 1

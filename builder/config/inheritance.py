"""Merges a diskimage with its parents: elements add up, env-vars, metadata and the like overlay, the rest
replaces.

Each text keeps the place it was written at, which for an inherited one is in the parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import BaseModel

from builder.config.checking import Checked
from builder.config.problems import KeyPath, Place, Problems, suggestion
from builder.config.schema import DiskImageEntry, Library

_NOT_INHERITED: Final = frozenset({"name", "abstract", "parent", "platforms"})
#: What is laid over the same diskimage of an included file leaves all but its name as it is there.
_NOT_LAID_OVER: Final = frozenset({"name", "platforms"})
_ADDED_UP: Final = frozenset({"elements"})
_OVERLAID: Final = frozenset({"env_vars", "metadata", "format_options", "budgets"})
#: Mappings whose keys are known; each is laid over by itself.
_OVERLAID_KEYS: Final = frozenset({"boot_test"})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A diskimage as written, alone or merged with its parents; nothing of it is rendered but its name.

    `places` tells where a key, or an item of one, was written: ("env_vars", "X"), ("elements", 0),
    ("schedule",); `place` is where the diskimage itself is.
    """

    entry: DiskImageEntry
    place: Place
    places: Mapping[KeyPath, Place] = field(default_factory=dict)

    def where(self, *path: str | int) -> Place:
        """Where a key of this diskimage was written, by the names of DiskImageEntry."""
        return self.places.get(path, self.place)


def recipe_of(file: Checked[Library], position: int) -> Recipe:
    """The diskimage at a position of the file, by itself."""
    images = file.content.diskimages or []
    entry = images[position]
    base: KeyPath = ("diskimages", position)
    places: dict[KeyPath, Place] = {}
    for name, info in DiskImageEntry.model_fields.items():
        value = getattr(entry, name)
        path = (*base, info.alias or name)
        if value is None:
            continue
        places[(name,)] = file.place(*path)
        if isinstance(value, BaseModel):
            keys: dict[str | int, str | int] = {k: i.alias or k for k, i in type(value).model_fields.items()}
        else:
            keys = {key: key for key in _items_of(value)}
        for key, written in keys.items():
            places[(name, key)] = file.place(*path, written)
    return Recipe(entry=entry, place=file.place(*base), places=places)


def _items_of(value: object) -> Iterable[str | int]:
    """By what the items of a value are reached; nothing where it has none."""
    if isinstance(value, dict):
        return value
    return range(len(value)) if isinstance(value, list) else ()


def merge_all(
    recipes: Mapping[str, Recipe], written: frozenset[str], problems: Problems
) -> Mapping[str, Recipe]:
    """Every diskimage that can be merged with its parents, by name, abstract ones included.

    `written` are the names of all diskimages of the file, those that have other problems included:
    a child of one of them is left out without a word.
    """
    merger = _Merger(recipes, written, problems)
    merged = {name: merger.merged(name) for name in recipes}
    return {name: recipe for name, recipe in merged.items() if recipe is not None}


class _Merger:
    """Merges each diskimage once, parents first."""

    def __init__(self, recipes: Mapping[str, Recipe], written: frozenset[str], problems: Problems) -> None:
        self._recipes = recipes
        self._written = written
        self._problems = problems
        self._done: dict[str, Recipe | None] = {}

    def merged(self, name: str) -> Recipe | None:
        """The diskimage with all it inherits; None when a parent is missing or it is its own parent."""
        line = self._line_of(name)
        if line is None:
            return None
        result: Recipe | None = None
        for ancestor in line:
            if ancestor not in self._done:
                own = self._recipes[ancestor]
                self._done[ancestor] = own if result is None else _overlay(result, own)
            result = self._done[ancestor]
        return result

    def _line_of(self, name: str) -> list[str] | None:
        """A diskimage's ancestors and itself, the eldest first."""
        line = [name]
        while (parent := self._recipes[line[-1]].entry.parent) is not None:
            if parent in line:
                self._problem_of_cycle(line[line.index(parent) :])
                return None
            if parent not in self._recipes:
                self._problem_of_parent(line[-1], parent)
                return None
            line.append(parent)
        return line[::-1]

    def _problem_of_cycle(self, cycle: list[str]) -> None:
        """Tell a cycle once, at the member that comes first in the file."""
        first = min(cycle, key=lambda name: self._recipes[name].place)
        start = cycle.index(first)
        ordered = [*cycle[start:], *cycle[:start], first]
        self._problems.add(
            self._recipes[first].where("parent"), f"is its own ancestor: {' -> '.join(ordered)}"
        )

    def _problem_of_parent(self, child: str, parent: str) -> None:
        if parent not in self._written:
            known = self._recipes.keys() - {child}
            message = f"there is no diskimage {parent!r}{suggestion(parent, known)}"
            self._problems.add(self._recipes[child].where("parent"), message)


def laid_over(included: Recipe, own: Recipe) -> Recipe:
    """A diskimage of an included file with what the including file says of it, as a child over its parent."""
    return _overlay(included, own, _NOT_LAID_OVER)


def _overlay(parent: Recipe, child: Recipe, left_out: frozenset[str] = _NOT_INHERITED) -> Recipe:
    """The child with everything it does not say itself taken from its parent."""
    fields: dict[str, Any] = {}
    places = dict(child.places)
    for name in DiskImageEntry.model_fields:
        inherited, own = getattr(parent.entry, name), getattr(child.entry, name)
        if name in left_out or inherited is None:
            continue
        if own is None:
            fields[name] = inherited
            places |= {path: place for path, place in parent.places.items() if path[0] == name}
        elif name in _ADDED_UP:
            fields[name] = [*inherited, *own]
            places |= _places_of_sum(name, parent, child)
        elif name in _OVERLAID:
            fields[name] = {**inherited, **own}
            places = {**{p: place for p, place in parent.places.items() if p[0] == name}, **places}
        elif name in _OVERLAID_KEYS:
            said = own.model_dump(exclude_none=True)
            fields[name] = inherited.model_copy(update=said)
            places |= {p: at for p, at in parent.places.items() if p[0] == name and p[-1] not in said}
    return replace(child, entry=child.entry.model_copy(update=fields), places=places)


def _places_of_sum(name: str, parent: Recipe, child: Recipe) -> dict[KeyPath, Place]:
    shift = len(getattr(parent.entry, name))
    count = len(getattr(child.entry, name))
    first: dict[KeyPath, Place] = {(name, i): parent.where(name, i) for i in range(shift)}
    second: dict[KeyPath, Place] = {(name, shift + i): child.where(name, i) for i in range(count)}
    return {**first, **second}

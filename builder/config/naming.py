"""Finds the diskimages of all files by their rendered names, one for each platform that an entry names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from builder.config.checking import Checked
from builder.config.inheritance import Recipe, laid_over, recipe_of
from builder.config.platforms import Platforms
from builder.config.problems import Problems, suggestion
from builder.config.rendering import render_text
from builder.config.schema import Library
from builder.config.sources import Sources
from builder.config.template import is_template, names_for
from builder.model import name_problem

#: Diskimages that all lists of platforms of a configuration come to.
MAX_EXPANDED: Final = 1_000


def named_recipes(sources: Sources, platforms: Platforms, problems: Problems) -> Mapping[str, Recipe]:
    """Every diskimage as written, by its rendered name; of two of the same name in a file, the first.

    What the including file says of a diskimage of an included one is laid over it.
    """
    naming = _Naming(platforms, problems)
    included: dict[str, Recipe] = {}
    for file in sources.included:
        naming.add_all(file, included)
    own: dict[str, Recipe] = {}
    naming.add_all(sources.main, own)
    laid = {name: laid_over(included[name], own[name]) if name in included else own[name] for name in own}
    return {**included, **laid}


class _Naming:
    """Names one diskimage after the other, as long as all of them together stay within bounds."""

    def __init__(self, platforms: Platforms, problems: Problems) -> None:
        self._platforms = platforms
        self._problems = problems
        self._count = 0

    def add_all(self, file: Checked[Library], recipes: dict[str, Recipe]) -> None:
        """Add the diskimages of a file by their names."""
        for position in range(len(file.content.diskimages or [])):
            written = recipe_of(file, position)
            each = [written] if written.entry.platforms is None else self._expanded(written)
            self._add(each, recipes)

    def _add(self, each: Iterable[Recipe], recipes: dict[str, Recipe]) -> None:
        """Add what one entry comes to."""
        mine: dict[str, Recipe] = {}
        for recipe in each:
            named = self._named(recipe)
            if named is None:
                continue
            name = named.entry.name
            if name in mine:
                self._problem_of_name(mine[name], named)
                break
            if name in recipes:
                self._problems.add(recipe.where("name"), f"there are two diskimages named {name!r}")
                continue
            mine[name] = named
        recipes.update(mine)

    def _expanded(self, written: Recipe) -> Iterator[Recipe]:
        """A diskimage for each platform that fits a pattern, in the order of the platforms."""
        entry, problems = written.entry, self._problems
        if entry.platform is not None:
            problems.add(
                written.where("platforms"), "either `platform` or `platforms` can be given, not both"
            )
            return
        if not is_template(entry.name):
            problems.add(
                written.where("name"),
                f"{entry.name!r} is the same for all platforms: write a template over them, as in"
                " '{{ platform.name }}'",
            )
            return
        fitting = self._fitting(written)
        for name in self._platforms.platforms:
            if name not in fitting:
                continue
            self._count += 1
            if self._count > MAX_EXPANDED:
                problems.add(
                    written.where("platforms"),
                    f"more than {MAX_EXPANDED} diskimages come of lists of platforms",
                )
                return
            yield replace(written, entry=entry.model_copy(update={"platform": name, "platforms": None}))

    def _fitting(self, written: Recipe) -> set[str]:
        known, fitting = self._platforms.platforms.keys(), set()
        patterns = written.entry.platforms or []
        if not patterns:
            self._problems.add(
                written.where("platforms"), "names no platform, and so there is no such diskimage"
            )
        for position, pattern in enumerate(patterns):
            found = {name for name in known if fnmatchcase(name, pattern)}
            if not found and self._platforms.complete and pattern not in self._platforms.written:
                self._problems.add(
                    written.where("platforms", position),
                    f"there is no platform {pattern!r}{suggestion(pattern, known)}",
                )
            fitting |= found
        return fitting

    def _problem_of_name(self, first: Recipe, second: Recipe) -> None:
        self._problems.add(
            second.where("name"),
            f"it comes to {first.entry.name!r} for the platforms {first.entry.platform!r} and"
            f" {second.entry.platform!r}: a name must differ by platform, as '{{{{ platform.name }}}}' does",
        )

    def _named(self, recipe: Recipe) -> Recipe | None:
        """The diskimage with its name and its parent's rendered; None, with a problem noted, without one."""
        entry, problems = recipe.entry, self._problems
        names = names_for(self._platforms.platforms.get(entry.platform or ""))
        name = render_text(entry.name, recipe.where("name"), names, problems)
        problem = None if name is None else name_problem(name)
        if problem:
            problems.add(recipe.where("name"), problem)
        if name is None or problem:
            return None
        parent = entry.parent
        if parent is not None:
            parent = render_text(parent, recipe.where("parent"), names, problems)
        return replace(recipe, entry=entry.model_copy(update={"name": name, "parent": parent}))

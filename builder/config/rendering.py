"""Renders every text of a merged diskimage over its platform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from builder.config.inheritance import Recipe
from builder.config.problems import KeyPath, Place, Problems, text_problem
from builder.config.schema import DiskImageEntry, PromoteEntry
from builder.config.template import TemplateTextError, check_syntax, render, render_items

#: Not templates: the name is rendered before, parent and platform say what to render over, and the
#: rest is chosen from few words.
_PLAIN: Final = frozenset(
    {
        *("name", "parent", "platform", "platforms", "format_options", "if_unchanged", "visibility"),
        *("boot_test", "budgets"),
    }
)
#: Where the items of a list that an item comes to stand in its place.
_SPLICED: Final = "elements"


def render_recipe(recipe: Recipe, names: Mapping[str, Any], problems: Problems) -> Recipe:
    """The recipe with every text rendered. An item of a list that renders to nothing is left out; where
    an element is an expression that gives a list, its items stand.

    A text that can't be rendered is a problem where it is written, and left out too.
    """
    fields: dict[str, Any] = {}
    places = dict(recipe.places)
    for name in _rendered_fields():
        value = getattr(recipe.entry, name)
        if isinstance(value, str):
            fields[name] = render_text(value, recipe.where(name), names, problems)
        elif isinstance(value, PromoteEntry):
            fields[name] = _render_promote(value, recipe, names, problems)
        elif isinstance(value, dict):
            items = {k: render_text(v, recipe.where(name, k), names, problems) for k, v in value.items()}
            fields[name] = {key: text for key, text in items.items() if text is not None}
        elif isinstance(value, list):
            kept = _render_list(name, value, recipe, names, problems)
            fields[name] = [text for text, _place in kept]
            item_places: dict[KeyPath, Place] = {(name, i): place for i, (_text, place) in enumerate(kept)}
            places |= item_places
    return replace(recipe, entry=recipe.entry.model_copy(update=fields), places=places)


def render_text(text: str, place: Place, names: Mapping[str, Any], problems: Problems) -> str | None:
    """One text rendered; None, with a problem noted, when that can't be done."""
    try:
        rendered = render(text, names)
    except TemplateTextError as problem:
        problems.add(place, str(problem))
        return None
    unsound = text_problem(rendered)
    if unsound:
        problems.add(place, unsound)
        return None
    return rendered


def check_templates(recipe: Recipe, problems: Problems) -> None:
    """Note every text of a diskimage that is no valid template, rendering none."""
    for name in _rendered_fields():
        value = getattr(recipe.entry, name)
        if isinstance(value, str):
            _check_text(value, recipe.where(name), problems)
        elif isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, text in items:
                _check_text(text, recipe.where(name, key), problems)
        elif isinstance(value, PromoteEntry):
            for _key, texts, place in _texts_of(value, recipe):
                for text in texts:
                    _check_text(text, place, problems)


def _rendered_fields() -> list[str]:
    return [name for name in DiskImageEntry.model_fields if name not in _PLAIN]


def _texts_of(entry: PromoteEntry, recipe: Recipe) -> Iterator[tuple[str, list[str], Place]]:
    """The texts of each key of a diskimage's `promote`, and where they were written."""
    for key in PromoteEntry.model_fields:
        value = getattr(entry, key)
        if value is not None:
            place = recipe.where("promote") if key == "policy" else recipe.where("promote", key)
            yield key, [value] if isinstance(value, str) else value, place


def _render_promote(
    entry: PromoteEntry, recipe: Recipe, names: Mapping[str, Any], problems: Problems
) -> PromoteEntry | None:
    """`promote` with every text rendered; None when one can't be, for then the rest says little."""
    fields: dict[str, Any] = {}
    for key, texts, place in _texts_of(entry, recipe):
        rendered = [render_text(text, place, names, problems) for text in texts]
        if None in rendered:
            return None
        fields[key] = rendered if isinstance(getattr(entry, key), list) else rendered[0]
    return entry.model_copy(update=fields)


def _render_list(
    name: str, texts: list[str], recipe: Recipe, names: Mapping[str, Any], problems: Problems
) -> list[tuple[str, Place]]:
    kept: list[tuple[str, Place]] = []
    for position, text in enumerate(texts):
        place = recipe.where(name, position)
        items = _render_items(text, place, names, problems) if name == _SPLICED else None
        results = [render_text(text, place, names, problems)] if items is None else items
        # Only a template may come to nothing; an element that is written empty is a mistake.
        kept += [(r.strip(), place) for r in results if r is not None and (r.strip() or not text.strip())]
    return kept


def _render_items(text: str, place: Place, names: Mapping[str, Any], problems: Problems) -> list[str] | None:
    """The items of the list that a text comes to; None when it comes to none."""
    try:
        items = render_items(text, names)
    except TemplateTextError as problem:
        problems.add(place, str(problem))
        return []
    for item in items or ():
        if unsound := text_problem(item):
            problems.add(place, unsound)
    return items


def _check_text(text: str, place: Place, problems: Problems) -> None:
    try:
        check_syntax(text)
    except TemplateTextError as problem:
        problems.add(place, str(problem))

"""Renders every text of a merged diskimage over its platform."""

from __future__ import annotations

from collections.abc import Mapping
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
        elif isinstance(value, PromoteEntry) and value.policy is not None:
            text = render_text(value.policy, recipe.where(name), names, problems)
            fields[name] = value.model_copy(update={"policy": text})
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


def _rendered_fields() -> list[str]:
    return [name for name in DiskImageEntry.model_fields if name not in _PLAIN]


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

"""Prints how two builds differ for people, in the manner of a unified diff.

A line begins with "+" for what only the later build has, with "-" for what only the earlier one had, and
with a space for what both have, but not alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from builder.cli.text import visible
from builder.dib.differences import words
from builder.dib.differences.contents import Name
from builder.dib.differences.model import Differences, PackageChange, Packages


def lines(differences: Differences) -> Iterator[str]:
    """The lines, made safe for a terminal; none but the first two when nothing differs."""
    return map(visible, _lines(differences))


def _lines(differences: Differences) -> Iterator[str]:
    yield f"--- {_name(differences.before)}"
    yield f"+++ {_name(differences.after)}"
    yield from _in_the_image(differences)
    yield from _went_in(differences)
    yield from _section("could not be compared", (f"! {each}" for each in differences.unknown))


def _name(name: Name) -> str:
    return f"{name.image} {name.build_id} {name.started}".rstrip()


def _in_the_image(differences: Differences) -> Iterator[str]:
    if differences.kernels is not None:
        yield from _section("kernel", [f"  {words.arrow(differences.kernels)}"])
    if differences.packages is not None:
        yield from _packages(differences.packages)
    yield from _section(
        "services",
        (
            _line(
                each.unit,
                words.service(each.before),
                words.service(each.after),
            )
            for each in differences.services
        ),
    )
    yield from _section(
        "setuid files, and files below /etc",
        (_line(each.path, words.file(each.before), words.file(each.after)) for each in differences.files),
    )
    yield from _section(
        "directories", (f"  {each.name}: {words.sizes(each)}" for each in differences.directories)
    )
    yield from _section(
        "artifacts", (f"  {each.name}: {words.sizes(each)}" for each in differences.artifacts)
    )


def _went_in(differences: Differences) -> Iterator[str]:
    yield from _section(
        "repositories", (f"  {each.name}: {words.repository(each)}" for each in differences.repositories)
    )
    yield from _section(
        "elements",
        (
            _line(each.name, each.before and words.short(each.before), each.after and words.short(each.after))
            for each in differences.elements
        ),
    )
    yield from _section(
        "environment", (f"  {each.name}: {words.variable(each)}" for each in differences.environment)
    )
    yield from _section("recipe", (_line(each.name, each.before, each.after) for each in differences.recipe))


def _packages(packages: Packages) -> Iterator[str]:
    lists = (packages.removed, packages.added, packages.downgraded, packages.changed, packages.upgraded)
    counts = words.package_counts(packages)
    title = f"packages, {packages.before} -> {packages.after} ({counts})"
    yield from _section(title, (_package(each) for changes in lists for each in changes))


def _package(change: PackageChange) -> str:
    return _line(f"{change.name} {change.architecture}".rstrip(), change.before, change.after)


def _line(name: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"+ {name}: {after}"
    return f"- {name}: {before}" if after is None else f"  {name}: {before} -> {after}"


def _section(title: str, body: Iterable[str]) -> Iterator[str]:
    """The lines below a title; nothing at all when there are none."""
    found = list(body)
    if found:
        yield f"{title}:"
        yield from found

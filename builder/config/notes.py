"""Lists the keys a file gives that have no effect, so that nobody relies on them."""

from __future__ import annotations

from collections.abc import Iterator

from builder.config.checking import Checked
from builder.config.problems import KeyPath
from builder.config.schema import WITHOUT_EFFECT, ConfigFile


def notes_of(file: Checked[ConfigFile]) -> tuple[str, ...]:
    """One "file:line: key: has no effect: why" for each such key, in the order of the file."""
    found = sorted(file.place(*path) for path in _paths(file))
    return tuple(f"{place}has no effect: {WITHOUT_EFFECT[place.path.rpartition('.')[2]]}" for place in found)


def _paths(file: Checked[ConfigFile]) -> Iterator[KeyPath]:
    """Where such keys are written: right below a diskimage or provider, never deeper."""
    for path in file.document.lines:
        if len(path) == 3 and path[0] in ("diskimages", "providers") and path[2] in WITHOUT_EFFECT:
            yield path

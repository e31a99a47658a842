"""Write differences as Markdown, for a review, a chat or a mail.

Names are the image's, and an image says what it likes: each is within a code span, where nothing has a
meaning, without the characters that would end the span, its cell or its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from builder.dib.differences import words
from builder.dib.differences.model import Differences, PackageChange, Packages
from builder.shown import visible

#: Rows of each table; what is beyond them is in changes.json.
ROWS: Final = 100
#: Characters of a name or value, and of the line that sums up all.
_LONGEST: Final = 200
_LONGEST_LINE: Final = 1000
_MARKUP: Final = re.compile(r"[`|<&]")

_Row = Sequence[str]


def markdown(differences: Differences) -> str:
    """The whole text, ending in a line end."""
    return "\n".join([*_head(differences), *_packages(differences.packages), *_rest(differences)]) + "\n"


def code(text: str, limit: int = _LONGEST) -> str:
    """The text, cut to `limit` characters, as a code span; with an escape (`\\x60`) for each character that
    could mean anything there."""
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    plain = _MARKUP.sub(lambda found: f"\\x{ord(found[0]):02x}", visible(text))
    return f"`{plain}`" if plain.strip() else "(nothing)"


def _side(value: str | None) -> str:
    return code(words.short(value))


def _head(differences: Differences) -> Iterator[str]:
    before, after = differences.before, differences.after
    yield f"# What is new in {code(after.image)}"
    yield ""
    other = "" if before.image == after.image else f" of {code(before.image)}"
    yield f"Build {code(after.build_id)} after build {code(before.build_id)}{other}:"
    yield f"{code(words.summary(differences), _LONGEST_LINE)}."
    if differences.unknown:
        yield from ("", "Could not be compared:", "")
        yield from _cut([f"- {code(each)}" for each in differences.unknown])


def _packages(packages: Packages | None) -> Iterator[str]:
    if packages is None:
        return
    lists = {
        "upgraded": packages.upgraded,
        "downgraded": packages.downgraded,
        "changed": packages.changed,
        "added": packages.added,
        "removed": packages.removed,
    }
    for how, changes in lists.items():
        title = f"Packages {how}: {len(changes)}"
        yield from _table(title, ("package", "before", "after"), map(_package_row, changes))


def _package_row(change: PackageChange) -> _Row:
    name = f"{change.name} {change.architecture}".rstrip()
    return code(name), _side(change.before), _side(change.after)


def _rest(differences: Differences) -> Iterator[str]:
    sides = ("before", "after")
    if differences.kernels is not None:
        change = differences.kernels
        yield from _table("Kernel", sides, [(_side(change.before), _side(change.after))])
    yield from _table(
        "Services",
        ("unit", *sides),
        [
            (code(each.unit), _side(words.service(each.before)), _side(words.service(each.after)))
            for each in differences.services
        ],
    )
    yield from _table(
        "Setuid files, and files below /etc",
        ("file", *sides),
        [
            (code(each.path), _side(words.file(each.before)), _side(words.file(each.after)))
            for each in differences.files
        ],
    )
    for title, changes in (("Directories", differences.directories), ("Artifacts", differences.artifacts)):
        yield from _table(title, ("", "bytes"), [(code(each.name), words.sizes(each)) for each in changes])
    yield from _table(
        "Repositories",
        ("", "commits"),
        [(code(each.name), code(words.repository(each))) for each in differences.repositories],
    )
    made = [(code(f"element {each.name}"), code(words.arrow(each))) for each in differences.elements]
    made += [(code(each.name), code(words.variable(each))) for each in differences.environment]
    made += [(code(each.name), code(words.arrow(each))) for each in differences.recipe]
    yield from _table("What it was made of", ("", "change"), made)


def _table(title: str, columns: _Row, rows: Iterable[_Row]) -> Iterator[str]:
    """A heading and a table; nothing when there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if lines:
        yield from ("", f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}")
        yield from _cut(lines)


def _cut(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:ROWS]
    if len(lines) > ROWS:
        yield from ("", f"{len(lines) - ROWS} more are in changes.json.")

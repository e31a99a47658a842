"""Say in a few words what differs; what the text for terminals and the one in Markdown share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from builder.dib.contents.marks import Marked, Service
from builder.dib.differences.model import (
    Change,
    Differences,
    PackageChange,
    Packages,
    RepositoryChange,
    SizeChange,
    VariableChange,
)
from builder.shown import size, visible

#: Characters of a digest or a commit that tell it from others.
_SHORT: Final = 12
#: Characters of kernels that fit into one line with all else.
_LONGEST: Final = 120
_HEX: Final = frozenset("0123456789abcdef")
#: What is counted, in the singular and the plural.
_NOUNS: Final = {
    "services": ("service", "services"),
    "files": ("setuid file or file below /etc", "setuid files or files below /etc"),
    "artifacts": ("artifact", "artifacts"),
    "elements": ("element", "elements"),
    "environment": ("environment variable", "environment variables"),
    "repositories": ("repository", "repositories"),
}


def summary(differences: Differences) -> str:
    """All in one line: `kernel 6.1.0-27 -> 6.1.0-28; packages: 1 added, 12 upgraded; size +12.3 MB`."""
    parts = [*_parts(differences)]
    if differences.unknown:
        parts.append("not all could be compared")
    return "; ".join(parts) or "nothing differs"


def _parts(differences: Differences) -> Iterator[str]:
    if differences.kernels is not None:
        kernels = visible(arrow(differences.kernels))
        yield f"kernel {kernels}" if len(kernels) <= _LONGEST else "other kernels"
    if differences.packages is not None and differences.packages.all:
        yield f"packages: {package_counts(differences.packages)}"
    if differences.total is not None and differences.directories:
        yield f"size {growth(differences.total)}"
    for kind, (one, several) in _NOUNS.items():
        if count := differences.counts.get(kind):
            yield f"{count} {one if count == 1 else several}"
    if differences.recipe:
        yield f"other {', '.join(visible(each.name) for each in differences.recipe)}"


def package_counts(packages: Packages) -> str:
    """`1 added, 12 upgraded`; "" when nothing differs."""
    counts = {
        "added": packages.added,
        "removed": packages.removed,
        "upgraded": packages.upgraded,
        "downgraded": packages.downgraded,
        "changed": packages.changed,
    }
    return ", ".join(f"{len(changes)} {how}" for how, changes in counts.items() if changes)


def growth(change: SizeChange) -> str:
    """By how much, with its sign: `+12.3 MB`."""
    return f"{'-' if change.growth < 0 else '+'}{size(abs(change.growth))}"


def sizes(change: SizeChange) -> str:
    """`+12.3 MB (1.2 GB -> 1.3 GB)`, and what is not there as `none`."""
    old, new = ("none" if each is None else size(each) for each in (change.before, change.after))
    return f"{growth(change)} ({old} -> {new})"


def arrow(change: Change | PackageChange | VariableChange | RepositoryChange) -> str:
    """`1.0 -> 1.1`; commits and digests shortened, and what is not there as `none`."""
    return f"{short(change.before)} -> {short(change.after)}"


def short(value: str | None) -> str:
    """The value, of a digest or a commit its beginning; `none` where there is none."""
    if value is None:
        return "none"
    return value[:_SHORT] if len(value) in (40, 64) and set(value) <= _HEX else value


def variable(change: VariableChange) -> str:
    """What differs of an environment variable."""
    if change.what == "files":
        return "other files of that name"
    if change.what == "secret" and change.before is not None and change.after is not None:
        return "changed (secret)"
    return arrow(change)


def repository(change: RepositoryChange) -> str:
    """Its commits, and how many branches differ."""
    branches = f"{change.branches} branch{'' if change.branches == 1 else 'es'}"
    return f"{arrow(change)}, {branches}" if change.branches else arrow(change)


def file(marked: Marked | None) -> str | None:
    """`4755 root:root`, with the kind of what is no plain file."""
    if marked is None:
        return None
    kind = "" if marked.kind == "file" else marked.kind
    return " ".join(filter(None, (marked.mode, f"{marked.owner}:{marked.group}", kind)))


def service(found: Service | None) -> str | None:
    """`enabled by multi-user.target`, or `masked`."""
    if found is None:
        return None
    return f"{found.state} by {', '.join(found.by)}" if found.by else found.state

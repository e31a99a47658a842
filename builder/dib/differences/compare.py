"""Compare what two builds are made of; pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from builder.config.model import MASK, masked_credentials
from builder.dib.contents.inputs import Inputs
from builder.dib.contents.marks import Marks
from builder.dib.contents.packages import Package
from builder.dib.differences.contents import Contents, Repository
from builder.dib.differences.model import (
    Change,
    Differences,
    FileChange,
    PackageChange,
    Packages,
    RepositoryChange,
    ServiceChange,
    SizeChange,
    VariableChange,
)
from builder.dib.differences.versions import order

#: Bytes by which a directory or an artifact has to grow or shrink. Two builds of the same differ by less:
#: in times, ids and what a file system makes of them.
SIZE_MATTERS: Final = 1 << 20
_EVERYTHING: Final = "/"

Value = TypeVar("Value")
_Identity = tuple[str, str, str]


def compare(before: Contents, after: Contents) -> Differences:
    """How `after` differs from `before`; they may be of different images. Each part is compared as far as it
    is known of both, and the rest is in `unknown`."""
    directories = tuple(_directories(before.sizes, after.sizes))
    return Differences(
        before=before.name,
        after=after.name,
        unknown=tuple(_unknown(before, after)),
        kernels=_kernels(before.marks, after.marks),
        packages=_packages(before.packages, after.packages),
        services=tuple(_services(before.marks, after.marks)),
        files=tuple(_files(before.marks, after.marks)),
        total=next((each for each in directories if each.name == _EVERYTHING), None),
        directories=tuple(sorted(filter(_matters, directories), key=_by_growth)),
        artifacts=tuple(_artifacts(before.artifacts, after.artifacts)),
        elements=tuple(_elements(before.inputs, after.inputs)),
        environment=tuple(_environment(before.inputs, after.inputs)),
        recipe=tuple(_recipe(before, after)),
        repositories=tuple(_repositories(before.repositories, after.repositories)),
    )


def _unknown(before: Contents, after: Contents) -> Iterator[str]:
    for each in (before, after):
        whose = f"build {each.name.build_id}"
        yield from (f"{whose}: {file}: {why}" for file, why in each.missing.items())
        if each.marks is not None:
            yield from (f"{whose}: {problem}" for problem in each.marks.problems)
        if each.inputs is not None:
            yield from (f"{whose}: {kind}: {why}" for kind, why in each.inputs.unknown.items())


def _pairs(
    before: Mapping[str, Value], after: Mapping[str, Value]
) -> Iterator[tuple[str, Value | None, Value | None]]:
    """What differs, by name."""
    for name in sorted(before.keys() | after.keys()):
        if (old := before.get(name)) != (new := after.get(name)):
            yield name, old, new


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    return (Change(name=name, before=old, after=new) for name, old, new in _pairs(before, after))


# -- what is in them ----------------------------------------------------------------------------------


def _packages(before: tuple[Package, ...] | None, after: tuple[Package, ...] | None) -> Packages | None:
    if before is None or after is None:
        return None
    found: dict[str, list[PackageChange]] = {}
    old, new = _versions(before), _versions(after)
    for identity in sorted(old.keys() | new.keys()):
        for how, change in _package_changes(identity, old.get(identity, set()), new.get(identity, set())):
            found.setdefault(how, []).append(change)
    lists = {how: tuple(changes) for how, changes in found.items()}
    return Packages(before=len(before), after=len(after), **lists)


def _versions(packages: Iterable[Package]) -> Mapping[_Identity, set[str]]:
    """Some are installed in several versions at a time: rpm's kernels."""
    found: dict[_Identity, set[str]] = {}
    for each in packages:
        found.setdefault((each.name, each.architecture, each.kind), set()).add(each.version)
    return found


def _package_changes(
    identity: _Identity, before: set[str], after: set[str]
) -> Iterator[tuple[str, PackageChange]]:
    name, architecture, kind = identity
    gone, new = sorted(before - after), sorted(after - before)
    if len(gone) == len(new) == 1:
        yield (
            {-1: "upgraded", 1: "downgraded"}.get(order(kind, gone[0], new[0]) or 0, "changed"),
            PackageChange(name=name, architecture=architecture, kind=kind, before=gone[0], after=new[0]),
        )
        return
    for version in gone:
        yield "removed", PackageChange(name=name, architecture=architecture, kind=kind, before=version)
    for version in new:
        yield "added", PackageChange(name=name, architecture=architecture, kind=kind, after=version)


def _kernels(before: Marks | None, after: Marks | None) -> Change | None:
    if before is None or after is None or before.kernels == after.kernels:
        return None
    old, new = (", ".join(each.kernels) or None for each in (before, after))
    return Change(name="kernel", before=old, after=new)


def _services(before: Marks | None, after: Marks | None) -> Iterator[ServiceChange]:
    if before is not None and after is not None:
        old, new = ({each.unit: each for each in marks.services} for marks in (before, after))
        for unit, was, now in _pairs(old, new):
            yield ServiceChange(unit=unit, before=was, after=now)


def _files(before: Marks | None, after: Marks | None) -> Iterator[FileChange]:
    if before is not None and after is not None:
        old, new = ({each.path: each for each in marks.files} for marks in (before, after))
        for path, was, now in _pairs(old, new):
            yield FileChange(path=path, before=was, after=now)


def _directories(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> Iterator[SizeChange]:
    if before is not None and after is not None:
        yield from _sizes(before, after)
        if before.get(_EVERYTHING) == after.get(_EVERYTHING):
            yield SizeChange(name=_EVERYTHING, before=before.get(_EVERYTHING), after=after.get(_EVERYTHING))


def _artifacts(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[SizeChange]:
    for change in _sizes(before, after):
        if None in (change.before, change.after) or _matters(change):
            yield change


def _sizes(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[SizeChange]:
    return (SizeChange(name=name, before=old, after=new) for name, old, new in _pairs(before, after))


def _matters(change: SizeChange) -> bool:
    return abs(change.growth) > SIZE_MATTERS


def _by_growth(change: SizeChange) -> tuple[int, str]:
    return (-abs(change.growth), change.name)


# -- what went into them ------------------------------------------------------------------------------


def _elements(before: Inputs | None, after: Inputs | None) -> Iterator[Change]:
    # Of a list that could not be worked out nothing is known; `unknown` says so.
    if before is not None and after is not None and "elements" not in {**before.unknown, **after.unknown}:
        yield from _changes(before.elements, after.elements)


def _environment(before: Inputs | None, after: Inputs | None) -> Iterator[VariableChange]:
    if before is None or after is None:
        return
    for name in sorted(before.environment.keys() | after.environment.keys()):
        # What is a secret now may have been written in the open before, and is one all the same.
        secret = name in before.secrets or name in after.secrets
        old, new = (_shown(each.environment.get(name), secret=secret) for each in (before, after))
        if _value(name, before) != _value(name, after):
            yield VariableChange(name=name, what="secret" if secret else "value", before=old, after=new)
        elif before.files.get(name) != after.files.get(name):
            yield VariableChange(name=name, what="files", before=old, after=new)


def _value(name: str, inputs: Inputs) -> tuple[str | None, str | None]:
    """The value of a variable, and of a secret its digest."""
    return inputs.environment.get(name), inputs.secrets.get(name)


def _shown(value: str | None, *, secret: bool) -> str | None:
    if value is None:
        return None
    return MASK if secret else masked_credentials(value)


def _recipe(before: Contents, after: Contents) -> Iterator[Change]:
    if before.inputs is not None and after.inputs is not None:
        old, new = (_made_by(each) for each in (before.inputs, after.inputs))
        yield from _changes(old, new)
    yield from _changes(
        {f"tool {name}": version for name, version in before.tools.items()},
        {f"tool {name}": version for name, version in after.tools.items()},
    )


def _made_by(inputs: Inputs) -> Mapping[str, str]:
    names = {"dib": "diskimage-builder", "formats": "formats"}
    digests = {name: inputs.digests[kind] for kind, name in names.items() if kind in inputs.digests}
    return {"command": masked_credentials(shlex.join(inputs.command)), **digests}


def _repositories(
    before: Mapping[str, Repository] | None, after: Mapping[str, Repository] | None
) -> Iterator[RepositoryChange]:
    if before is not None and after is not None:
        for name, old, new in _pairs(before, after):
            branches = [*_pairs(old.branches, new.branches)] if old is not None and new is not None else []
            yield RepositoryChange(
                name=name,
                before=None if old is None else old.commit,
                after=None if new is None else new.commit,
                branches=len(branches),
            )

"""Write differences down as plain data, for programs: what changes.json and `-f json` hold.

schema       1; another number when what is here changes its meaning. New keys may come.
before       image, build, started: of the earlier build; after: of the later one
same         whether all could be compared and nothing differs
summary      one line for people
unknown      what could not be compared, and why
kernel       null, or before and after
packages     null when unknown, or how many before and after, and the lists added, removed, upgraded,
             downgraded and changed: name, architecture, type, before, after
services     unit, before, after: state and by
files        path, before, after: kind, mode, owner, group
size         null when unknown, or bytes of all files before and after
directories  path, before, after: bytes
artifacts    format, before, after: bytes
elements     name, before, after: digests of their content
environment  name, what, before, after; values of secrets are masked
recipe       name, before, after: the command, formats, versions of tools
repositories name, before, after: commits; branches: how many differ
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from builder.dib.contents.marks import Marked, Service
from builder.dib.differences.contents import Name
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
from builder.dib.differences.words import summary

SCHEMA: Final = 1

_Data = dict[str, Any]


def plain(differences: Differences) -> _Data:
    """The differences as data that JSON can hold; what is not there is None."""
    return {
        "schema": SCHEMA,
        "before": _name(differences.before),
        "after": _name(differences.after),
        "same": differences.same,
        "summary": summary(differences),
        "unknown": list(differences.unknown),
        "kernel": None if differences.kernels is None else _sides(differences.kernels),
        "packages": None if differences.packages is None else _packages(differences.packages),
        "services": [_service_change(each) for each in differences.services],
        "files": [_file_change(each) for each in differences.files],
        "size": None if differences.total is None else _sides(differences.total),
        "directories": [{"path": each.name, **_sides(each)} for each in differences.directories],
        "artifacts": [{"format": each.name, **_sides(each)} for each in differences.artifacts],
        "elements": [{"name": each.name, **_sides(each)} for each in differences.elements],
        "environment": [
            {"name": each.name, "what": each.what, **_sides(each)} for each in differences.environment
        ],
        "recipe": [{"name": each.name, **_sides(each)} for each in differences.recipe],
        "repositories": [
            {"name": each.name, **_sides(each), "branches": each.branches}
            for each in differences.repositories
        ],
    }


def _sides(
    change: Change | PackageChange | SizeChange | VariableChange | RepositoryChange,
) -> Mapping[str, str | int | None]:
    return {"before": change.before, "after": change.after}


def _name(name: Name) -> _Data:
    return {"image": name.image, "build": name.build_id, "started": name.started or None}


def _packages(packages: Packages) -> _Data:
    lists: Mapping[str, Sequence[PackageChange]] = {
        "added": packages.added,
        "removed": packages.removed,
        "upgraded": packages.upgraded,
        "downgraded": packages.downgraded,
        "changed": packages.changed,
    }
    return {
        "before": packages.before,
        "after": packages.after,
        **{how: [_package(each) for each in changes] for how, changes in lists.items()},
    }


def _package(change: PackageChange) -> _Data:
    identity = {"name": change.name, "architecture": change.architecture, "type": change.kind}
    return {**identity, **_sides(change)}


def _file_change(change: FileChange) -> _Data:
    return {"path": change.path, "before": _file(change.before), "after": _file(change.after)}


def _file(file: Marked | None) -> _Data | None:
    if file is None:
        return None
    return {"kind": file.kind, "mode": file.mode or None, "owner": file.owner, "group": file.group}


def _service_change(change: ServiceChange) -> _Data:
    return {"unit": change.unit, "before": _service(change.before), "after": _service(change.after)}


def _service(service: Service | None) -> _Data | None:
    return None if service is None else {"state": service.state, "by": list(service.by)}

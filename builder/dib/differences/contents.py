"""Read what a build left beside its files: what is in it, and what went into it.

All of it is in one directory, so two builds are compared by reading two directories, however many are on
record. What is missing or damaged there is told as such: that nothing is known does not mean that nothing
is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from builder.config.model import masked_credentials
from builder.dib.contents import inputs, marks, packages, sizes
from builder.dib.contents.inputs import Inputs
from builder.dib.contents.marks import Marks
from builder.dib.contents.packages import Package
from builder.dib.output.artifacts import PROOF
from builder.errors import NotFoundError, RefusedError, UnavailableError

Part = TypeVar("Part")

#: Which commits the element cache-git put in, below the build's directory (its README.rst).
CACHE_GIT: Final = "cache-git/heads.json"
_GIT: Final = "git "
#: Tools whose version says nothing about what they make, the kernel of the machine, and what is among the
#: inputs already.
_NO_MATTER: Final = frozenset({"kernel", "diskimage-builder"})
#: What a file of ours may hold that isn't what we wrote.
_NONSENSE: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Name:
    """Which build it is."""

    image: str
    build_id: str
    started: str = ""  #: ISO 8601, as on record; "" where it is not known


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A git repository that went into an image: the commit of its head, and those of its branches."""

    commit: str
    branches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is known of a build. None is what is not known; why is in `missing`."""

    name: Name
    packages: tuple[Package, ...] | None = None
    sizes: Mapping[str, int] | None = None  #: directory -> bytes on the disk, with all below it
    marks: Marks | None = None
    inputs: Inputs | None = None
    repositories: Mapping[str, Repository] | None = None  #: by name or path
    artifacts: Mapping[str, int] = field(default_factory=dict)  #: format -> bytes
    tools: Mapping[str, str] = field(default_factory=dict)  #: versions of what built it
    missing: Mapping[str, str] = field(default_factory=dict)  #: file -> why nothing is known of it


def load(directory: Path) -> Contents:
    """What the directory of a published build says.

    Raises NotFoundError when it is gone, UnavailableError when it can't be read and RefusedError when its
    build.json does not say whose it is; anything else that lacks is in `missing`.
    """
    try:
        proof = json.loads((directory / PROOF).read_text(encoding="utf-8"))
        name = Name(
            image=str(proof["image"]), build_id=str(proof["build_id"]), started=str(proof.get("started", ""))
        )
        artifacts = {str(each["format"]): int(each["size"]) for each in proof.get("artifacts", [])}
        tools = {str(tool): str(version) for tool, version in proof["tools"].items()}
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {directory / PROOF}") from error
    except OSError as error:
        raise UnavailableError(
            f"{directory} can't be read: {error.strerror}", hint="Run this command as the user of the daemon."
        ) from error
    except _NONSENSE as error:
        raise RefusedError(f"{directory / PROOF} is damaged: {error}") from error
    return describe(directory, name, artifacts=artifacts, tools=tools)


def describe(
    directory: Path, name: Name, *, artifacts: Mapping[str, int], tools: Mapping[str, str]
) -> Contents:
    """The contents of a build whose build.json is not written yet, from all else in its directory."""
    missing: dict[str, str] = {}

    def part(file: str, parse: Callable[[Any], Part | None]) -> Part | None:
        try:
            found = parse(json.loads((directory / file).read_text(encoding="utf-8")))
        except FileNotFoundError:
            missing[file] = "there is no such file"
        except OSError as error:
            missing[file] = f"it can't be read: {error.strerror}"
        except _NONSENSE:
            missing[file] = "it is damaged"
        else:
            if found is None:
                missing[file] = "it is empty: what is in the image could not be found out"
            return found
        return None

    known = part(inputs.FILE, inputs.parsed)
    # Most images are made without that element.
    cached = part(CACHE_GIT, _cached) if (directory / CACHE_GIT).exists() else {}
    return Contents(
        name=name,
        packages=part(packages.FILE, lambda record: packages.parsed(record) or None),
        sizes=part(sizes.FILE, _sizes),
        marks=part(marks.FILE, _marks),
        inputs=known,
        repositories=None if known is None or cached is None else {**_named(known), **cached},
        artifacts=artifacts,
        tools={tool: version for tool, version in tools.items() if tool not in _NO_MATTER},
        missing=missing,
    )


def _sizes(record: Any) -> Mapping[str, int] | None:
    return {str(each["path"]): int(each["allocated"]) for each in record["directories"]} or None


def _marks(record: Any) -> Marks | None:
    found = marks.parsed(record)
    return found if found.files else None


def _named(known: Inputs) -> Mapping[str, Repository]:
    return {
        kind.removeprefix(_GIT): Repository(commit=commit)
        for kind, commit in known.digests.items()
        if kind.startswith(_GIT)
    }


def _cached(record: Any) -> Mapping[str, Repository]:
    return {
        masked_credentials(str(path)): Repository(
            commit=str(each["commit"] or ""),
            branches={str(name): str(commit) for name, commit in each["branches"].items()},
        )
        for path, each in record.items()
    }

"""Tell which packages an image has, from what the element imagepool-manifest left of it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = "packages.json"
#: States of dpkg in which nothing of a package is on the disk but, at most, its configuration.
_ABSENT: Final = frozenset({"not-installed", "config-files"})
_PARAGRAPHS: Final = re.compile(r"\n\s*\n")


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """An installed package. `kind` is the one that package URLs name: "deb" or "rpm"."""

    name: str
    version: str  #: with its epoch, if there is one: "1:2.3-4"
    architecture: str
    kind: str
    source: str = ""  #: the source package, when it is called otherwise
    license: str = ""  #: as the package says it; Debian's say nothing in their database


def read(raw: Path) -> tuple[Package, ...]:
    """The packages by name, from the element's directory; none when the image has no database.

    Raises OSError.
    """
    found: list[Package] = []
    for file, parse in (("dpkg", from_dpkg), ("rpm", from_rpm)):
        if (raw / file).exists():
            found += parse((raw / file).read_text(encoding="utf-8", errors="replace"))
    return tuple(sorted(set(found)))


def from_dpkg(text: str) -> Iterator[Package]:
    """The packages of dpkg's status file (dpkg's lib/dpkg/parse.c; status.d of images without dpkg)."""
    for paragraph in _PARAGRAPHS.split(text):
        fields = _fields(paragraph)
        # Without a status it is from status.d, which only lists what is installed.
        state = fields.get("Status", "installed").split()[-1:]
        if fields.get("Package") and fields.get("Version") and not _ABSENT.intersection(state):
            yield Package(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields.get("Architecture", ""),
                kind="deb",
                source=fields.get("Source", "").partition(" ")[0],
            )


def _fields(paragraph: str) -> Mapping[str, str]:
    """The fields of one line each; what goes on over lines is not needed here."""
    pairs = (line.partition(":") for line in paragraph.splitlines() if line[:1].strip())
    return {name: value.strip() for name, _, value in pairs}


def from_rpm(text: str) -> Iterator[Package]:
    """The packages of the element's query: name, version, architecture and licence by tabs."""
    for line in text.splitlines():
        name, version, architecture, terms = (*line.split("\t"), "", "", "", "")[:4]
        # Keys are listed as packages too, and are none.
        if name and version and name != "gpg-pubkey":
            yield Package(name=name, version=version, architecture=architecture, kind="rpm", license=terms)


def digest(packages: Iterable[Package]) -> str:
    """A digest of names, versions and architectures."""
    lines = sorted(f"{each.kind} {each.name} {each.version} {each.architecture}" for each in packages)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What an image says it is, in os-release: ID and VERSION_ID; "" where it does not."""

    name: str = ""
    version: str = ""
    title: str = ""


def distribution(raw: Path) -> Distribution:
    """The distribution of the image; an empty one when it does not say. Raises OSError."""
    file = raw / "os-release"
    if not file.exists():
        return Distribution()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    values = {name.strip(): _unquoted(value.strip()) for name, _, value in pairs}
    return Distribution(
        name=values.get("ID", ""), version=values.get("VERSION_ID", ""), title=values.get("PRETTY_NAME", "")
    )


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value


def save(
    directory: Path,
    found: Iterable[Package],
    distribution: Distribution,
    problems: tuple[str, ...],
) -> None:
    """Write packages.json into a build's directory; `problems` say why it is not whole. Raises OSError."""
    record = {
        "distribution": {"id": distribution.name, "version": distribution.version},
        "packages": [_package(each) for each in found],
        "problems": list(problems),
    }
    (directory / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _package(package: Package) -> Mapping[str, str]:
    required = {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "type": package.kind,
    }
    optional = {"source": package.source, "license": package.license}
    return {**required, **{name: value for name, value in optional.items() if value}}


def load(directory: Path) -> tuple[Package, ...] | None:
    """What a build's packages.json says; None when there is none, or it is no such file."""
    try:
        return parsed(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def parsed(record: Any) -> tuple[Package, ...]:
    """What packages.json says. Raises KeyError, TypeError or AttributeError for anything else."""
    return tuple(
        Package(
            name=str(each["name"]),
            version=str(each["version"]),
            architecture=str(each["architecture"]),
            kind=str(each["type"]),
            source=str(each.get("source", "")),
            license=str(each.get("license", "")),
        )
        for each in record["packages"]
    )

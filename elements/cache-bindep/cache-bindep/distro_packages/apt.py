"""Debian's and Ubuntu's package manager.

The packages go to /var/cache/apt/archives, where every apt-get looks for them. Which they are is in an index
of their own: with the lists of a mirror it would not work after the mirror has changed, and those are ten
times as large.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from distro_packages.managers import PLACE, Manager, PackageError, as_root, link, output

_ARCHIVES = Path("/var/cache/apt/archives")
#: Where packages are until the build's own clean-up has emptied apt's directory.
ASIDE = PLACE / "archives"
_INSTALL = ("install", "--assume-yes", "--quiet", "-o", "DPkg::Lock::Timeout=300")
_CONFIGURED = (
    *("-o", "DPkg::Options::=--force-confold", "-o", "DPkg::Options::=--force-confdef"),
    *("-o", "Dpkg::Use-Pty=0"),
)
#: Looks at the index of the cache and at nothing else, and leaves apt's own files alone.
_OFFLINE = (
    *("-o", f"Dir::Etc::SourceList={PLACE}/offline.list", "-o", "Dir::Etc::SourceParts=/dev/null"),
    *("-o", f"Dir::State::Lists={PLACE}/lists"),
    *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
)
#: Arguments of one command.
_MANY = 400


class Apt(Manager):
    """apt-get; names that it doesn't know exactly are never given to it, for it takes them as patterns."""

    # With a minus at its end a name would be what to remove.
    name = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]")

    def download(self, names: Sequence[str]) -> list[str]:
        known = _known(names)
        notes = [f"{name} is not known to this platform" for name in names if name not in known]
        files: dict[str, tuple[str, str, str]] = {}
        for group, found in _resolved([name for name in names if name in known], notes):
            output("/usr/bin/apt-get", *_INSTALL, "--download-only", "--no-remove", "--", *group)
            files.update(found)
        ASIDE.mkdir(parents=True, exist_ok=True)
        for file in files:
            link(_ARCHIVES / file, ASIDE / file)
        (PLACE / "Packages").write_text("\n".join(_index(files)))
        # Each of them was checked by the mirror's signed lists, and is checked by this index when it is used.
        (PLACE / "offline.list").write_text(f"deb [trusted=yes] file:{PLACE.parent} {PLACE.name}/\n")
        (PLACE / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        output("/usr/bin/apt-get", *_OFFLINE, "update")
        return notes

    def install_cached(self, names: Sequence[str]) -> bool:
        if not (PLACE / "offline.list").exists() or not _known(names, *_OFFLINE).issuperset(names):
            return False
        return as_root("apt-get", *_OFFLINE, *_INSTALL, *_CONFIGURED, "--", *names, quiet=True)

    def install(self, names: Sequence[str]) -> None:
        updated = as_root("apt-get", "update", "--quiet", "-o", "DPkg::Lock::Timeout=300")
        unknown = sorted(set(names) - _known(names))
        if unknown:
            raise PackageError(f"not known to this platform: {' '.join(unknown)}")
        if not as_root("apt-get", *_INSTALL, *_CONFIGURED, "--", *names):
            raise PackageError(
                "apt-get could not install them" + ("" if updated else ", nor update its lists")
            )


def _known(names: Iterable[str], *options: str) -> set[str]:
    """Those of the names that are a package, or something that packages provide."""
    known = set(output("apt-cache", *options, "pkgnames").split()).intersection(names)
    others = sorted(set(names) - known)
    for number in range(0, len(others), _MANY):
        name, providing = "", False
        for line in _shown(*options, "showpkg", "--", *others[number : number + _MANY]):
            if line.startswith("Package: "):
                name, providing = line.removeprefix("Package: "), False
            elif line.startswith("Reverse Provides:"):
                providing = True
            elif providing and line.strip() and name in others:
                known.add(name)
    return known


def _shown(*arguments: str) -> list[str]:
    try:
        return output("apt-cache", *arguments).splitlines()
    except PackageError:
        return []  # it knows none of them


def _resolved(
    names: Sequence[str], notes: list[str]
) -> Iterator[tuple[Sequence[str], Mapping[str, tuple[str, str, str]]]]:
    """Groups of names that can be installed together, each with its files; notes on those that can't be."""
    if not names:
        return
    try:
        # With an empty cache, so that what is there already is listed as well.
        lines = output(
            *("/usr/bin/apt-get", "-o", f"Dir::Cache::Archives={PLACE}/none/", "-o", "Debug::NoLocking=1"),
            *(*_INSTALL, "--no-remove", "--print-uris", "--", *names),
        )
    except PackageError as error:
        if len(names) == 1:
            notes.append(f"{names[0]} can't be installed in this image: {error}")
            return
        middle = len(names) // 2
        yield from _resolved(names[:middle], notes)
        yield from _resolved(names[middle:], notes)
    else:
        files = re.findall(r"^'[^']*' ([^ /]+\.deb) \d+ ", lines, re.MULTILINE)
        yield names, {file: _parsed(file) for file in files}


def _parsed(file: str) -> tuple[str, str, str]:
    """Name, version and architecture of the package in a file of apt's cache."""
    name, version, architecture = unquote(file.removesuffix(".deb")).split("_")
    return name, version, architecture


def _index(files: Mapping[str, tuple[str, str, str]]) -> Iterator[str]:
    """The paragraphs of an index of these files, that lie where they will be."""
    by_package = {package: file for file, package in files.items()}
    wanted = [f"{name}:{arch}={version}" for name, version, arch in by_package if arch != "all"]
    wanted += [f"{name}={version}" for name, version, arch in by_package if arch == "all"]
    for number in range(0, len(wanted), _MANY):
        text = output("apt-cache", "show", "--", *wanted[number : number + _MANY])
        for paragraph in text.strip().split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", paragraph, re.MULTILINE))
            key = (fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", ""))
            file = by_package.pop(key, None)
            if file is not None:
                where = f"Filename: {_ARCHIVES.relative_to(PLACE.parent)}/{file}"
                yield re.sub(r"^Filename: .*$", where.replace("\\", ""), paragraph, flags=re.MULTILINE) + "\n"
    if by_package:
        raise PackageError(f"apt-cache does not show {' '.join(sorted(by_package.values()))}")

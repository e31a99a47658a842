"""Makes platforms of what the file says about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from builder.config.checking import Checked
from builder.config.model import Platform
from builder.config.problems import Problems, text_problem
from builder.config.schema import ConfigFile, PlatformEntry
from builder.config.template import render_variables
from builder.model import name_problem

#: The mirror that the machine's own package manager uses.
HOST_MIRROR: Final = "host"

_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+\Z")
_FIELDS = frozenset({"name", "distribution", "release", "architecture", "mirror", "security_mirror"})


def build_platforms(file: Checked[ConfigFile], problems: Problems) -> Mapping[str, Platform]:
    """Every platform of the file by name, its variables rendered."""
    platforms: dict[str, Platform] = {}
    for position, entry in enumerate(file.content.platforms or []):
        if entry.name in platforms:
            problems.add(
                file.place("platforms", position, "name"), f"there are two platforms named {entry.name!r}"
            )
            continue
        platforms[entry.name] = _platform(file, position, entry, problems)
    return MappingProxyType(platforms)


def _platform(file: Checked[ConfigFile], position: int, entry: PlatformEntry, problems: Problems) -> Platform:
    _check_words(file, position, entry, problems)
    _check_mirrors(file, position, entry, problems)
    return Platform(
        name=entry.name,
        distribution=entry.distribution,
        release=entry.release,
        architecture=entry.architecture or Platform.architecture,
        mirror=entry.mirror,
        security_mirror=entry.security_mirror,
        properties=MappingProxyType(dict(entry.properties or {})),
        variables=MappingProxyType(_variables(file, position, entry, problems)),
    )


def _check_words(file: Checked[ConfigFile], position: int, entry: PlatformEntry, problems: Problems) -> None:
    words = {
        "name": entry.name,
        "distribution": entry.distribution,
        "release": entry.release,
        "architecture": entry.architecture,
    }
    for key, word in words.items():
        problem = None if word is None else name_problem(word)
        if problem:
            problems.add(file.place("platforms", position, key), problem)


def _check_mirrors(
    file: Checked[ConfigFile], position: int, entry: PlatformEntry, problems: Problems
) -> None:
    for key, mirror in (("mirror", entry.mirror), ("security-mirror", entry.security_mirror)):
        if mirror is not None and mirror != HOST_MIRROR and not _URL.match(mirror):
            problems.add(
                file.place("platforms", position, key),
                f"must be a URL, or {HOST_MIRROR!r} for the mirror this machine uses, not {mirror!r}",
            )


def _variables(
    file: Checked[ConfigFile], position: int, entry: PlatformEntry, problems: Problems
) -> dict[str, Any]:
    written = entry.variables or {}
    for name in written:
        problem = _variable_problem(name)
        if problem:
            problems.add(file.place("platforms", position, "variables", name), problem)
    sound = {name: value for name, value in written.items() if _variable_problem(name) is None}
    rendered, failed = render_variables(entry.name, _fields(entry), sound)
    for name, why in failed.items():
        problems.add(file.place("platforms", position, "variables", name), why)
    return rendered


def _variable_problem(name: str) -> str | None:
    if name in _FIELDS:
        return f"{name!r} is a key of the platform itself, so no variable can be called so"
    if not _VARIABLE.match(name):
        return "a variable's name is made of letters, digits and '_', and starts with a letter"
    return text_problem(name)


def _fields(entry: PlatformEntry) -> Mapping[str, str]:
    """What variables can name of the platform besides each other."""
    fields = {
        "name": entry.name,
        "distribution": entry.distribution,
        "release": entry.release,
        "architecture": entry.architecture or Platform.architecture,
        "mirror": entry.mirror,
        "security_mirror": entry.security_mirror,
    }
    return {name: value for name, value in fields.items() if value is not None}

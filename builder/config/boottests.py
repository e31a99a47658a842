"""Makes of `boot-test` whether and how a diskimage's builds are booted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from builder.config.inheritance import Recipe
from builder.config.model import BootTest, Platform
from builder.config.problems import Problems
from builder.config.schema import BootTestEntry
from builder.config.text import absolute
from builder.config.values import BadValueError, seconds, size

#: The architectures that can be booted, by Debian's names.
ARCHITECTURES: Final = ("amd64", "arm64")
#: Bytes with which no image that is one of ours comes up.
_LEAST_MEMORY: Final = 128 << 20
#: ... and more than QEMU gives a machine.
_MOST_MEMORY: Final = 1 << 40
_USER: Final = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\Z")
#: A unit, or a pattern of units as systemctl takes them.
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@*?\[\]!-]{1,255}\Z")


def boot_test(recipe: Recipe, platform: Platform | None, problems: Problems) -> BootTest:
    """What the diskimage's `boot-test` comes to; what can't be used is a problem.

    Where nothing is said nothing is booted; where something is said, but no mode, images are.
    """
    entry = recipe.entry.boot_test
    if entry is None:
        return BootTest()
    found = BootTest(
        mode=entry.mode or "on",
        timeout=BootTest.timeout if entry.timeout is None else seconds(entry.timeout),
        memory=_memory(recipe, entry, problems),
        cpus=entry.cpus or BootTest.cpus,
        firmware=entry.firmware,
        user=entry.user,
        allowed_failed_units=tuple(entry.allowed_failed_units or ()),
        checks=_checks(recipe, entry),
        uploads_meanwhile=entry.uploads == "meanwhile",
    )
    for key, problem in _problems(found, platform):
        problems.add(recipe.where("boot_test", key), problem)
    return found


def as_data(test: BootTest) -> dict[str, Any]:
    """The keys of the file for it; nothing where nothing is booted."""
    if not test.is_done:
        return {}
    optional = {
        "firmware": test.firmware,
        "user": test.user,
        "allowed-failed-units": list(test.allowed_failed_units) or None,
        "checks": None if test.checks is None else [str(path) for path in test.checks],
    }
    return {
        "mode": test.mode,
        "timeout": test.timeout.total_seconds(),
        "memory": test.memory,
        "cpus": test.cpus,
        **{key: value for key, value in optional.items() if value is not None},
        "uploads": "meanwhile" if test.uploads_meanwhile else "after",
    }


def _memory(recipe: Recipe, entry: BootTestEntry, problems: Problems) -> int:
    if entry.memory is None:
        return BootTest.memory
    try:
        memory = size(entry.memory)
    except BadValueError as problem:
        problems.add(recipe.where("boot_test", "memory"), str(problem))
        return BootTest.memory
    if not _LEAST_MEMORY <= memory <= _MOST_MEMORY:
        text = f"must be from {_LEAST_MEMORY >> 20}M to {_MOST_MEMORY >> 40}T, not {entry.memory}"
        problems.add(recipe.where("boot_test", "memory"), text)
    return memory


def _checks(recipe: Recipe, entry: BootTestEntry) -> tuple[Path, ...] | None:
    if entry.checks is None:
        return None
    return tuple(absolute(path, recipe.where("boot_test", "checks").file) for path in entry.checks)


def _problems(test: BootTest, platform: Platform | None) -> list[tuple[str, str]]:
    """What is wrong with it, each with the key that is to blame."""
    found = []
    architecture = platform.architecture if platform else ARCHITECTURES[0]
    if test.is_done and architecture not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        text = (
            f"machines of the architecture {architecture} can't be booted, only {known}: say `boot-test: off`"
        )
        found.append(("mode", text))
    elif architecture == "arm64" and test.firmware == "bios":
        found.append(("firmware", "machines of the architecture arm64 have no BIOS"))
    if test.user is not None and not _USER.match(test.user):
        found.append(("user", f"{test.user!r} is no name of a user"))
    found += [
        ("allowed_failed_units", f"{unit!r} is no systemd unit and no pattern of units")
        for unit in test.allowed_failed_units
        if not _UNIT.match(unit)
    ]
    return found

"""Reads the bindep files of repositories that the image has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: The first of them counts.
NAMES = ("bindep.txt", "other-requirements.txt")
#: Bytes; the largest known has ten thousand.
_LARGEST = 256 * 1024
_TIMEOUT = 60.0


@dataclass(frozen=True)
class File:
    """A bindep file of a repository, or why it can't be read."""

    name: str
    content: bytes = b""
    trouble: str = ""


def read(repository: Path, commit: str) -> File | None:
    """The bindep file of a commit; None when it has none."""
    wanted = "".join(f"{commit}:{name}\n" for name in NAMES)
    try:
        lines = _git(
            repository, "cat-file", "--batch-check=%(objecttype) %(objectname) %(objectsize)", text=wanted
        )
        for name, line in zip(NAMES, lines.decode().splitlines(), strict=True):
            kind, *rest = line.split(" ")
            if kind != "blob":
                continue
            if int(rest[1]) > _LARGEST:
                return File(name, trouble=f"it is larger than {_LARGEST} bytes")
            return File(name, _git(repository, "cat-file", "blob", rest[0]))
    except (OSError, subprocess.SubprocessError) as error:
        return File(NAMES[0], trouble=f"the repository can't be read: {error}")
    return None


def _git(repository: Path, *arguments: str, text: str = "") -> bytes:
    done = subprocess.run(
        # It belongs to root, and what its settings are we have written ourselves.
        ["git", "-c", "safe.directory=*", f"--git-dir={repository}/.git", *arguments],
        env=_environment(os.environ),
        input=text.encode(),
        capture_output=True,
        timeout=_TIMEOUT,
        check=True,
    )
    return done.stdout


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("GIT_")} | {
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }

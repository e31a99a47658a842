"""imagepool-root: what root does for a daemon that runs as a service user.

    imagepool-root check                 say that it can be called
    imagepool-root sandbox DIRECTORY     be the sandbox of a build; the order comes on standard input
    imagepool-root release DIRECTORY     release what a build left; the answer is one line of JSON
    imagepool-root prune CACHE BYTES     remove from a cache what builds put there; likewise

sudo runs it, and it is the only program that sudo has to allow. DIRECTORY is a work directory with
a ledger, CACHE one that builds have used, and both belong to who calls: somebody else's are out of
reach. That is tidiness and no fence, for a build runs programs as root, and so does who may start
one.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from builder.dib import cache
from builder.dib.isolation import sandbox, workspace
from builder.dib.isolation.workspace import Workspace
from builder.errors import ImagepoolError, RefusedError, UsageError

_USAGE: Final = "usage: imagepool-root check | sandbox DIRECTORY | release DIRECTORY | prune CACHE BYTES"


def main() -> int:
    """The program's entry; its exit code."""
    try:
        return _act(sys.argv[1:])
    except ImagepoolError as error:
        sys.stderr.write(f"imagepool-root: {error}\n")
        return error.exit_code


def _act(words: list[str]) -> int:
    if os.geteuid() != 0:
        raise RefusedError("this program is for root", hint="Have sudo run it; see docs/service-user.md.")
    match words:
        case ["check"]:
            return 0
        case ["sandbox", directory]:
            entry = sandbox.entry(_workspace(directory).directory)
            os.execv(entry[0], entry)
        case ["release", directory]:
            released = workspace.release(_workspace(directory))
            return _answer(devices=released.devices, problem=released.problem)
        case ["prune", directory, limit] if limit.isdecimal():
            return _answer(**asdict(cache.prune(_cache(directory), int(limit))))
    raise UsageError(_USAGE)


def _workspace(name: str) -> Workspace:
    space = workspace.load(_theirs(name))
    if space is None:
        raise RefusedError(f"{name} is no work directory of a build")
    return space


def _cache(name: str) -> Path:
    directory = _theirs(name)
    if not (directory / cache.IMAGES).is_dir():
        raise RefusedError(f"{name} is no cache of builds")
    return directory


def _theirs(name: str) -> Path:
    """The directory of that name, which the caller must own."""
    directory = Path(name)
    if not directory.is_absolute() or directory.is_symlink() or not directory.is_dir():
        raise RefusedError(f"{name} is not the absolute path of a directory")
    caller = int(os.environ.get("SUDO_UID", "0"))
    if directory.stat().st_uid != caller:
        raise RefusedError(f"{name} belongs to another user than number {caller}")
    return directory


def _answer(**told: object) -> int:
    sys.stdout.write(f"{json.dumps(told)}\n")
    return 0

"""Which programs a build needs, whether they are here, and in which versions."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final

import builder
from builder.dib.isolation import sudo
from builder.errors import ToolMissingError
from builder.process.child import find_tool, run

#: Program -> Debian package.
_NEEDED: Final[Mapping[str, str]] = {
    "qemu-img": "qemu-utils",
    "sudo": "sudo",
    "kpartx": "kpartx",
    "sgdisk": "gdisk",
    "sfdisk": "fdisk",
    "partx": "util-linux",
    "losetup": "mount",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mkfs.vfat": "dosfstools",
    "debootstrap": "debootstrap",
    "cpio": "cpio",
}
_VERSIONED: Final = ("qemu-img", "mmdebstrap", "debootstrap")
_NUMBER = re.compile(r"\d+(?:\.\w+)+")


def require() -> None:
    """Check that this machine can build at all.

    Raises UnavailableError where we neither are root nor may have things done by it, and
    ToolMissingError naming every package to install.
    """
    if sudo.needed():
        sudo.require()
    missing = {name: package for name, package in _NEEDED.items() if not _has(name)}
    if missing:
        raise ToolMissingError(
            f"programs that a build needs are not installed: {', '.join(missing)}",
            hint=f"apt-get install {' '.join(sorted(set(missing.values())))}",
        )


def programs(dib_cmd: str) -> Path:
    """The directory that a build's command comes from: on our PATH, else beside this Python.

    A command with a directory of its own needs none; then, too, it is the one beside this Python.
    """
    if "/" not in dib_cmd:
        with contextlib.suppress(ToolMissingError):
            return Path(find_tool(dib_cmd)).parent
    return Path(sys.executable).parent


def versions() -> Mapping[str, str]:
    """Name to version of what takes part in a build on this machine; absent tools are left out."""
    found = {"imagepool": builder.__version__, "kernel": platform.release()}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["diskimage-builder"] = metadata.version("diskimage-builder")
    for name in _VERSIONED:
        version = _version(name)
        if version:
            found[name] = version
    return dict(sorted(found.items()))


def _has(name: str) -> bool:
    try:
        find_tool(name)
    except ToolMissingError:
        return False
    return True


def _version(name: str) -> str | None:
    try:
        program = find_tool(name)
        status = Path(program).stat()
        return _said(program, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    except (ToolMissingError, OSError):
        return None


@lru_cache(maxsize=len(_VERSIONED))
def _said(program: str, identity: tuple[int, ...]) -> str | None:
    """What a program says of itself; it is asked again when it is another file. OSError without an answer.

    Some take a third of a second to say it, in which somebody waits for a build to begin.
    """
    answer = run([program, "--version"], timeout=10)
    number = _NUMBER.search(answer.stdout)
    return number[0] if number else None

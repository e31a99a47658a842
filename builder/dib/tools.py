"""Which programs a build needs, whether they are here, and in which versions."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final

import builder
from builder.dib.isolation import sudo
from builder.errors import ToolMissingError
from builder.host import architectures
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
#: What makes containers -> Debian package, by DIB_CONTAINERFILE_RUNTIME.
_RUNTIMES: Final[Mapping[str, str]] = {"podman": "podman", "docker": "docker.io"}
#: Elements that install the first packages with this machine's own tools (08-yum-chroot of yum-minimal).
_BY_RPM: Final = frozenset({"yum-minimal", "centos-minimal", "fedora-minimal", "openeuler-minimal"})
#: What the kernel runs programs of other machines with, and what QEMU calls these in there.
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_QEMU: Final[Mapping[str, str]] = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "armhf": "arm",
    "ppc64el": "ppc64le",
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


def require_for(elements: Collection[str], environment: Mapping[str, str]) -> None:
    """Check that this machine can build of these elements, named as in the diskimage, in this environment.

    Raises ToolMissingError, naming every package to install, where what makes containers is missing, what
    installs rpm packages, or what runs programs of another architecture.
    """
    missing = {name: package for name, package in _wanted(elements, environment) if not _has(name)}
    told = ", ".join(missing)
    architecture = environment.get("ARCH", "")
    if architecture and not _runs(architecture):
        foreign = f"what runs programs of {architecture} here"
        told, missing[foreign] = ", ".join(filter(None, (told, foreign))), "qemu-user-static"
    if missing:
        raise ToolMissingError(
            f"programs that this image needs are not installed: {told}",
            hint=f"apt-get install {' '.join(sorted(set(missing.values())))}",
        )


def _wanted(elements: Collection[str], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each program that elements need besides those of every build, and its Debian package."""
    if any(name == "containerfile" or name.endswith("-container") for name in elements):
        runtime = environment.get("DIB_CONTAINERFILE_RUNTIME", "podman")
        yield runtime, _RUNTIMES.get(runtime, runtime)
    if _BY_RPM.intersection(elements):
        yield "rpm", "rpm"
        if not (_has("yumdownloader") and _has("yum")):
            # dnf downloads by a plugin, which is in a package of its own.
            yield "dnf", "dnf dnf-plugins-core"
    if environment.get("ARCH", "") not in ("", *architectures()) and _has("mmdebstrap"):
        # It asks this whether programs of another architecture run, and gives up without it.
        yield "arch-test", "arch-test"


def _runs(architecture: str) -> bool:
    """Whether programs of the architecture, as Debian calls it, run in a tree of their own."""
    here = architectures()
    if architecture in here or (architecture == "i386" and "amd64" in here):
        return True
    try:
        entry = (_BINFMT / f"qemu-{_QEMU.get(architecture, architecture)}").read_text().split()
    except OSError:
        return False
    # With F it was opened when it was registered; otherwise the tree would have to have it.
    flags = entry[entry.index("flags:") + 1] if "flags:" in entry[:-1] else ""
    return entry[:1] == ["enabled"] and "F" in flags


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

"""Loop devices over files of a build, with what is on top of them: find and release them.

Partitions of them, links to those and device-mapper maps over them go along. The devices are found
by the file behind each, by device and inode number: once the mount namespace of a build is gone the
kernel can't tell the path any more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builder.process.child import find_tool, run, wait_for

LOG = logging.getLogger(__name__)
_MAPPER: Final = Path("/dev/mapper")
_LOOP: Final = re.compile(r"loop[0-9]+")
#: Seconds for one of the small tools, and for the last holder of a device to let go of it.
_TOOL_TIMEOUT: Final = 30.0
_PATIENCE: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class _Loop:
    name: str  #: "loop0"
    inode: int
    device: tuple[int, int]
    file: str

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"


def release(directory: Path, touched: frozenset[str]) -> tuple[str, ...]:
    """Release the devices over files below a directory, and what is left on the loop devices that a
    build `touched` ("loop0") and that are not in use any more; what was released.

    Raises OSError (TimeoutError when one stays in use), and ToolMissingError.
    """
    released = []
    bound = _bound_loops()
    for loop in _loops_below(directory, bound):
        for name in dm_maps_over(loop.name):
            run([find_tool("dmsetup"), "remove", "--retry", name], timeout=_TOOL_TIMEOUT)
            released.append(name)
        _drop_partitions(loop.name)
        _detach(loop)
        released.append(loop.path)
    # A device that the kernel detached by itself, at its last closing, keeps its partitions.
    still_bound = {loop.name for loop in _bound_loops()}
    for name in sorted(touched - still_bound):
        if _partitions(name):
            released.append(f"partitions of /dev/{name}")
        _drop_partitions(name)
    if touched:
        _tidy_mapper()
    return tuple(released)


def _bound_loops() -> list[_Loop]:
    """All loop devices in use, asked of the kernel by ioctl (losetup does it). Raises OSError."""
    columns = "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE"
    answer = run([find_tool("losetup"), "--list", "--json", "--output", columns], timeout=_TOOL_TIMEOUT)
    if not answer.stdout.strip():
        return []
    try:
        # Without these two it was detached while losetup asked about it.
        return [
            _loop(device)
            for device in json.loads(answer.stdout)["loopdevices"]
            if device["back-ino"] is not None and device["back-maj:min"] is not None
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"losetup does not list the loop devices as it should: {error!r}") from error


def _loop(device: Mapping[str, Any]) -> _Loop:
    major, _, minor = str(device["back-maj:min"]).partition(":")
    return _Loop(
        name=Path(device["name"]).name,
        inode=int(device["back-ino"]),
        device=(int(major), int(minor)),
        file=str(device["back-file"]),
    )


def _loops_below(directory: Path, loops: list[_Loop]) -> list[_Loop]:
    if not loops:
        return []
    files = set(_files(directory))
    inside = f"{directory.resolve()}/"
    # The path counts as well: it is all there is of a file that was deleted meanwhile.
    return [loop for loop in loops if (loop.device, loop.inode) in files or loop.file.startswith(inside)]


def _files(directory: Path) -> Iterator[tuple[tuple[int, int], int]]:
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(Path(parent) / name)
                yield (os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino


def dm_maps_over(device: str, sys_block: Path = Path("/sys/block")) -> list[str]:
    """Names of the device-mapper maps that hold a block device or its partitions, topmost first."""
    names = []
    for holders in [sys_block / device / "holders", *(sys_block / device).glob(f"{device}*/holders")]:
        for holder in sorted(holders.iterdir() if holders.is_dir() else []):
            names += dm_maps_over(holder.name, sys_block)
            name = sys_block / holder.name / "dm" / "name"
            if name.is_file():
                names.append(name.read_text().strip())
    return list(dict.fromkeys(names))


def _partitions(loop: str) -> list[str]:
    return sorted(path.name for path in Path("/sys/block", loop).glob(f"{loop}p*"))


def _drop_partitions(loop: str) -> None:
    for link in _MAPPER.glob(f"{loop}p*"):
        if link.is_symlink() and str(link.readlink()).startswith(f"/dev/{loop}p"):
            link.unlink(missing_ok=True)

    def gone() -> bool:
        # partx complains about a device without a file behind it, and still does what it is told.
        if _partitions(loop):
            run([find_tool("partx"), "--delete", f"/dev/{loop}"], timeout=_TOOL_TIMEOUT)
        return not _partitions(loop)

    # The file system on it may be on its way out with the mount namespace.
    if not wait_for(gone, timeout=_PATIENCE, interval=0.2):
        LOG.warning("partitions of /dev/%s are still in use", loop)


def _tidy_mapper() -> None:
    """Take the directory of links away when nothing but a dead control node is in it.

    grub's tools make that node in every build, also where the kernel has no device-mapper.
    """
    with contextlib.suppress(OSError):
        if [path.name for path in _MAPPER.iterdir()] == ["control"] and _dead(_MAPPER / "control"):
            (_MAPPER / "control").unlink()
        _MAPPER.rmdir()


def _dead(node: Path) -> bool:
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.ENODEV, errno.ENXIO)
    return False


def _detach(loop: _Loop) -> None:
    def gone() -> bool:
        # Asked before as well as after: a device that went by itself may be somebody else's by now.
        if loop in _bound_loops():
            run([find_tool("losetup"), "--detach", loop.path], timeout=_TOOL_TIMEOUT)
        return loop not in _bound_loops()

    if not wait_for(gone, timeout=_PATIENCE, interval=0.2):
        raise TimeoutError(f"{loop.path} is still in use")


def listed(loops: Path) -> frozenset[str]:
    """The loop devices that a file lists, one path on each line; none without the file. Raises OSError."""
    try:
        names = (Path(line).name for line in loops.read_text(errors="replace").splitlines())
        # The build can write this file; what it names becomes paths.
        return frozenset(name for name in names if _LOOP.fullmatch(name))
    except FileNotFoundError:
        return frozenset()

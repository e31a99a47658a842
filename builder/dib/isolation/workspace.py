"""The work directory of one build, and how everything in it is released, however the build ended.

    <work_dir>/<image>-<build_id>/
        ledger.json     whose it is; written first, so whatever is found later can be judged
        home/ tmp/      HOME and TMPDIR of the build
        shared/tmp/     its /tmp; shared/ is closed to others
        programs/       stand-ins for tools, see sandbox.py
        loops           loop devices whose partitions the stand-in for kpartx made
        cgroup          the cgroup that limits it, see cgroups.py
        output/         what dib and qemu-img make; moves to the images directory at the end

Namespaces take processes and mounts along; loop devices, their partitions, links to them and
device-mapper maps over them stay behind. They are found by the file behind the loop device, by
device and inode number: once the mount namespace is gone the kernel can't tell the path any more.

A service user makes such a directory itself, and has root release it: most in it is root's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.dib.isolation import sudo
from builder.errors import RefusedError, ToolMissingError
from builder.model import is_build_id, name_problem
from builder.process.child import find_tool, run, wait_for

LOG = logging.getLogger(__name__)
LEDGER: Final = "ledger.json"
_MAPPER: Final = Path("/dev/mapper")
_LOOP: Final = re.compile(r"loop[0-9]+")
#: Seconds for one of the small tools, and for the last holder of a device to let go of it.
_TOOL_TIMEOUT: Final = 30.0
_PATIENCE: Final = 15.0
#: Seconds for root to release everything: each of a few devices may take all of the patience.
_SUDO_TIMEOUT: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Whose a workspace is."""

    installation_id: str
    image: str
    build_id: str
    started: datetime


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The directory of one build; `ledger` says whose."""

    directory: Path
    ledger: Ledger

    @property
    def home(self) -> Path:
        """HOME of the build."""
        return self.directory / "home"

    @property
    def tmp(self) -> Path:
        """TMPDIR of the build."""
        return self.directory / "tmp"

    @property
    def shared_tmp(self) -> Path:
        """What the build sees as /tmp."""
        return self.directory / "shared" / "tmp"

    @property
    def programs(self) -> Path:
        """Where stand-ins for tools are written."""
        return self.directory / "programs"

    @property
    def loops(self) -> Path:
        """The list of loop devices that the stand-in for kpartx touched."""
        return self.directory / "loops"

    @property
    def group(self) -> Path:
        """The file that names the build's cgroup."""
        return self.directory / "cgroup"

    @property
    def group_name(self) -> str:
        """The name of the build's cgroup, wherever that is."""
        return f"imagepool-{self.ledger.build_id}"

    @property
    def output(self) -> Path:
        """Where the build's files are made, the name without a suffix."""
        return self.directory / "output" / self.directory.name


@dataclass(frozen=True, kw_only=True)
class Released:
    """What `release` found and did. `problem` is empty, or says what is still there and why."""

    directory: Path
    ledger: Ledger
    devices: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        text = f"work directory {self.directory} of build {self.ledger.build_id}"
        if self.devices:
            text += f" with {', '.join(self.devices)}"
        return f"{text}; NOT COMPLETE: {self.problem}" if self.problem else text


def create(work_dir: Path, *, image: str, build_id: str, installation_id: str, now: datetime) -> Workspace:
    """Make the work directory of a build, ledger first.

    Raises RefusedError for names that can't be file names, OSError (FileExistsError when the build
    has a work directory already).
    """
    if name_problem(image) or not is_build_id(build_id):
        raise RefusedError(f"{image!r} and {build_id!r} can't name a work directory")
    directory = work_dir / f"{image}-{build_id}"
    ledger = Ledger(installation_id=installation_id, image=image, build_id=build_id, started=now)
    work_dir.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o755)
    _write_ledger(directory, ledger)
    workspace = Workspace(directory=directory, ledger=ledger)
    for part in (workspace.home, workspace.tmp, workspace.programs, workspace.output.parent):
        part.mkdir()
    # Everybody in the sandbox may write there, and nobody outside of it: it is bound over /tmp by root.
    workspace.shared_tmp.parent.mkdir(mode=0o700)
    workspace.shared_tmp.mkdir()
    workspace.shared_tmp.chmod(0o1777)
    return workspace


def release(workspace: Workspace) -> Released:
    """Give back everything a build may have left: cgroup, devices, links, the directory. Never raises.

    Nothing is removed beyond a mount: a directory with something mounted in it stays, and so does
    one whose devices are still in use; `Released.problem` says so, and the next sweep tries again.
    """
    devices: tuple[str, ...] = ()
    try:
        if sudo.needed():
            devices, problem = _release_as_root(workspace.directory)
        else:
            _remove_group(workspace)
            devices = _release_devices(workspace.directory, _listed(workspace.loops))
            problem = _remove_directory(workspace.directory)
    except (OSError, TimeoutError, ToolMissingError) as error:
        problem = str(error)
    released = Released(
        directory=workspace.directory, ledger=workspace.ledger, devices=devices, problem=problem
    )
    if problem:
        LOG.error("could not be released: %s", released)
    return released


def _release_as_root(directory: Path) -> tuple[tuple[str, ...], str]:
    """Have asroot.py do it; the devices and the problem it tells."""
    if not directory.exists():
        return (), ""
    told = sudo.ask("release", str(directory), timeout=_SUDO_TIMEOUT)
    return tuple(told["devices"]), str(told["problem"])


def sweep(work_dir: Path, installation_id: str | None = None) -> tuple[Released, ...]:
    """Release every work directory that an earlier daemon left; what was released.

    The caller makes sure that no build runs in `work_dir` (it holds the state directory's lock).
    Directories without a ledger of ours, or of another installation than `installation_id` when
    that is given, are not touched.
    """
    found = []
    for directory in _subdirectories(work_dir):
        space = load(directory)
        if space is None:
            if not _stillborn(directory):
                LOG.warning("%s has no ledger of a build; it is left alone", directory)
        elif installation_id not in (None, space.ledger.installation_id):
            LOG.warning("%s belongs to another installation; it is left alone", directory)
        else:
            found.append(release(space))
    return tuple(found)


def load(directory: Path) -> Workspace | None:
    """The workspace in a directory, None when no ledger proves that it is one."""
    ledger = _read_ledger(directory)
    return None if ledger is None else Workspace(directory=directory, ledger=ledger)


def _subdirectories(work_dir: Path) -> list[Path]:
    if not work_dir.is_dir():
        return []
    return sorted(path for path in work_dir.iterdir() if path.is_dir() and not path.is_symlink())


def _write_ledger(directory: Path, ledger: Ledger) -> None:
    record = {
        "installation_id": ledger.installation_id,
        "image": ledger.image,
        "build_id": ledger.build_id,
        "started": ledger.started.isoformat(),
    }
    with (directory / LEDGER).open("w") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _read_ledger(directory: Path) -> Ledger | None:
    """The ledger of a work directory; None when there is none or it names another directory."""
    try:
        record = json.loads((directory / LEDGER).read_text())
        ledger = Ledger(
            installation_id=record["installation_id"],
            image=record["image"],
            build_id=record["build_id"],
            started=datetime.fromisoformat(record["started"]).astimezone(UTC),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ledger if directory.name == f"{ledger.image}-{ledger.build_id}" else None


def _stillborn(directory: Path) -> bool:
    """Take away a directory that a crash left between mkdir and the ledger: a build's name on it,
    and nothing in it but perhaps an empty ledger. Whether it was one."""
    if not is_build_id(directory.name.rpartition("-")[2]):
        return False
    ledger = directory / LEDGER
    with contextlib.suppress(OSError):
        if ledger.is_file() and ledger.stat().st_size == 0:
            ledger.unlink()
        directory.rmdir()
        return True
    return False


# -- the directory -----------------------------------------------------------------------------


def _remove_directory(directory: Path) -> str:
    """Remove a tree, ledger last, so that half of it is still known as ours; what hinders, or ""."""
    mounted = _mounts_below(directory)
    if mounted:
        return f"{', '.join(mounted)} is still mounted"
    if not directory.exists():
        return ""
    problems: list[OSError] = []

    def gone() -> bool:
        # A process that is just being killed may still have added to what we removed.
        problems.clear()
        for path in directory.iterdir():
            if path.name != LEDGER:
                _remove(path, problems)
        return not problems

    if not wait_for(gone, timeout=_PATIENCE, interval=0.2):
        return str(problems[0])
    (directory / LEDGER).unlink(missing_ok=True)
    directory.rmdir()
    return ""


def _remove(path: Path, problems: list[OSError]) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        problems.append(error)


def _mounts_below(directory: Path) -> list[str]:
    inside = f"{directory.resolve()}/"
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # mountinfo writes blanks and the like as octal escapes.
    plain = [point.encode().decode("unicode_escape") for point in points]
    return [point for point in plain if f"{point}/".startswith(inside)]


# -- the cgroup --------------------------------------------------------------------------------


def _remove_group(workspace: Workspace) -> None:
    group = _group(workspace)
    if group is None:
        return
    # Its processes ended with their namespace, or are about to.
    with contextlib.suppress(OSError):
        (group / "cgroup.kill").write_text("1")

    def gone() -> bool:
        for parent, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(parent).rmdir()
        return not group.exists()

    if not wait_for(gone, timeout=_PATIENCE, interval=0.1):
        raise TimeoutError(f"the cgroup {group} is still in use")


def _group(workspace: Workspace) -> Path | None:
    """The build's cgroup, None when there is none (any more)."""
    try:
        group = Path(workspace.group.read_text(errors="replace").strip())
    except FileNotFoundError:
        return None
    # The build can write this file; only what bears its name is its.
    return group if group.name == workspace.group_name and group.is_dir() else None


# -- devices -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Loop:
    name: str  #: "loop0"
    inode: int
    device: tuple[int, int]
    file: str

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"


def _release_devices(directory: Path, touched: frozenset[str]) -> tuple[str, ...]:
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
    """All loop devices in use, asked of the kernel by ioctl (losetup does it)."""
    columns = "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE"
    answer = run([find_tool("losetup"), "--list", "--json", "--output", columns], timeout=_TOOL_TIMEOUT)
    if not answer.stdout.strip():
        return []
    found = []
    for device in json.loads(answer.stdout)["loopdevices"]:
        if device["back-ino"] is None or device["back-maj:min"] is None:
            continue  # it was detached while losetup asked about it
        major, _, minor = str(device["back-maj:min"]).partition(":")
        found.append(
            _Loop(
                name=Path(device["name"]).name,
                inode=int(device["back-ino"]),
                device=(int(major), int(minor)),
                file=str(device["back-file"]),
            )
        )
    return found


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


def _listed(loops: Path) -> frozenset[str]:
    try:
        names = (Path(line).name for line in loops.read_text(errors="replace").splitlines())
        # The build can write this file; what it names becomes paths.
        return frozenset(name for name in names if _LOOP.fullmatch(name))
    except FileNotFoundError:
        return frozenset()

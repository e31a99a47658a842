"""The work directory of one build, and how everything in it is released, however the build ended.

    <work_dir>/<image>-<build_id>/
        ledger.json     whose it is; written first, so whatever is found later can be judged
        home/ tmp/      HOME and TMPDIR of the build
        shared/tmp/     its /tmp; shared/ is closed to others
        programs/       stand-ins for tools, see sandbox.py
        loops           loop devices whose partitions the stand-in for kpartx made
        cgroup          the cgroup that limits it, see cgroups.py
        output/         what dib and qemu-img make; moves to the images directory at the end

Namespaces take processes and mounts along; what stays behind is the cgroup and devices, see
devices.py.

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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.dib.isolation import devices, sudo
from builder.errors import RefusedError, ToolMissingError
from builder.model import is_build_id, name_problem
from builder.process.child import wait_for

LOG = logging.getLogger(__name__)
LEDGER: Final = "ledger.json"
_MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-3][0-7]{2})")
#: Seconds for the last process of a build to let go of its cgroup or its files.
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
    has a work directory already). What failed half-way is taken away again.
    """
    if name_problem(image) or not is_build_id(build_id):
        raise RefusedError(f"{image!r} and {build_id!r} can't name a work directory")
    directory = work_dir / f"{image}-{build_id}"
    ledger = Ledger(installation_id=installation_id, image=image, build_id=build_id, started=now)
    work_dir.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o755)
    workspace = Workspace(directory=directory, ledger=ledger)
    try:
        _furnish(workspace)
    except BaseException:
        # Nobody else knows of it: it would stay until the next start.
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return workspace


def _furnish(workspace: Workspace) -> None:
    _write_ledger(workspace.directory, workspace.ledger)
    for part in (workspace.home, workspace.tmp, workspace.programs):
        part.mkdir()
    # The image, and dib's record of its environment with the passwords in it.
    workspace.output.parent.mkdir(mode=0o700)
    # Everybody in the sandbox may write there, and nobody outside of it: it is bound over /tmp by root.
    workspace.shared_tmp.parent.mkdir(mode=0o700)
    workspace.shared_tmp.mkdir()
    workspace.shared_tmp.chmod(0o1777)


def release(workspace: Workspace) -> Released:
    """Give back everything a build may have left: cgroup, devices, links, the directory. Never raises.

    Nothing is removed beyond a mount: a directory with something mounted in it stays, and so does
    one whose devices are still in use; `Released.problem` says so, and the next sweep tries again.
    """
    found: tuple[str, ...] = ()
    try:
        if sudo.needed():
            found, problem = _release_as_root(workspace.directory)
        else:
            _remove_group(workspace)
            found = devices.release(workspace.directory, devices.listed(workspace.loops))
            problem = _remove_directory(workspace.directory)
    except (OSError, ToolMissingError) as error:
        problem = str(error)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        # The kernel or a tool said what nobody expects, or directories are nested beyond measure.
        problem = repr(error)
    released = Released(
        directory=workspace.directory, ledger=workspace.ledger, devices=found, problem=problem
    )
    if problem:
        LOG.error("could not be released: %s", released)
    return released


def _release_as_root(directory: Path) -> tuple[tuple[str, ...], str]:
    """Have asroot.py do it; the devices and the problem it tells."""
    if not directory.exists():
        return (), ""
    told = sudo.ask("release", str(directory), members=("devices", "problem"), timeout=_SUDO_TIMEOUT)
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
    # Somebody may mount something from now on: nothing is removed that is not on this mount.
    mount = _mount_at(directory.parent)
    if _mount_at(directory) != mount:
        raise _mounted(directory)
    problems: list[OSError] = []

    def gone() -> bool:
        # A process that is just being killed may still have added to what we removed.
        problems.clear()
        for path in directory.iterdir():
            if path.name != LEDGER:
                _remove(path, mount, problems)
        return not problems

    if not wait_for(gone, timeout=_PATIENCE, interval=0.2):
        return str(problems[0])
    (directory / LEDGER).unlink(missing_ok=True)
    directory.rmdir()
    return ""


def _remove(path: Path, mount: str, problems: list[OSError]) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path, mount)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
        problems.append(error)


def _remove_tree(tree: Path, mount: str) -> None:
    """Remove a directory that is wholly on one mount. Raises OSError, EXDEV for what is on another."""
    for path, directories, files, descriptor in os.fwalk(tree, topdown=False, onerror=_raise):
        if _mount_of(descriptor) != mount:
            raise _mounted(Path(path))
        # The kernel itself refuses to remove a file or a directory that something is mounted on.
        for name in files:
            os.unlink(name, dir_fd=descriptor)
        for name in directories:
            try:
                os.rmdir(name, dir_fd=descriptor)
            except NotADirectoryError:  # a link to one
                os.unlink(name, dir_fd=descriptor)
    tree.rmdir()


def _raise(error: OSError) -> None:
    raise error


def _mounted(directory: Path) -> OSError:
    return OSError(errno.EXDEV, "still mounted, nothing in it is removed", str(directory))


def _mount_at(directory: Path) -> str:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _mount_of(descriptor)
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> str:
    """The number of the mount an open file is on (proc(5), fdinfo); st_dev is the same across bind mounts."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return value.strip()
    raise OSError(errno.ENOSYS, "the kernel does not tell mounts apart")


def _mounts_below(directory: Path) -> list[str]:
    inside = f"{directory.resolve()}/"
    # Of the bytes in a path, mountinfo escapes blank, tab, newline and backslash: nothing else divides it.
    points = [line.split(b" ")[4] for line in _MOUNTS.read_bytes().split(b"\n") if line]
    plain = [os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), point)) for point in points]
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

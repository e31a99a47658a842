"""Looks at what the builder role asks of a machine: tools, kernel, directories, memory, order in them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from builder.dib import tools
from builder.dib.checks import preflight
from builder.dib.checks.space import human
from builder.dib.isolation import cgroups, nosync, sandbox, sudo, workspace
from builder.doctor.world import World
from builder.errors import ImagepoolError
from builder.findings import Finding, fine, problem, warning
from builder.model import BuildState

#: Bytes of memory that one build is comfortable with: dpkg, mksquashfs, the compressors of qemu-img.
_MEMORY: Final = 1 << 30
_LOOP_CONTROL: Final = Path("/dev/loop-control")
_KVM: Final = Path("/dev/kvm")


def programs(world: World) -> Iterator[Finding]:
    """Tools with their versions, and root or the way to it."""
    try:
        tools.require()
    except ImagepoolError as error:
        yield problem("tools", error.message, hint=error.hint)
        return
    listed = ", ".join(f"{name} {version}" for name, version in tools.versions().items())
    yield fine("tools", f"all are installed: {listed}")
    if sudo.needed():
        yield fine("root", f"sudo runs {sudo.program()} for user {os.geteuid()}")
    else:
        yield fine("root", "runs as root")


def namespaces(world: World) -> tuple[Finding, ...]:
    """Whether the sandbox's namespaces can be made, by making them."""
    return (preflight.namespaces(),)


def loop_devices(world: World, control: Path = _LOOP_CONTROL) -> Iterator[Finding]:
    """Whether the kernel gives out loop devices, and how their partitions come about."""
    # Who is not root has them used by root, who may open everything that is there.
    works = control.exists() if sudo.needed() else os.access(control, os.R_OK | os.W_OK)
    if works:
        yield fine("loop devices", f"{control} is there")
    else:
        yield problem(
            "loop devices",
            f"there is no {control} that can be used",
            hint="Load the module loop; in a container, pass the device and /dev/loop* in.",
        )
    if sandbox.has_device_mapper():
        yield fine("device-mapper", "the kernel has it")
    else:
        yield fine("device-mapper", "the kernel has none; stand-ins over partx do its work in builds")


def limits(world: World) -> Iterator[Finding]:
    """Whether a build can be held to build-limits, and whether its fsync calls can be left out."""
    support, wanted = cgroups.available(), world.config.build_limits
    missing = [
        name
        for name, value, there in (
            ("cpus", wanted.cpus, support.cpu),
            ("memory", wanted.memory, support.memory),
        )
        if value is not None and not there
    ]
    if missing:
        asked = " and ".join(missing)
        yield warning(
            "build-limits", f"builds are not held to {asked}: {support.problem}", hint=_limits_hint(missing)
        )
    elif support.problem:
        yield fine("build-limits", f"none of cpus and memory is asked for, nor could be: {support.problem}")
    else:
        yield fine("build-limits", "cgroup v2 can hold builds to cpus and memory")
    if nosync.filter_for(platform.machine()) is None:
        yield warning(
            "seccomp",
            f"no filter is known for {platform.machine()}: builds wait for the disk at each fsync",
            hint="Builds work all the same, only slower.",
        )
    else:
        yield fine("seccomp", "builds need not wait for the disk at each fsync")


def _limits_hint(missing: list[str]) -> str:
    keys = " and ".join(f"build-limits.{name}" for name in missing)
    return f"Mend that, or take {keys} out of the configuration; builds run without."


def virtualisation(world: World, device: Path = _KVM) -> Iterator[Finding]:
    """Whether images can be booted at the machine's own speed; builds do without."""
    emulated = "an image that is booted here runs in emulation"
    if not device.exists():
        yield fine("KVM", f"this machine has none: builds don't need it, and {emulated}")
    elif os.access(device, os.R_OK | os.W_OK):
        # In many a virtual machine it can, and every guest hangs: what boots images tries it each time.
        yield fine("KVM", f"{device} can be opened; where no guest runs under it, {emulated}")
    else:
        yield warning(
            "KVM",
            f"{device} may not be opened by user {os.geteuid()}: {emulated}",
            hint="Builds don't need it. To boot images, add the user to the group of that device.",
        )


def memory(world: World, meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Whether there is memory for all builds that may run at the same time."""
    values = _meminfo(meminfo)
    total, free = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    workers, each = world.config.build_workers, world.config.build_limits.memory or _MEMORY
    text = f"{human(free)} of {human(total)} available"
    if free >= workers * _MEMORY and total >= workers * each:
        yield fine("memory", text)
        return
    wanted = max(workers * each, workers * _MEMORY)
    yield warning(
        "memory",
        f"{text}, {human(wanted)} for {workers} build{'' if workers == 1 else 's'} at a time",
        hint="Lower build-workers or build-limits.memory, or give the machine more.",
    )


def _meminfo(file: Path) -> Mapping[str, int]:
    """Bytes by name; the kernel says kB and means KiB."""
    words = [line.replace(":", "").split() for line in file.read_text().splitlines()]
    return {each[0]: int(each[1]) * 1024 for each in words if len(each) == 3 and each[2] == "kB"}


def directories(world: World) -> Iterator[Finding]:
    """Whether each directory can be written."""
    config = world.config
    named = {
        "work-dir": config.work_dir,
        "images-dir": config.images_dir,
        "cache-dir": config.cache_dir,
        "build-log-dir": config.log_dir,
    }
    yield from preflight.directories(named, make=False)
    for path in config.elements_dirs:
        if not path.is_dir():
            yield problem("elements-dir", f"there is no directory {path}", hint="Mend elements-dir.")


def leftovers(world: World) -> Iterator[Finding]:
    """Work directories of builds that are over; the next start of the daemon releases them."""
    running = set()
    if world.snapshot is not None:
        running = {b.id for b in world.snapshot.builds() if b.state is BuildState.BUILDING}
    work_dir = world.config.work_dir
    left = [path.name for path in _subdirectories(work_dir) if _is_over(path, running)]
    if world.snapshot is None:
        yield fine(
            "work directory", f"not looked into: without records, nobody knows what of {work_dir} lives"
        )
    elif left:
        yield warning(
            "work directory",
            f"left behind in {work_dir}: {', '.join(left)}",
            hint="The next start of `imagepool run` with the role builder releases it, devices included.",
        )
    else:
        yield fine("work directory", f"nothing is left behind in {work_dir}")


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def _is_over(directory: Path, running: set[str]) -> bool:
    space = workspace.load(directory)
    return space is not None and space.ledger.build_id not in running


def cache(world: World) -> Iterator[Finding]:
    """What the cache takes, against its limit."""
    directory, limit = world.config.cache_dir, world.config.cache_limit
    taken = _size(directory)
    text = f"{human(taken)} in {directory}, cache-limit is {human(limit)}"
    if taken > limit:
        yield warning("cache", text, hint="The next build prunes it; what was not used for longest goes.")
    else:
        yield fine("cache", text)


def _size(directory: Path) -> int:
    """Bytes that a tree takes on disk; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                status = os.lstat(Path(parent) / name)
            except OSError:
                continue  # a build that runs took it away
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


#: Every check of this module by its name.
CHECKS: Final[Mapping[str, Callable[[World], Iterable[Finding]]]] = {
    "tools": programs,
    "namespaces": namespaces,
    "loop devices": loop_devices,
    "build-limits": limits,
    "KVM": virtualisation,
    "memory": memory,
    "directories": directories,
    "work directory": leftovers,
    "cache": cache,
}

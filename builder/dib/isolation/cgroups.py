"""Hold a build to a share of the machine's processors and memory, by a cgroup (v2) of its own.

A group can be made where nothing but groups of ours will ever be:

- below the root of the hierarchy, unless systemd manages it, or it is a container's and has
  processes in it;
- beside our own group, when that is one a service or scope of systemd was delegated for and
  keeps its processes in (`Delegate=yes` with `DelegateSubgroup=`), for a group that passes
  controllers on to others must have no processes itself (cgroups(7), "no internal processes").

Everywhere else the hierarchy has another owner. Files and their meaning: the kernel's
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builder.config.model import BuildLimits
from builder.dib.isolation.workspace import Workspace

ROOT: Final = Path("/sys/fs/cgroup")
#: Microseconds over which cpu.max is meant.
_PERIOD: Final = 100_000
_DELEGATE: Final = (
    "give imagepool a group of its own to divide: `Delegate=yes` and `DelegateSubgroup=daemon` in its unit"
)


@dataclass(frozen=True, kw_only=True)
class Support:
    """What builds can be held to on this machine; `problem` says why not, or is empty."""

    cpu: bool = False
    memory: bool = False
    problem: str = ""
    parent: Path | None = None  #: where the groups of builds are made


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group to be made for a build: nothing to make when `path` is None."""

    path: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)  #: of the group, and what goes into each
    controllers: str = ""  #: for its parent's cgroup.subtree_control
    problem: str = ""  #: why the build can't be held to all of its limits


def available(root: Path = ROOT, proc: Path = Path("/proc")) -> Support:
    """What builds can be held to. Looks only; `root` is where cgroups are mounted."""
    try:
        return _available(root, proc)
    except OSError as error:
        return Support(problem=f"cgroups can't be looked at: {error}")


def _available(root: Path, proc: Path) -> Support:
    top = next((path for path in (root, root / "unified") if (path / "cgroup.controllers").is_file()), None)
    if top is None:
        return Support(problem=f"there is no cgroup v2 hierarchy at {root}")
    offered = _words(top / "cgroup.controllers")
    missing = [name for name in ("cpu", "memory") if name not in offered]
    if len(missing) == 2:
        return Support(problem=_elsewhere(top, proc))
    parent = _parent(top, _own(top, proc))
    if isinstance(parent, str):
        return Support(problem=parent)
    offered = _words(parent / "cgroup.controllers")
    missing = [name for name in ("cpu", "memory") if name not in offered]
    problem = f"{parent} has no controller for {' and '.join(missing)}" if missing else ""
    return Support(cpu="cpu" in offered, memory="memory" in offered, problem=problem, parent=parent)


def group_for(
    workspace: Workspace, limits: BuildLimits, root: Path = ROOT, proc: Path = Path("/proc")
) -> Group:
    """The group that holds a build to its limits as far as this machine can.

    Its path is written down in the workspace, so that `workspace.release` removes it.
    """
    if limits.cpus is None and limits.memory is None:
        return Group()
    support = available(root, proc)
    files: dict[str, str] = {}
    if limits.cpus is not None and support.cpu:
        files["cpu.max"] = f"{max(1000, round(limits.cpus * _PERIOD))} {_PERIOD}"
    if limits.memory is not None and support.memory:
        # All of a build ends when one of its processes is too much; half of one helps nobody. Swap
        # would be a limit that is none.
        files |= {"memory.max": str(limits.memory), "memory.swap.max": "0", "memory.oom.group": "1"}
    if not files or support.parent is None:
        return Group(problem=support.problem)
    path = support.parent / workspace.group_name
    workspace.group.write_text(f"{path}\n")
    controllers = " ".join(f"+{name}" for name in ("cpu", "memory") if getattr(support, name))
    wanted = {"cpu": limits.cpus, "memory": limits.memory}
    lacking = any(value is not None and not getattr(support, name) for name, value in wanted.items())
    return Group(path=path, files=files, controllers=controllers, problem=support.problem if lacking else "")


def ran_out_of_memory(workspace: Workspace) -> bool:
    """Whether the kernel killed a process of the build for its memory limit. Ask before `release`."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        group = Path(workspace.group.read_text().strip())
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        return int(events.get("oom_kill", "0")) > 0
    return False


def _own(top: Path, proc: Path) -> Path:
    """Our own group: the line of the unified hierarchy is "0::/path"."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return top / line.removeprefix("0::").strip("/")
    return top


def _parent(top: Path, own: Path) -> Path | str:
    """Where the groups of builds may be made, or why nowhere."""
    if own == top:
        return _top(top)
    parent = own.parent
    if parent == top or not parent.name.endswith((".service", ".scope")):
        return f"imagepool's own group {own} has imagepool's processes in it: {_DELEGATE}"
    if (parent / "cgroup.procs").read_text().strip():
        return f"there are processes in {parent}, beside imagepool's group {own.name}: {_DELEGATE}"
    return parent


def _top(top: Path) -> Path | str:
    managed = [name for name in ("init.scope", "system.slice") if (top / name).is_dir()]
    if managed:
        return f"systemd manages {top} ({managed[0]}): {_DELEGATE}"
    # Only the real root has no such file; a container sees its own group as the root.
    if (top / "cgroup.events").exists() and (top / "cgroup.procs").read_text().strip():
        return f"there are processes in this container's own group {top}, which can't be divided then"
    return top


def _elsewhere(top: Path, proc: Path) -> str:
    old = [line.split(":")[1] for line in (proc / "self" / "cgroup").read_text().splitlines()]
    used = [name for name in ("cpu", "memory") if any(name in word.split(",") for word in old)]
    if used:
        return (
            f"this machine uses cgroup v1 for {' and '.join(used)}, and limits need v2: boot it with"
            " systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
        )
    return f"{top} has no controller for cpu and memory"


def _words(file: Path) -> list[str]:
    return file.read_text().split()

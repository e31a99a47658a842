"""Run a build's command in mount, pid and host name namespaces of its own, so that it ends as a whole.

    this daemon -> unshare --kill-child -> init.py (process 1) -> the command

Whoever of them dies takes the rest along: the daemon process 1, which holds on to a pipe from it,
unshare too (--kill-child), and process 1 the whole namespace, sessions and programs with
set-user-id such as sudo included. Mounts live in the mount namespace and end with it. Loop devices
and cgroups do not: workspace.py releases them. A daemon that is not root has sudo between itself
and unshare; all else is the same.

The data files are in the directory sandbox/: stand-ins for kpartx, dmsetup and fstrim, which are
bound over the real tools inside the mount namespace, those of device-mapper only where the kernel
has none.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from builder.config.model import BuildLimits
from builder.dib.isolation import cgroups, init, nosync, sudo
from builder.dib.isolation.workspace import Workspace
from builder.errors import ToolMissingError
from builder.process.child import Child, find_tool, run

DATA: Final = Path(__file__).with_suffix("")
UNSHARE: Final = (
    *("unshare", "--mount", "--propagation", "private", "--uts"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
#: Stand-in -> the Debian package of the tool it stands for.
_STAND_INS: Final[Mapping[str, str]] = {"kpartx": "kpartx", "dmsetup": "dmsetup"}
#: How `ionice` spells BuildLimits.io.
_IO: Final[Mapping[str, tuple[str, ...]]] = {
    "idle": ("--class", "3"),
    "best-effort": ("--class", "2", "--classdata", "7"),
}
#: What a build is held to where nobody says anything: to let others go first.
USUAL: Final = BuildLimits()
_BELOW_TMP: Final = re.compile(r"(?<![\w./-])/tmp/([^/:\s\"']+)")


def has_device_mapper(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel has device-mapper, loading its module if that is all it needs."""
    if _lists_device_mapper(proc):
        return True
    try:
        run([find_tool("modprobe"), "--quiet", "dm_mod"], timeout=10)
    except (ToolMissingError, TimeoutError):
        return False
    return _lists_device_mapper(proc)


def _lists_device_mapper(proc: Path) -> bool:
    return "device-mapper" in (proc / "misc").read_text().split()


def stand_ins(*, loops: Path) -> Mapping[str, str]:
    """The text of each stand-in by the tool's name; they list the loop devices they touch in `loops`."""
    return {
        name: (DATA / name).read_text().replace("@LOOPS@", shlex.quote(str(loops))) for name in _STAND_INS
    }


def names_below_tmp(texts: Sequence[str]) -> list[str]:
    """The names of what is directly in /tmp that any of the texts has paths to, sorted."""
    found = {name for text in texts for name in _BELOW_TMP.findall(text)}
    return sorted(found - {".", ".."})


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    workspace: Workspace,
    on_line: Callable[[str], None],
    limits: BuildLimits = USUAL,
    output: Path | None = None,
) -> Child:
    """Start a command in a sandbox, in the workspace's directory; `on_line` gets its output.

    It also gets a line for each of `limits` that this machine can't hold a build to. Nothing that
    the command runs waits for the disk, see nosync.py. When it ends, all in the sandbox is over,
    and what is in `output`, the workspace's own if none is given, belongs to this process's user.

    `Child.stop` sends TERM to every process in the sandbox, then KILL. Raises ToolMissingError
    when the command, unshare, or a tool to put a stand-in over is not installed.
    """
    program = find_tool(argv[0], path=env["PATH"])
    binds = _binds([*argv, *env.values()], workspace)
    group = cgroups.group_for(workspace, limits)
    if group.problem:
        on_line(f"imagepool: the build is not held to its build-limits: {group.problem}")
    calls = nosync.filter_for(platform.machine())
    order = init.Order(
        argv=(*ionice(limits.io), program, *argv[1:]),
        env=dict(env),
        binds=tuple((str(source), str(target)) for source, target in binds),
        roots=tuple(map(str, (workspace.home, workspace.tmp, workspace.shared_tmp))),
        output=str(output or workspace.output.parent),
        group=str(group.path or ""),
        group_files=dict(group.files),
        controllers=group.controllers,
        nice=limits.nice,
        seccomp_call=calls.call if calls else 0,
        seccomp_program=calls.program.hex() if calls else "",
    )
    directory = workspace.directory
    return Child(
        sudo.command("sandbox", str(directory)) if sudo.needed() else entry(directory),
        # Not the command's: what is in that is for the command alone to see.
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        cwd=directory,
        on_line=on_line,
        order=order.line(),
    )


def entry(directory: Path) -> list[str]:
    """The command line of a sandbox for a work directory, to be run by root. Raises ToolMissingError."""
    unshare = find_tool(UNSHARE[0], package="util-linux")
    return [unshare, *UNSHARE[1:], sys.executable, "-I", init.__file__, str(directory)]


def ionice(io: str) -> list[str]:
    """What goes before a command line to run it as BuildLimits.io says; empty for "none".

    Raises ToolMissingError.
    """
    return [find_tool("ionice", package="util-linux"), *_IO[io]] if io in _IO else []


def _binds(texts: Sequence[str], workspace: Workspace) -> list[tuple[Path, Path]]:
    binds = [*_fstrim(workspace)]
    if not has_device_mapper():
        for name, text in stand_ins(loops=workspace.loops).items():
            real = Path(find_tool(name, package=_STAND_INS[name])).resolve()
            binds.append((_program(workspace.programs / name, text), real))
    return [*binds, *_private_tmp(texts, workspace.shared_tmp)]


def _fstrim(workspace: Workspace) -> list[tuple[Path, Path]]:
    """Binds of the stand-in for fstrim, and of the real one to where that finds it."""
    try:
        real = Path(find_tool("fstrim")).resolve()
    except ToolMissingError:
        return []
    kept = workspace.programs / "fstrim.real"
    kept.touch()
    text = (DATA / "fstrim").read_text().replace("@REAL@", shlex.quote(str(kept)))
    return [(real, kept), (_program(workspace.programs / "fstrim", text), real)]


def _program(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file


def _private_tmp(texts: Sequence[str], private: Path) -> list[tuple[Path, Path]]:
    """Binds that give the build a /tmp of its own, which goes with the workspace.

    sudo drops TMPDIR, so what runs below it writes to /tmp. Of the real /tmp the build sees only
    what its command line and environment name; that is bound into the private one first.
    """
    binds = []
    for name in names_below_tmp(texts):
        real, shown = Path("/tmp") / name, private / name
        if real.is_dir():
            shown.mkdir(exist_ok=True)
        elif real.is_file():
            shown.touch()
        else:
            continue
        binds.append((real, shown))
    return [*binds, (private, Path("/tmp"))]

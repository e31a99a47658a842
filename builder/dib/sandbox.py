"""Run a build's command in mount, pid and host name namespaces of its own, so that it ends as a whole.

    this daemon -> setpriv --pdeathsig KILL -> unshare --kill-child -> init (process 1) -> the command

Whoever of them dies takes the rest along: the daemon unshare (pdeathsig), unshare process 1
(--kill-child), and process 1 the whole namespace, sessions and setuid programs such as sudo
included. Mounts live in the mount namespace and end with it. Loop devices do not: workspace.py
releases them.

The data files are in the directory sandbox/: init, and stand-ins for kpartx and dmsetup, which
are bound over the real tools inside the mount namespace when the kernel has no device-mapper.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from builder.dib.workspace import Workspace
from builder.errors import ToolMissingError
from builder.process.child import Child, find_tool, run

DATA: Final = Path(__file__).with_suffix("")
UNSHARE: Final = (
    *("unshare", "--mount", "--propagation", "private", "--uts"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
#: Stand-in -> the Debian package of the tool it stands for.
_STAND_INS: Final[Mapping[str, str]] = {"kpartx": "kpartx", "dmsetup": "dmsetup"}
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
) -> Child:
    """Start a command in a sandbox, in the workspace's directory; `on_line` gets its output.

    `Child.stop` sends TERM to every process in the sandbox, then KILL. Raises ToolMissingError
    when the command, unshare, or a tool to put a stand-in over is not installed.
    """
    program = find_tool(argv[0], path=env["PATH"])
    binds = [str(path) for pair in _binds([*argv, *env.values()], workspace) for path in pair]
    return Child(
        [*UNSHARE, "bash", str(DATA / "init"), *binds, "--", program, *argv[1:]],
        env=env,
        cwd=workspace.directory,
        on_line=on_line,
    )


def _binds(texts: Sequence[str], workspace: Workspace) -> list[tuple[Path, Path]]:
    binds = []
    if not has_device_mapper():
        for name, text in stand_ins(loops=workspace.loops).items():
            stand_in = workspace.programs / name
            stand_in.write_text(text)
            stand_in.chmod(0o755)
            binds.append((stand_in, Path(find_tool(name, package=_STAND_INS[name])).resolve()))
    return [*binds, *_private_tmp(texts, workspace.shared_tmp)]


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

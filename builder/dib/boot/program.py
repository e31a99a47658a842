"""Runs the program that boots images, in the sandbox of a workspace, and reads what came of it."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import builder
from builder.bootorder import ANSWER, LIMIT, Answer, Order, answer_of
from builder.config.model import BuildLimits
from builder.dib.isolation import cgroups, sandbox
from builder.dib.isolation.workspace import Workspace
from builder.errors import ToolMissingError, UnavailableError
from builder.host import architectures
from builder.model import BootVerdict
from builder.process.child import Child, run

#: What this Python is given to run it: as a module, and with nothing from the current directory.
PROGRAM: tuple[str, ...] = ("-P", "-m", "builder.boottest")
#: Seconds for it to say whether it can boot anything.
_LOOK: Final = 60.0
#: Its exit code when something is not installed; of errors.UnavailableError.
_MISSING: Final = 5
#: Of what it printed, so many lines are kept.
_LINES: Final = 20


def require(architecture: str, firmware: str) -> None:
    """Return when such machines can be booted here.

    Raises ToolMissingError, whose hint says what to install, and UnavailableError when nobody can say.
    """
    argv = [sys.executable, *PROGRAM, "ready", architecture, firmware]
    try:
        done = run(argv, timeout=_LOOK, env=environment())
    except TimeoutError as error:
        raise UnavailableError(f"nobody can say whether images can be booted here: {error}") from error
    if done.code == 0:
        return
    message, _, hint = done.stderr.strip().partition("\n")
    if done.code == _MISSING:
        raise ToolMissingError(f"images can't be booted here: {message}", hint=hint)
    raise UnavailableError(f"nobody can say whether images can be booted here: {message}", hint=hint)


def why_not() -> str | None:
    """Why this machine can't boot images made for its own architecture; None when it can."""
    known = sorted(architectures() & {"amd64", "arm64"})
    if not known:
        return "only machines of the architectures amd64 and arm64 can be booted"
    try:
        for firmware in ("bios", "uefi"):
            require(known[0], firmware)
    except UnavailableError as error:
        return f"{error.message}. {error.hint}".strip() if error.hint else error.message
    return None


def start(
    order: Order, workspace: Workspace, limits: BuildLimits, *, on_line: Callable[[str], None]
) -> Child:
    """Start it on an order, whose place is below the workspace's directory; `on_line` gets what it prints.

    All that it starts ends with it. Raises ToolMissingError.
    """
    return sandbox.start(
        [sys.executable, *PROGRAM, "test", order.text()],
        env={**environment(), "HOME": str(workspace.home), "TMPDIR": str(workspace.tmp)},
        workspace=workspace,
        on_line=on_line,
        limits=limits,
        output=Path(order.place),
    )


class Told:
    """The last lines of what it printed, for an answer that it did not give."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        """`on_line` gets every line."""
        self._on_line = on_line
        self._last: deque[str] = deque(maxlen=_LINES)

    def take(self, line: str) -> None:
        """Take the next line."""
        self._last.append(line)
        self._on_line(line)

    @property
    def lines(self) -> tuple[str, ...]:
        """The last ones."""
        return tuple(self._last)


def answer(order: Order, workspace: Workspace, code: int, told: Told) -> Answer:
    """What came of an order, once the program has ended with `code`; never raises for what that left."""
    try:
        with Path(order.place, ANSWER).open("rb") as stream:
            return answer_of(stream.read(LIMIT).decode())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        problem = f"the program that boots it ended with exit code {code}"
    if cgroups.ran_out_of_memory(workspace):
        problem = "there was no memory left for the machine on which it is booted, by build-limits.memory"
    return Answer(verdict=BootVerdict.BROKEN, problem=problem, lines=told.lines)


def environment() -> Mapping[str, str]:
    """What it sees of ours: where programs are, and where we are."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(builder.__file__).resolve().parents[1]),
        # It may be root's, and the directory ours.
        "PYTHONDONTWRITEBYTECODE": "1",
    }

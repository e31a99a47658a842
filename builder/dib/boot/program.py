"""Runs the program that boots images, in the sandbox of a workspace, and reads what came of it."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import builder
from builder.bootorder import ANSWER, ARCHITECTURES, LIMIT, Answer, Order, answer_of
from builder.config.model import BuildLimits
from builder.dib.isolation import cgroups, sandbox
from builder.dib.isolation.workspace import Workspace
from builder.dib.limits import Stop
from builder.dib.logs.masking import Masker, masked
from builder.errors import ToolMissingError, UnavailableError
from builder.host import architectures
from builder.model import BootVerdict, BuildPhase, Failure, FailureClass
from builder.process.child import Child, run

#: What this Python is given to run it: as a module, and with nothing from the current directory.
PROGRAM: tuple[str, ...] = ("-P", "-m", "builder.boottest")
#: Seconds for it to say whether it can boot anything.
_LOOK: Final = 60.0
#: Its exit code when something is not installed; of errors.UnavailableError.
_MISSING: Final = 5
#: Of what it printed, so many lines are kept.
_LINES: Final = 20
#: Seconds that it may take beyond the test's own time: whatever is tried then may end, and it says so.
_BEYOND: Final = 120.0


def require(architecture: str, firmware: str) -> None:
    """Return when such machines can be booted here.

    Raises ToolMissingError, whose hint says what to install, and UnavailableError for machines that nobody
    can boot, and when nobody can say.
    """
    if architecture not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise UnavailableError(f"machines of the architecture {architecture} can't be booted, only {known}")
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
    known = sorted(architectures().intersection(ARCHITECTURES))
    if not known:
        return f"only machines of the architectures {' and '.join(ARCHITECTURES)} can be booted"
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


def overdue(order: Order) -> Stop:
    """Tells, from now on, whether the program has had all the time that it may take for an order."""
    began = time.monotonic()

    def why_end() -> Failure | None:
        limit = order.timeout + _BEYOND
        if time.monotonic() - began <= limit:
            return None
        message = f"the boot test did not end within {limit:.0f} s"
        return Failure(failure_class=FailureClass.TIMEOUT, message=message, phase=BuildPhase.TEST)

    return why_end


class Told:
    """What it tells, without secrets; and the last lines, for an answer that it did not give."""

    def __init__(self, on_line: Callable[[str], None], mask: Masker) -> None:
        """`on_line` gets every line."""
        self._on_line = on_line
        self._mask = mask
        self._last: deque[str] = deque(maxlen=_LINES)

    def take(self, line: str) -> None:
        """Take the next line."""
        clean = self.clean(line)
        self._last.append(clean)
        self._on_line(clean)

    def clean(self, text: str) -> str:
        """A text of its answer as it may be shown."""
        return masked(text, self._mask)

    @property
    def lines(self) -> tuple[str, ...]:
        """The last ones."""
        return tuple(self._last)


def answer(order: Order, workspace: Workspace, code: int, told: Told) -> Answer:
    """What came of an order, once the program has ended with `code`, without secrets; never raises for what
    that left."""
    try:
        with Path(order.place, ANSWER).open("rb") as stream:
            return answer_of(stream.read(LIMIT).decode()).cleaned(told.clean)
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

"""Makes the file that takes what a machine writes to its disk: the image below is never written to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from builder.emulator import command
from builder.emulator.machine import Machine
from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass
from builder.process.child import find_tool, run

NAME: Final = "overlay.qcow2"
#: Seconds; it takes a fraction of one.
_LIMIT: Final = 60.0


def make(machine: Machine, directory: Path) -> Path:
    """The new overlay in a directory, as large as the machine's disk.

    Raises ToolMissingError, and ActionFailedError when the image is none.
    """
    overlay, program = directory / NAME, find_tool("qemu-img", package="qemu-utils")
    argv = [program, "create", "-q", "-f", "qcow2", "-F", command.driver(machine.disk.format)]
    size = [] if machine.size is None else [str(machine.size)]
    # What is below is said again when QEMU starts; here it is for the size.
    done = run([*argv, "-b", str(machine.disk.path.absolute()), str(overlay), *size], timeout=_LIMIT)
    if done.code:
        message = f"{machine.disk.path} can't be booted: {done.stderr.strip()}"
        failure = Failure(
            failure_class=FailureClass.TOOL,
            message=message,
            step="qemu-img",
            exit_code=done.code,
            lines=tuple(done.stderr.splitlines()),
        )
        raise ActionFailedError(message, failure)
    return overlay


def claimed(directory: Path) -> int:
    """Bytes that its overlay takes: what a machine has written, and not given back."""
    return (directory / NAME).stat().st_blocks * 512

"""Ask qemu-img about one image file, and say what its failures mean."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass, ImageFormat
from builder.process.child import Completed, find_tool, run

PROGRAM: Final = "qemu-img"
PACKAGE: Final = "qemu-utils"
#: Of what it says, so many lines are kept for a record.
LINES: Final = 20

#: What `qemu-img info` and `check` take is milliseconds, however large the image.
_LOOK_TIMEOUT: Final = 60.0
#: Bytes; what they have to say is a page or two.
_LOOK_LIMIT: Final = 1 << 20
_NAMES: Final[Mapping[ImageFormat, str]] = {ImageFormat.VHD: "vpc", ImageFormat.AMI: "raw"}

_FULL: Final = re.compile(r"No space left on device|Disk quota exceeded")
_UNSUPPORTED: Final = re.compile(
    r"Invalid parameter|Unknown option|does not accept value|compression.type|Unknown file format", re.I
)


def name_of(wanted: ImageFormat) -> str:
    """qemu-img's own name of a format."""
    return _NAMES.get(wanted, str(wanted))


def ask(verb: str, path: Path, wanted: ImageFormat) -> Completed:
    """What `qemu-img info` or `check` says of a file, as JSON, taking it for that format whatever it is.

    Raises ToolMissingError, OSError, and ActionFailedError when there is no answer in time.
    """
    program = find_tool(PROGRAM, package=PACKAGE)
    argv = [program, verb, "--output=json", "-f", name_of(wanted), str(path)]
    try:
        return run(argv, timeout=_LOOK_TIMEOUT, limit=_LOOK_LIMIT)
    except TimeoutError as error:
        message = f"qemu-img {verb} of {path.name} did not end within {_LOOK_TIMEOUT:.0f} s"
        raise failed(FailureClass.TIMEOUT, message) from error


def gave_up(what: str, code: int, lines: Iterable[str]) -> ActionFailedError:
    """qemu-img's failure, with the reason that can be seen in what it said and how it ended."""
    said = tuple(lines)
    text = "\n".join(said)
    failure_class, why = FailureClass.TOOL, ""
    if _FULL.search(text):
        failure_class, why = FailureClass.DISK, "the disk is full"
    elif code < 0:
        # Whoever did it, the kernel when memory ran out or an operator, may not do it again.
        failure_class, why = FailureClass.UNKNOWN, f"it was ended by {_signal_name(-code)}"
    elif _UNSUPPORTED.search(text):
        why = _what_is_unsupported(text)
    return failed(failure_class, f"{what}: {why}" if why else what, code, said)


def failed(
    failure_class: FailureClass, message: str, code: int | None = None, lines: Iterable[str] = ()
) -> ActionFailedError:
    """The error that says so, with the last lines that were said."""
    failure = Failure(
        failure_class=failure_class,
        message=message,
        step=PROGRAM,
        exit_code=code,
        lines=tuple(lines)[-LINES:],
    )
    return ActionFailedError(message, failure)


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name}, as the kernel does when memory runs out" if number == signal.SIGKILL else name


def _what_is_unsupported(text: str) -> str:
    if "compression" in text or "zstd" in text:
        return (
            "this qemu-img can't compress with zstd; install QEMU 5.1 or newer built with zstd,"
            " or set format-options: {qcow2: {compression: zlib}}"
        )
    return "this qemu-img does not know the format or an option of it; install a newer one (qemu-utils)"

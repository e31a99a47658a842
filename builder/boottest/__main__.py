"""The program that boots images.

    python -m builder.boottest ready ARCHITECTURE FIRMWARE   whether such machines can be booted here
    python -m builder.boottest test ORDER                    do what an order asks for (see bootorder)

`ready` ends with 5 when something is not installed, and says what on standard error. `test` ends with 0 once
the answer is written, whatever that says; how it goes is told on standard output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from builder.bootorder import ANSWER, Order, order_of
from builder.boottest.holding import hold
from builder.boottest.run import carry_out
from builder.emulator import accelerator, firmware, guest, ssh
from builder.emulator.machine import Architecture, Firmware
from builder.errors import ImagepoolError, UsageError
from builder.process.child import find_tool

_USAGE: Final = "usage: python -m builder.boottest ready ARCHITECTURE FIRMWARE | test ORDER"


def main(words: list[str]) -> int:
    """Do what the words ask for; the exit code."""
    try:
        match words:
            case ["ready", architecture, kind]:
                _require(Architecture(architecture), Firmware(kind))
            case ["test", text]:
                _test(order_of(text))
            case _:
                raise UsageError(_USAGE)
    except ImagepoolError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _require(architecture: Architecture, kind: Firmware) -> None:
    """Raise ToolMissingError, with the package to install, unless such machines can be booted here."""
    find_tool("qemu-img", package="qemu-utils")
    for program in ("ssh", "ssh-keygen"):
        find_tool(program, package=ssh.PACKAGE)
    if kind is Firmware.UEFI or architecture is Architecture.ARM64:
        firmware.find(architecture)
    accelerator.emulator(architecture)


def _test(order: Order) -> None:
    if order.hold:
        hold(order, say=_say)
        return
    answer = carry_out(order, boot=guest.boot, say=_say)
    Path(order.place, ANSWER).write_text(answer.text())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

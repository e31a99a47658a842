"""Tells what this machine calls itself, which architecture it has, and why it can't run a program."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Final

#: What Debian calls machines of which the kernel says something else (dpkg's cputable).
_DEBIAN: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "armhf",
    "i686": "i386",
    "ppc64le": "ppc64el",
    "loongarch64": "loong64",
}


def host_name() -> str:
    """The name that records know this machine by: its full one where there is such a thing.

    A name that the resolver takes for loopback has `localhost` for its full name, which is the same
    on every machine; then it is the short one.
    """
    full = socket.getfqdn()
    return socket.gethostname() if full.partition(".")[0] == "localhost" else full


def architectures() -> frozenset[str]:
    """What this machine's architecture is called: by Debian (amd64), and by the kernel (x86_64)."""
    machine = platform.machine()
    return frozenset({machine, _DEBIAN.get(machine, machine)})


def why_not_run(program: Path) -> str | None:
    """Why a file can't be run by us, as the end of a sentence; None when it can."""
    if not program.is_file():
        return "there is no such file"
    return None if os.access(program, os.X_OK) else "it is not executable"

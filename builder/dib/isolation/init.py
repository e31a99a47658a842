"""Process 1 of a build's sandbox: make it ready, run the command, end everything when told or left alone.

    python -I init.py DIRECTORY

The daemon runs it by its path, and it needs the standard library alone: inside, its own package may
be out of sight. On standard input comes one line, the Order. Anything more asks to end: TERM goes
to every process in the namespace, whatever session it hides in. The end of the input means that
the daemon is gone, or has run out of patience: then so are we, and with process 1 the kernel ends
all others. Unlike a signal, the pipe works for a daemon that is another user than we are, and is
not lost where a program with set-user-id is on the way (prctl(2), PR_SET_PDEATHSIG).

The command's exit code is ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

#: Exit codes besides the command's: it never began, or it was ended from outside.
NOT_BEGUN: Final = 125
TERMINATED: Final = 128 + signal.SIGTERM
KILLED: Final = 128 + signal.SIGKILL

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_SECCOMP_SET_MODE_FILTER: Final = 1
#: Without it, old kernels slow every process down that has a filter (Speculative Store Bypass).
_SECCOMP_FILTER_FLAG_SPEC_ALLOW: Final = 4


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a sandbox is for; all paths are absolute."""

    argv: tuple[str, ...]  #: the command, its program as a path
    env: Mapping[str, str]  #: its whole environment; it may hold secrets, which is why it comes by a pipe
    binds: tuple[tuple[str, str], ...] = ()  #: each source over its target, in this order
    roots: tuple[str, ...] = ()  #: directories that root shall own, whoever made them
    output: str = ""  #: the tree that belongs to the work directory's owner in the end
    group: str = ""  #: the cgroup to make for the command; "" for none
    group_files: Mapping[str, str] = field(default_factory=dict)  #: its files, and what goes into them
    controllers: str = ""  #: what the parent of `group` must pass on: "+cpu +memory"
    nice: int = 0
    seccomp_call: int = 0  #: the number of seccomp(2) on this machine
    seccomp_program: str = ""  #: a filter for the command, in hex; "" for none

    def line(self) -> bytes:
        """The order as `take` reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def take(stream: int) -> tuple[Order | None, bytes]:
    """The order on a file descriptor and what came after it; None when the input ends before that."""
    text = b""
    while b"\n" not in text:
        piece = os.read(stream, 1 << 16)
        if not piece:
            return None, b""
        text += piece
    line, _, rest = text.partition(b"\n")
    return Order(**json.loads(line)), rest


def main(directory: Path) -> int:
    """Do what the order on standard input says; the exit code."""
    order, more = take(0)
    if order is None:
        return KILLED
    if more:
        return TERMINATED
    group = _make_group(order)
    try:
        _prepare(order)
    except OSError as error:
        _say(f"the sandbox can't be made: {error}")
        return NOT_BEGUN
    signal.signal(signal.SIGTERM, _terminate)
    command = _start(order, group)
    threading.Thread(target=_listen, daemon=True).start()
    code = _attend(command)
    _settle(directory)
    if order.output:
        _hand_over(Path(order.output), directory.stat())
    return code


# -- before ------------------------------------------------------------------------------------


def _prepare(order: Order) -> None:
    # The daemon may have a stricter one, which would end up in the image.
    os.umask(0o022)
    # sudo complains about a machine that can't resolve its own name, and dib takes the complaint
    # for a part of what `sudo losetup` answers. This name resolves everywhere.
    socket.sethostname("localhost")
    for path in order.roots:
        os.chown(path, 0, 0)
    for source, target in order.binds:
        arguments = (os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)
        _check(_LIBC.mount(*arguments), f"binding {source} over {target}")


def _make_group(order: Order) -> int | None:
    """Make the command's cgroup with its limits; the open file by which to join it, None without one."""
    if not order.group:
        return None
    group = Path(order.group)
    try:
        if order.controllers:
            (group.parent / "cgroup.subtree_control").write_text(order.controllers)
        group.mkdir(exist_ok=True)
        for name, value in order.group_files.items():
            (group / name).write_text(value)
        return os.open(group / "cgroup.procs", os.O_WRONLY)
    except OSError as error:
        _say(f"the build has no limits: {error}")
        return None


def _start(order: Order, group: int | None) -> int:
    """Start the command in a session of its own; its process id."""
    command = os.fork()
    if command:
        return command
    try:
        _become(order, group)
    except OSError as error:
        _say(f"{order.argv[0]} can't be started: {error}")
    finally:
        os._exit(NOT_BEGUN)


def _become(order: Order, group: int | None) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if group is not None:
        os.write(group, b"0")  # the process that writes
    if order.nice:
        os.setpriority(os.PRIO_PROCESS, 0, order.nice)
    # Python ignores these two, and programs inherit what is ignored.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if order.seccomp_program:
        try:
            _filter_calls(order.seccomp_call, bytes.fromhex(order.seccomp_program))
        except OSError as error:
            _say(f"fsync is as slow as the disk in this build: {error}")
    os.execve(order.argv[0], order.argv, order.env)


class _Program(ctypes.Structure):
    """struct sock_fprog: how many steps of eight bytes, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def _filter_calls(call: int, steps: bytes) -> None:
    memory = ctypes.create_string_buffer(steps, len(steps))
    program = _Program(len(steps) // 8, ctypes.addressof(memory))
    how = (_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_SPEC_ALLOW, ctypes.byref(program))
    _check(_LIBC.syscall(call, *how), "setting a filter for system calls")


def _check(answer: int, what: str) -> None:
    if answer != 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


# -- while it runs -----------------------------------------------------------------------------


def _listen() -> None:
    while os.read(0, 4096):
        _terminate()
    os._exit(KILLED)


def _terminate(number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
    # All of them gone already is what we want.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _attend(command: int) -> int:
    """Wait for the command, and for all that was left to process 1 meanwhile; the exit code."""
    while True:
        process, status = os.wait()
        if process == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


# -- after -------------------------------------------------------------------------------------


def _settle(directory: Path) -> None:
    """Have written to its file what a loop device over a file of the build still keeps to itself.

    It does so when it is closed for the last time. Somebody else who looks at it just now, such as
    udev, puts that off, and fsync meant nothing to the command.
    """
    inside = os.fsencode(directory) + b"/"
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        # As bytes: what others call their files need not be UTF-8.
        with contextlib.suppress(OSError):
            if backing.read_bytes().startswith(inside):
                _flush(backing.parent.parent)


def _flush(device: Path) -> None:
    # Partitions first: they write to the device.
    for name in (*(path.name for path in device.glob(f"{device.name}p*")), device.name):
        with Path("/dev", name).open("rb") as node:
            os.fsync(node.fileno())


def _hand_over(tree: Path, owner: os.stat_result) -> None:
    if owner.st_uid == 0:
        return
    for parent, directories, files in os.walk(tree):
        for name in (".", *directories, *files):
            os.chown(Path(parent, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def _say(text: str) -> None:
    os.write(1, f"imagepool: {text}\n".encode(errors="replace"))


if __name__ == "__main__":
    # Not sys.exit: a thread waits for input, and nothing is left to be tidied up.
    os._exit(main(Path(sys.argv[1])))

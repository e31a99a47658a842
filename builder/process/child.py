"""Run child processes: the only place that imports subprocess.

`run` is for tools that answer soon (qemu-img, losetup): it waits, with a timeout, and returns
what they printed. `Child` is for what runs long (disk-image-create, a ZooKeeper server): its
output goes line by line to a callback, it lives in a session of its own, dies with us, and is
stopped as a whole group, TERM first, KILL after a grace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ToolMissingError

#: Longest line handed to a callback, in bytes; a tool that prints no newline must not eat our memory.
LINE_LIMIT = 16 * 1024


@dataclass(frozen=True)
class Completed:
    """A tool that ended: its exit code (negative: the signal), and what it printed."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def find_tool(name: str, *, package: str = "", path: str | None = None) -> str:
    """The absolute path of a program: on PATH, else beside this Python (a venv's own programs).

    Raises ToolMissingError, whose hint names the Debian `package` to install.
    """
    beside = str(Path(sys.executable).parent)
    search = os.pathsep.join([path or os.environ.get("PATH", os.defpath), beside, "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    if found is None:
        hint = f"Install the package {package}." if package else "Install it, or put it on PATH."
        raise ToolMissingError(f"the program {name} is not installed", hint=hint)
    return str(Path(found).absolute())


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run a tool to its end and return what it printed; the exit code is the caller's to judge.

    Raises ToolMissingError when there is no such program, and TimeoutError after `timeout`
    seconds, when the tool has been killed with everything it started.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise ToolMissingError(f"the program {argv[0]} is not installed") from error
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"{argv[0]} did not end within {timeout:.0f} s") from None
    except BaseException:
        _signal_group(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Completed(tuple(argv), process.returncode, stdout, stderr)


class Child:
    """A running child process, in its own session and process group, with its output read for us.

    It is killed when this process dies, however it dies: `setpriv --pdeathsig` asks the kernel
    for it. The kernel means the *thread* that started the child (prctl(2), PR_SET_PDEATHSIG), so
    start it from a thread that outlives it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_line: Callable[[str], None],
    ) -> None:
        """Start `argv`; `on_line` gets each line of stdout and stderr, from a thread of its own.

        Raises ToolMissingError when the program is missing.
        """
        guard = [find_tool("setpriv", package="util-linux"), "--pdeathsig", "KILL", "--"]
        self.argv = tuple(argv)
        self._process = subprocess.Popen(
            [*guard, find_tool(argv[0]), *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self._reader = threading.Thread(
            target=self._read, args=(on_line,), name=f"output-of-{self._process.pid}", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is the process group and session id too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code (negative: the signal) once it ended and its output was read, None if it
        still runs after `timeout` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        # What it left behind may hold the pipe open: its last words matter, their hands don't.
        self._reader.join(timeout=5.0)
        return code

    def stop(self, grace: float) -> int:
        """End it and its whole group: TERM, `grace` seconds to obey, then KILL. Returns the exit code."""
        if not self.running:
            # Reaped: its id, and so its group's, may be another program's by now.
            return self._process.returncode
        _signal_group(self.pid, signal.SIGTERM)
        if self.wait(grace) is None:
            _signal_group(self.pid, signal.SIGKILL)
        code = self.wait()
        # The leader may have ended on TERM while members of its group ignored it.
        _signal_group(self.pid, signal.SIGKILL)
        assert code is not None
        return code

    def _read(self, on_line: Callable[[str], None]) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            while line := stream.readline(LINE_LIMIT):
                on_line(line.decode(errors="replace").rstrip("\r\n"))


def _signal_group(group: int, number: signal.Signals) -> None:
    # All of it gone already is what we want.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def wait_for(condition: Callable[[], bool], *, timeout: float, interval: float = 0.05) -> bool:
    """Whether `condition` came true within `timeout` seconds; asks every `interval` seconds.

    For the world outside, which has no way to wake us (a port that opens, a process that ends).
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True

"""Run child processes: the only place that imports subprocess.

`run` is for tools that answer soon (qemu-img, losetup): it waits, with a timeout, and returns
what they printed. `Child` is for what runs long (disk-image-create, a ZooKeeper server): its
output goes line by line to a callback, it lives in a session of its own, dies with us, and is
stopped as a whole group, TERM first, KILL after a grace. One that may run as another user, whom
we can't signal, is held by a pipe instead.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.errors import ToolMissingError

LOG = logging.getLogger(__name__)

#: Longest line handed to a callback, in bytes; a tool that prints no newline must not eat our memory.
LINE_LIMIT = 16 * 1024
#: Most that a tool may print, in bytes, unless the caller says so; for the same reason.
OUTPUT_LIMIT = 64 << 20
#: What asks a child with an order to end.
_END = b"end\n"
#: Seconds to be gone, for such a child after its pipe was closed, for others after KILL.
_LET_GO = 5.0
#: Seconds for one that was killed to be gone. One that became another user is not ours to kill, and what
#: hangs in the kernel can't be: nobody waits for it for ever.
_GONE = 30.0
#: Seconds that the last words of one that has ended are waited for: what it left behind may have its output.
_LAST_WORDS = 5.0


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
    limit: int = OUTPUT_LIMIT,
) -> Completed:
    """Run a tool to its end and return what it printed; the exit code is the caller's to judge.

    Raises ToolMissingError when there is no such program, TimeoutError after `timeout` seconds, and
    OSError (EFBIG) when it prints more than `limit` bytes on either stream; the tool has then been
    killed with everything it started, as far as it is ours to kill.
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
        )
    except FileNotFoundError as error:
        raise ToolMissingError(f"the program {argv[0]} is not installed") from error
    printed = _Printed(process, limit)
    try:
        ended = printed.wait(timeout)
    except BaseException:
        printed.give_up()
        raise
    if not ended:
        printed.give_up()
        raise TimeoutError(f"{argv[0]} did not end within {timeout:.0f} s")
    if printed.too_much:
        printed.give_up()
        raise OSError(errno.EFBIG, f"{argv[0]} printed more than {limit} bytes")
    process.wait()
    return Completed(tuple(argv), process.returncode, *printed.texts())


def attached(argv: Sequence[str]) -> int:
    """Run a program at our own terminal for as long as somebody uses it; its exit code (negative: the
    signal). Raises ToolMissingError when there is no such program."""
    try:
        with subprocess.Popen(list(argv)) as process:
            return process.wait()
    except FileNotFoundError as error:
        raise ToolMissingError(f"the program {argv[0]} is not installed") from error


class _Printed:
    """What a process prints on its two streams, up to a limit, read by a thread for each."""

    def __init__(self, process: subprocess.Popen[bytes], limit: int) -> None:
        self._process = process
        self._limit = limit
        self.too_much = False
        self._over = threading.Event()
        self._parts: tuple[list[bytes], list[bytes]] = ([], [])
        self._open = 2
        self._lock = threading.Lock()
        for stream, parts in zip((process.stdout, process.stderr), self._parts, strict=True):
            assert stream is not None
            threading.Thread(target=self._read, args=(stream, parts), daemon=True).start()

    def _read(self, stream: IO[bytes], parts: list[bytes]) -> None:
        left = self._limit
        with stream:
            while left > 0 and (part := stream.read1(left)):  # type: ignore[attr-defined]  # a BufferedReader
                parts.append(part)
                left -= len(part)
        with self._lock:
            self._open -= 1
            self.too_much |= left <= 0
            if self.too_much or not self._open:
                self._over.set()

    def wait(self, timeout: float) -> bool:
        """Whether within `timeout` seconds both streams and the process ended, or printed too much."""
        deadline = time.monotonic() + timeout
        if not self._over.wait(timeout):
            return False
        try:
            if not self.too_much:
                self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def give_up(self) -> None:
        """Kill it, and wait a moment for it to be gone."""
        _signal_group(self._process.pid, signal.SIGKILL)
        # It may be root's, behind sudo, or something of its that left the group may have the pipes.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LET_GO)

    def texts(self) -> tuple[str, str]:
        """What was printed on stdout and on stderr."""
        out, err = (b"".join(parts).decode(errors="replace") for parts in self._parts)
        return out, err


class Child:
    """A running child process, in its own session and process group, with its output read for us.

    It is killed when this process dies, however it dies: `setpriv --pdeathsig` asks the kernel
    for it. The kernel means the *thread* that started the child (prctl(2), PR_SET_PDEATHSIG), so
    start it from a thread that outlives it.

    A child that is given an order reads it from its standard input, a pipe that stays open as long
    as we live: whatever comes after the order asks it to end, and the end of the input tells it
    that we are gone. It must obey, for it may be root's while we are not, where neither signals of
    ours nor `setpriv` reach it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_line: Callable[[str], None],
        order: bytes | None = None,
        text: bytes = b"",
    ) -> None:
        """Start `argv`; `on_line` gets each line of stdout and stderr, from a thread of its own.

        Without an order, its standard input is `text`, to be read or not. With one, this returns when the
        child has read all of it but for what a pipe holds (64 KiB). Raises ToolMissingError when the program
        is missing.
        """
        guard = [find_tool("setpriv", package="util-linux"), "--pdeathsig", "KILL", "--"]
        self.argv = tuple(argv)
        self._lifeline = None if order is None else _Lifeline()
        theirs = _readable(text) if self._lifeline is None else self._lifeline.theirs
        try:
            self._process = subprocess.Popen(
                [*guard, find_tool(argv[0]), *argv[1:]],
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except BaseException:
            if self._lifeline is not None:
                self._lifeline.let_go()
            raise
        finally:
            os.close(theirs)
        # Before anybody can have waited for it, after which its number may be another's.
        end = os.pidfd_open(self._process.pid)
        self._reader = threading.Thread(
            target=self._read, args=(on_line, end), name=f"output-of-{self._process.pid}", daemon=True
        )
        self._reader.start()
        if self._lifeline is not None and order is not None:
            self._lifeline.say(order)

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
        if self._lifeline is not None:
            self._lifeline.let_go()
        # What it left behind may hold the pipe open: its last words matter, their hands don't.
        self._reader.join(timeout=_LAST_WORDS)
        return code

    def stop(self, grace: float) -> int:
        """End it and its whole group: TERM, `grace` seconds to obey, then KILL. Returns the exit code.

        One without an order that is not gone soon after KILL is left alone, with a word in the log.
        """
        if not self.running:
            # Reaped: its id, and so its group's, may be another program's by now.
            if self._lifeline is not None:
                self._lifeline.let_go()
            return self._process.returncode
        if self._lifeline is None:
            _signal_group(self.pid, signal.SIGTERM)
        else:
            self._lifeline.say(_END)
        if self.wait(grace) is None and not self._let_go():
            _signal_group(self.pid, signal.SIGKILL)
        code = self.wait(_GONE if self._lifeline is None else None)
        # The leader may have ended on TERM while members of its group ignored it.
        _signal_group(self.pid, signal.SIGKILL)
        if code is None:
            LOG.warning("%s (process %d) can't be killed, and is left alone", self.argv[0], self.pid)
            return -signal.SIGKILL
        return code

    def sweep(self) -> None:
        """Kill what an ended child has left of its group; only at once after `wait` gave its exit code."""
        # As long as any of them lives, no other group can have its number.
        _signal_group(self.pid, signal.SIGKILL)

    def _let_go(self) -> bool:
        """Whether it ended by itself once it was left alone; a child without an order does not."""
        if self._lifeline is None:
            return False
        self._lifeline.let_go()
        return self.wait(_LET_GO) is not None

    def _read(self, on_line: Callable[[str], None], end: int) -> None:
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        with stream:
            for part in _until_the_end(stream.fileno(), end):
                *lines, rest = (rest + part).split(b"\n")
                while len(rest) >= LINE_LIMIT:
                    lines, rest = [*lines, rest[:LINE_LIMIT]], rest[LINE_LIMIT:]
                for line in lines:
                    for start in range(0, len(line) or 1, LINE_LIMIT):
                        on_line(line[start : start + LINE_LIMIT].decode(errors="replace").rstrip("\r"))
            if rest:
                on_line(rest.decode(errors="replace").rstrip("\r"))


def _until_the_end(output: int, end: int) -> Iterator[bytes]:
    """What comes out of a pipe until all have closed it, or the process behind the descriptor `end`, which is
    closed then, has ended long enough ago: what left its group may have the other end for ever."""
    ready, until = select.poll(), float("inf")
    ready.register(output, select.POLLIN)
    ready.register(end, select.POLLIN)
    try:
        while (left := until - time.monotonic()) > 0:
            found = {each for each, _ in ready.poll(None if left == float("inf") else left * 1000)}
            if end in found:
                ready.unregister(end)
                until = time.monotonic() + _LAST_WORDS
            if output in found:
                part = os.read(output, LINE_LIMIT)
                if not part:
                    return
                yield part
    finally:
        os.close(end)


def _readable(text: bytes) -> int:
    """A descriptor that a text can be read from: no pipe, so that nobody waits for one who does not read."""
    if not text:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        while text:
            text = text[os.write(descriptor, text) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class _Lifeline:
    """The pipe to a child's standard input: what we have to say, and proof that we live."""

    def __init__(self) -> None:
        self.theirs, ours = os.pipe()
        self._ours: int | None = ours
        # A file descriptor that another thread closed may be another file's by now.
        self._lock = threading.Lock()

    def say(self, text: bytes) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            while text and self._ours is not None:
                text = text[os.write(self._ours, text) :]

    def let_go(self) -> None:
        with self._lock:
            if self._ours is not None:
                os.close(self._ours)
            self._ours = None


def _signal_group(group: int, number: signal.Signals) -> None:
    # All of it gone already is what we want. What is root's is not ours to signal.
    with contextlib.suppress(ProcessLookupError, PermissionError):
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

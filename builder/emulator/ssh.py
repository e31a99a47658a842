"""Logs in to a guest with OpenSSH's client, by a key that was made for it and is thrown away with it."""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from pathlib import Path
from typing import Final

from builder.process.child import Child, Completed, find_tool, run, wait_for

PACKAGE: Final = "openssh-client"
LOOPBACK: Final = "127.0.0.1"
#: Seconds for one look whether a server answers, for which the first connection is kept as well; by how much
#: longer each next one is, and seconds for which none is kept longer.
_LOOK: Final = 1.0
_GROWTH: Final = 1.5
_PATIENCE: Final = 30.0
#: Seconds for a server that answers to let somebody in. Ciphers are slow in an emulated machine.
_LOG_IN: Final = 60
_KEY_TIMEOUT: Final = 30.0
#: What ssh says when it fails, so many lines are kept.
_LINES: Final = 10
#: Bytes that a guest may answer to one command.
_ANSWER: Final = 8 << 20


def make_key(path: Path) -> str:
    """Make a key pair, the private one in the file `path`; returns the public one.

    Raises ToolMissingError, and OSError when ssh-keygen can't.
    """
    argv = [
        find_tool("ssh-keygen", package=PACKAGE),
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        "imagepool",
        "-f",
    ]
    done = run([*argv, str(path)], timeout=_KEY_TIMEOUT)
    if done.code:
        raise OSError(f"ssh-keygen: {done.stderr.strip() or done.stdout.strip()}")
    return path.with_name(f"{path.name}.pub").read_text().strip()


class Greeting:
    """What the server behind a port of loopback says first (RFC 4253, 4.2); one connection at a time.

    One on which nothing is said is kept for longer each time. A slow guest that is asked anew each second
    is busy with nothing else, and its server may take it for an attack (sshd_config(5), MaxStartups and
    PerSourcePenalties). The emulator, too, holds on to every connection until the guest has a network,
    and then all of them reach the server at once.
    """

    def __init__(self, port: int) -> None:
        """Nothing is connected yet."""
        self._port = port
        self._connection: socket.socket | None = None
        self._patience = _LOOK
        self._until = 0.0

    def heard(self) -> str:
        """What was said, "" when nothing was until now; looks for a second at most."""
        try:
            if self._connection is None:
                self._connection = socket.create_connection((LOOPBACK, self._port), timeout=_LOOK)
                self._until = time.monotonic() + self._patience
            said = self._connection.recv(64)
        except TimeoutError:
            if time.monotonic() >= self._until:
                self.close()
                self._patience = min(self._patience * _GROWTH, _PATIENCE)
            return ""
        except OSError:
            said = b""
        self.close()
        return said.decode(errors="replace").strip()

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Login:
    """One user on one guest; all commands go through one connection, as far as it lasts."""

    def __init__(self, user: str, port: int, *, key: Path, directory: Path) -> None:
        """Nothing is connected yet. `directory` is where the connection's socket is made."""
        self.user = user
        self._program = find_tool("ssh", package=PACKAGE)
        self._directory = directory
        self._socket = f"ssh-{user}"
        self._words = [
            *("-F", "none", "-i", str(key), "-p", str(port), "-l", user),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
            # The key was made a moment ago by a guest that nobody has seen before.
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", f"ConnectTimeout={_LOG_IN}", "-o", "ServerAliveInterval=15"),
        ]
        self._connection: Child | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What to type to log in by hand."""
        return ("ssh", *self._words, LOOPBACK)

    def run(self, command: str, *, timeout: float) -> Completed:
        """Run a shell command; 255 means that nobody could log in, or that a guest said more than anybody
        wants to know. Raises TimeoutError."""
        refusal = self._connect(min(timeout, _LOG_IN))
        argv = [self._program, *self._words, "-S", self._socket, LOOPBACK, "--", command]
        if refusal is not None:
            # Another try would be one more for the server to count.
            return Completed(tuple(argv), 255, "", refusal)
        try:
            return run(argv, timeout=timeout, cwd=self._directory, limit=_ANSWER)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            return Completed(tuple(argv), 255, "", f"the guest said more than {_ANSWER >> 20} MiB")

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.stop(0.0)
        self._connection = None
        (self._directory / self._socket).unlink(missing_ok=True)

    def _connect(self, limit: float) -> str | None:
        """Have a connection that commands share within `limit` seconds; what was said if there is none."""
        if self._connection is not None and self._connection.running:
            return None
        self.close()
        said: deque[str] = deque(maxlen=_LINES)
        child = Child(
            [self._program, *self._words, "-N", "-M", "-S", self._socket, LOOPBACK],
            env={},
            cwd=self._directory,
            on_line=said.append,
        )
        self._connection = child
        shared = self._directory / self._socket
        wait_for(lambda: shared.exists() or not child.running, timeout=limit)
        if shared.exists():
            return None
        child.stop(0.0)
        return "\n".join(said)

"""A real ZooKeeper server for tests: on loopback, in a directory of its own, stopped with its owner.

It is no part of the product on purpose: tests of the embedded server must not be judged by it.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

JARS = Path("/usr/share/java")
_START_TIMEOUT = 60.0


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ZooKeeperServer:
    """One standalone server; it keeps its port and its data over `stop` and `start`."""

    def __init__(
        self, directory: Path, *, options: Mapping[str, str] | None = None, jvm: tuple[str, ...] = ()
    ) -> None:
        """`options` are lines of zoo.cfg, `jvm` further arguments of java."""
        self.directory = directory
        self.port = free_port()
        self._jvm = jvm
        self._netty = "serverCnxnFactory" in (options or {})
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "tickTime": "500",
            "dataDir": str(directory / "data"),
            "clientPort": str(self.port),
            "clientPortAddress": "127.0.0.1",
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
            "maxClientCnxns": "0",
            **(options or {}),
        }
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        (directory / "zoo.cfg").write_text("".join(lines))

    @property
    def hosts(self) -> str:
        """What a client connects to."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        # TLS takes more of Netty than zookeeper.jar asks for.
        jars = [JARS / "zookeeper.jar", *(sorted(JARS.glob("netty-*.jar")) if self._netty else ())]
        with (self.directory / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *self._jvm),
                    # Tests write a lot and need nothing to survive a power cut.
                    "-Dzookeeper.forceSync=no",
                    *("-cp", ":".join(map(str, jars))),
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    str(self.directory / "zoo.cfg"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while self.command("ruok") != b"imok":
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self.directory / "server.log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, word: str) -> bytes:
        """The answer to a four-letter word; empty when nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(word.encode())
                return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return b""


def missing() -> str | None:
    """Why no server can be started here; None when one can."""
    for needed in (Path("/usr/bin/java"), JARS / "zookeeper.jar"):
        if not needed.exists():
            return f"{needed} is missing: install the package zookeeper"
    return None

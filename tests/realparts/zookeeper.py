"""Real ZooKeeper servers for tests: on loopback, in directories of their own, stopped with their owner.

One alone (ZooKeeperServer), or several of which a majority serves (ZooKeeperEnsemble):

    with ZooKeeperEnsemble(directory) as ensemble:
        ensemble.leader().stop()       as a power cut would; the others choose another
        ensemble.wait_serving()
        ensemble.cut_majority()        who is left serves nobody
        ensemble.restore()             all run again, and serve

It is no part of the product on purpose: tests of the embedded server must not be judged by it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

JARS = Path("/usr/share/java")
#: What makes servers say, on standard error, what is wrong; without, they say nothing.
_LOGGER = JARS / "slf4j-simple.jar"
_START_TIMEOUT = 60.0
#: Below are the ports that services are known by.
_FIRST_PORT = 10_000
#: Of what a server said last, so many characters tell why it did not serve.
_SAID = 4000


def tls_options(directory: Path, port: int) -> dict[str, str]:
    """What makes a server speak TLS at a port; it takes keystore.pem (its key, then its certificate) and
    ca.pem from the directory."""
    return {
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "secureClientPort": str(port),
        "secureClientPortAddress": "127.0.0.1",
        "ssl.keyStore.location": str(directory / "keystore.pem"),
        "ssl.keyStore.type": "PEM",
        "ssl.trustStore.location": str(directory / "ca.pem"),
        "ssl.trustStore.type": "PEM",
        "ssl.hostnameVerification": "false",
    }


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago.

    It is none of those that the kernel gives to outgoing connections: a server that is stopped for a while
    could find its own taken by one.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(_FIRST_PORT, lowest)
    for port in random.sample(ports, min(100, len(ports))):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port between {_FIRST_PORT} and {lowest} is free")


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

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_until(lambda: self.command("ruok") == b"imok")

    def launch(self) -> None:
        """Start it without waiting."""
        # TLS takes more of Netty than zookeeper.jar asks for.
        jars = [JARS / "zookeeper.jar", _LOGGER, *(sorted(JARS.glob("netty-*.jar")) if self._netty else ())]
        with (self.directory / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *self._jvm),
                    # Tests write a lot and need nothing to survive a power cut.
                    "-Dzookeeper.forceSync=no",
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    *("-cp", ":".join(map(str, jars))),
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    str(self.directory / "zoo.cfg"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for it to become `ready`; RuntimeError, with its log, when it ends or takes too long."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not ready():
            self.require()
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server at {self.hosts} took too long\n{self._said()}")
            time.sleep(0.05)

    def require(self) -> None:
        """RuntimeError, with its log, when it does not run, or ended by itself; it counts as stopped then."""
        code = None if self._process is None else self._process.poll()
        if self._process is None or code is not None:
            self.stop()
            raise RuntimeError(f"the server at {self.hosts} ended with {code}\n{self._said()}")

    def _said(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")[-_SAID:]

    @property
    def mode(self) -> str | None:
        """What it is while it serves: "standalone", "leader" or "follower"; None while it does not."""
        for line in self.command("srvr").decode(errors="replace").splitlines():
            if line.startswith("Mode: "):
                return line.removeprefix("Mode: ")
        return None

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it stand still, as in a long pause of its own: connections stay, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        # Its threads stop one by one. The state stands behind the name, which may have blanks.
        self.wait_until(
            lambda: (
                {t.joinpath("stat").read_text().rpartition(")")[2].split()[0] for t in tasks.iterdir()}
                == {"T"}
            )
        )

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, word: str) -> bytes:
        """The answer to a four-letter word; empty when nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(word.encode())
                return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return b""


class ZooKeeperEnsemble:
    """Servers that agree on every write by majority. Left by `with`, they are stopped."""

    def __init__(self, directory: Path, *, size: int = 3, options: Mapping[str, str] | None = None) -> None:
        """`options` are further lines of each zoo.cfg.

        They bear with each other for as long as a busy machine may keep one of them waiting. A test that
        cuts cables, which nobody is told of, has to say how soon it wants that to be noticed (syncLimit).
        """
        members = {
            f"server.{number}": f"127.0.0.1:{free_port()}:{free_port()}" for number in range(1, size + 1)
        }
        self.servers = [
            ZooKeeperServer(
                directory / str(number),
                # A follower has so many ticks to come up, and is given up when it was away for so many.
                options={"initLimit": "60", "syncLimit": "20", **members, **(options or {})},
            )
            for number in range(1, size + 1)
        ]
        for number, server in enumerate(self.servers, 1):
            (server.directory / "data").mkdir()
            (server.directory / "data" / "myid").write_text(str(number))

    @property
    def hosts(self) -> str:
        """What a client connects to: any of them."""
        return ",".join(server.hosts for server in self.servers)

    def start(self) -> None:
        """Start all and wait until all serve."""
        self.restore()

    def stop(self) -> None:
        """Kill all of them."""
        for server in self.servers:
            server.stop()

    def leader(self) -> ZooKeeperServer:
        """Who leads now; RuntimeError when nobody does."""
        for server in self.servers:
            if server.running and server.mode == "leader":
                return server
        raise RuntimeError("no server leads")

    def followers(self) -> list[ZooKeeperServer]:
        """Who follows now."""
        return [server for server in self.servers if server.running and server.mode == "follower"]

    def wait_serving(self) -> None:
        """Wait until one server leads and all others that run follow it."""
        running = [server for server in self.servers if server.running]

        def serving() -> bool:
            for server in running:
                server.require()
            # A follower goes on for a moment after its leader is gone.
            return {"leader"} <= {server.mode for server in running} <= {"leader", "follower"}

        for server in running:
            server.wait_until(serving)

    def cut_majority(self) -> list[ZooKeeperServer]:
        """Kill the leader and as many others as it takes for nobody to serve; who was killed."""
        doomed = [self.leader(), *self.followers()][: len(self.servers) // 2 + 1]
        for server in doomed:
            server.stop()
        return doomed

    def restore(self) -> None:
        """Start those that don't run, and wait until all serve."""
        for server in self.servers:
            if not server.running:
                server.launch()
        self.wait_serving()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def missing() -> str | None:
    """Why no server can be started here; None when one can."""
    for needed in (Path("/usr/bin/java"), JARS / "zookeeper.jar"):
        if not needed.exists():
            return f"{needed} is missing: install the package zookeeper"
    return None

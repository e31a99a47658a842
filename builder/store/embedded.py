"""Runs a private ZooKeeper server on loopback, for installations that have no servers of their own.

    <state directory>/zookeeper/     0700
        lock                         held by the daemon that runs the server
        endpoint                     host:port, there while the server answers
        port                         the port chosen at the first start, kept if it is free
        password                     without it nobody reads or changes a record; none when open to all
        zoo.cfg                      written at each start
        data/                        the server's own
        server.log                   what it prints, a megabyte at most, and the megabyte before

The kernel drops the lock with its holder, however that dies, and kills the server with it. So an
endpoint without a held lock is a leftover, and is taken for none.
"""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from builder.config.model import Config, ZooKeeper
from builder.errors import ImagepoolError, RefusedError, StoreUnavailableError, ToolMissingError, UsageError
from builder.process.child import Child, find_tool, wait_for
from builder.store.session import Session
from builder.store.wire import SERVERS_VARIABLE

LOG = logging.getLogger(__name__)

_HOST: Final = "127.0.0.1"
_USER: Final = "imagepool"
_INSTALLED: Final = Path("/usr/share/zookeeper")
_JAR: Final = Path("/usr/share/java/zookeeper.jar")
_LOGGER_JAR: Final = Path("/usr/share/java/slf4j-simple.jar")
_LOG_BYTES: Final = 1024 * 1024
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_STOP_GRACE: Final = 10.0
_ACCESS_TIMEOUT: Final = 15.0
_SERVERS = re.compile(r"(?P<hosts>[^\s/,]+:[0-9]+(?:,[^\s/,]+:[0-9]+)*)(?P<chroot>(?:/[^\s/]+)*)/?")

_SETTINGS: Final = """\
# Written by imagepool at each start.
tickTime=2000
dataDir={data}
clientPort={port}
clientPortAddress={host}
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr
autopurge.snapRetainCount=3
autopurge.purgeInterval=1
"""


def resolve(config: Config, environ: Mapping[str, str]) -> ZooKeeper | None:
    """Where ZooKeeper is: IMAGEPOOL_ZOOKEEPER (host:port[,host:port][/chroot]), else the configuration's
    servers, else the embedded server of a daemon that runs on this machine; None when there is none.

    The variable says which servers; TLS and credentials are those the configuration or the embedded
    server has for the same servers. Raises UsageError for a variable of another form.
    """
    text = environ.get(SERVERS_VARIABLE, "")
    if not text:
        return config.zookeeper or find_endpoint(config.state_dir)
    hosts, chroot = _parse(text)
    known = _known(config, hosts)
    if known is not None:
        return replace(known, hosts=hosts, chroot=chroot)
    configured = config.zookeeper
    if configured is not None and (configured.tls is not None or configured.username is not None):
        LOG.warning(
            "%s names other servers than the configuration: no TLS and no credentials are used for %s",
            SERVERS_VARIABLE,
            hosts,
        )
    return ZooKeeper(hosts=hosts, chroot=chroot)


def _parse(text: str) -> tuple[str, str]:
    """Servers and chroot; UsageError."""
    match = _SERVERS.fullmatch(text)
    if match is not None:
        ports = [int(server.rpartition(":")[2]) for server in match["hosts"].split(",")]
        segments = match["chroot"].split("/")
        if all(0 < port < 65536 for port in ports) and not {".", ".."} & set(segments):
            return match["hosts"], match["chroot"]
    raise UsageError(
        f"{SERVERS_VARIABLE} is {text!r}",
        hint='It has to be host:port[,host:port][/chroot], with ports from 1 to 65535 and no "." or ".." in'
        " the chroot.",
    )


def _known(config: Config, hosts: str) -> ZooKeeper | None:
    """The configuration's servers or the embedded one, whichever these are."""
    try:
        running = find_endpoint(config.state_dir)
    except StoreUnavailableError:
        # Whoever may not look there may still name servers.
        running = None
    for known in (config.zookeeper, running):
        if known is not None and set(known.hosts.split(",")) == set(hosts.split(",")):
            return known
    return None


def find_endpoint(state_dir: Path) -> ZooKeeper | None:
    """The embedded server that a daemon with this state directory runs, None when none does.

    Raises StoreUnavailableError when we may not look.
    """
    directory = _directory(state_dir)
    try:
        if not _held(directory / "lock"):
            return None
        return _access(directory, (directory / "endpoint").read_text().strip())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise StoreUnavailableError(
            f"may not read {error.filename}, which says where the daemon's ZooKeeper is",
            hint="Run the command as the user the daemon runs as.",
        ) from error


@contextmanager
def serving(config: Config, environ: Mapping[str, str]) -> Iterator[ZooKeeper]:
    """Where ZooKeeper is while the block runs: where `resolve` says, else a private server of our own.

    For the daemon, and for what stands in for it: whoever holds the state directory. Raises what `resolve`
    and `EmbeddedZooKeeper.start` raise.
    """
    where = resolve(config, environ)
    if where is not None:
        yield where
        return
    server = EmbeddedZooKeeper(config.state_dir, open_to_all=config.embedded_open)
    server.start()
    try:
        yield server.endpoint
    finally:
        server.stop()


class EmbeddedZooKeeper:
    """A standalone server that lives as long as this object is started, and comes back if it dies."""

    def __init__(self, state_dir: Path, open_to_all: bool = False) -> None:
        """`open_to_all`: everybody on this machine may read and change the records, as tools without
        credentials have to; otherwise only who may read the password in the state directory."""
        self._open_to_all = open_to_all
        self._directory = _directory(state_dir)
        self._lock_file: int | None = None
        self._port = 0
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._settled = threading.Event()  #: it answered, or the first attempt failed
        self._answered = False
        self._child: Child | None = None
        self._supervisor: threading.Thread | None = None
        self._last_line = ""

    @property
    def endpoint(self) -> ZooKeeper:
        """How to reach the server; it stays the same from `start` to `stop`."""
        return _access(self._directory, f"{_HOST}:{self._port}")

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while there is none."""
        child = self._child
        return child.pid if child is not None and child.running else None

    def start(self, timeout: float = 60.0) -> None:
        """Start the server and wait until it answers, at most `timeout` seconds.

        Raises ToolMissingError, RefusedError when another daemon uses this state directory, and
        StoreUnavailableError when the server does not come up; the message has its last words.
        """
        check_installed()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self._lock()
        try:
            self._prepare()
            self._stopping.clear()
            self._settled.clear()
            self._answered = False
            # The kernel ties the server to the thread that starts it, so that thread is one of its own.
            self._supervisor = threading.Thread(target=self._supervise, name="zookeeper", daemon=True)
            self._supervisor.start()
            self._settled.wait(timeout)
            if not self._answered:
                raise StoreUnavailableError(
                    f"the private ZooKeeper server on port {self._port} does not come up: {self._last_line}",
                    hint=f"Its log is {self._directory / 'server.log'}.",
                )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server; may be called twice, and before `start`."""
        self._stopping.set()
        if self._lock_file is not None:
            (self._directory / "endpoint").unlink(missing_ok=True)
        with self._guard:
            child = self._child
        if child is not None:
            child.stop(_STOP_GRACE)
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    # -- before it starts ---------------------------------------------------------------------

    def _lock(self) -> None:
        self._lock_file = _open(self._directory / "lock")
        # Commands hold it for a moment, shared, when they look whether a daemon has it.
        if not wait_for(lambda: _try_lock(self._lock_file or 0, fcntl.LOCK_EX), timeout=2.0):
            os.close(self._lock_file)
            self._lock_file = None
            raise RefusedError(
                f"another daemon runs a ZooKeeper server in {self._directory}",
                hint=f"Stop it first, or let this one use that server: set {SERVERS_VARIABLE} to what"
                f" {self._directory / 'endpoint'} says.",
            )

    def _prepare(self) -> None:
        (self._directory / "endpoint").unlink(missing_ok=True)
        (self._directory / "data").mkdir(exist_ok=True)
        self._port = _choose_port(self._directory / "port")
        if not self._open_to_all and not (self._directory / "password").exists():
            _write(self._directory / "password", f"{secrets.token_hex(32)}\n")
        settings = _SETTINGS.format(data=self._directory / "data", port=self._port, host=_HOST)
        _write(self._directory / "zoo.cfg", settings)

    # -- the supervisor's thread --------------------------------------------------------------

    def _supervise(self) -> None:
        output = logging.handlers.RotatingFileHandler(
            self._directory / "server.log", maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8"
        )
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._run_once(output)
            except (ImagepoolError, OSError) as error:
                self._last_line = str(error)
            if self._stopping.is_set():
                break
            self._settled.set()
            pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else pause
            LOG.error("the private ZooKeeper server ended: %s; next start in %.0f s", self._last_line, pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        output.close()

    def _run_once(self, output: logging.Handler) -> None:
        """Start the server and stay until it ends."""

        def write(line: str) -> None:
            self._last_line = line
            output.handle(logging.makeLogRecord({"msg": line}))

        with self._guard:
            if self._stopping.is_set():
                return
            child = self._child = Child(
                [
                    *("java", "-Xmx256m", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true"),
                    # The better compiler would take more of the processor than it ever gives back here.
                    "-XX:TieredStopAtLevel=1",
                    # The default reserves 64 MB for each transaction log.
                    "-Dzookeeper.preAllocSize=1024",
                    *(
                        "-Dorg.slf4j.simpleLogger.logFile=System.out",
                        "-Dorg.slf4j.simpleLogger.showDateTime=true",
                    ),
                    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ssX",
                    "-Dzookeeper.jmx.log4j.disable=true",
                    *("-cp", f"{_JAR}:{_LOGGER_JAR}"),
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    str(self._directory / "zoo.cfg"),
                ],
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
                cwd=self._directory,
                on_line=write,
            )
        wait_for(
            lambda: self._stopping.is_set() or not child.running or _serves(self._port),
            timeout=_LONGEST_PAUSE,
        )
        if child.running and not self._stopping.is_set():
            try:
                self._set_access()
            except BaseException:
                child.stop(_STOP_GRACE)
                raise
            # Only now: nobody else is to make records while the tree is being closed or opened.
            _write(self._directory / "endpoint", f"{_HOST}:{self._port}\n")
            self._answered = True
            self._settled.set()
            LOG.info(
                "the private ZooKeeper server answers on %s:%d, process %d", _HOST, self._port, child.pid
            )
        child.wait()

    def _set_access(self) -> None:
        """Close the tree to all but us, or open it again if it was closed; it may be of another start."""
        password = self._directory / "password"
        if self._open_to_all and not password.exists():
            return
        session = Session(self.endpoint, lambda connected: None)
        session.start(_ACCESS_TIMEOUT)
        try:
            if self._open_to_all:
                session.open_tree()
                password.unlink()
            else:
                session.close_tree()
        finally:
            session.close()


def _access(directory: Path, hosts: str) -> ZooKeeper:
    """A server with its credentials, if it is a protected one."""
    # Loopback is open to everybody who is logged in to this machine, and its ports are no secret.
    try:
        password = (directory / "password").read_text().strip()
    except FileNotFoundError:
        return ZooKeeper(hosts=hosts)
    return ZooKeeper(hosts=hosts, username=_USER, password=password)


def _directory(state_dir: Path) -> Path:
    return state_dir / "zookeeper"


def check_installed() -> None:
    """Raise ToolMissingError, naming the package, unless this machine has what a private server needs."""
    find_tool("java", package="default-jre-headless")
    for needed in (_INSTALLED, _JAR):
        if not needed.exists():
            raise ToolMissingError(
                f"ZooKeeper is not installed: there is no {needed}",
                hint="Install the package zookeeper, or name servers in zookeeper-servers.",
            )


def _choose_port(memory: Path) -> int:
    """The port chosen before if it is free, and a free one otherwise; it is remembered."""
    try:
        port = int(memory.read_text())
        # A server killed with its daemon a moment ago may still be letting go of it.
        if wait_for(lambda: _free_port(port) is not None, timeout=3.0, interval=0.1):
            return port
    except (FileNotFoundError, ValueError):
        pass
    port = _free_port(0) or 0
    _write(memory, f"{port}\n")
    return port


def _free_port(port: int) -> int | None:
    """The port when it can be listened on, any such for 0; None when it can't."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError):
            return None
        return int(probe.getsockname()[1])


def _serves(port: int) -> bool:
    """Whether a ZooKeeper server on loopback has loaded its data and serves requests."""
    try:
        with socket.create_connection((_HOST, port), timeout=2.0) as connection:
            connection.sendall(b"srvr")
            return b"Mode:" in b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: Path) -> bool:
    """Whether a daemon holds the lock; FileNotFoundError when there never was one."""
    with path.open("rb") as file:
        return not _try_lock(file.fileno(), fcntl.LOCK_SH)

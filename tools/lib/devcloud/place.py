"""Where a development cloud keeps its things, and what it remembers between two commands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devcloud.errors import DevCloudError

REGIONS = ("RegionOne", "RegionTwo")
KEYSTONE = "keystone"
LOOPBACK = "127.0.0.1"

# Below the kernel's range for outgoing connections, which would take a port between two of our runs.
_PORTS = range(20000, 30000)


def glance_name(region: str) -> str:
    """The name of a region's image service, in files and messages: "glance-RegionOne"."""
    return f"glance-{region}"


SERVICES = (KEYSTONE, *(glance_name(region) for region in REGIONS))


@dataclass(frozen=True, kw_only=True)
class Place:
    """The directories of one development cloud; everything but `venv` is below `root`."""

    root: Path
    venv: Path
    port_base: int | None = None
    limited: tuple[str, ...] = ()  #: the regions whose image service has limits

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], project: Path) -> Place:
        """From the variables that `devcloud --help` names; DevCloudError for a bad port or region."""
        root = Path(environ.get("DEVCLOUD_DIR") or project / ".devcloud").absolute()
        venv = Path(environ.get("DEVCLOUD_VENV") or project / ".devcloud" / "venv").absolute()
        return cls(
            root=root,
            venv=venv,
            port_base=_port_base(environ.get("DEVCLOUD_PORT_BASE")),
            limited=_limited(environ.get("DEVCLOUD_LIMITS", "")),
        )

    @property
    def clouds_file(self) -> Path:
        """The clouds.yaml for clients."""
        return self.root / "clouds.yaml"

    @property
    def state_file(self) -> Path:
        """What is remembered: ports, passwords, process ids."""
        return self.root / "state.json"

    def home(self, service: str) -> Path:
        """A service's own directory: configuration, database, images."""
        return self.root / service

    def log(self, service: str) -> Path:
        """The log of a service's server process."""
        return self.root / "log" / f"{service}.log"

    def tool(self, name: str) -> str:
        """The path of a command in the virtual environment."""
        return str(self.venv / "bin" / name)

    def url(self, state: State, service: str) -> str:
        """Where clients reach a service."""
        path = "/v3" if service == KEYSTONE else ""
        return f"http://{LOOPBACK}:{state.ports[service]}{path}"

    def create(self) -> None:
        """Make the directories, closed to other users: there are passwords in them."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.root / "log", *map(self.home, SERVICES)):
            directory.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def lock(self, timeout: float = 600) -> Iterator[None]:
        """Hold the cloud for one command; DevCloudError when another has it for `timeout` seconds."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.root / "lock", timeout):
            yield


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server process: its id, and the kernel's start tick that tells it from a later one with that id."""

    pid: int
    started: int


@dataclass(kw_only=True)
class State:
    """What one command leaves for the next."""

    ports: dict[str, int]
    admin_password: str
    user_password: str
    service_password: str
    running: dict[str, Running]
    limited: list[str] = field(default_factory=list)  #: regions that have limits now

    @classmethod
    def new(cls, place: Place) -> State:
        """Free ports and fresh passwords."""
        return cls(
            ports=choose_ports(place),
            admin_password=secrets.token_hex(16),
            user_password=secrets.token_hex(16),
            service_password=secrets.token_hex(16),
            running={},
        )

    @classmethod
    def load(cls, place: Place) -> State | None:
        """What was saved, None when this cloud was never made; DevCloudError when it can't be read."""
        try:
            raw = json.loads(place.state_file.read_text())
            running = {name: Running(**entry) for name, entry in raw.pop("running").items()}
            return cls(running=running, **raw)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise DevCloudError(
                f"{place.state_file} can't be read ({error}); "
                "stop the processes below it by hand and remove the directory"
            ) from error

    def save(self, place: Place) -> None:
        """Write everything down, for this user's eyes only."""
        raw = {**vars(self), "running": {name: vars(entry) for name, entry in self.running.items()}}
        write_private(place.state_file, json.dumps(raw, indent=1) + "\n")


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold a lock file for the `with` block; DevCloudError when it is taken for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevCloudError(f"{path} is held by another command; wait for it or end it") from None
                time.sleep(0.2)
        yield


def write_private(path: Path, text: str) -> bool:
    """Replace a file's content at once, mode 0600; returns whether it changed."""
    if path.exists() and path.read_text() == text:
        return False
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)
    return True


def choose_ports(place: Place) -> dict[str, int]:
    """A port for each service: DEVCLOUD_PORT_BASE and the next ones, or free ones."""
    if place.port_base is not None:
        return {name: place.port_base + index for index, name in enumerate(SERVICES)}
    ports: dict[str, int] = {}
    while len(ports) < len(SERVICES):
        port = secrets.choice(_PORTS)
        if port not in ports.values() and port_is_free(port):
            ports[SERVICES[len(ports)]] = port
    return ports


def port_is_free(port: int) -> bool:
    """Whether a server could listen there on loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _port_base(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not 1024 <= int(text) <= 65535 - len(SERVICES):
        raise DevCloudError(f"DEVCLOUD_PORT_BASE is {text!r}, not a port number from 1024 to 65000")
    return int(text)


def _limited(text: str) -> tuple[str, ...]:
    regions = tuple(text.replace(",", " ").split())
    unknown = [region for region in regions if region not in REGIONS]
    if unknown:
        raise DevCloudError(f"DEVCLOUD_LIMITS names {unknown[0]!r}, which is none of {', '.join(REGIONS)}")
    return regions

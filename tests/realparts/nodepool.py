"""nodepool 11 itself, for tests that its programs and ours work on one tree.

Its virtual environment is NODEPOOL_VENV, by default .nodepool/venv, made at the first need and kept. It
speaks to ZooKeeper by TLS alone, so it comes with a server for that:

    with tls_zookeeper(directory) as zookeeper:
        peer = Nodepool(directory, zookeeper, settings, clouds)
        peer.cli("image-pause", "img")
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from builder.config.model import ZooKeeper, ZooKeeperTls
from tests.realparts.zookeeper import ZooKeeperServer, free_port, tls_options

ROOT = Path(__file__).resolve().parents[2]
VIEW = Path(__file__).with_name("nodepool_view.py")
#: cachetools is imported and not declared; pbr and others need setuptools to have pkg_resources.
REQUIREMENTS = ("nodepool==11.0.0", "cachetools", "setuptools<80")
#: Seconds that pip may take, and a command.
INSTALLING, LIMIT = 900, 60


class Nodepool:
    """nodepool's programs on one configuration."""

    def __init__(
        self, directory: Path, zookeeper: ZooKeeper, settings: Mapping[str, Any], clouds: Path
    ) -> None:
        """`settings` are those of nodepool.yaml but for ZooKeeper; `clouds` is a clouds.yaml."""
        self._bin = virtual_environment() / "bin"
        self._directory = directory
        self.config = directory / "nodepool.yaml"
        self.config.write_text(yaml.safe_dump({**zookeeper_settings(zookeeper), **settings}))
        self.process: subprocess.Popen[bytes] | None = None  #: of `builder`
        self.environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HOME": str(directory),
            "OS_CLIENT_CONFIG_FILE": str(clouds),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def cli(self, *arguments: str) -> str:
        """What `nodepool ...` prints; it must end with 0."""
        return self._run(self.command(*arguments))

    def command(self, *arguments: str) -> list[str | Path]:
        """`nodepool ...`, to be run in `environment`."""
        return [self._bin / "nodepool", "-c", self.config, *arguments]

    def view(self, image: str, provider: str) -> dict[str, Any]:
        """What its readers make of the tree, see nodepool_view.py."""
        # -P: beside the script is a module that is called nodepool, too.
        told = self._run([self._bin / "python", "-P", VIEW, self.config, image, provider])
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
        return found

    @contextmanager
    def builder(self) -> Iterator[Path]:
        """nodepool-builder while the block runs, and then killed as its service would be; its log."""
        log = self._directory / "nodepool-builder.log"
        with log.open("ab") as stream:
            process = self.process = subprocess.Popen(
                [self._bin / "nodepool-builder", "-c", self.config, "-f"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield log
            assert process.poll() is None, log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait()

    def _run(self, command: Sequence[str | Path]) -> str:
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def zookeeper_settings(zookeeper: ZooKeeper) -> dict[str, Any]:
    """A ZooKeeper connection as a file says it."""
    servers = []
    for server in zookeeper.hosts.split(","):
        host, _, port = server.rpartition(":")
        chroot = {"chroot": zookeeper.chroot} if zookeeper.chroot else {}
        servers.append({"host": host, "port": int(port), **chroot})
    settings: dict[str, Any] = {"zookeeper-servers": servers}
    if zookeeper.tls:
        settings["zookeeper-tls"] = {key: str(getattr(zookeeper.tls, key)) for key in ("cert", "key", "ca")}
    return settings


@contextmanager
def tls_zookeeper(directory: Path) -> Iterator[ZooKeeper]:
    """A server that speaks TLS, with certificates of its own; without a chroot."""
    with tls_server(directory) as (_, zookeeper):
        yield zookeeper


@contextmanager
def tls_server(directory: Path, *, jvm: tuple[str, ...] = ()) -> Iterator[tuple[ZooKeeperServer, ZooKeeper]]:
    """The same, and the server itself; `jvm` are further arguments of java."""
    directory.mkdir(parents=True, exist_ok=True)
    _make_certificates(directory)
    port = free_port()
    server = ZooKeeperServer(
        directory / "zookeeper",
        options=tls_options(directory, port),
        jvm=jvm,
    )
    server.start()
    try:
        tls = ZooKeeperTls(
            cert=directory / "client.pem", key=directory / "client.key", ca=directory / "ca.pem"
        )
        yield server, ZooKeeper(hosts=f"127.0.0.1:{port}", tls=tls)
    finally:
        server.stop()


def virtual_environment() -> Path:
    """Where nodepool is installed; made when it isn't, once for all who ask."""
    venv = Path(os.environ.get("NODEPOOL_VENV") or ROOT / ".nodepool" / "venv").absolute()
    unfinished = venv.with_name(f"{venv.name}.unfinished")
    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(f"{venv.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if unfinished.exists() or not (venv / "bin" / "nodepool-builder").exists():
            unfinished.touch()
            _install([sys.executable, "-m", "venv", str(venv)])
            _install([str(venv / "bin" / "pip"), "install", *REQUIREMENTS])
            unfinished.unlink()
    return venv


def _install(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALLING, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _make_certificates(directory: Path) -> None:
    """ca.pem, keystore.pem of the server, client.pem and client.key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*("req", "-x509", *curve, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"))
    for name in ("server", "client"):
        openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-out", f"{name}.pem"),
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        )
    keystore = (directory / "server.key").read_text() + (directory / "server.pem").read_text()
    (directory / "keystore.pem").write_text(keystore)


if __name__ == "__main__":
    sys.stdout.write(f"{virtual_environment()}\n")

"""What measurements with image services share: the services, a daemon of ours, an image to bring there."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml

from builder.config.model import ZooKeeper
from builder.dib.output import hashing, inspect
from builder.model import Artifact, ImageFormat
from builder.process.child import Child, find_tool, run, wait_for
from builder.store import embedded
from builder.store.zookeeper import ZooKeeperStore

DEVCLOUD: Final = Path(__file__).resolve().parents[2] / "tools" / "devcloud"
IMAGEPOOL: Final = str(Path(sys.executable).with_name("imagepool"))
FORMAT: Final = ImageFormat.QCOW2
#: Seconds for the start of a daemon, and for the start of a development cloud, which may have to install
#: itself first.
START, CLOUD_START = 120.0, 1200.0
#: What the daemon logs when its workers are about to start.
STARTED: Final = " runs as uploader "


@contextmanager
def clouds_for(clouds: Path | None, directory: Path) -> Iterator[Path]:
    """The clouds.yaml: the one that was named, or that of a development cloud of our own."""
    if clouds is not None:
        yield clouds.resolve()
        return
    place = directory / "devcloud"
    environment = {**os.environ, "DEVCLOUD_DIR": str(place)}
    # The ports of a development cloud that runs already are not for this one.
    environment.pop("DEVCLOUD_PORT_BASE", None)
    try:
        done = run([str(DEVCLOUD), "up"], env=environment, timeout=CLOUD_START)
        if done.code:
            raise SystemExit(f"no development cloud: {done.stdout}\n{done.stderr}")
        # It is on loopback, where no proxy leads.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"
        yield place / "clouds.yaml"
    finally:
        run([str(DEVCLOUD), "down", "--purge"], env=environment, timeout=CLOUD_START)


@contextmanager
def daemon(settings: Mapping[str, object], place: Path) -> Iterator[tuple[Child, Path]]:
    """A daemon that uploads and promotes, and waits for something to do; and its configuration file."""
    # In a directory where nothing else changes: the daemon watches it.
    config = place / "config" / "imagepool.yaml"
    config.parent.mkdir()
    config.write_text(yaml.safe_dump(dict(settings)))
    started, lines = threading.Event(), place / "daemon.log"
    with lines.open("w") as file:

        def take(line: str) -> None:
            file.write(f"{line}\n")
            file.flush()
            if STARTED in line:
                started.set()

        environment = {**os.environ, "IMAGEPOOL_CONFIG": str(config)}
        child = Child([IMAGEPOOL, "run", "--roles", "uploader"], env=environment, cwd=place, on_line=take)
        try:
            if not wait_for(lambda: started.is_set() or not child.running, timeout=START):
                raise SystemExit(f"the daemon did not start within {START:.0f} s")
            if not started.is_set():
                raise SystemExit(f"the daemon ended:\n{lines.read_text()[-4000:]}")
            yield child, config
        finally:
            child.stop(60.0)


@contextmanager
def opened(place: Path) -> Iterator[ZooKeeperStore]:
    """The records of the daemon that works there."""
    server: ZooKeeper | None = embedded.find_endpoint(place)
    if server is None:
        raise SystemExit(f"the daemon runs no ZooKeeper server in {place}")
    store = ZooKeeperStore(server, watch=False)
    store.start()
    try:
        yield store
    finally:
        store.close()


def make_image(file: Path, size: int) -> Artifact:
    """An image with so many random bytes in it."""
    raw = file.with_suffix(".raw")
    with raw.open("wb") as stream:
        left = size
        while left > 0:
            left -= stream.write(os.urandom(min(left, 1 << 20)))
    try:
        done = run(
            [find_tool("qemu-img"), "convert", "-f", "raw", "-O", str(FORMAT), str(raw), str(file)],
            timeout=600.0,
        )
    finally:
        raw.unlink()
    if done.code:
        raise SystemExit(f"qemu-img: {done.stderr}")
    hashes = hashing.hash_file(file)
    return Artifact(
        format=FORMAT,
        size=hashes.size,
        virtual_size=inspect.virtual_size(file, FORMAT),
        md5=hashes.md5,
        sha256=hashes.sha256,
        sha512=hashes.sha512,
    )

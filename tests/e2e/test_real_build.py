"""A real Debian image, built by the real diskimage-builder, and nothing but the image left of it.

Needs root, loop devices and a Debian package mirror; takes about two minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import DiskImage, Platform
from builder.dib import artifacts, engine
from builder.dib.convert import hash_file
from builder.model import BuildPhase, ImageFormat

pytestmark = pytest.mark.e2e

IMAGE = DiskImage(
    name="debian-bookworm",
    platform=Platform(
        name="debian-bookworm",
        distribution="debian",
        release="bookworm",
        mirror="host",
        security_mirror="host",
    ),
    elements=("debian-minimal", "vm", "openssh-server"),
    formats=(ImageFormat.QCOW2,),
    build_timeout=timedelta(minutes=20),
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory outside /tmp, where the sandbox gives the build a /tmp of its own."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: run the end-to-end tests as root")
    directory = Path(tempfile.mkdtemp(prefix="imagepool-e2e-", dir="/var/tmp"))
    yield directory
    shutil.rmtree(directory)


def processes_of(directory: Path) -> list[str]:
    """Processes that name the directory in their command line or environment, or live in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            inside = os.fsencode(directory) in text or (process / "root").readlink().is_relative_to(directory)
        except OSError:
            continue
        if inside and int(process.name) != os.getpid():
            found.append(process.name)
    return found


def loops_below(directory: Path) -> list[str]:
    listing = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [line for line in listing.splitlines() if str(directory) in line]


def stray_partitions() -> list[str]:
    """Partitions of loop devices with no file behind them."""
    return [
        partition.name
        for loop in Path("/sys/block").glob("loop*")
        if not (loop / "loop").exists()
        for partition in loop.glob(f"{loop.name}p*")
    ]


def test_debian_is_built_for_real_and_nothing_is_left_behind(place: Path) -> None:
    stray_before = stray_partitions()
    phases: list[tuple[BuildPhase, float]] = []
    job = engine.Job(
        image=IMAGE,
        build_id=uuid.uuid4().hex,
        installation_id="e2e",
        images_dir=place / "images",
        work_dir=place / "work",
        cache_dir=place / "cache",
        log_path=place / "build.log",
    )
    began = time.monotonic()
    product = engine.run(
        job,
        on_phase=lambda phase: phases.append((phase, time.monotonic() - began)),
        cancelled=threading.Event(),
    )

    assert [phase for phase, _ in phases] == list(BuildPhase)
    assert {"diskimage-builder", "qemu-img", "kernel"} <= set(product.tools)

    (artifact,) = product.artifacts
    file = artifacts.path(job.images_dir, IMAGE.name, job.build_id, ImageFormat.QCOW2)
    assert artifacts.check(file, artifact, hashes=True) is None
    assert hash_file(file).sha256 == artifact.sha256
    assert artifact.size > 100 << 20
    subprocess.run(["qemu-img", "check", "-f", "qcow2", str(file)], check=True, capture_output=True)
    assert_bootable(file, place / "raw")

    log = job.log_path.read_text()
    assert "Build completed successfully" in log
    assert log.splitlines()[-1].split(" | ")[1].startswith("imagepool: the build is done")

    assert list(job.work_dir.iterdir()) == []
    assert sorted(path.suffix for path in job.images_dir.iterdir()) == [".d", ".qcow2"]
    assert loops_below(place) == []
    assert stray_partitions() == stray_before
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    assert processes_of(place) == []


def assert_bootable(file: Path, raw: Path) -> None:
    """The image has a partition marked bootable, and boot code in front of it."""
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(file), str(raw)], check=True)
    table = json.loads(
        subprocess.run(["sfdisk", "--json", str(raw)], check=True, capture_output=True, text=True).stdout
    )["partitiontable"]
    assert [p.get("bootable", False) for p in table["partitions"]] == [True]
    with raw.open("rb") as stream:
        boot_record = stream.read(512)
    assert b"GRUB" in boot_record

"""What the tests of builder/dib share: a scripted disk-image-create, its control directory, waiting."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.config.model import DiskImage, Platform
from builder.dib.job import Job
from builder.dib.limits import Limits
from builder.dib.output import artifacts, hashing
from builder.dib.output.hashing import Disk
from builder.model import Artifact, Build, BuildState, ImageFormat
from builder.process.child import find_tool

FAKE_DIB = Path(__file__).parent.parent / "fakes" / "disk-image-create"
FAKE_BOOT_TEST = FAKE_DIB.with_name("boot-test")
BUILD = "0123456789abcdef0123456789abcdef"
INSTALLATION = "the-installation"
FINISHED = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
DISK = Disk(sha256="d" * 64, size=1 << 20)
DEADLINE = 30.0
#: A build before that took next to nothing, so that a small disk will do for the next.
SMALL = Build(
    id="f" * 32,
    image="debian-bookworm",
    state=BuildState.READY,
    state_time=datetime(2026, 11, 1, tzinfo=UTC),
    work_bytes=1 << 20,
    artifacts=tuple(
        Artifact(format=each, size=1 << 20, virtual_size=1 << 20, md5="", sha256="", sha512="")
        for each in ImageFormat
    ),
)


def need_root() -> None:
    """Fail, rather than skip, where the sandbox can't work: a build is nothing without it."""
    if os.geteuid() != 0:
        pytest.fail("this test uses namespaces and loop devices: run it as root")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is true; fail saying what never was."""
    until = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"waited {DEADLINE:.0f} s in vain: {what}")
        time.sleep(0.02)


def processes_naming(text: Path) -> list[int]:
    """Processes with a path in their command line or environment, ourselves excepted."""
    needle, found = os.fsencode(text), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if needle in words and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def bound_loops() -> dict[str, str]:
    """Loop devices in use, to the files behind them.

    One that is let go of at this moment may be listed without a file.
    """
    listing = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    devices = (line.partition(" ") for line in listing.splitlines())
    return {device: file.strip() for device, _, file in devices if file.strip()}


def traces(device: str, file: Path) -> list[str]:
    """What is left of a loop device that had a file behind it; others may use the device by now."""
    behind = bound_loops().get(device)
    if behind is not None and not behind.startswith(str(file)):
        return []
    nodes = [Path(f"{device}p1"), Path("/dev/mapper", f"{Path(device).name}p1")]
    return [device] * (behind is not None) + [str(node) for node in nodes if os.path.lexists(node)]


def shellcheck(script: str) -> str:
    """What shellcheck has to say about a script of bash; nothing is best."""
    return subprocess.run(
        ["shellcheck", "--shell=bash", "--format=gcc", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def image(control: Path | None = None, **changes: object) -> DiskImage:
    """A diskimage that the scripted disk-image-create builds, obeying a control directory."""
    plain = DiskImage(
        name="debian-bookworm",
        platform=Platform(name="debian-bookworm", distribution="debian", release="bookworm"),
        elements=("debian-minimal", "vm"),
        formats=(ImageFormat.QCOW2,),
        dib_cmd=(str(FAKE_DIB),),
        environment={} if control is None else {"FAKE_DIB_CONTROL": str(control)},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def publish(
    images_dir: Path,
    proof: artifacts.Proof,
    files: Iterable[tuple[Path, ImageFormat]],
    manifests: Path = Path("/nowhere"),
) -> None:
    """Publish a build from its proof to its manifests, as the engine does."""
    publication = artifacts.Publication(images_dir, proof)
    publication.begin()
    made = []
    for file, image_format in files:
        made.append(described(file, image_format))
        publication.add(file, image_format, Limits())
    publication.finish(manifests, DISK, tuple(made), FINISHED)


def described(file: Path, image_format: ImageFormat) -> Artifact:
    """A file as records have it."""
    known = hashing.hash_file(file)
    return Artifact(
        format=image_format,
        size=known.size,
        virtual_size=DISK.size,
        md5=known.md5,
        sha256=known.sha256,
        sha512=known.sha512,
    )


def job(place: Path, recipe: DiskImage) -> Job:
    """A build of a diskimage with all its directories below `place`."""
    return Job(
        image=recipe,
        build_id=BUILD,
        installation_id=INSTALLATION,
        state_dir=place / "state",
        images_dir=place / "images",
        work_dir=place / "work",
        cache_dir=place / "cache",
        log_path=place / "logs" / "build.log",
        earlier=(SMALL,),
    )


def hold_vmdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file; as long as it is there, qemu-img makes no vmdk."""
    programs, hold = tmp_path / "programs", tmp_path / "hold"
    programs.mkdir()
    hold.touch()
    wait = f'while [ "$1 $5" = "convert vmdk" ] && [ -e {hold} ]; do sleep 0.05; done'
    (programs / "qemu-img").write_text(f'#!/bin/bash\n{wait}\nexec {find_tool("qemu-img")} "$@"\n')
    (programs / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return hold

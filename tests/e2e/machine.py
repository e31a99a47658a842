"""What a build could leave on this machine, and what an image does when it boots."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds an emulated machine may take to its SSH server; it needs about a minute without KVM.
BOOT_LIMIT = 600.0


def left_of(directory: Path) -> list[str]:
    """Everything on this machine that still belongs to builds below a directory; the files apart."""
    return [*_processes(directory), *_loops(directory), *_mounts(directory), *stray_partitions()]


def stray_partitions() -> list[str]:
    """Partitions of loop devices with no file behind them."""
    return [
        f"partition {partition.name}"
        for loop in Path("/sys/block").glob("loop*")
        if not (loop / "loop").exists()
        for partition in loop.glob(f"{loop.name}p*")
    ]


def _processes(directory: Path) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            inside = os.fsencode(directory) in text or (process / "root").readlink().is_relative_to(directory)
        except OSError:
            continue  # it ended while we looked
        if inside and int(process.name) != os.getpid():
            yield f"process {process.name}"


def _loops(directory: Path) -> Iterator[str]:
    listing = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
    yield from (f"loop {line}" for line in listing.splitlines() if str(directory) in line)


def _mounts(directory: Path) -> Iterator[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    yield from (f"mount {line}" for line in lines if str(directory) in line)


def run(*argv: str) -> str:
    """What a tool prints; it must end with 0."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextmanager
def booted(image: Path, directory: Path) -> Iterator[tuple[int, Path]]:
    """Boot a qcow2 image in an emulator, through an overlay that is thrown away, without a way out.

    Yields the port of loopback that leads to its SSH port, and the file with its serial console.
    """
    overlay, console, port = directory / "overlay.qcow2", directory / "console.log", _free_port()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(overlay))
    machine = subprocess.Popen(
        [
            *("qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-smp", "2", "-display", "none"),
            *("-drive", f"file={overlay},if=virtio", "-serial", f"file:{console}", "-monitor", "none"),
            *("-nic", f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield port, console
    finally:
        machine.kill()
        machine.wait()
        overlay.unlink()


def ssh_banner(port: int, console: Path) -> str:
    """The first words of the SSH server behind a port, as soon as there is one."""
    deadline = time.monotonic() + BOOT_LIMIT
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
                banner = connection.recv(64).decode(errors="replace")
        except OSError:
            banner = ""
        if banner:
            return banner
        time.sleep(1.0)  # the emulator accepts and drops the connection until somebody listens
    raise AssertionError(
        f"no SSH server within {BOOT_LIMIT:.0f} s:\n{console.read_text(errors='replace')[-3000:]}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

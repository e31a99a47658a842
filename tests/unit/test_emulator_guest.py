"""Guests that really run, for a moment: boot sectors in QEMU. What goes wrong says why, and nothing stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.emulator import accelerator, firmware
from builder.emulator.guest import boot
from builder.emulator.machine import Architecture, Disk, Firmware, Machine, Network, ThreePart
from builder.errors import ActionFailedError, NotFoundError, ToolMissingError
from builder.model import FailureClass, ImageFormat
from builder.process.child import wait_for
from tests.unit.emulator_world import speaking

PATIENCE = 60.0
HELLO = "Linux version 6.1\r\nsystemd[1]: hello\r\nlogin: "


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What KVM does on this machine is not what is tried here."""
    monkeypatch.setattr(accelerator, "choose", accelerator.emulated)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return speaking(tmp_path / "image.raw", HELLO)


def small(file: Path, **more: object) -> Machine:
    """A machine that starts at once."""
    options = {"image": Disk(path=file, format=ImageFormat.RAW), "memory": 64, "cpus": 1, **more}
    return Machine(**options)  # type: ignore[arg-type]


def processes_of(directory: Path) -> list[int]:
    """Who works in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append(int(process.name))
        except OSError:
            continue  # it ended while we looked
    return found


def test_a_guest_runs_says_something_and_is_gone(image: Path, tmp_path: Path) -> None:
    before, place = image.read_bytes(), tmp_path / "place, with a comma"
    place.mkdir()
    with boot(small(image, size=8 << 20), place) as running:
        assert running.running and running.accelerator == "tcg"
        assert wait_for(lambda: running.console_tail(1) == ("login:",), timeout=PATIENCE)
        seconds = running.seconds
        assert seconds.kernel is not None and seconds.userspace is not None
        assert 0 < seconds.kernel <= seconds.userspace < PATIENCE
        assert seconds.ssh is None
        assert wait_for(lambda: running.cpu_seconds > 0, timeout=PATIENCE)
        assert processes_of(place)
        # It has written nothing, but an overlay has a head.
        assert 0 < running.disk_claimed < 1 << 20
        running.copy_key(place / "copied")
        assert (place / "copied").stat().st_mode & 0o777 == 0o600
        assert "PRIVATE KEY" in (place / "copied").read_text()
        (place / "copied").unlink()
    assert processes_of(place) == []
    # Its console is what stays of it.
    assert [file.name for file in place.iterdir()] == ["console.log"]
    assert b"Linux version" in (place / "console.log").read_bytes()
    assert image.read_bytes() == before


def test_no_ssh_in_time_shows_what_the_console_said_last(image: Path, tmp_path: Path) -> None:
    with boot(small(image), tmp_path) as running:
        assert wait_for(lambda: running.seconds.userspace is not None, timeout=PATIENCE)
        with pytest.raises(ActionFailedError, match=r"no SSH server answered within 1 s") as caught:
            running.wait_for_ssh(1.0)
    failure = caught.value.failure
    assert failure is not None and failure.failure_class is FailureClass.TIMEOUT
    assert "systemd[1]: hello" in failure.lines
    assert "systemd[1]: hello" in str(caught.value)


def test_a_guest_that_dies_while_it_is_waited_for_is_not_waited_for_any_longer(
    image: Path, tmp_path: Path
) -> None:
    with boot(small(image), tmp_path) as running:
        (pid,) = processes_of(tmp_path)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(ActionFailedError, match="the emulator ended") as caught:
            running.wait_for_ssh(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        assert not running.running
    assert caught.value.failure is not None
    assert caught.value.failure.exit_code == -signal.SIGKILL


def test_a_guest_that_is_off_can_not_be_restarted_and_says_so(image: Path, tmp_path: Path) -> None:
    with boot(small(image), tmp_path) as running:
        (pid,) = processes_of(tmp_path)
        # Upon which QEMU ends as it does when its machine is switched off.
        os.kill(pid, signal.SIGTERM)
        assert wait_for(lambda: not running.running, timeout=PATIENCE)
        with pytest.raises(ActionFailedError, match="did not restart: the emulator ended") as caught:
            running.reboot()
    failure = caught.value.failure
    assert failure is not None
    assert (failure.failure_class, failure.exit_code) == (FailureClass.TOOL, 0)


def test_a_guest_does_not_outlive_its_time(image: Path, tmp_path: Path) -> None:
    with boot(small(image, lifetime=0.5), tmp_path) as running:
        assert wait_for(lambda: not running.running, timeout=PATIENCE)


def test_what_interrupts_the_waiting_passes_through(image: Path, tmp_path: Path) -> None:
    wanted = False

    def check() -> None:
        if wanted:
            raise KeyboardInterrupt

    with boot(small(image), tmp_path, check=check) as running:
        wanted = True
        with pytest.raises(KeyboardInterrupt):
            running.wait_for_ssh(PATIENCE)
    assert processes_of(tmp_path) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["console.log", "image.raw"]


def test_a_guest_dies_with_us(image: Path, tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from builder.emulator import accelerator
from builder.emulator.guest import boot
from builder.emulator.machine import Disk, Machine
from builder.model import ImageFormat
accelerator.choose = accelerator.emulated
image = Disk(path=Path({str(image)!r}), format=ImageFormat.RAW)
with boot(Machine(image=image, memory=64), Path({str(tmp_path)!r})):
    print("up", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == "up\n"
        assert processes_of(tmp_path)
        ours.kill()
    assert wait_for(lambda: processes_of(tmp_path) == [], timeout=PATIENCE)


# -- what can't be booted ----------------------------------------------------------------------------


def refused(machine: Machine, directory: Path) -> ActionFailedError:
    """Why a machine does not start."""
    with pytest.raises(ActionFailedError) as caught, boot(machine, directory):
        pytest.fail("it started")
    assert processes_of(directory) == []
    return caught.value


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NotFoundError, match=r"absent\.qcow2"),
        boot(Machine(image=Disk(path=tmp_path / "absent.qcow2")), tmp_path),
    ):
        pytest.fail("it started")


def test_a_missing_part_of_three_is_named(image: Path, tmp_path: Path) -> None:
    parts = ThreePart(
        kernel=image, ramdisk=tmp_path / "ramdisk", root=Disk(path=image, format=ImageFormat.RAW)
    )
    with pytest.raises(NotFoundError, match="ramdisk"), boot(Machine(image=parts), tmp_path):
        pytest.fail("it started")


def test_an_image_that_is_none_is_told_before_anything_runs(image: Path, tmp_path: Path) -> None:
    error = refused(Machine(image=Disk(path=image, format=ImageFormat.QCOW2)), tmp_path)
    assert "image.raw" in error.message and "qcow2" in error.message


def test_an_emulator_that_ends_at_once_is_quoted(image: Path, tmp_path: Path) -> None:
    error = refused(small(image, networks=(Network(mac="no address"),)), tmp_path)
    assert error.failure is not None
    assert (error.failure.failure_class, error.failure.exit_code) == (FailureClass.TOOL, 1)
    assert any("mac" in line for line in error.failure.lines)
    assert not list(tmp_path.glob("guest-*"))


def test_a_port_that_is_taken_is_told(image: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = refused(small(image, ssh_port=port), tmp_path)
    assert f"127.0.0.1:{port}" in str(error)


def test_without_firmware_nothing_is_started(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(architecture: Architecture) -> None:
        raise ToolMissingError("there is no UEFI firmware")

    monkeypatch.setattr(firmware, "find", absent)
    with pytest.raises(ToolMissingError), boot(small(image, firmware=Firmware.UEFI), tmp_path):
        pytest.fail("it started")
    assert not list(tmp_path.glob("guest-*"))


# -- what is plugged in ------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [*Firmware])
def test_interfaces_and_volumes_are_plugged_in_while_it_runs(
    by: Firmware, image: Path, tmp_path: Path
) -> None:
    with boot(small(image, firmware=by), tmp_path) as running:
        names = [
            running.plug_network(Network(mac="fa:16:3e:00:00:99")),
            running.plug_volume(1 << 20, serial="0123456789-0123456789-more"),
            running.plug_network(Network(mac="fa:16:3e:00:00:98")),
            running.plug_volume(1 << 20, serial="other"),
        ]
        assert len(set(names)) == 4
        if by is Firmware.UEFI:
            with pytest.raises(NotFoundError, match="places"):
                running.plug_volume(1 << 20, serial="one too many")


def test_two_guests_run_side_by_side(image: Path, tmp_path: Path) -> None:
    with boot(small(image), tmp_path) as one:
        other_place = tmp_path / "other"
        other_place.mkdir()
        with boot(small(image), other_place) as other:
            assert one.port != other.port
            assert one.port and other.port
            both = (one, other)
            assert wait_for(
                lambda: {each.console_tail(1) for each in both} == {("login:",)}, timeout=PATIENCE
            )

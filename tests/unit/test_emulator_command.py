"""What QEMU is told: for each machine the parts that make it one, and never a way out."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, IPv6Interface
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from builder.emulator import command
from builder.emulator.accelerator import Accelerator
from builder.emulator.command import Parts
from builder.emulator.firmware import Uefi
from builder.emulator.machine import (
    Architecture,
    ConfigDrive,
    Disk,
    Firmware,
    Machine,
    Network,
    ThreePart,
)
from builder.errors import UsageError
from builder.model import ImageFormat

DISK = Disk(path=Path("/images/one, two.qcow2"))
STATIC = Network(ipv4=IPv4Interface("192.0.2.9/24"), ipv6=IPv6Interface("2001:db8::9/64"))
UEFI = Uefi(code=Path("/firmware/code,1.fd"), variables=Path("/firmware/vars.fd"))


def told(machine: Machine) -> list[str]:
    """The command line."""
    return command.arguments(
        machine,
        Parts(
            program="/usr/bin/qemu",
            accelerator=Accelerator(name="tcg", argument="tcg,thread=single", cpu="max"),
            overlay=Path("/work/overlay.qcow2"),
            config_drive=Path("/work/config.iso") if machine.config_drive else None,
            uefi=UEFI if machine.has_uefi else None,
            variables=Path("/work/variables.fd") if machine.has_uefi else None,
        ),
    )


def values(argv: list[str], option: str) -> list[str]:
    """What an option is given, each time."""
    return [value for name, value in pairwise(argv) if name == option]


def disks(argv: list[str]) -> dict[str, Any]:
    """What is told of each disk, by its name."""
    return {each["node-name"]: each for each in map(json.loads, values(argv, "-blockdev"))}


@pytest.mark.parametrize(
    "network", [Network(), STATIC, Network(ipv6="slaac"), Network(ipv4=None, ipv6="slaac")], ids=str
)
def test_no_network_has_a_way_out_and_the_first_has_one_way_in(network: Network) -> None:
    second = Network(mac="fa:16:3e:00:00:11")
    argv = told(Machine(image=DISK, networks=(network, second), ssh_port=2222))
    first, other = values(argv, "-netdev")
    assert "restrict=on" in first.split(",") and "restrict=on" in other.split(",")
    guest = network.ipv4.ip if isinstance(network.ipv4, IPv4Interface) else ""
    assert first.split(",")[-1] == f"hostfwd=tcp:127.0.0.1:2222-{guest}:22"
    assert "hostfwd" not in other


def test_static_addresses_are_in_the_network_that_answers_for_their_gateways() -> None:
    told_of = command.netdev(STATIC, 0)
    assert told_of["net"] == "192.0.2.0/24"
    assert told_of["host"] == "192.0.2.1" and told_of["dns"] == "192.0.2.3"
    # Who asks DHCP all the same is found out by its address.
    assert told_of["dhcpstart"] not in ("192.0.2.9", "192.0.2.1", "192.0.2.3")
    assert (told_of["ipv6-prefix"], told_of["ipv6-prefixlen"]) == ("2001:db8::", 64)
    assert told_of["ipv6-host"] == "2001:db8::1"


def test_a_guest_may_have_the_address_that_a_gateway_would_have() -> None:
    network = Network(ipv4=IPv4Interface("192.0.2.1/24"), ipv6=IPv6Interface("2001:db8::1/64"))
    assert str(network.ipv4_gateway) == "192.0.2.2"
    assert str(network.ipv6_gateway) == "2001:db8::2"


@pytest.mark.parametrize(
    ("architecture", "firmware", "board", "drive"),
    [
        (Architecture.AMD64, Firmware.BIOS, "pc", "ide-cd,drive=config"),
        (Architecture.AMD64, Firmware.UEFI, "q35", "ide-cd,drive=config"),
        (Architecture.ARM64, Firmware.BIOS, "virt", "scsi-cd,bus=scsi.0,drive=config"),
    ],
)
def test_a_machine_is_made_as_nova_makes_one(
    architecture: Architecture, firmware: Firmware, board: str, drive: str
) -> None:
    machine = Machine(image=DISK, architecture=architecture, firmware=firmware, memory=2048, cpus=3)
    argv = told(machine)
    assert values(argv, "-machine") == [board]
    assert values(argv, "-m") == ["2048"] and values(argv, "-smp") == ["3"]
    assert drive in values(argv, "-device")
    has_flash = [value for value in values(argv, "-drive") if "if=pflash" in value]
    assert len(has_flash) == (2 if machine.has_uefi else 0)
    if machine.has_uefi:
        # The code is everybody's, the variables are the machine's own; commas are QEMU's.
        assert "readonly=on" in has_flash[0] and "code,,1.fd" in has_flash[0]
        assert "readonly=off" in has_flash[1] and has_flash[1].endswith("/work/variables.fd")
    # PCI Express takes what is plugged in at ports alone.
    ports = [value for value in values(argv, "-device") if value.startswith("pcie-root-port")]
    assert len(ports) == (0 if board == "pc" else command.SPARE_PORTS)


def test_the_image_is_below_an_overlay_and_read_only() -> None:
    root = disks(told(Machine(image=DISK)))["root"]
    assert root["file"]["filename"] == "/work/overlay.qcow2"
    assert root["backing"]["read-only"] is True
    assert root["backing"]["file"]["filename"] == str(DISK.path)
    assert root["backing"]["driver"] == "qcow2"


@pytest.mark.parametrize(
    ("wanted", "driver"), [(ImageFormat.RAW, "raw"), (ImageFormat.VHD, "vpc"), (ImageFormat.VMDK, "vmdk")]
)
def test_a_format_is_told_in_qemus_words(wanted: ImageFormat, driver: str) -> None:
    image = Disk(path=Path("/images/one"), format=wanted)
    assert disks(told(Machine(image=image)))["root"]["backing"]["driver"] == driver


def test_three_parts_are_booted_by_their_kernel() -> None:
    parts = ThreePart(kernel=Path("/k"), ramdisk=Path("/r"), root=Disk(path=Path("/root.raw")))
    machine = Machine(image=parts, firmware=Firmware.UEFI)
    argv = told(machine)
    assert values(argv, "-kernel") == ["/k"] and values(argv, "-initrd") == ["/r"]
    (words,) = values(argv, "-append")
    assert "root=/dev/vda" in words.split() and "console=ttyS0" in words.split()
    assert not machine.has_uefi


def test_a_config_drive_may_be_a_disk_or_absent() -> None:
    virtio = told(Machine(image=DISK, config_drive=ConfigDrive(bus="virtio")))
    assert "virtio-blk-pci,drive=config" in values(virtio, "-device")
    assert disks(virtio)["config"]["read-only"] is True
    assert "config" not in disks(told(Machine(image=DISK, config_drive=None)))


def test_what_qemu_may_do_is_little() -> None:
    argv = told(Machine(image=DISK))
    assert "spawn=deny" in values(argv, "-sandbox")[0]
    assert "-nodefaults" in argv and "-no-user-config" in argv


@pytest.mark.parametrize(
    "networks",
    [(Network(), Network()), (Network(ipv4=IPv4Interface("192.0.2.9/29")),)],
    ids=["the same MAC twice", "too small"],
)
def test_networks_that_make_no_sense_are_refused(networks: tuple[Network, ...]) -> None:
    with pytest.raises(UsageError):
        Machine(image=DISK, networks=networks)

"""Puts together the command line of QEMU for a machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, Final

from builder.emulator.accelerator import Accelerator
from builder.emulator.firmware import Uefi
from builder.emulator.machine import Architecture, Machine, Network, ThreePart
from builder.model import ImageFormat

#: In QEMU's own directory; paths of sockets must be short.
MONITOR: Final = "monitor"
CONSOLE: Final = "console"
#: Ports for what is plugged in while the machine runs, where the bus itself takes nothing.
SPARE_PORTS: Final = 4
#: Where the emulator answers in a network by DHCP, and in one with addresses that routers announce.
_DHCP_NETWORK: Final = "10.0.{}.0/24"
_SLAAC_NETWORK: Final = "fd00:{:x}::/64"
#: What a cloud made of Nova says in its firmware tables; guests know their cloud by it.
_SMBIOS: Final = "type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova"
#: QEMU needs nothing more once it runs, and what it runs is not trusted.
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_CONSOLES: Final = {Architecture.AMD64: "ttyS0", Architecture.ARM64: "ttyAMA0"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the parts of a machine are that were made for it alone, and what this host has for it."""

    program: str
    accelerator: Accelerator
    overlay: Path  #: in qcow2, over the image
    config_drive: Path | None = None
    uefi: Uefi | None = None
    variables: Path | None = None  #: a copy of the firmware's, to be written to


def arguments(machine: Machine, parts: Parts) -> list[str]:
    """The command line; its machine waits for `cont`, and the sockets are made in the working directory."""
    return [
        parts.program,
        *("-no-user-config", "-nodefaults", "-S", "-display", "none", "-sandbox", _SANDBOX),
        *("-machine", _board(machine), "-accel", parts.accelerator.argument, "-cpu", parts.accelerator.cpu),
        *("-m", str(machine.memory), "-smp", str(machine.cpus), "-smbios", _SMBIOS),
        *("-chardev", f"socket,id=console,path={CONSOLE},server=on,wait=off", "-serial", "chardev:console"),
        *("-qmp", f"unix:{MONITOR},server=on,wait=off"),
        *(["-vga", "std"] if machine.architecture is Architecture.AMD64 else []),
        *_firmware(parts),
        *_spare_ports(machine),
        *_disks(machine, parts),
        *(word for number in range(len(machine.networks)) for word in _network(machine, number)),
        *_kernel(machine),
    ]


def has_ports(machine: Machine) -> bool:
    """Whether what is plugged in needs a port of its own: PCI Express has it so, PCI does not."""
    return _board(machine) != "pc"


def nic(number: int) -> str:
    """QEMU's name of the interface on a network of the machine."""
    return f"nic{number}"


def driver(image_format: ImageFormat) -> str:
    """QEMU's own name of a format."""
    return "vpc" if image_format is ImageFormat.VHD else str(image_format)


def netdev(network: Network, number: int) -> dict[str, Any]:
    """The emulator's side of a network, as QMP has it; without a way out."""
    answer: dict[str, Any] = {"type": "user", "id": f"net{number}", "restrict": True}
    answer["ipv4"] = network.ipv4 is not None
    if isinstance(network.ipv4, IPv4Interface):
        answer["net"] = str(network.ipv4.network)
        answer["host"] = str(network.ipv4_gateway)
        answer["dns"] = str(network.ipv4_name_server)
        # Whoever asks DHCP gets another address than the one that is announced.
        answer["dhcpstart"] = str(network.ipv4.network[-6])
    elif network.ipv4 is not None:
        answer["net"] = _DHCP_NETWORK.format(2 + number)
    answer["ipv6"] = network.ipv6 is not None
    if isinstance(network.ipv6, IPv6Interface):
        prefix = network.ipv6.network
        answer["ipv6-prefix"], answer["ipv6-prefixlen"] = str(prefix.network_address), prefix.prefixlen
        answer["ipv6-host"], answer["ipv6-dns"] = str(network.ipv6_gateway), str(prefix[3])
    elif network.ipv6 is not None:
        address, length = _SLAAC_NETWORK.format(2 + number).split("/")
        answer["ipv6-prefix"], answer["ipv6-prefixlen"] = address, int(length)
    return answer


def _board(machine: Machine) -> str:
    if machine.architecture is Architecture.ARM64:
        return "virt"
    # Nova's default; with UEFI its documentation asks for q35.
    return "q35" if machine.has_uefi else "pc"


def _firmware(parts: Parts) -> Iterator[str]:
    if parts.uefi is not None and parts.variables is not None:
        for unit, (file, read_only) in enumerate(((parts.uefi.code, "on"), (parts.variables, "off"))):
            # In -drive a comma is written twice.
            name = str(file).replace(",", ",,")
            yield from ("-drive", f"if=pflash,unit={unit},format=raw,readonly={read_only},file={name}")


def _spare_ports(machine: Machine) -> Iterator[str]:
    if has_ports(machine):
        for number in range(SPARE_PORTS):
            yield from ("-device", f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}")


def _disks(machine: Machine, parts: Parts) -> Iterator[str]:
    below = {"driver": driver(machine.disk.format), "file": _file(machine.disk.path), "read-only": True}
    overlay = {
        "driver": "qcow2",
        "node-name": "root",
        "file": _file(parts.overlay),
        "backing": below,
        # It is thrown away: nobody waits for it to be safe.
        "cache": {"no-flush": True},
        "discard": "unmap",
    }
    yield from ("-blockdev", json.dumps(overlay), "-device", "virtio-blk-pci,drive=root,bootindex=0")
    if parts.config_drive is not None and machine.config_drive is not None:
        drive = {"driver": "raw", "node-name": "config", "read-only": True}
        yield from ("-blockdev", json.dumps({**drive, "file": _file(parts.config_drive)}))
        yield from _config_device(machine)


def _config_device(machine: Machine) -> Iterator[str]:
    if machine.config_drive is not None and machine.config_drive.bus == "virtio":
        yield from ("-device", "virtio-blk-pci,drive=config")
    elif machine.architecture is Architecture.ARM64:
        # Nova's choice for machines without IDE and SATA (nova/virt/libvirt/blockinfo.py).
        yield from ("-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-cd,bus=scsi.0,drive=config")
    else:
        yield from ("-device", "ide-cd,drive=config")


def _file(path: Path) -> dict[str, Any]:
    return {"driver": "file", "filename": str(path.absolute()), "aio": "threads"}


def _network(machine: Machine, number: int) -> Iterator[str]:
    network = machine.networks[number]
    words = dict(netdev(network, number))
    if number == 0:
        guest = network.ipv4.ip if isinstance(network.ipv4, IPv4Interface) else ""
        words["hostfwd"] = f"tcp:127.0.0.1:{machine.ssh_port}-{guest}:22"
    kind = words.pop("type")
    shown = {True: "on", False: "off"}
    # QEMU's -netdev takes JSON as well, but from a later version on than the rest.
    options = ",".join(f"{key}={shown.get(value, value)}" for key, value in words.items())
    yield from ("-netdev", f"{kind},{options}")
    yield from ("-device", f"virtio-net-pci,id={nic(number)},netdev=net{number},mac={network.mac}")


def _kernel(machine: Machine) -> Sequence[str]:
    if not isinstance(machine.image, ThreePart):
        return ()
    console = _CONSOLES[machine.architecture]
    words = f"{machine.image.arguments} console={console}"
    return (
        *("-kernel", str(machine.image.kernel.absolute()), "-initrd", str(machine.image.ramdisk.absolute())),
        *("-append", words),
    )

"""Says what is booted: the image, the machine around it, and what its cloud tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from builder.errors import UsageError
from builder.model import ImageFormat

#: What QEMU's user-mode network gives the first machine by DHCP.
_DHCP_HOST: Final = 15
#: In a network of ours, who answers for the gateway and for the name server, if not the guest itself.
_GATEWAY, _NAME_SERVER = 1, 3


class Firmware(StrEnum):
    """What a machine runs before the boot loader of the disk."""

    BIOS = "bios"
    UEFI = "uefi"


class Architecture(StrEnum):
    """Of the machine, by Debian's name as platforms have it."""

    AMD64 = "amd64"
    ARM64 = "arm64"

    @property
    def kernel_name(self) -> str:
        """What QEMU and the kernel call it."""
        return {"amd64": "x86_64", "arm64": "aarch64"}[self]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """An image file; it is never written to. The format is never guessed, a guest could have forged it."""

    path: Path
    format: ImageFormat = ImageFormat.QCOW2


@dataclass(frozen=True, kw_only=True)
class ThreePart:
    """An image without boot loader and partitions, as the kinds aki, ari and ami make one together."""

    kernel: Path
    ramdisk: Path
    root: Disk
    #: What Nova gives such an image's kernel, without a console (nova/virt/libvirt/driver.py).
    arguments: str = "root=/dev/vda ro"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One interface and what its cloud says about it. Beyond the emulator nothing can be reached."""

    mac: str = "fa:16:3e:00:00:10"
    ipv4: IPv4Interface | Literal["dhcp"] | None = "dhcp"
    ipv6: IPv6Interface | Literal["slaac"] | None = None
    gateway: bool = True  #: whether a static network tells a default route
    mtu: int = 1500

    @property
    def ipv4_gateway(self) -> IPv4Address:
        """Who answers as the gateway of a static network."""
        return self._ipv4_other(_GATEWAY)

    @property
    def ipv4_name_server(self) -> IPv4Address:
        """Who answers as the name server of a static network."""
        return self._ipv4_other(_NAME_SERVER)

    @property
    def ipv6_gateway(self) -> IPv6Address:
        """Who answers as the IPv6 gateway of a static network."""
        if not isinstance(self.ipv6, IPv6Interface):
            raise UsageError("only a static network has a gateway of its own")
        wanted = self.ipv6.network[_GATEWAY]
        return self.ipv6.network[_GATEWAY + 1] if wanted == self.ipv6.ip else wanted

    def _ipv4_other(self, number: int) -> IPv4Address:
        if not isinstance(self.ipv4, IPv4Interface):
            raise UsageError("only a static network has a gateway of its own")
        wanted = self.ipv4.network[number]
        return self.ipv4.network[number + 1] if wanted == self.ipv4.ip else wanted


@dataclass(frozen=True, kw_only=True)
class ConfigDrive:
    """What a cloud tells a server on its config drive, besides networks and the guest's own key."""

    host_name: str = "imagepool-guest"
    public_keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  #: by name
    user_data: str | None = None
    #: A CD-ROM is Nova's default; some clouds give a virtio disk.
    bus: Literal["cdrom", "virtio"] = "cdrom"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything about one machine that is to be booted."""

    image: Disk | ThreePart
    architecture: Architecture = Architecture.AMD64
    firmware: Firmware = Firmware.BIOS  #: of arm64 it is always UEFI
    memory: int = 1024  #: MiB
    cpus: int = 2
    size: int | None = None  #: bytes of the disk the machine sees; None: the image's own size
    networks: tuple[Network, ...] = (Network(),)
    config_drive: ConfigDrive | None = field(default_factory=ConfigDrive)
    ssh_port: int = 0  #: of loopback, leads to port 22 of the first network; 0: any that is free
    lifetime: float = 1800.0  #: seconds after which it is ended, whoever still uses it

    def __post_init__(self) -> None:
        """Raise UsageError for what QEMU would refuse in words of its own."""
        if len({network.mac for network in self.networks}) < len(self.networks):
            raise UsageError("two networks of a machine have the same MAC address")
        for network in self.networks:
            if (
                isinstance(network.ipv4, IPv4Interface)
                and network.ipv4.network.num_addresses < 2 * _DHCP_HOST
            ):
                raise UsageError(f"the network {network.ipv4.network} is too small to be emulated")

    @property
    def disk(self) -> Disk:
        """What it has its root file system on."""
        return self.image.root if isinstance(self.image, ThreePart) else self.image

    @property
    def has_uefi(self) -> bool:
        """Whether UEFI boots it."""
        if isinstance(self.image, ThreePart):
            return False
        return self.firmware is Firmware.UEFI or self.architecture is Architecture.ARM64

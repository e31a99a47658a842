"""Writes a config drive as OpenStack's Nova makes one.

Contents after nova/api/metadata/base.py and nova/virt/netutils.py, file system after
nova/virt/configdrive.py.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, Final

from pycdlib import PyCdlib

from builder.emulator.machine import ConfigDrive, Network

#: By this label it is found.
LABEL: Final = "config-2"
_VERSION: Final = "latest"


def write(path: Path, drive: ConfigDrive, networks: Sequence[Network]) -> None:
    """Write the ISO 9660 image `path` of a new server; raises OSError."""
    image = PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for directory in ("openstack", f"openstack/{_VERSION}"):
        image.add_directory(_plain(directory), rr_name=Path(directory).name, joliet_path=f"/{directory}")
    for number, (name, content) in enumerate(files(drive, networks, server_id=str(uuid.uuid4())).items()):
        directory = _plain(str(Path(name).parent))
        image.add_fp(
            io.BytesIO(content),
            len(content),
            f"{directory}/FILE{number}.;1",
            rr_name=Path(name).name,
            joliet_path=f"/{name}",
        )
    image.write(str(path))
    image.close()


def files(drive: ConfigDrive, networks: Sequence[Network], *, server_id: str) -> Mapping[str, bytes]:
    """The files of the config drive of a server by their paths."""
    documents = {"meta_data.json": _meta_data(drive, server_id), "network_data.json": network_data(networks)}
    found = {
        f"openstack/{_VERSION}/{name}": json.dumps(content).encode() for name, content in documents.items()
    }
    if drive.user_data is not None:
        found[f"openstack/{_VERSION}/user_data"] = drive.user_data.encode()
    return found


def network_data(networks: Sequence[Network]) -> Mapping[str, Any]:
    """What network_data.json says of the networks."""
    services = [
        {"type": "dns", "address": str(network.ipv4_name_server)}
        for network in networks
        if isinstance(network.ipv4, IPv4Interface)
    ]
    return {
        "links": [_link(number, network) for number, network in enumerate(networks)],
        "networks": [
            {"id": f"network{number}-{address['type']}", "link": _link_id(number), **address}
            for number, network in enumerate(networks)
            for address in _addresses(number, network)
        ],
        "services": services,
    }


def _meta_data(drive: ConfigDrive, server_id: str) -> Mapping[str, Any]:
    # As Neutron and Nova do it: the server's name and its host name may differ, ours don't.
    return {
        "uuid": server_id,
        "name": drive.host_name,
        "hostname": drive.host_name,
        "availability_zone": "nova",
        "launch_index": 0,
        "project_id": "0" * 32,
        "public_keys": dict(drive.public_keys),
        "keys": [{"name": name, "type": "ssh", "data": key} for name, key in drive.public_keys.items()],
        "devices": [],
    }


def _link_id(number: int) -> str:
    return f"tap{number:08x}-00"


def _link(number: int, network: Network) -> Mapping[str, Any]:
    return {
        "id": _link_id(number),
        "vif_id": _id(f"port {number}"),
        "type": "ovs",
        "mtu": network.mtu,
        "ethernet_mac_address": network.mac,
    }


def _addresses(number: int, network: Network) -> Iterator[Mapping[str, Any]]:
    known = {"network_id": _id(f"network {number}")}
    if network.ipv4 == "dhcp":
        yield {"type": "ipv4_dhcp", **known}
    elif network.ipv4 is not None:
        yield {
            "type": "ipv4",
            "ip_address": str(network.ipv4.ip),
            "netmask": str(network.ipv4.netmask),
            "routes": _default_route(network, str(network.ipv4_gateway), "0.0.0.0"),
            "services": [{"type": "dns", "address": str(network.ipv4_name_server)}],
            **known,
        }
    if network.ipv6 == "slaac":
        yield {"type": "ipv6_slaac", **known}
    elif network.ipv6 is not None:
        yield {
            "type": "ipv6",
            "ip_address": str(network.ipv6.ip),
            "netmask": _netmask(network.ipv6),
            "routes": _default_route(network, str(network.ipv6_gateway), "::"),
            "services": [],
            **known,
        }


def _default_route(network: Network, gateway: str, everything: str) -> list[Mapping[str, str]]:
    return [{"network": everything, "netmask": everything, "gateway": gateway}] if network.gateway else []


def _netmask(interface: IPv6Interface) -> str:
    return str(interface.network.netmask)


def _id(name: str) -> str:
    """An id that is the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _plain(path: str) -> str:
    """A path as ISO 9660 without extensions has it."""
    return f"/{path.upper()}"

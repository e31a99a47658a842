"""The config drive: what Nova would write, in a file system that is found by its label."""

from __future__ import annotations

import io
import json
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any

from pycdlib import PyCdlib

from builder.emulator import configdrive
from builder.emulator.machine import ConfigDrive, Network

STATIC = Network(
    mac="fa:16:3e:00:00:01",
    ipv4=IPv4Interface("192.0.2.9/25"),
    ipv6=IPv6Interface("2001:db8::9/64"),
    mtu=1450,
)
DYNAMIC = Network(mac="fa:16:3e:00:00:02", ipv4="dhcp", ipv6="slaac")


def read(image: Path, path: str, by: str) -> bytes:
    """A file of an ISO image, found as Linux (`rr_path`) or Windows (`joliet_path`) does."""
    drive, content = PyCdlib(), io.BytesIO()
    drive.open(str(image))
    drive.get_file_from_iso_fp(content, **{by: path})
    drive.close()
    return content.getvalue()


def network(networks: dict[str, Any], kind: str) -> Any:
    """The only network of a kind."""
    (found,) = [each for each in networks["networks"] if each["type"] == kind]
    return found


def test_it_is_found_by_its_label_and_holds_what_nova_writes(tmp_path: Path) -> None:
    image = tmp_path / "config.iso"
    drive = ConfigDrive(
        host_name="trial", public_keys={"me": "ssh-ed25519 AAAA me"}, user_data="#!/bin/sh\ntrue\n"
    )
    configdrive.write(image, drive, [STATIC])

    # The primary volume descriptor is in sector 16, the volume's name at 40 (ECMA-119, 8.4).
    assert image.read_bytes()[16 * 2048 + 40 :][:32].rstrip() == b"config-2"
    meta = json.loads(read(image, "/openstack/latest/meta_data.json", "rr_path"))
    assert (meta["hostname"], meta["name"]) == ("trial", "trial")
    assert meta["public_keys"] == {"me": "ssh-ed25519 AAAA me"}
    assert meta["keys"] == [{"name": "me", "type": "ssh", "data": "ssh-ed25519 AAAA me"}]
    assert read(image, "/openstack/latest/user_data", "rr_path") == b"#!/bin/sh\ntrue\n"
    same = read(image, "/openstack/latest/network_data.json", "joliet_path")
    assert json.loads(same)["links"][0]["ethernet_mac_address"] == STATIC.mac


def test_each_server_is_another_one(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        configdrive.write(tmp_path / name, ConfigDrive(), [STATIC])
        ids.add(json.loads(read(tmp_path / name, "/openstack/latest/meta_data.json", "rr_path"))["uuid"])
    assert len(ids) == 2


def test_without_user_data_there_is_no_such_file() -> None:
    files = configdrive.files(ConfigDrive(), [STATIC], server_id="x")
    assert sorted(files) == ["openstack/latest/meta_data.json", "openstack/latest/network_data.json"]


def test_static_networks_tell_addresses_routes_and_name_servers() -> None:
    data = dict(configdrive.network_data([STATIC, DYNAMIC]))
    assert [link["mtu"] for link in data["links"]] == [1450, 1500]
    four, six = network(data, "ipv4"), network(data, "ipv6")
    assert (four["ip_address"], four["netmask"]) == ("192.0.2.9", "255.255.255.128")
    assert four["routes"] == [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"}]
    assert (six["ip_address"], six["netmask"]) == ("2001:db8::9", "ffff:ffff:ffff:ffff::")
    assert six["routes"] == [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}]
    assert data["services"] == [{"type": "dns", "address": "192.0.2.3"}]
    # Each network is on the link of its own interface.
    links = {link["id"]: link["ethernet_mac_address"] for link in data["links"]}
    assert links[four["link"]] == links[six["link"]] == STATIC.mac
    assert links[network(data, "ipv4_dhcp")["link"]] == DYNAMIC.mac
    assert links[network(data, "ipv6_slaac")["link"]] == DYNAMIC.mac
    assert len({each["id"] for each in data["networks"]}) == 4


def test_a_network_without_a_gateway_tells_no_route() -> None:
    quiet = Network(ipv4=IPv4Interface("192.0.2.9/24"), gateway=False)
    assert network(dict(configdrive.network_data([quiet])), "ipv4")["routes"] == []

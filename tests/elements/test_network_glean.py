"""The element network-glean: what it leaves in an image, and what a machine makes of a config drive.

There is no boot here: the program runs in the tree, on directories that stand for config drives. Where a
kernel can be had, systemd-networkd of the tree puts into effect what was written.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.elements.trees import Tree, Trees

#: The trees are those of the tests of these elements, too.
ELEMENTS = ("network-glean", "grow-root", "boot-fast")
PROGRAM = "/usr/lib/network-glean/bin/network-glean"
NETWORKD = "/run/systemd/network"
KEYFILES = "/run/NetworkManager/system-connections"
MAC = "fa:16:3e:00:00:01"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1eLcYBDYfNZ2hBBXyXv8Fx4Rw1nWTSk0Pk4VjxAAAA"


@pytest.fixture(scope="module")
def debian(trees: Trees) -> Tree:
    return trees.build(*ELEMENTS)


@pytest.fixture(scope="module")
def redhat(trees: Trees) -> Tree:
    return trees.build(*ELEMENTS, family="redhat")


@pytest.fixture
def machine(trees: Trees, debian: Tree) -> Iterator[Machine]:
    with trees.changeable(debian) as tree:
        yield Machine(tree, "networkd")


class Machine:
    """A tree at boot, with a config drive."""

    def __init__(self, tree: Tree, backend: str) -> None:
        self.tree = tree
        self.backend = backend

    def boot(self, meta: Any = None, network: Any = None) -> subprocess.CompletedProcess[str]:
        """Let the program read a drive with this metadata and this network; text is written as it is."""
        latest = self.tree.root / "drive/openstack/latest"
        latest.mkdir(parents=True, exist_ok=True)
        for name, data in (("meta_data.json", meta), ("network_data.json", network)):
            (latest / name).unlink(missing_ok=True)
            if data is not None:
                (latest / name).write_text(data if isinstance(data, str) else json.dumps(data))
        # Below a directory of the tree: /run of the tree is gone when a program in it ends.
        (self.tree.root / "target/etc").mkdir(parents=True, exist_ok=True)
        users = self.tree.root / "etc/network-glean"
        (self.tree.root / "target/etc/network-glean").unlink(missing_ok=True)
        (self.tree.root / "target/etc/network-glean").symlink_to("/etc/network-glean")
        assert users.is_dir()
        return self.tree.run(
            PROGRAM, "--backend", self.backend, "--drive", "/drive", "--root", "/target", check=False
        )

    def files(self, where: str) -> Mapping[str, str]:
        """What was written in a directory, by the names of the files."""
        return {p.name: p.read_text() for p in sorted((self.tree.root / f"target{where}").glob("*"))}

    def written(self) -> str:
        """All that was written for the network."""
        return "\n".join(self.files(NETWORKD if self.backend == "networkd" else KEYFILES).values())

    def read(self, path: str) -> str:
        return (self.tree.root / "target" / path.lstrip("/")).read_text()

    def authorized(self, home: str = "root") -> list[str]:
        return self.tree.read(f"{home}/.ssh/authorized_keys").splitlines()

    def make_user(self, name: str, number: int) -> Path:
        """A user who gets the keys of the drive; gives the home directory."""
        with (self.tree.root / "etc/passwd").open("a") as passwd:
            passwd.write(f"{name}:x:{number}:{number}::/home/{name}:/bin/sh\n")
        home = self.tree.root / "home" / name
        home.mkdir()
        os.chown(home, number, number)
        (self.tree.root / f"etc/network-glean/ssh-users.d/{name}").write_text(f"# of a test\n{name}\n")
        return home


def static(mac: str = MAC, **more: Any) -> dict[str, Any]:
    """A network as Nova describes one without DHCP: IPv4, IPv6, a route and a name server."""
    return {
        "links": [{"id": "tap1", "type": "ovs", "ethernet_mac_address": mac, "mtu": 1442, **more}],
        "networks": [
            {
                "id": "network0",
                "type": "ipv4",
                "link": "tap1",
                "ip_address": "192.0.2.10",
                "netmask": "255.255.255.128",
                "routes": [
                    {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"},
                    {"network": "198.51.100.0", "netmask": "255.255.255.0", "gateway": "192.0.2.2"},
                ],
            },
            {
                "id": "network1",
                "type": "ipv6",
                "link": "tap1",
                "ip_address": "2001:db8::10",
                "netmask": "ffff:ffff:ffff:ffff::",
                "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}],
            },
        ],
        "services": [{"type": "dns", "address": "192.0.2.53"}],
    }


def of_types(*types: str) -> dict[str, Any]:
    """One link with a network of each of these types."""
    return {
        "links": [{"id": "tap1", "type": "phy", "ethernet_mac_address": MAC}],
        "networks": [{"id": f"n{n}", "type": kind, "link": "tap1"} for n, kind in enumerate(types)],
        "services": [],
    }


def section(text: str, name: str) -> list[str]:
    """The lines of one section of a file like an .ini."""
    return text.split(f"[{name}]\n", 1)[1].split("\n\n", 1)[0].splitlines()


# What is in the image


def test_runs_without_the_systems_python(machine: Machine) -> None:
    for path in ("usr/bin", "usr/lib"):
        for python in (machine.tree.root / path).glob("python3*"):
            subprocess.run(["rm", "-rf", str(python)], check=True)
    for library in ("libexpat", "libz"):
        for file in (machine.tree.root / "usr/lib").glob(f"*-linux-gnu/{library}.so*"):
            file.unlink()
    assert machine.tree.run("python3", "-c", "", check=False).returncode != 0
    done = machine.boot({"name": "alone"}, static())
    assert done.returncode == 0, done.stderr
    assert "Address=192.0.2.10/25" in machine.written()
    assert machine.read("/etc/hostname") == "alone\n"


def test_runs_with_a_broken_python_in_its_place(machine: Machine) -> None:
    (machine.tree.root / "usr/bin/python3").unlink()
    (machine.tree.root / "usr/bin/python3").write_text("#!/bin/sh\nexit 9\n")
    for module in machine.tree.root.glob("usr/lib/python3*/json/__init__.py"):
        module.write_text("raise SystemExit('the wrong json')\n")
    assert machine.boot({"name": "alone"}).returncode == 0
    assert machine.read("/etc/hostname") == "alone\n"


def test_its_python_is_small(debian: Tree) -> None:
    files = [p for p in (debian.root / "usr/lib/network-glean").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10_000_000
    assert all(p.stat().st_uid == 0 and not p.stat().st_mode & 0o022 for p in files)


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_the_units_are_sound_and_enabled(family: str, request: pytest.FixtureRequest) -> None:
    tree: Tree = request.getfixturevalue(family)
    daemon = {"debian": "systemd-networkd", "redhat": "NetworkManager"}[family]
    for unit in ("network-glean.service", f"{daemon}.service"):
        assert tree.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
    # The second one is started by udev, and by nobody else.
    for unit in ("network-glean.service", "network-glean-late.service"):
        assert "network-glean" not in tree.run("systemd-analyze", "verify", unit, check=False).stderr
    with_drive = tree.run("udevadm", "test", "/sys/block/loop0", check=False)
    assert "90-network-glean.rules" not in with_drive.stderr or "rror" not in with_drive.stderr


def test_interfaces_without_a_word_on_the_drive_get_dhcp_for_ever(debian: Tree, redhat: Tree) -> None:
    network = debian.read("/usr/lib/systemd/network/79-network-glean-dhcp.network")
    assert "DHCP=yes" in section(network, "Network")
    assert "IPv6AcceptRA=yes" in section(network, "Network")
    assert "ClientIdentifier=mac" in section(network, "DHCPv4")
    place = "/usr/lib/NetworkManager/system-connections/network-glean-dhcp.nmconnection"
    assert stat.S_IMODE((redhat.root / place.lstrip("/")).stat().st_mode) == 0o600
    assert "dhcp-timeout=2147483647" in section(redhat.read(place), "ipv4")
    assert "addr-gen-mode=0" in section(redhat.read(place), "ipv6")


def test_name_servers_come_from_resolved_which_listens_nowhere(debian: Tree) -> None:
    assert str((debian.root / "etc/resolv.conf").readlink()) == "../run/systemd/resolve/resolv.conf"
    shown = debian.run("systemd-analyze", "cat-config", "systemd/resolved.conf").stdout
    for setting in ("DNSStubListener=no", "LLMNR=no", "MulticastDNS=no"):
        assert setting in shown.splitlines()
    assert not (debian.root / "etc/.resolv.conf.systemd-resolved.bak").exists()


def test_each_family_gets_the_packages_it_needs(debian: Tree, redhat: Tree) -> None:
    asked = redhat.read("/etc/stand-in-packages").splitlines()
    assert "+ NetworkManager" in asked
    assert not [name for name in asked if "resolved" in name]
    shown = debian.run("dpkg-query", "-W", "-f", "${db:Status-Status}\n", "systemd-resolved")
    assert shown.stdout == "installed\n"


def test_built_again_the_image_is_the_same(debian: Tree) -> None:
    with_presets = debian.read("/usr/lib/systemd/system-preset/20-network-glean.preset").splitlines()
    assert with_presets == [
        "enable network-glean.service",
        "enable systemd-networkd.service",
        "enable systemd-resolved.service",
    ]
    assert not list((debian.root / "usr/lib/network-glean").rglob("__pycache__"))
    # A time in them would make two builds differ.
    compiled = next((debian.root / "usr/lib/network-glean").rglob("os.pyc")).read_bytes()
    assert compiled[4:8] == b"\x01\x00\x00\x00"


# The network


def test_static_addresses_routes_name_servers_and_mtu(machine: Machine) -> None:
    assert machine.boot({}, static()).returncode == 0
    (network,) = machine.files(NETWORKD).values()
    assert section(network, "Match") == [f"MACAddress={MAC}", "Type=ether"]
    assert section(network, "Link") == ["MTUBytes=1442"]
    assert section(network, "Network") == ["DHCP=no", "IPv6AcceptRA=no", "DNS=192.0.2.53"]
    for line in ("Address=192.0.2.10/25", "Address=2001:db8::10/64", "Destination=198.51.100.0/24"):
        assert line in network
    assert "Gateway=192.0.2.1\nMetric=100" in network
    assert "Gateway=2001:db8::1\nMetric=100" in network


@pytest.mark.parametrize(
    ("types", "network", "advertised"),
    [
        (["ipv4_dhcp"], ["DHCP=ipv4", "IPv6AcceptRA=no"], []),
        (["ipv6_slaac"], ["DHCP=no", "IPv6AcceptRA=yes"], []),
        (["ipv6_dhcpv6-stateless"], ["DHCP=no", "IPv6AcceptRA=yes"], []),
        (["ipv4_dhcp", "ipv6_dhcpv6-stateful"], ["DHCP=yes", "IPv6AcceptRA=yes"], ["DHCPv6Client=always"]),
        (["ipv4_dhcp", "ipv6_dhcp"], ["DHCP=yes", "IPv6AcceptRA=yes"], ["DHCPv6Client=always"]),
        (["ipv4_dhcp", "ipv6_slaac"], ["DHCP=ipv4", "IPv6AcceptRA=yes"], []),
    ],
)
def test_dhcp_and_router_advertisements_as_the_drive_says(
    machine: Machine, types: list[str], network: list[str], advertised: list[str]
) -> None:
    assert machine.boot({}, of_types(*types)).returncode == 0
    (written,) = machine.files(NETWORKD).values()
    assert section(written, "Network") == network
    if any(kind.startswith("ipv6") for kind in types):
        assert [line for line in section(written, "IPv6AcceptRA") if "Client" in line] == advertised


def test_a_gateway_outside_of_the_network_is_on_the_link(machine: Machine) -> None:
    lone = static()
    lone["networks"][0]["netmask"] = "255.255.255.255"
    assert machine.boot({}, lone).returncode == 0
    assert "Gateway=192.0.2.1\nGatewayOnLink=yes" in machine.written()
    assert "Gateway=2001:db8::1\nMetric" in machine.written()


def test_several_interfaces_a_bond_and_a_vlan(machine: Machine) -> None:
    drive = json.loads(
        (Path(__file__).parents[2] / "elements/network-glean/network-glean/trial")
        .joinpath("openstack/latest/network_data.json")
        .read_text()
    )
    assert machine.boot({}, drive).returncode == 0
    files = machine.files(NETWORKD)
    devices = {name: text for name, text in files.items() if name.endswith(".netdev")}
    bond, vlan = devices.values()
    assert section(bond, "NetDev")[:2] == ["Name=bond0", "Kind=bond"]
    assert "MIIMonitorSec=100ms" in section(bond, "Bond")
    assert section(vlan, "NetDev")[:2] == ["Name=bond0.7", "Kind=vlan"]
    assert section(vlan, "VLAN") == ["Id=7"]
    networks = "".join(text for name, text in files.items() if name.endswith(".network"))
    assert networks.count("Bond=bond0\n") == 2
    assert networks.count("VLAN=bond0.7\n") == 1


def test_networkmanager_takes_what_is_written_for_it(trees: Trees, redhat: Tree) -> None:
    with trees.changeable(redhat) as tree:
        machine = Machine(tree, "networkmanager")
        assert machine.boot({}, static()).returncode == 0
        place = tree.root / f"target{KEYFILES}/network-glean-0.nmconnection"
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        # nmcli reads a connection from its standard input, and shows it as NetworkManager would have it.
        shown = tree.run(
            *("sh", "-c", 'nmcli --offline connection modify connection.id seen < "$0"'),
            str(place).removeprefix(str(tree.root)),
        ).stdout
        for line in (
            f"mac-address={MAC.upper()}",
            "mtu=1442",
            "address1=192.0.2.10/25,192.0.2.1",
            "route1=198.51.100.0/24,192.0.2.2",
            "dns=192.0.2.53;",
            "address1=2001:db8::10/64,2001:db8::1",
        ):
            assert line in shown.splitlines()
        assert section(shown, "ipv6").count("method=manual") == 1


def test_what_an_earlier_drive_said_is_gone(machine: Machine) -> None:
    two = of_types("ipv4_dhcp")
    two["links"].append({"id": "tap2", "type": "phy", "ethernet_mac_address": "fa:16:3e:00:00:02"})
    two["networks"].append({"id": "more", "type": "ipv4_dhcp", "link": "tap2"})
    machine.boot({}, two)
    assert len(machine.files(NETWORKD)) == 2
    machine.boot({}, of_types("ipv4_dhcp"))
    assert len(machine.files(NETWORKD)) == 1
    machine.boot({})
    assert not machine.files(NETWORKD)


@pytest.mark.parametrize(
    "network",
    [
        "{",
        "[1, 2]",
        '"text"',
        "[" * 100_000,
        {"links": 7, "networks": "x"},
        {"links": [{"id": "a", "type": "phy"}], "networks": [{"id": "n", "link": "a", "type": "ipv4"}]},
    ],
)
def test_a_network_that_makes_no_sense_leaves_dhcp_and_the_rest_is_done(
    machine: Machine, network: object
) -> None:
    done = machine.boot({"name": "still", "public_keys": {"k": KEY}}, network)
    assert done.returncode == 0
    assert "left to DHCP" in done.stderr
    assert not machine.files(NETWORKD)
    assert machine.read("/etc/hostname") == "still\n"
    assert KEY in machine.authorized()


def test_nothing_of_a_hostile_drive_gets_into_a_file_as_it_is(machine: Machine) -> None:
    evil = static()
    evil["links"][0]["mtu"] = "1500\nName=*"
    evil["services"].append({"type": "dns", "address": "192.0.2.54\n[Match]"})
    evil["links"].append(
        {"id": "x\n[NetDev]", "type": "bond", "ethernet_mac_address": MAC, "bond_links": ["tap1"]}
    )
    done = machine.boot({}, evil)
    assert "192.0.2.54" not in machine.written()
    assert "Name=*" not in machine.written()
    assert "x\n" not in machine.written()
    assert done.returncode == 0
    odd = static()
    odd["networks"][0]["routes"].append(
        {"network": "10.0.0.0", "netmask": "255.0.255.0", "gateway": "192.0.2.1"}
    )
    odd["networks"][0]["routes"].append(
        {"network": "10.1.0.0", "netmask": "255.255.0.0", "gateway": "2001:db8::1"}
    )
    machine.boot({}, odd)
    assert "Address=192.0.2.10/25" in machine.written()
    assert "10.0.0.0" not in machine.written()
    assert "10.1.0.0" not in machine.written()


@pytest.mark.parametrize("place", ["ip_address", "gateway", "network", "services"])
def test_no_zone_of_an_address_brings_a_line_of_its_own(trees: Trees, debian: Tree, place: str) -> None:
    for backend in ("networkd", "networkmanager"):
        evil = static()
        zone = "fe80::1%x\nDNS=192.0.2.66\n[Match]"
        six = {"id": "six", "type": "ipv6", "link": "tap1", "ip_address": "2001:db8::9", "netmask": "64"}
        route = {"network": "2001:db8:9::", "netmask": "48", "gateway": "2001:db8::1"}
        evil["networks"].append({**six, "routes": [route]})
        if place == "services":
            evil["services"].append({"type": "dns", "address": zone})
        else:
            (evil["networks"][-1] if place == "ip_address" else route)[place] = zone
        with trees.changeable(debian) as tree:
            machine = Machine(tree, backend)
            assert machine.boot({}, evil).returncode == 0
            assert "192.0.2.66" not in machine.written()
            assert "192.0.2.10/25" in machine.written()


@pytest.mark.parametrize("backend", ["networkd", "networkmanager"])
def test_links_on_what_is_not_there_are_left_out_and_the_rest_is_done(
    trees: Trees, debian: Tree, backend: str
) -> None:
    odd = static()
    mac = "fa:16:3e:00:00:0"
    vlan = {"type": "vlan", "vlan_id": 5, "vlan_mac_address": f"{mac}9"}
    odd["links"] += [
        {"id": "no-bond", "type": "phy", "ethernet_mac_address": f"{mac}2", "bond_master": "tap1"},
        {"id": "lost", "type": "phy", "ethernet_mac_address": f"{mac}3", "bond_master": "gone"},
        {**vlan, "id": "on-lost", "vlan_link": "lost"},
        {**vlan, "id": "on-that", "vlan_link": "on-lost", "vlan_id": 6},
        {**vlan, "id": "on-itself", "vlan_link": "on-itself", "vlan_id": 7},
        *(
            {
                "id": f"{n}!",
                "type": "bond",
                "ethernet_mac_address": f"02:00:00:00:00:{n:02x}",
                "bond_links": [],
            }
            for n in range(120)
        ),
    ]
    odd["networks"] += [
        {"id": f"n-{link['id']}", "type": "ipv4_dhcp", "link": link["id"]} for link in odd["links"][1:]
    ]
    with trees.changeable(debian) as tree:
        machine = Machine(tree, backend)
        done = machine.boot({"name": "still", "public_keys": {"k": KEY}}, odd)
        assert done.returncode == 0, done.stderr
        assert "192.0.2.10/25" in machine.written()
        assert "=None" not in machine.written()
        assert not {f"{mac}{n}" for n in (2, 3, 9)} & set(machine.written().replace("=", "\n").split())
        assert KEY in machine.authorized()


def test_bytes_in_the_hosts_file_that_are_no_text_stay_and_hinder_nobody(machine: Machine) -> None:
    (machine.tree.root / "target/etc").mkdir(parents=True)
    (machine.tree.root / "target/etc/hosts").write_bytes(b"192.0.2.5 k\xf6ln\n")
    done = machine.boot({"name": "n", "public_keys": {"bad": f"{KEY}A \ud800", "k": KEY}})
    assert done.returncode == 0, done.stderr
    assert b"192.0.2.5 k\xf6ln\n" in (machine.tree.root / "target/etc/hosts").read_bytes()
    assert machine.authorized() == [KEY]


def test_one_drive_counts_in_a_boot_and_a_late_one_finds_a_network_to_be_told(debian: Tree) -> None:
    boot = "/usr/lib/network-glean/bin/boot"
    late = debian.run("sh", "-c", f"{boot} && ls /run/network-glean")
    assert "left to DHCP" in late.stdout
    assert late.stdout.split()[-1] == "done"
    second = debian.run("sh", "-c", f"mkdir /run/network-glean && : > /run/network-glean/read && {boot}")
    assert "changes nothing" in second.stdout


# The host name


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        ({"name": "np0042"}, "np0042"),
        ({"name": "my_job node", "hostname": "other.novalocal"}, "my-job-node"),
        ({"name": "node.example.org"}, "node.example.org"),
        ({"name": "$(reboot); `id`\nroot::0:0"}, "reboot-id-root-0-0"),
        ({"name": "---", "hostname": "named.novalocal"}, "named.novalocal"),
        ({"name": "n" * 200}, "n" * 63),
        ({"name": 17}, "17"),
    ],
)
def test_the_host_name_is_one_a_host_may_have(machine: Machine, meta: dict[str, Any], name: str) -> None:
    assert machine.boot(meta).returncode == 0
    assert machine.read("/etc/hostname") == f"{name}\n"
    line = machine.read("/etc/hosts").splitlines()[0]
    assert line.split()[:2] == ["127.0.1.1", name]


def test_the_host_name_stays_where_the_drive_has_none(machine: Machine) -> None:
    (machine.tree.root / "target/etc").mkdir(parents=True)
    (machine.tree.root / "target/etc/hostname").write_text("image\n")
    for meta in ({}, "no json", {"name": "", "hostname": None}):
        assert machine.boot(meta).returncode == 0
        assert machine.read("/etc/hostname") == "image\n"


def test_the_host_is_found_by_its_fixed_address_and_once(machine: Machine) -> None:
    machine.boot({"name": "first"}, static())
    machine.boot({"name": "second"}, static())
    hosts = machine.read("/etc/hosts").splitlines()
    assert hosts[0].startswith("192.0.2.10 second ")
    assert not [line for line in hosts if "first" in line]
    assert "127.0.0.1 localhost" in hosts


# The SSH keys


def test_root_and_the_users_named_get_the_keys(machine: Machine) -> None:
    home = machine.make_user("worker", 4711)
    done = machine.boot({"public_keys": {"mine": f"{KEY} me@laptop\n"}})
    assert done.returncode == 0, done.stderr
    assert machine.authorized() == [f"{KEY} me@laptop"]
    assert machine.authorized("home/worker") == [f"{KEY} me@laptop"]
    for path, mode in ((home / ".ssh", 0o700), (home / ".ssh/authorized_keys", 0o600)):
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4711, 4711, mode)


def test_a_users_own_keys_are_kept_and_none_comes_twice(machine: Machine) -> None:
    home = machine.make_user("worker", 4711)
    (home / ".ssh").mkdir()
    own = f'from="192.0.2.7" ssh-rsa AAAAB3own mine\n# a remark\n{KEY} by another name'
    (home / ".ssh/authorized_keys").write_text(own)
    for path in (home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, 4711, 4711)
    for _ in range(2):
        machine.boot({"public_keys": {"same": KEY, "new": "ssh-rsa AAAAB3new more"}})
    assert machine.authorized("home/worker") == [*own.splitlines(), "ssh-rsa AAAAB3new more"]


def test_only_keys_are_taken_from_what_is_called_keys(machine: Machine) -> None:
    public = {
        "forced\nssh-rsa AAAAB3name": f"{KEY} good",
        "command": 'command="/bin/sh" ssh-rsa AAAAB3forced',
        "lines": f"no key at all\n{KEY.replace('AAAAA', 'AAAAB')}\x00 zero\n\n",
        "number": 4,
    }
    machine.boot({"public_keys": public})
    assert machine.authorized() == [f"{KEY} good"]
    machine.boot({"public_keys": ["a", "list"]})
    assert machine.authorized() == [f"{KEY} good"]


def test_a_link_a_user_made_leads_no_further_than_the_user_gets(machine: Machine) -> None:
    home = machine.make_user("worker", 4711)
    secret = machine.tree.root / "root/.ssh"
    secret.mkdir(mode=0o700, exist_ok=True)
    (secret / "authorized_keys").write_text("ssh-rsa AAAAB3root root\n")
    (home / ".ssh").symlink_to("/etc")
    done = machine.boot({"public_keys": {"k": KEY}})
    assert "worker did not get" in done.stderr
    assert not (machine.tree.root / "etc/authorized_keys").exists()
    assert KEY in machine.authorized()


def test_a_user_that_does_not_exist_is_said_and_hinders_nobody(machine: Machine) -> None:
    (machine.tree.root / "etc/network-glean/ssh-users.d/a").write_text("nobody-here\n")
    done = machine.boot({"public_keys": {"k": KEY}})
    assert done.returncode == 0
    assert "nobody-here" in done.stderr
    assert machine.authorized() == [KEY]


def test_what_can_not_be_written_does_not_hinder_the_rest(machine: Machine) -> None:
    (machine.tree.root / "target/etc/hostname").mkdir(parents=True)
    done = machine.boot({"name": "n", "public_keys": {"k": KEY}}, static())
    assert done.returncode == 1
    assert "Address=192.0.2.10/25" in machine.written()
    assert machine.authorized() == [KEY]


# In effect


#: Run by bash with the tree and a command, in namespaces that end with it.
IN_THE_TREE = (
    'cd "$0" && mount -t proc proc proc && mount --rbind /dev dev && mount -t tmpfs tmpfs run && '
    'exec chroot . /bin/bash -c "$1"'
)


@contextmanager
def wire() -> Iterator[list[str]]:
    """Gives the command that runs another in a network of its own, with a card "eth0" that has `MAC`."""
    name = f"network-glean-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    inside = ["ip", "netns", "exec", name]
    try:
        card = f"ip link add eth0 address {MAC} type veth peer name far"
        subprocess.run([*inside, *card.split()], check=True)
        apart = "unshare --mount --pid --fork --kill-child --propagation private"
        yield [*inside, *apart.split()]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_networkd_puts_it_into_effect(machine: Machine) -> None:
    machine.boot({}, static(mtu=1400))
    inside = (
        f"mkdir -p /run/systemd && cp -r /target{NETWORKD} /run/systemd/ && "
        "mkdir -p /sys && mount -t sysfs -o ro sysfs /sys && mount -t tmpfs tmpfs /var/lib/systemd && "
        "ip link set far up && /lib/systemd/systemd-networkd & "
        "for n in $(seq 300); do ip -6 route | grep -q 'default via 2001' && break; sleep 0.1; done; "
        "ip -j address show eth0; echo; ip -j route; echo; ip -j -6 route"
    )
    with wire() as command:
        done = subprocess.run(
            [*command, "bash", "-c", IN_THE_TREE, str(machine.tree.root), inside],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    card, *routes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    addresses = {f"{a['local']}/{a['prefixlen']}" for a in card[0]["addr_info"]}
    assert {"192.0.2.10/25", "2001:db8::10/64"} <= addresses, done.stderr
    assert card[0]["mtu"] == 1400
    ways = {(r["dst"], r.get("gateway")) for found in routes for r in found}
    assert {
        ("default", "192.0.2.1"),
        ("198.51.100.0/24", "192.0.2.2"),
        ("default", "2001:db8::1"),
    } <= ways


# Getting glean


def hook(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the hook that gets glean, as a build would, with nothing in its cache but what is there."""
    element = Path(__file__).parents[2] / "elements/network-glean"
    hooks = directory / "hooks"
    (hooks / "network-glean").mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [str(element / "extra-data.d/50-network-glean")],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMP_HOOKS_PATH": str(hooks),
            "DIB_IMAGE_CACHE": str(directory / "cache"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_glean_is_fetched_once_and_a_rebuild_needs_no_index(tmp_path: Path) -> None:
    assert hook(tmp_path).returncode == 0
    away = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    again = hook(tmp_path, **away)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "hooks/network-glean/glean/glean/cmd.py").is_file()
    # A damaged one is not taken; without an index that is an error, which says what to do.
    (wheel,) = (tmp_path / "cache/network-glean").glob("*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-2000])
    broken = hook(tmp_path, **away)
    assert broken.returncode == 1
    assert "DIB_NETWORK_GLEAN_WHEELS" in broken.stderr
    # What pip gives from a directory, without any index, and only with the hash that is wanted.
    assert hook(tmp_path).returncode == 0
    local = {"DIB_NETWORK_GLEAN_WHEELS": str(tmp_path / "cache/network-glean"), **away}
    assert hook(tmp_path, **local).returncode == 0
    wrong = hook(tmp_path, **local, DIB_NETWORK_GLEAN_SHA256="0" * 64)
    assert wrong.returncode == 1
    assert "wanted is 000" in wrong.stderr


def test_what_makes_no_sense_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    refused = hook(tmp_path, DIB_NETWORK_GLEAN_VERSION="1.0 --pre")
    assert refused.returncode == 1
    assert "is no version" in refused.stderr


def test_a_module_that_some_python_needs_after_all_is_found_out_by_trying(tmp_path: Path) -> None:
    assert hook(tmp_path).returncode == 0
    element = Path(__file__).parents[2] / "elements/network-glean/network-glean"
    sources = tmp_path / "hooks/network-glean/glean"
    for name in ("collect.py", "network_glean"):
        subprocess.run(["cp", "-R", str(element / name), str(sources / name)], check=True)
    script = sources / "collect.py"
    # As if it were thought that nothing needs these.
    text = script.read_text().replace('("_bz2",', '("shlex", "textwrap", "_bz2",')
    script.write_text(text)
    home = tmp_path / "own"
    done = subprocess.run(
        ["/usr/bin/python3", "-B", str(script), str(sources), str(home)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"shlex.pyc", "textwrap.pyc"} <= {p.name for p in home.rglob("*.pyc")}
    assert not list(home.rglob("statistics.pyc"))
    # What no Python has is an error that names it.
    with (sources / "network_glean/command.py").open("a") as command:
        command.write("import no_such_module\n")
    broken = subprocess.run(
        ["/usr/bin/python3", "-B", str(script), str(sources), str(home)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert broken.returncode != 0
    assert "no_such_module" in broken.stderr

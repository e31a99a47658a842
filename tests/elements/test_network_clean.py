"""network-clean: nothing of one machine's network cards in the image, and a network that never gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.elements.hooks import Hooks
from tests.elements.trees import Tree, Trees
from tests.trees import differences

MAC: Final = "52:54:00:12:34:56"
#: Of one machine: each has to be gone.
GONE: Final = {
    "etc/udev/rules.d/70-persistent-net.rules": f'SUBSYSTEM=="net", ATTR{{address}}=="{MAC}", NAME="eth0"\n',
    "etc/systemd/network/10-eth0.link": f"[Match]\nMACAddress={MAC}\n[Link]\nName=eth0\n",
    "etc/systemd/network/10-eth1.network": f"[Match]\nPermanentMACAddress={MAC}\n[Network]\nDHCP=yes\n",
    "etc/netplan/50-cloud-init.yaml": f"network:\n  ethernets:\n    a: {{match: {{macaddress: '{MAC}'}}}}\n",
    "etc/NetworkManager/system-connections/wired.nmconnection": (
        "[connection]\nid=wired\nuuid=0b7cd01f\n[ethernet]\nmac-address=52:54:00:12:34:56\n"
    ),
    "etc/sysconfig/network-scripts/ifcfg-wired": "NAME=wired\nHWADDR=52:54:00:12:34:56\nBOOTPROTO=dhcp\n",
    "var/lib/dhcp/dhclient.eth0.leases": 'default-duid "x";\nlease { }\n',
    "var/lib/NetworkManager/secret_key": "nm-v2",
    "var/lib/NetworkManager/internal-0b7cd01f-eth0.lease": "ADDRESS=10.0.2.15\n",
    "var/lib/dhcpcd/duid": "00:01\n",
}
#: Of every machine: what has to be left of each.
LEFT: Final = {
    "etc/udev/rules.d/80-own.rules": (
        'KERNEL=="vdb", OWNER="zuul"\nSUBSYSTEM=="net", ATTR{address}=="52:54:00:12:34:56", NAME="lan"\n',
        'KERNEL=="vdb", OWNER="zuul"\n',
    ),
    "etc/systemd/network/20-all.network": ("[Match]\nName=en*\n", "[Match]\nName=en*\n"),
    "etc/systemd/network/99-default.link": ("[Link]\nMACAddressPolicy=persistent\n",) * 2,
    "etc/netplan/60-all.yaml": ("network: {version: 2}\n",) * 2,
    "etc/NetworkManager/system-connections/eth0.nmconnection": (
        "[connection]\nid=eth0\nuuid=0b7cd01f\ninterface-name=eth0\ntimestamp=1\n[ethernet]\n"
        "mac-address=52:54:00:12:34:56\n[ipv4]\nmethod=auto\n",
        "[connection]\nid=eth0\ninterface-name=eth0\n[ethernet]\n[ipv4]\nmethod=auto\n",
    ),
    "etc/sysconfig/network-scripts/ifcfg-eth0": (
        "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\nUUID=0b7cd01f\nBOOTPROTO=dhcp\n",
        "DEVICE=eth0\nBOOTPROTO=dhcp\n",
    ),
    "etc/network/interfaces": (
        "auto eth0\niface eth0 inet dhcp\n    hwaddress ether 52:54:00:12:34:56\n",
        "auto eth0\niface eth0 inet dhcp\n",
    ),
    # A DHCP client's own settings stay, but for when it gives up.
    "etc/dhcp/dhclient.conf": (
        "timeout 300;\nretry 300;\nrequest subnet-mask;\n",
        "request subnet-mask;\n# Of the element network-clean: after a minute go on in the background, and "
        "never stop.\ntimeout 60;\nretry 10;\n",
    ),
    "etc/dhcpcd.conf": (
        "duid\ntimeout 30\n",
        "duid\n# Of the element network-clean: ask for ever, in the background.\ntimeout 0\nbackground\n",
    ),
}
#: A virtual machine's kernel: one that has everything built in, and one that has not.
BUILT_IN, MODULAR = "6.1.0-1-cloud", "6.1.0-2-modular"
DRIVERS: Final = ("sd_mod", "virtio_blk", "virtio_net", "virtio_pci", "virtio_scsi")


@pytest.fixture(scope="module")
def debian(trees: Trees) -> Tree:
    """An image of network-clean."""
    return trees.build("network-clean")


@pytest.fixture(scope="module")
def redhat(trees: Trees) -> Tree:
    """An image of network-clean with NetworkManager."""
    return trees.build("network-clean", family="redhat")


@pytest.fixture(name="hooks")
def _hooks(tmp_path: Path) -> Hooks:
    return Hooks(tmp_path / "hooks", "network-clean")


def fill(tree: Tree, files: dict[str, str]) -> None:
    """Put files into a tree."""
    for name, text in files.items():
        path = tree.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_belongs_to_one_machine_goes_and_the_rest_stays(
    debian: Tree, trees: Trees, hooks: Hooks
) -> None:
    with trees.changeable(debian) as tree:
        fill(tree, GONE | {name: before for name, (before, _) in LEFT.items()})
        program = tree.root / "usr/local/sbin/dhclient"
        program.touch(mode=0o755)
        said = hooks.inside(tree, "finalise.d").stdout
        assert [name for name in GONE if (tree.root / name).exists()] == []
        assert {name: (tree.root / name).read_text() for name in LEFT} == {
            name: after for name, (_, after) in LEFT.items()
        }
        # Nothing goes without being named in the log.
        for name in GONE:
            assert f"network-clean: /{name} is removed" in said
        again = hooks.inside(tree, "finalise.d").stdout
        assert "removed" not in again
        assert {name: (tree.root / name).read_text() for name in LEFT} == {
            name: after for name, (_, after) in LEFT.items()
        }


def test_a_link_of_the_tree_is_removed_and_not_followed(debian: Tree, trees: Trees, hooks: Hooks) -> None:
    with trees.changeable(debian) as tree:
        fill(tree, {"etc/keep": "mine"})
        (tree.root / "var/lib/dhcp").mkdir(exist_ok=True)
        (tree.root / "var/lib/dhcp/dhclient.leases").symlink_to("/etc/keep")
        (tree.root / "etc/dhcpcd.duid").symlink_to("/nowhere")
        hooks.inside(tree, "finalise.d")
        assert tree.read("/etc/keep") == "mine"
        assert not (tree.root / "var/lib/dhcp/dhclient.leases").is_symlink()
        assert not (tree.root / "etc/dhcpcd.duid").is_symlink()


def test_network_manager_asks_for_ever_and_tries_every_connection_again(redhat: Tree, trees: Trees) -> None:
    with trees.changeable(redhat) as tree:
        told = tree.run("NetworkManager", "--print-config").stdout
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in told.splitlines():
        if line.startswith("["):
            lines = sections.setdefault(line, [])
        elif line and not line.startswith("#"):
            lines.append(line)
    assert "autoconnect-retries-default=0" in sections["[main]"]
    forever = {"ipv4.dhcp-timeout=2147483647", "ipv6.dhcp-timeout=2147483647"}
    assert forever <= set(sections["[connection-network-clean]"])
    assert (redhat.root / "etc/NetworkManager/conf.d/10-network-clean.conf").stat().st_mode & 0o777 == 0o644


def test_routers_are_believed_by_every_card_whatever_a_job_forwards(debian: Tree, trees: Trees) -> None:
    def settings(tree: Tree, command: str) -> set[str]:
        """What holds for cards that are there before and after a command."""
        steps = (
            "ip link add old type veth peer name old-peer",
            command,
            "ip link add new type veth peer name new-peer",
            "cd /proc/sys/net/ipv6/conf",
            "grep -H . {all,default,lo,old,new}/{accept_ra,use_tempaddr}",
        )
        return set(tree.run("unshare", "--net", "bash", "-c", " && ".join(steps)).stdout.split())

    wanted = {
        f"{card}/{setting}"
        for card in ("all", "default", "lo", "old", "new")
        for setting in ("accept_ra:2", "use_tempaddr:0")
    }
    assert settings(debian, "true") != wanted
    assert settings(debian, "/lib/systemd/systemd-sysctl") == wanted
    with trees.changeable(debian) as tree:
        # As Ubuntu has it.
        ubuntu = "net.ipv6.conf.all.use_tempaddr = 2\nnet.ipv6.conf.default.use_tempaddr = 2\n"
        fill(tree, {"etc/sysctl.d/10-ipv6-privacy.conf": ubuntu})
        assert settings(tree, "/lib/systemd/systemd-sysctl") == wanted


def kernel(
    tree: Tree, version: str, *, modules: tuple[str, ...], built_in: tuple[str, ...], config: str
) -> None:
    """Put a kernel into a tree, of which only the names of its modules are real."""
    place = f"lib/modules/{version}"
    fill(tree, {f"{place}/kernel/{name}.ko": "" for name in modules})
    fill(
        tree,
        {
            f"{place}/modules.builtin": "".join(f"kernel/{name}.ko\n" for name in built_in),
            f"{place}/modules.builtin.modinfo": "".join(f"{name}.license=GPL\0" for name in built_in),
            f"{place}/modules.order": "",
            f"boot/config-{version}": config,
        },
    )
    tree.run("depmod", version)


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_drivers_of_slots_are_loaded_at_boot_where_they_are_modules(
    family: str, request: pytest.FixtureRequest, trees: Trees, hooks: Hooks
) -> None:
    file = "etc/modules-load.d/network-clean.conf"
    with trees.changeable(request.getfixturevalue(family)) as tree:
        acpi = "CONFIG_HOTPLUG_PCI_ACPI=y\n"
        kernel(tree, BUILT_IN, modules=DRIVERS[:2], built_in=DRIVERS[2:], config=acpi)
        said = hooks.inside(tree, "finalise.d").stdout
        assert not (tree.root / file).exists()
        assert "WARNING" not in said
        modules = ("acpiphp", "shpchp", *DRIVERS)
        kernel(tree, MODULAR, modules=modules, built_in=("pciehp",), config="CONFIG_HOTPLUG_PCI_ACPI=m\n")
        said = hooks.inside(tree, "finalise.d").stdout
        lines = (tree.root / file).read_text().splitlines()
        assert [line for line in lines if not line.startswith("#")] == ["acpiphp", "shpchp"]
        assert "WARNING" not in said


def test_a_kernel_that_sees_nothing_plugged_in_is_told_of(debian: Tree, trees: Trees, hooks: Hooks) -> None:
    with trees.changeable(debian) as tree:
        kernel(
            tree, BUILT_IN, modules=DRIVERS[:3], built_in=(), config="# CONFIG_HOTPLUG_PCI_ACPI is not set\n"
        )
        said = hooks.inside(tree, "finalise.d").stdout
    assert f"WARNING: kernel {BUILT_IN} has no acpiphp" in said
    assert f"WARNING: kernel {BUILT_IN} has no virtio_pci" in said
    assert f"WARNING: kernel {BUILT_IN} has no virtio_scsi" in said


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_the_same_hooks_again_change_nothing(
    family: str, request: pytest.FixtureRequest, trees: Trees, hooks: Hooks
) -> None:
    before = request.getfixturevalue(family)
    with trees.changeable(before) as tree:
        hooks.inside(tree, "finalise.d")
        for part in ("etc", "var/lib"):
            assert differences(before.root / part, tree.root / part) == set(), part

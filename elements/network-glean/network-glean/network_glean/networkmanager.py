"""Writes links as connections of NetworkManager, in its own format (keyfile).

glean has a writer for it too: it takes ``mac_address`` for NetworkManager's ``mac-address``, writes the
master of a bond where nobody looks for it, and picks the format on CentOS 10 and its kin alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from network_glean.model import Bond, Link, metrics_of

DIRECTORY = PurePosixPath("/run/NetworkManager/system-connections")
PREFIX = "network-glean-"
#: NetworkManager ignores a connection that others can read.
MODE = 0o600
_FOREVER = 2**31 - 1
_Section = list[str]


def files(links: Sequence[Link], cards: Mapping[str, str]) -> dict[str, str]:
    """Names below `DIRECTORY` and contents. `cards` maps MAC addresses to names of interfaces."""
    by_key = {link.key: link for link in links}
    metrics = metrics_of(links)
    return {
        f"{PREFIX}{number}.nmconnection": _text(_connection(link, number, metrics[link.key], by_key, cards))
        for number, link in enumerate(links)
    }


def _text(sections: Mapping[str, _Section]) -> str:
    return "# From the config drive, at every boot.\n" + "".join(
        f"\n[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items() if lines
    )


def _connection(
    link: Link, number: int, metric: int, by_key: Mapping[str, Link], cards: Mapping[str, str]
) -> dict[str, _Section]:
    kind = "bond" if link.bond else "vlan" if link.vlan is not None else "ethernet"
    connection = [f"id={PREFIX}{number}", f"type={kind}", "autoconnect-priority=100", "autoconnect-retries=0"]
    if link.name:
        connection.append(f"interface-name={link.name}")
    sections = {"connection": connection, "ethernet": _ethernet(link)}
    if link.bond:
        sections["bond"] = _bond(link.bond)
    if link.vlan is not None:
        below = by_key[link.parent or ""]
        parent = below.name or cards.get(below.mac)
        sections["vlan"] = [f"id={link.vlan}", *([f"parent={parent}"] if parent else [])]
        if not parent:
            sections["ethernet"].append(f"mac-address={below.mac}")
    if link.master:
        connection += [f"master={by_key[link.master].name}", "slave-type=bond"]
    else:
        sections["ipv4"] = _ipv4(link, metric)
        sections["ipv6"] = _ipv6(link, metric)
    return sections


def _ethernet(link: Link) -> _Section:
    lines = [f"{'cloned-mac-address' if link.name else 'mac-address'}={link.mac}"]
    if link.mtu:
        lines.append(f"mtu={link.mtu}")
    return lines


def _bond(bond: Bond) -> _Section:
    lines = [f"mode={bond.mode}", f"miimon={bond.monitor}"]
    if bond.hash_policy:
        lines.append(f"xmit_hash_policy={bond.hash_policy}")
    if bond.mode == "802.3ad":
        lines.append(f"lacp_rate={'fast' if bond.fast else 'slow'}")
    return lines


def _ipv4(link: Link, metric: int) -> _Section:
    if link.dhcp4:
        lines = ["method=auto", "dhcp-client-id=mac", f"dhcp-timeout={_FOREVER}"]
    elif link.has(4):
        lines = ["method=manual"]
    else:
        return ["method=disabled"]
    return [*lines, f"route-metric={metric}", *_fixed(link, 4)]


def _ipv6(link: Link, metric: int) -> _Section:
    if link.advertised:
        # Clouds let only the address through that is made from the MAC address.
        lines = ["method=auto", "addr-gen-mode=0", "ip6-privacy=0", f"dhcp-timeout={_FOREVER}"]
    elif link.has(6):
        lines = ["method=manual", "addr-gen-mode=0"]
    else:
        return ["method=link-local", "addr-gen-mode=0"]
    return [*lines, f"route-metric={metric}", *_fixed(link, 6)]


def _fixed(link: Link, version: int) -> _Section:
    lines = [f"address{n}={a}" for n, a in enumerate((a for a in link.addresses if a.version == version), 1)]
    routes = [r for r in link.routes if r.destination.version == version]
    gateways = [r for r in routes if r.destination.prefixlen == 0]
    others = [r for r in routes if r not in gateways[:1]]
    lines += [f"gateway={r.gateway}" for r in gateways[:1]]
    lines += [f"route{n}={r.destination},{r.gateway}" for n, r in enumerate(others, 1)]
    servers = [str(s) for s in link.nameservers if s.version == version]
    return [*lines, *([f"dns={';'.join(servers)};"] if servers else [])]


def commands(written: Iterable[str]) -> list[list[str]]:
    """What makes a running NetworkManager read these files, and use them at once."""
    ids = [name.partition(".")[0] for name in written]
    return [
        ["nmcli", "connection", "reload"],
        *(["nmcli", "--wait", "0", "connection", "up", "id", one] for one in ids),
    ]

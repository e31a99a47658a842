"""The interfaces a config drive describes, checked: whatever is in here may be written into a file.

glean reads the drive and says which network belongs to which link. What it leaves as text of whoever
wrote the drive becomes addresses, numbers and names here, or is left out with a word in the log.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, count
from typing import Any, NamedTuple, Union

# Python 3.9 is the oldest that reads this.
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]  # noqa: UP007
Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]  # noqa: UP007
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]  # noqa: UP007

BOND_MODES = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)
BOND_HASHES = ("layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4", "vlan+srcmac")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
#: What Linux, systemd and NetworkManager all take as the name of an interface.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,14}")
#: IPv6 by router advertisements; by DHCPv6 as well. Nova writes a dash, others an underscore.
_ADVERTISED = ("ipv6_slaac", "ipv6_dhcpv6-stateless", "ipv6_dhcpv6_stateless")
_STATEFUL = ("ipv6_dhcp", "ipv6_dhcpv6-stateful", "ipv6_dhcpv6_stateful")

log = logging.getLogger(__name__)


class Route(NamedTuple):
    """A way to a network. Without a common network with the gateway it is on the link itself."""

    destination: Network
    gateway: Address


class Bond(NamedTuple):
    """How the members of a bond share the work."""

    mode: str = "active-backup"
    monitor: int = 100  # milliseconds between looks at the links
    hash_policy: str | None = None
    fast: bool = False  # LACP packets every second instead of every 30


class Link(NamedTuple):
    """One interface, and everything that is said of it."""

    key: str  # what the drive calls it
    mac: str
    name: str | None = None  # of what is made here; a real card has its own name
    mtu: int | None = None
    dhcp4: bool = False
    dhcp6: bool = False
    advertised: bool = False  # router advertisements are listened to
    addresses: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    nameservers: tuple[Address, ...] = ()
    bond: Bond | None = None
    master: str | None = None  # the key of the bond it is a member of
    vlan: int | None = None
    parent: str | None = None  # the key of the link under a VLAN

    def has(self, version: int) -> bool:
        """Whether it has an address or a route of this IP version that is fixed."""
        return any(a.version == version for a in self.addresses)


def links_of(
    described: Mapping[str, Mapping[str, Any]], nameservers: Iterable[object], cards: Mapping[str, str]
) -> list[Link]:
    """The links of what glean found, by its ``get_config_drive_interfaces``.

    `cards` maps the MAC addresses of this machine to the names of its interfaces.
    """
    collected: dict[str, Link] = {}
    servers = _addresses(nameservers)
    for entry in described.values():
        key = str(entry.get("link", entry.get("id")))
        try:
            link = collected.get(key) or _link(key, entry)
            link = _with_network(link, entry)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("left out of %r, for the config drive is wrong there: %r", key, error)
            continue
        collected[key] = link._replace(nameservers=_merged(link.nameservers, servers))
    return _named(_complete(collected), cards)


def _link(key: str, entry: Mapping[str, Any]) -> Link:
    mac = str(entry["mac_address"]).lower()
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{mac!r} is no MAC address")
    link = Link(key=key, mac=mac, mtu=_number(entry.get("mtu"), 68, 65536, "MTU"))
    if "vlan_id" in entry:
        vlan = _number(entry["vlan_id"], 1, 4094, "VLAN")
        if vlan is None:
            raise ValueError("a VLAN has no id")
        link = link._replace(vlan=vlan, parent=str(entry["vlan_link"]))
    if "bond_links" in entry:
        link = link._replace(bond=_bond(entry))
    if "bond_master" in entry:
        link = link._replace(master=str(entry["bond_master"]))
    return link


def _bond(entry: Mapping[str, Any]) -> Bond:
    mode = _one_of(entry.get("bond_mode"), BOND_MODES, "active-backup")
    hash_policy = _one_of(entry.get("bond_xmit_hash_policy"), BOND_HASHES, None)
    monitor = _number(entry.get("bond_miimon"), 0, 60000, "bond_miimon")
    return Bond(
        mode=mode or "active-backup",
        monitor=100 if monitor is None else monitor,
        hash_policy=hash_policy,
        fast=entry.get("bond_lacp_rate") in ("fast", "1", 1),
    )


def _with_network(link: Link, entry: Mapping[str, Any]) -> Link:
    kind = entry.get("type")
    if kind == "ipv4_dhcp":
        link = link._replace(dhcp4=True)
    elif kind in _ADVERTISED:
        link = link._replace(advertised=True)
    elif kind in _STATEFUL:
        link = link._replace(advertised=True, dhcp6=True)
    elif kind in ("ipv4", "ipv6"):
        link = link._replace(addresses=_merged(link.addresses, [_interface(entry)]))
    elif kind != "manual":
        log.warning("%r has a network of an unknown type, which is left out: %r", link.key, kind)
    services = [s.get("address") for s in entry.get("services") or () if s.get("type") == "dns"]
    return link._replace(
        routes=_merged(link.routes, _routes(entry)),
        nameservers=_merged(link.nameservers, _addresses(services)),
    )


def _interface(entry: Mapping[str, Any]) -> Interface:
    address = _without_zone(entry["ip_address"])
    if "/" not in address and entry.get("netmask"):
        address = f"{address}/{_prefix(entry['netmask'])}"
    return ipaddress.ip_interface(address)


def _without_zone(text: object) -> str:
    """The text of an address, if it names no zone: Python takes any text behind the % for one, lines too."""
    if "%" in str(text):
        raise ValueError(f"{text!r} is no address by itself")
    return str(text)


def _prefix(netmask: object) -> int:
    """The length of a netmask: Nova writes IPv6's like an address as well."""
    text = str(netmask)
    if text.isdigit():
        return int(text)
    address = ipaddress.ip_address(text)
    bits = format(int(address), f"0{address.max_prefixlen}b")
    if "01" in bits:
        raise ValueError(f"{text!r} is no netmask")
    return bits.count("1")


def _routes(entry: Mapping[str, Any]) -> list[Route]:
    routes = []
    for route in entry.get("routes") or ():
        try:
            network = f"{route['network']}/{_prefix(route['netmask'])}"
            routes.append(_route(network, str(route["gateway"])))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a route is left out, for the config drive is wrong there: %r", error)
    if entry.get("gateway"):
        anywhere = "::/0" if ":" in str(entry["gateway"]) else "0.0.0.0/0"
        routes.append(_route(anywhere, str(entry["gateway"])))
    return routes


def _route(network: str, gateway: str) -> Route:
    route = Route(
        ipaddress.ip_network(_without_zone(network), strict=False),
        ipaddress.ip_address(_without_zone(gateway)),
    )
    if route.destination.version != route.gateway.version:
        raise ValueError(f"{gateway!r} is no way to {network!r}")
    return route


def _addresses(texts: Iterable[object]) -> list[Address]:
    addresses = []
    for text in texts:
        try:
            addresses.append(ipaddress.ip_address(_without_zone(text)))
        except ValueError as error:
            log.warning("a name server is left out: %s", error)
    return addresses


def _number(value: object, least: int, most: int, what: str) -> int | None:
    if value is None or value == "":
        return None
    number = int(str(value))
    if not least <= number <= most:
        raise ValueError(f"{what} {number} is not between {least} and {most}")
    return number


def _one_of(value: object, known: Collection[str], default: str | None) -> str | None:
    if value is None:
        return default
    if value not in known:
        log.warning("unknown to bonding, so left out: %r", value)
        return default
    return str(value)


def _merged(have: Iterable[Any], more: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys([*have, *more]))


def _complete(links: Mapping[str, Link]) -> dict[str, Link]:
    """The links that can be set up: a VLAN needs the link below it, a member its bond."""
    usable = dict(links)
    while True:
        lost = [(key, needed) for key, link in usable.items() if (needed := _lacked(link, usable))]
        for key, needed in lost:
            log.warning("%r is left out, for there is no such link to go with it as %r", key, needed)
            del usable[key]
        # What lay on it is lost with it.
        if not lost:
            return usable


def _lacked(link: Link, links: Mapping[str, Link]) -> str | None:
    """The key of the link this one needs and can't have."""
    if link.vlan is not None:
        below = links.get(str(link.parent))
        return None if below is not None and below is not link else str(link.parent)
    if link.master is not None:
        above = links.get(link.master)
        return None if above is not None and above.bond is not None else link.master
    return None


def _named(links: Mapping[str, Link], cards: Mapping[str, str]) -> list[Link]:
    """The links with the names of those that are made here, none of them twice."""
    names: dict[str, str] = {key: cards[link.mac] for key, link in links.items() if link.mac in cards}
    taken = set(cards.values())
    result = []
    for key, link in sorted(links.items(), key=lambda item: item[1].vlan is not None):
        if link.bond is not None:
            name = key if _NAME.fullmatch(key) else "bond0"
        elif link.vlan is not None:
            below = names.get(str(link.parent), "vlan")
            name = f"{below}.{link.vlan}" if below != "vlan" else f"vlan{link.vlan}"
        else:
            result.append(link)
            continue
        name = _free(name, taken)
        taken.add(name)
        names[key] = name
        result.append(link._replace(name=name))
    return result


def _free(name: str, taken: Collection[str]) -> str:
    others = (f"{name[: 14 - len(str(n))]}-{n}" for n in count(2))
    return next(candidate for candidate in chain([name[:15]], others) if candidate not in taken)


def metrics_of(links: Iterable[Link]) -> dict[str, int]:
    """The cost of ways out by each link, by key: what the drive names first is used first."""
    ordered = sorted(links, key=lambda link: link.master is not None)
    return {link.key: 100 * number for number, link in enumerate(ordered, 1)}

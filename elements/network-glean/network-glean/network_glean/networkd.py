"""Writes links as systemd-networkd reads them.

glean has a writer for it too. It makes a bond's link monitor a thousand times slower than it shall be,
ends at a link with DHCPv6, ties links to names that a card may not have, and knows no MTU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from network_glean.model import Link, Route, metrics_of

DIRECTORY = PurePosixPath("/run/systemd/network")
#: Every file of ours begins with this; what begins with less is the administrator's, and wins.
PREFIX = "70-network-glean-"
MODE = 0o644
_HEAD = "# From the config drive, at every boot. A file of the same name in /etc/systemd/network wins.\n"
_Sections = list[tuple[str, list[str]]]


def files(links: Sequence[Link], cards: Mapping[str, str]) -> dict[str, str]:
    """Names below `DIRECTORY` and contents of the files for these links. `cards` is not needed."""
    made = {link.key: link for link in links if link.name}
    written = {}
    metrics = metrics_of(links)
    for number, link in enumerate(links):
        if link.name:
            written[f"{PREFIX}{number}.netdev"] = _text(_device(link))
        above = [one.name for one in links if one.parent == link.key and one.name]
        written[f"{PREFIX}{number}.network"] = _text(_network(link, metrics[link.key], above, made))
    return written


def _text(sections: _Sections) -> str:
    return _HEAD + "".join(
        f"\n[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections if lines
    )


def _device(link: Link) -> _Sections:
    kind = "bond" if link.bond else "vlan"
    sections = [("NetDev", [f"Name={link.name}", f"Kind={kind}", f"MACAddress={link.mac}"])]
    if link.bond:
        bond = [f"Mode={link.bond.mode}", f"MIIMonitorSec={link.bond.monitor}ms"]
        if link.bond.hash_policy:
            bond.append(f"TransmitHashPolicy={link.bond.hash_policy}")
        if link.bond.mode == "802.3ad":
            bond.append(f"LACPTransmitRate={'fast' if link.bond.fast else 'slow'}")
        sections.append(("Bond", bond))
    else:
        sections.append(("VLAN", [f"Id={link.vlan}"]))
    return sections


def _network(link: Link, metric: int, above: Sequence[str], made: Mapping[str, Link]) -> _Sections:
    # A VLAN and a bond have the address of a card: only the type tells them apart.
    match = [f"Name={link.name}"] if link.name else [f"MACAddress={link.mac}", "Type=ether"]
    of_link = [f"MTUBytes={link.mtu}"] if link.mtu else []
    master = made.get(link.master or "")
    if master:
        network = [f"Bond={master.name}", "LinkLocalAddressing=no"]
        return [("Match", match), ("Link", of_link), ("Network", network)]
    if not (link.addresses or link.dhcp4 or link.advertised):
        of_link.append("RequiredForOnline=no")
    network = [
        f"DHCP={_dhcp(link)}",
        f"IPv6AcceptRA={'yes' if link.advertised else 'no'}",
        *(f"DNS={server}" for server in link.nameservers),
        *(f"VLAN={name}" for name in above),
    ]
    sections = [("Match", match), ("Link", of_link), ("Network", network)]
    sections += [("Address", [f"Address={address}"]) for address in link.addresses]
    sections += [("Route", _route(route, link, metric)) for route in link.routes]
    if link.dhcp4:
        sections.append(("DHCPv4", ["ClientIdentifier=mac", "UseDomains=yes", f"RouteMetric={metric}"]))
    if link.advertised:
        advertised = ["UseDomains=yes", f"RouteMetric={metric}"]
        if link.dhcp6:
            advertised.append("DHCPv6Client=always")
        sections.append(("IPv6AcceptRA", advertised))
    return sections


def _dhcp(link: Link) -> str:
    wanted = (link.dhcp4, link.dhcp6)
    return {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6"}.get(wanted, "no")


def _route(route: Route, link: Link, metric: int) -> list[str]:
    lines = [f"Destination={route.destination}", f"Gateway={route.gateway}"]
    if not any(route.gateway in address.network for address in link.addresses):
        # Some providers give a machine one address alone, with the gateway outside.
        lines.append("GatewayOnLink=yes")
    if route.destination.prefixlen == 0:
        lines.append(f"Metric={metric}")
    return lines


def commands(written: Iterable[str]) -> list[list[str]]:
    """What makes a running networkd read these files."""
    return [["networkctl", "reload"]] if written else []

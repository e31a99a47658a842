"""Says what is taken down of a machine that has just come up, and reads it out of the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Final

from builder.boottest.asking import Said
from builder.shown import visible

#: As of a machine where nobody has done anything yet: asked before all else.
QUESTIONS: Final[Mapping[str, str]] = {
    "memory": "cat /proc/meminfo",
    "services": "systemctl list-units --type=service --state=active --plain --no-legend --no-pager | wc -l",
    "packages": (
        "if command -v dpkg-query >/dev/null; then dpkg-query --show --showformat='.\\n' | wc -l;"
        " else rpm --query --all | wc -l; fi"
    ),
    "sockets": 'cd /proc/net && for each in tcp tcp6 udp udp6; do echo "$each"; cat "$each"; done',
    "setuid": "find / -xdev -type f \\( -perm -4000 -o -perm -2000 \\) -print",
}
#: States of sockets that wait for others: TCP_LISTEN, and of UDP, which has no connections, TCP_CLOSE
#: (the kernel's include/net/tcp_states.h).
_WAITING: Final = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
#: A line of /proc/net/tcp and the like: local address and port, those of the other end, state.
_SOCKET: Final = re.compile(r"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) ")
#: Numbers that are no nonsense.
_COUNT: Final = re.compile(r"[0-9]{1,15}\Z")
#: Of setuid files, so many are taken down, and so many characters of their paths.
_FILES, _PATH = 1000, 500


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found, as far as the guest told."""

    values: Mapping[str, float]
    ports: tuple[str, ...]
    setuid: tuple[str, ...]


def read(said: Mapping[str, Said], known: Mapping[str, float | None]) -> Measured:
    """What the answers say, together with what is known without them; what is None is left out."""
    paths = (line for line in _good(said, "setuid", lenient=True) if line.startswith("/"))
    setuid = tuple(sorted(visible(path[:_PATH]) for path in paths)[:_FILES])
    ports = tuple(sorted(set(_ports(_good(said, "sockets", lenient=True))), key=_by_number))
    values = {
        **known,
        "memory_used": _memory_used(_good(said, "memory")),
        "services": _count(_good(said, "services")),
        "packages": _count(_good(said, "packages")),
    }
    there = {name: round(float(value), 1) for name, value in values.items() if value is not None}
    return Measured(values=MappingProxyType(there), ports=ports, setuid=setuid)


def _good(said: Mapping[str, Said], name: str, *, lenient: bool = False) -> tuple[str, ...]:
    """The lines of an answer that was given; of one that failed none, unless it may fail in part."""
    answer = said.get(name)
    return answer.lines if answer is not None and (lenient or answer.code == 0) else ()


def _memory_used(lines: tuple[str, ...]) -> float | None:
    """Bytes that are not available to others; the kernel says kB and means KiB."""
    words = [line.replace(":", "").split() for line in lines]
    sizes = {each[0]: int(each[1]) for each in words if len(each) == 3 and _COUNT.match(each[1])}
    if "MemTotal" not in sizes or "MemAvailable" not in sizes:
        return None
    return (sizes["MemTotal"] - sizes["MemAvailable"]) * 1024


def _count(lines: tuple[str, ...]) -> float | None:
    last = lines[-1].strip() if lines else ""
    return float(last) if _COUNT.match(last) else None


def _ports(lines: tuple[str, ...]) -> Iterator[str]:
    """The ports that others can reach, as "tcp/22"; those of loopback are nobody's business."""
    kind = ""
    for line in lines:
        found = _SOCKET.match(line)
        if line in _WAITING:
            kind = line
        elif found and found[3] == _WAITING.get(kind) and not _address(found[1]).is_loopback:
            yield f"{kind.removesuffix('6')}/{int(found[2], 16)}"


def _address(text: str) -> IPv4Address | IPv6Address:
    """The address in a line of /proc/net: words of four bytes, each in the order of the machine, which is
    little-endian wherever we boot one."""
    raw = bytes.fromhex(text)
    return ip_address(b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4)))


def _by_number(port: str) -> tuple[str, int]:
    kind, _, number = port.partition("/")
    return kind, int(number)

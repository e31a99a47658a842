"""Makes the ZooKeeper connection of `zookeeper-servers` and the keys beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from builder.config.checking import Checked
from builder.config.model import ZooKeeper, ZooKeeperTls
from builder.config.problems import Problems
from builder.config.schema import ConfigFile, SecureFile, ServerEntry
from builder.config.text import absolute

PLAIN_PORT: Final = 2181
TLS_PORT: Final = 2281

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?\Z")
_CHROOT_STEP = re.compile(r"[^/\0-\x1f\x7f]+\Z")

Source = Checked[ConfigFile] | Checked[SecureFile]


def build_zookeeper(
    file: Checked[ConfigFile], secure: Checked[SecureFile], problems: Problems
) -> ZooKeeper | None:
    """Where ZooKeeper is, the secure file's keys replacing the file's; None when no servers are given."""
    servers = _source_of("zookeeper_servers", file, secure)
    if servers is None:
        _check_alone(file, secure, problems)
        return None
    entries = servers.content.zookeeper_servers or []
    if not entries:
        problems.add(servers.place("zookeeper-servers"), "must list at least one server")
    tls = _tls(file, secure)
    auth_source = _source_of("zookeeper_auth", file, secure)
    auth = auth_source.content.zookeeper_auth if auth_source else None
    timeout_source = _source_of("zookeeper_timeout", file, secure)
    timeout = timeout_source.content.zookeeper_timeout if timeout_source else None
    return ZooKeeper(
        hosts=_hosts(servers, entries, TLS_PORT if tls else PLAIN_PORT, problems),
        chroot=_chroot(servers, entries, problems),
        tls=tls,
        timeout=ZooKeeper.timeout if timeout is None else timeout,
        username=auth.username if auth else None,
        password=auth.password if auth else None,
    )


def _source_of(field: str, file: Checked[ConfigFile], secure: Checked[SecureFile]) -> Source | None:
    """The file whose word counts for a key: the secure one, if it says anything."""
    for source in (secure, file):
        if getattr(source.content, field) is not None:
            return source
    return None


def _check_alone(file: Checked[ConfigFile], secure: Checked[SecureFile], problems: Problems) -> None:
    for field in ("zookeeper_tls", "zookeeper_auth", "zookeeper_timeout"):
        source = _source_of(field, file, secure)
        if source is not None:
            key = field.replace("_", "-")
            problems.add(source.place(key), "is of no use without zookeeper-servers")


def _tls(file: Checked[ConfigFile], secure: Checked[SecureFile]) -> ZooKeeperTls | None:
    source = _source_of("zookeeper_tls", file, secure)
    entry = source.content.zookeeper_tls if source else None
    if source is None or entry is None:
        return None
    base: Path = source.document.file
    return ZooKeeperTls(
        cert=absolute(entry.cert, base), key=absolute(entry.key, base), ca=absolute(entry.ca, base)
    )


def _hosts(source: Source, entries: list[ServerEntry], default_port: int, problems: Problems) -> str:
    hosts = []
    for position, entry in enumerate(entries):
        host = entry.host.removeprefix("[").removesuffix("]")
        if _IPV6.match(host):
            host = f"[{host}]"
        elif not _HOST.match(host):
            place = source.place("zookeeper-servers", position, "host")
            problems.add(place, f"{entry.host!r} is no host name or address")
        hosts.append(f"{host}:{entry.port or default_port}")
    return ",".join(hosts)


def _chroot(source: Source, entries: list[ServerEntry], problems: Problems) -> str:
    """The one chroot all servers share: a client connected to any of them must see the same tree."""
    given = {position: entry.chroot for position, entry in enumerate(entries) if entry.chroot}
    normal = {position: "/" + chroot.strip("/") for position, chroot in given.items()}
    if not normal:
        return ""
    first = next(iter(normal.values()))
    for position, chroot in normal.items():
        place = source.place("zookeeper-servers", position, "chroot")
        if chroot != first:
            problems.add(place, f"every server must have the same chroot, not {first!r} and {chroot!r}")
        elif not _is_path(chroot):
            problems.add(place, f"{chroot!r} is no path in ZooKeeper")
    return "" if first == "/" else first


def _is_path(chroot: str) -> bool:
    steps = chroot[1:].split("/")
    return chroot == "/" or all(_CHROOT_STEP.match(step) and step not in (".", "..") for step in steps)

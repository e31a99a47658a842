"""Gives the machine the name it has in the cloud."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from network_glean.model import Link
from network_glean.places import replace_file

#: Linux takes no longer one.
LONGEST = 64
_MARK = "# network-glean"

log = logging.getLogger(__name__)


def host_name(meta: Mapping[str, Any]) -> str | None:
    """The name in the metadata as a host may have it; None if there is none.

    As in glean, it is what the user called the machine rather than ``hostname``, to which Nova adds a
    domain of its own.
    """
    for key in ("name", "hostname"):
        labels = [_label(part) for part in str(meta.get(key) or "").split(".")]
        name = ".".join(label for label in labels if label)[:LONGEST].rstrip("-.")
        if name:
            return name
    return None


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:63].rstrip("-")


def _text(file: Path) -> str:
    # Whatever bytes are in there come out as they were.
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def set_host_name(root: Path, name: str, links: Sequence[Link]) -> None:
    """Make `name` the host's in /etc/hostname and /etc/hosts, and of the kernel's if `root` is its own."""
    replace_file(root / "etc/hostname", f"{name}\n", 0o644)
    if root == Path("/"):
        Path("/proc/sys/kernel/hostname").write_text(name)
    fixed = [a.ip for link in links for a in link.addresses if a.version == 4]
    short = name.partition(".")[0]
    names = name if short == name else f"{name} {short}"
    hosts = root / "etc/hosts"
    try:
        kept = [line for line in _text(hosts).splitlines() if not line.endswith(_MARK)]
    except FileNotFoundError:
        kept = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    # In front, so that it is the name found for the address.
    line = f"{fixed[0] if fixed else '127.0.1.1'} {names} {_MARK}"
    replace_file(hosts, "\n".join([line, *kept]) + "\n", 0o644)
    log.info("the host is %s", name)

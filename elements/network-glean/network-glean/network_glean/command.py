"""Puts into effect what the config drive says, or nothing where there is none.

What it writes for the network lies in /run: each boot starts from nothing, an image made of a machine
has nothing of its network, and a read-only /etc is no hindrance.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from glean import cmd as glean

from network_glean import identity, keys, networkd, networkmanager
from network_glean.model import Link, links_of
from network_glean.places import replace_file, restore_labels

#: What udev calls it, by a rule of ours; glean wants it mounted at "mnt/config" below some directory.
DEVICE = "dev/network-glean-drive"
STATE = "run/network-glean"
_FILE_SYSTEMS = ("iso9660", "vfat")
_BACKENDS = {"networkd": networkd, "networkmanager": networkmanager}
#: What reading a drive ends with on which something is not as it should be.
_WRONG = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)

log = logging.getLogger("network-glean")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="network-glean", description=__doc__)
    parser.add_argument("--backend", choices=sorted(_BACKENDS), required=True)
    parser.add_argument("--drive", type=Path, help="a directory with what the drive has (default: the drive)")
    parser.add_argument("--root", type=Path, default=Path("/"), help="write below this directory")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="network-glean: %(message)s", stream=sys.stderr)
    # Ours alone: programs that are called have the system's libraries.
    os.environ.pop("LD_LIBRARY_PATH", None)
    try:
        return _apply(arguments.root, arguments.drive, _BACKENDS[arguments.backend])
    except OSError as error:
        log.error("%s", error)
        return 1


def _apply(root: Path, drive: Path | None, backend: ModuleType) -> int:
    mounted = root / STATE / "mnt/config"
    mounted.parent.mkdir(parents=True, exist_ok=True)
    if drive is not None:
        mounted.unlink(missing_ok=True)
        mounted.symlink_to(drive.absolute())
    elif not _mount(root / DEVICE, mounted):
        return 1
    meta = _meta_data(mounted)
    cards = _cards()
    links = _links(root / STATE, cards)
    # What can't be done of one is no reason to leave out the others.
    steps: list[Callable[[], None]] = [
        lambda: _set_up_network(root, backend, backend.files(links, cards)),
        lambda: _set_host_name(root, meta, links),
        lambda: _let_in(root, meta),
    ]
    return max(_tried(step) for step in steps)


def _tried(step: Callable[[], None]) -> int:
    try:
        step()
    except (OSError, *_WRONG) as error:
        log.error("%s", error)
        return 1
    return 0


def _set_up_network(root: Path, backend: ModuleType, files: dict[str, str]) -> None:
    changed = _write(root, backend, files)
    again = root / STATE / "done"
    if changed and again.exists() and root == Path("/"):
        _reload(backend, files)
    again.touch()


def _set_host_name(root: Path, meta: dict[str, Any], links: list[Link]) -> None:
    name = identity.host_name(meta)
    if name:
        identity.set_host_name(root, name, links)
        restore_labels(root / "etc/hostname", root / "etc/hosts")


def _let_in(root: Path, meta: dict[str, Any]) -> None:
    found = keys.keys_of(meta)
    for user in keys.users_of(root) if found else ():
        keys.let_in(user, found)


def _mount(device: Path, place: Path) -> bool:
    """Mount the drive read-only. Nova makes these two kinds of file system, and no other is tried."""
    place.mkdir(exist_ok=True)
    for kind in _FILE_SYSTEMS:
        command = ["mount", "-t", kind, "-o", "ro,nosuid,nodev,noexec", str(device), str(place)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if done.returncode == 0:
            return True
        log.warning("%s", done.stderr.decode(errors="replace").strip())
    log.error("%s can't be mounted: every interface is left to DHCP", device)
    return False


def _meta_data(mounted: Path) -> dict[str, Any]:
    file = mounted / "openstack/latest/meta_data.json"
    try:
        meta = json.loads(file.read_text())
    except FileNotFoundError:
        log.warning("the config drive has no meta_data.json: no host name and no SSH keys")
        return {}
    except (OSError, *_WRONG) as error:
        log.error("meta_data.json can't be read: no host name and no SSH keys: %s", error)
        return {}
    return meta if isinstance(meta, dict) else {}


def _links(place: Path, cards: dict[str, str]) -> list[Link]:
    """What the drive says of the network; nothing, so DHCP everywhere, if it makes no sense."""
    try:
        network = glean.get_network_info(SimpleNamespace(root=str(place)))
        described = glean.get_config_drive_interfaces(network)
        links = links_of(described, glean.get_dns_from_config_drive(network), cards)
    except (OSError, *_WRONG) as error:
        log.error("the config drive's network makes no sense, so every interface is left to DHCP: %r", error)
        return []
    if not links:
        log.info("the config drive says nothing of the network: every interface is left to DHCP")
    return links


def _cards() -> dict[str, str]:
    """The names of this machine's real interfaces by MAC address."""
    cards = {}
    for card in sorted(Path("/sys/class/net").glob("*")):
        try:
            if (card / "addr_assign_type").read_text().strip() == "0" and card.name != "lo":
                cards[(card / "address").read_text().strip().lower()] = card.name
        except OSError:
            continue  # gone meanwhile
    return cards


def _write(root: Path, backend: ModuleType, files: dict[str, str]) -> bool:
    """Write these files and remove older ones of ours; says whether that changed anything."""
    directory = root / str(backend.DIRECTORY).lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    changed = False
    for old in directory.glob(f"{backend.PREFIX}*"):
        if old.name not in files:
            old.unlink()
            changed = True
    for name, text in files.items():
        changed |= replace_file(directory / name, text, backend.MODE)
    restore_labels(directory.parent)
    log.info("%d files for the network in %s", len(files), directory)
    return changed


def _reload(backend: ModuleType, written: dict[str, str]) -> None:
    """The network was up before the drive was found."""
    log.info("the config drive came late: the network is set up anew")
    for command in backend.commands(written):
        subprocess.run(command, check=False)

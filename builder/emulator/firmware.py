"""Finds the UEFI firmware that this machine's QEMU has for an architecture.

Each is described by a JSON file, in directories and an order that QEMU lays down
(docs/interop/firmware.json): the first that fits is the one to use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builder.emulator.machine import Architecture
from builder.errors import ToolMissingError

DIRECTORIES: Final = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
PACKAGES: Final[Mapping[Architecture, str]] = {
    Architecture.AMD64: "ovmf",
    Architecture.ARM64: "qemu-efi-aarch64",
}
#: What a firmware may insist on; a machine of ours has none of it.
_UNWANTED: Final = frozenset({"secure-boot", "requires-smm", "enrolled-keys"})


@dataclass(frozen=True, kw_only=True)
class Uefi:
    """The code of a firmware, and an empty store of its variables to copy for each machine."""

    code: Path
    variables: Path


def find(architecture: Architecture, directories: Sequence[Path] = DIRECTORIES) -> Uefi:
    """The firmware for an architecture; raises ToolMissingError with the package to install."""
    described: dict[str, Path] = {}
    for directory in reversed(directories):
        described.update({path.name: path for path in directory.glob("*.json")})
    for name in sorted(described):
        found = _fitting(_read(described[name]), architecture)
        if found is not None and found.code.exists() and found.variables.exists():
            return found
    raise ToolMissingError(
        f"there is no UEFI firmware for {architecture} machines here",
        hint=f"Install the package {PACKAGES[architecture]}.",
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # another one may do
    return content if isinstance(content, dict) else {}


def _fitting(described: Mapping[str, Any], architecture: Architecture) -> Uefi | None:
    mapping = described.get("mapping", {})
    fits = (
        "uefi" in described.get("interface-types", ())
        and mapping.get("device") == "flash"
        and _UNWANTED.isdisjoint(described.get("features", ()))
        and any(each.get("architecture") == architecture.kernel_name for each in described.get("targets", ()))
    )
    if not fits:
        return None
    try:
        return Uefi(
            code=Path(mapping["executable"]["filename"]),
            variables=Path(mapping["nvram-template"]["filename"]),
        )
    except KeyError:
        return None  # one without variables

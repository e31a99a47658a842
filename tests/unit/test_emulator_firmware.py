"""UEFI firmware is found by the descriptions that come with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.emulator import firmware
from builder.emulator.machine import Architecture
from builder.errors import ToolMissingError


def described(directory: Path, name: str, **changes: Any) -> Path:
    """A firmware with its description; its code."""
    directory.mkdir(exist_ok=True)
    code, variables = directory / f"{name}.code", directory / f"{name}.vars"
    code.touch()
    variables.touch()
    content = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code)},
            "nvram-template": {"filename": str(variables)},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-*"]}],
        "features": ["acpi-s3"],
    }
    (directory / f"{name}.json").write_text(json.dumps(content | changes))
    return code


def test_the_first_that_fits_is_taken(tmp_path: Path) -> None:
    described(tmp_path, "10-secure", features=["secure-boot"])
    described(tmp_path, "20-old", **{"interface-types": ["bios"]})
    described(tmp_path, "30-arm", targets=[{"architecture": "aarch64"}])
    described(tmp_path, "40-whole", mapping={"device": "memory", "filename": "/x"})
    gone = described(tmp_path, "50-gone")
    gone.unlink()
    (tmp_path / "55-broken.json").write_text("{")
    (tmp_path / "56-odd.json").write_text("[]")
    code = described(tmp_path, "60-good")
    described(tmp_path, "70-good")
    assert firmware.find(Architecture.AMD64, [tmp_path]).code == code


def test_what_an_administrator_describes_by_the_same_name_wins(tmp_path: Path) -> None:
    described(tmp_path / "usr", "60-good")
    code = described(tmp_path / "etc", "60-good")
    assert firmware.find(Architecture.AMD64, [tmp_path / "etc", tmp_path / "usr"]).code == code


def test_without_one_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match="qemu-efi-aarch64"):
        firmware.find(Architecture.ARM64, [tmp_path])


@pytest.mark.parametrize("architecture", [*Architecture])
def test_this_machine_has_one(architecture: Architecture) -> None:
    found = firmware.find(architecture)
    assert found.code.stat().st_size >= found.variables.stat().st_size > 0

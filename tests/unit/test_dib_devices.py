"""What is on top of a loop device, as sysfs shows it; releasing it is among the tests of workspaces."""

from __future__ import annotations

from pathlib import Path

from builder.dib.isolation import devices


def test_device_mapper_maps_are_found_topmost_first(tmp_path: Path) -> None:
    """An LVM volume on a kpartx map on a loop device, as sysfs shows it."""
    for device, name in (("dm-0", "loop0p1"), ("dm-1", "vg-root")):
        (tmp_path / device / "dm").mkdir(parents=True)
        (tmp_path / device / "dm" / "name").write_text(f"{name}\n")
        (tmp_path / device / "holders").mkdir()
    (tmp_path / "loop0" / "holders").mkdir(parents=True)
    (tmp_path / "loop0" / "holders" / "dm-0").touch()
    (tmp_path / "dm-0" / "holders" / "dm-1").touch()
    assert devices.dm_maps_over("loop0", tmp_path) == ["vg-root", "loop0p1"]
    assert devices.dm_maps_over("loop1", tmp_path) == []


def test_partitions_with_holders_count_too(tmp_path: Path) -> None:
    (tmp_path / "loop0" / "loop0p1" / "holders").mkdir(parents=True)
    (tmp_path / "loop0" / "loop0p1" / "holders" / "dm-3").touch()
    (tmp_path / "dm-3" / "dm").mkdir(parents=True)
    (tmp_path / "dm-3" / "dm" / "name").write_text("crypt\n")
    assert devices.dm_maps_over("loop0", tmp_path) == ["crypt"]

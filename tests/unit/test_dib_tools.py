"""What a building machine must have."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder.dib import tools
from builder.errors import ToolMissingError
from tests.unit.dib_world import need_root


def test_a_machine_that_has_everything_may_build() -> None:
    need_root()
    tools.require()


def test_everything_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    monkeypatch.setattr(
        tools, "_NEEDED", {"no-such-a": "package-a", "no-such-b": "package-b", "unshare": "x"}
    )
    with pytest.raises(ToolMissingError, match="no-such-a, no-such-b") as caught:
        tools.require()
    assert caught.value.hint == "apt-get install package-a package-b"


def test_versions_name_what_takes_part() -> None:
    versions = tools.versions()
    assert {"kernel", "diskimage-builder", "qemu-img"} <= set(versions)
    assert all(version[0].isdigit() for version in versions.values())


def test_the_build_command_comes_from_path_or_else_from_beside_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Path(sys.executable).parent
    assert tools.programs("no-such-command") == beside
    assert tools.programs(str(tmp_path / "disk-image-create")) == beside
    (tmp_path / "disk-image-create").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert tools.programs("disk-image-create") == tmp_path

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


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An amd64 machine with no programs but those put into this directory, and nothing in binfmt_misc."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(tools, "_BINFMT", tmp_path / "binfmt_misc")
    (tmp_path / "binfmt_misc").mkdir()
    monkeypatch.setattr(tools, "find_tool", lambda name: _found(tmp_path, name))
    return tmp_path


def _found(directory: Path, name: str) -> str:
    if (directory / name).exists():
        return str(directory / name)
    raise ToolMissingError(name)


@pytest.mark.parametrize(
    ("elements", "environment", "told", "packages"),
    [
        (["rocky-container"], {}, "podman", "podman"),
        (["containerfile"], {"DIB_CONTAINERFILE_RUNTIME": "docker"}, "docker", "docker.io"),
        (["centos-minimal", "vm"], {}, "rpm, dnf", "dnf dnf-plugins-core rpm"),
        (["openeuler-minimal"], {}, "rpm, dnf", "dnf dnf-plugins-core rpm"),
        (["debian-minimal"], {"ARCH": "arm64"}, "what runs programs of arm64 here", "qemu-user-static"),
        (
            ["fedora-container"],
            {"ARCH": "arm64"},
            "podman, what runs programs of arm64 here",
            "podman qemu-user-static",
        ),
    ],
)
@pytest.mark.usefixtures("bare")
def test_what_only_some_images_need_is_named_before_they_are_built(
    elements: list[str], environment: dict[str, str], told: str, packages: str
) -> None:
    with pytest.raises(ToolMissingError) as caught:
        tools.require_for(elements, environment)
    assert caught.value.message == f"programs that this image needs are not installed: {told}"
    assert caught.value.hint == f"apt-get install {packages}"


@pytest.mark.parametrize("present", [("rpm", "dnf"), ("rpm", "yum", "yumdownloader")])
def test_either_of_the_tools_for_rpm_will_do(bare: Path, present: tuple[str, ...]) -> None:
    for name in present:
        (bare / name).touch()
    tools.require_for(["centos-minimal"], {"ARCH": "amd64"})


@pytest.mark.parametrize(
    ("entry", "runs"),
    [
        ("enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n", True),
        ("disabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: POCF\n", False),
        # It would be looked for in the image.
        ("enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OC\n", False),
        ("enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: \n", False),
        ("enabled\n", False),
    ],
)
def test_another_architectures_programs_run_by_what_the_kernel_was_given(
    bare: Path, entry: str, runs: bool
) -> None:
    (bare / "binfmt_misc/qemu-aarch64").write_text(entry)
    if runs:
        tools.require_for(["debian-minimal"], {"ARCH": "arm64"})
    else:
        with pytest.raises(ToolMissingError, match="programs of arm64"):
            tools.require_for(["debian-minimal"], {"ARCH": "arm64"})


def test_mmdebstrap_needs_more_for_another_architecture(bare: Path) -> None:
    for name, entry in (("mmdebstrap", ""), ("binfmt_misc/qemu-aarch64", "enabled\nflags: F\n")):
        (bare / name).write_text(entry)
    tools.require_for(["debian-minimal"], {"ARCH": "amd64"})
    with pytest.raises(ToolMissingError, match="arch-test"):
        tools.require_for(["debian-minimal"], {"ARCH": "arm64"})


@pytest.mark.usefixtures("bare")
def test_debians_own_images_need_nothing_more() -> None:
    tools.require_for(["debian-minimal", "vm"], {"ARCH": "amd64"})
    tools.require_for(["ubuntu-minimal", "vm"], {"ARCH": "i386"})


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

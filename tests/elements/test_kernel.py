"""kernel: another kernel is asked for in place of the default one, by each distribution's name for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import diskimage_builder  # type: ignore[import-untyped]
import pytest

from tests.elements.hooks import Hooks
from tests.elements.trees import PROJECT

PKG_MAP: Final = Path(diskimage_builder.__file__).parent / "elements/pkg-map/bin/pkg-map"
#: As element package-installs writes it: by phase what to install and to remove, each with who asked.
ASKED: Final = {
    "pre-install.d": {"install": [["lsb-release", "debootstrap"]]},
    "install.d": {
        "install": [
            ["linux-image-amd64", "debian-minimal"],
            ["netbase", "debian-minimal"],
            ["kernel-doc", "x"],
        ],
        "uninstall": [["linux-firmware", "rocky-container"]],
    },
}


def chosen(place: Path, kernel: str, asked: object = ASKED) -> tuple[int, str, object]:
    """The exit code of the hook, what it said, and the list afterwards."""
    (place / "root/tmp").mkdir(parents=True)
    file = place / "root/tmp/package-installs.json"
    file.write_text(json.dumps(asked))
    done = Hooks(place / "hooks", "kernel").outside(
        "extra-data.d", TMP_MOUNT_PATH=str(place / "root"), **({"DIB_KERNEL": kernel} if kernel else {})
    )
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text())


def test_the_default_kernel_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    code, said, found = chosen(tmp_path, "cloud")

    assert code == 0, said
    assert found == {
        **ASKED,
        "install.d": {
            "install": [["netbase", "debian-minimal"], ["kernel-doc", "x"], ["cloud-kernel-amd64", "kernel"]],
            "uninstall": ASKED["install.d"]["uninstall"],
        },
    }


def test_any_package_can_be_the_kernel(tmp_path: Path) -> None:
    _, _, found = chosen(tmp_path, "linux-image-rt-amd64 linux-headers-rt-amd64")

    assert isinstance(found, dict)
    assert [name for name, element in found["install.d"]["install"] if element == "kernel"] == [
        *("linux-image-rt-amd64", "linux-headers-rt-amd64")
    ]


@pytest.mark.parametrize("kernel", ["", "default"])
def test_without_a_wish_it_is_the_distributions(kernel: str, tmp_path: Path) -> None:
    code, _, found = chosen(tmp_path, kernel)

    assert (code, found) == (0, ASKED)


def test_an_image_whose_kernel_is_not_known_ends_the_build(tmp_path: Path) -> None:
    asked = {"install.d": {"install": [["linux-image-other", "other"]]}}

    code, said, found = chosen(tmp_path, "cloud", asked)

    assert code != 0
    assert "DIB_KERNEL=default" in said
    assert found == asked


@pytest.mark.parametrize(
    ("distribution", "architecture", "package"),
    [
        ("debian", "amd64", "linux-image-cloud-amd64"),
        ("debian", "arm64", "linux-image-cloud-arm64"),
        ("ubuntu", "arm64", "linux-image-virtual"),
        *((name, "amd64", "kernel-core") for name in ("almalinux", "centos", "fedora", "rocky")),
        ("openeuler", "arm64", "kernel"),
    ],
)
def test_each_distribution_has_a_name_for_it(distribution: str, architecture: str, package: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(PKG_MAP), "--pkg-map", str(PROJECT / "elements/kernel/pkg-map")),
            *("--distro", distribution, "--release", "any", f"cloud-kernel-{architecture}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == [package]

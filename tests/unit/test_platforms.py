"""The platforms that ship: each renders, its elements fit together, its packages have that family's names."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from builder.config import differences
from builder.config.differences import Change
from builder.dib.mirrors import KEEP, mirror_environment
from tests.unit.elements_world import DIB_ELEMENTS, ELEMENTS
from tests.unit.platforms_world import SHIPPED, Recipe, loaded, made_of, mapped, recipe, shipped

PLATFORMS = SHIPPED / "platforms.yaml"
#: Image -> (DIB_RELEASE, os_distro, os_version), on amd64; each is there for arm64 as well.
EXPECTED = {
    "debian-bookworm": ("bookworm", "debian", "12"),
    "debian-trixie": ("trixie", "debian", "13"),
    "debian-sid": ("unstable", "debian", "sid"),
    "ubuntu-jammy": ("jammy", "ubuntu", "22.04"),
    "ubuntu-noble": ("noble", "ubuntu", "24.04"),
    "ubuntu-resolute": ("resolute", "ubuntu", "26.04"),
    "centos-9-stream": ("9-stream", "centos", "9"),
    "centos-10-stream": ("10-stream", "centos", "10"),
    "rocky-9": ("9", "rocky", "9"),
    "rocky-10": ("10", "rocky", "10"),
    "almalinux-9": ("9", "almalinux", "9"),
    "almalinux-10": ("10", "almalinux", "10"),
    "fedora-44": ("44", "fedora", "44"),
    "fedora-45": ("45", "fedora", "45"),
    "openeuler-22.03": ("22.03-LTS-SP4", "openeuler", "22.03"),
    "openeuler-24.03": ("24.03-LTS-SP3", "openeuler", "24.03"),
}
NAMES = [name + suffix for name in EXPECTED for suffix in ("", "-arm64")]
COUNTERPARTS = ELEMENTS.parent / "tests/elements/kept/kept-redhat/stand-in/counterparts"
#: Names of the Red Hat family that only images with a kernel and a boot loader ask for.
REDHAT_ONLY = {
    *("dhcpcd", "ed", "gettext", "kernel", "kernel-core", "openEuler-latest-release", "openEuler-rpm-config"),
    *("openeuler-lsb", "postfix", "python3-distro", "tcpdump", "time", "traceroute"),
}
#: Names that Debian and Ubuntu have alike.
DEBIAN = {
    *(
        "adduser",
        "ca-certificates",
        "e2fsprogs",
        "fdisk",
        "git",
        "initramfs-tools",
        "iproute2",
        "linux-image-amd64",
    ),
    *("linux-image-arm64", "linux-image-generic", "locales", "lsb-release", "netbase", "openssh-client"),
    *("openssh-server", "python3", "rsync", "sudo", "systemd-resolved", "systemd-timesyncd", "util-linux"),
}


def test_all_of_them_are_there() -> None:
    assert sorted(shipped().diskimages) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_platform_comes_out_as_its_distribution_spells_it(name: str) -> None:
    made = recipe(name)
    release, distribution, version = EXPECTED[name.removesuffix("-arm64")]
    architecture = "arm64" if name.endswith("-arm64") else "amd64"
    assert made.command.environment["DIB_RELEASE"] == made.sourced["DIB_RELEASE"] == release
    assert made.command.environment["ARCH"] == architecture
    assert made.sourced["DISTRO_NAME"] == distribution
    assert made.image.metadata == {
        "os_type": "linux",
        "os_distro": distribution,
        "os_version": version,
        "architecture": {"amd64": "x86_64", "arm64": "aarch64"}[architecture],
    }


@pytest.mark.parametrize("name", NAMES)
def test_its_elements_fit_together_with_one_operating_system(name: str) -> None:
    made = recipe(name)
    provides = [
        word
        for directory in made.elements.values()
        for file in directory.glob("element-provides")
        for word in file.read_text().split()
    ]
    assert provides.count("operating-system") == 1
    assert provides.count("block-device") == 1
    assert made.image.elements[0].split("-")[0] == EXPECTED[name.removesuffix("-arm64")][1]


@pytest.mark.parametrize("name", NAMES)
def test_uefi_boots_where_nothing_else_can(name: str) -> None:
    elements = recipe(name).elements
    by_uefi = name.endswith("-arm64") or not name.startswith(("debian", "ubuntu"))
    assert ("block-device-efi" in elements, "block-device-mbr" in elements) == (by_uefi, not by_uefi)


@pytest.mark.parametrize("name", NAMES)
def test_packages_have_the_names_of_their_family(name: str) -> None:
    packages = recipe(name).packages
    if name.startswith(("debian", "ubuntu")):
        known = DEBIAN
    else:
        known = {line.split()[0] for line in COUNTERPARTS.read_text().splitlines()} | REDHAT_ONLY
    assert packages - known == set()
    assert "openssh-server" in packages and any(re.match("linux-image|kernel", each) for each in packages)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("debian-trixie", {"grub-pc"}),
        ("debian-trixie-arm64", {"efibootmgr", "grub-efi-arm64", "grub-efi-arm64-bin"}),
        ("ubuntu-noble", {"grub-pc"}),
        (
            "rocky-9",
            {"grub2-tools", "grub2", "efibootmgr", "grub2-efi-x64", "grub2-efi-x64-modules", "shim-x64"},
        ),
        (
            "fedora-45-arm64",
            {"grub2-tools", "grub2", "efibootmgr", "grub2-efi-aa64", "grub2-efi-aa64-modules", "shim-aa64"},
        ),
    ],
)
def test_the_boot_loader_is_that_of_disk_and_architecture(name: str, packages: set[str]) -> None:
    made = recipe(name)
    efi = ["grub-efi", f"grub-efi-{made.sourced['ARCH']}"]
    wanted = efi if "block-device-efi" in made.elements else ["grub-pc"]
    assert mapped(made, "bootloader", wanted) == packages


@pytest.mark.parametrize("name", NAMES)
def test_no_variable_is_set_that_nobody_reads(name: str) -> None:
    platform = shipped().platforms[name]
    mirrored = replace(platform, mirror="http://m.test", security_mirror="http://s.test", keep_mirrors=True)
    if platform.distribution == "debian":
        mirrored = replace(mirrored, updates_mirror="http://u.test")
    made = recipe(name)
    said = {**mirror_environment(mirrored), **made.image.environment}
    assert {"DIB_DISTRIBUTION_MIRROR", "DIB_RELEASE", KEEP} <= said.keys()
    assert [variable for variable in said if not _is_read(variable, made)] == []


def _is_read(variable: str, made: Recipe) -> bool:
    """Whether a file of dib itself, or of an element of the image that is no document, has the name."""
    files = [*(DIB_ELEMENTS.parent / "lib").iterdir()]
    files += [file for directory in made.elements.values() for file in directory.rglob("*")]
    names = re.compile(rf"\b{variable}\b".encode())
    return any(
        names.search(file.read_bytes())
        for file in files
        if file.is_file() and file.suffix not in (".rst", ".pyc")
    )


def test_unstable_is_asked_for_no_suites_it_does_not_have() -> None:
    suites = {
        name: re.findall(r"^\w+:deb \S+ (\S+)", recipe(name).sourced["DIB_APT_SOURCES_CONF"], re.MULTILINE)
        for name in ("debian-sid", "debian-trixie")
    }
    assert suites == {
        "debian-sid": ["unstable"],
        "debian-trixie": ["trixie", "trixie-updates", "trixie-security"],
    }
    platform = replace(
        shipped().platforms["debian-sid"], mirror="http://m.test", security_mirror="http://s.test"
    )
    assert mirror_environment(platform) == {"DIB_DISTRIBUTION_MIRROR": "http://m.test"}


def test_ubuntus_ports_are_taken_for_other_architectures() -> None:
    mirrors = {name: recipe(name).sourced["DIB_DISTRIBUTION_MIRROR"] for name in NAMES if "ubuntu" in name}
    assert {name for name, mirror in mirrors.items() if "ports" in mirror} == {
        name for name in mirrors if name.endswith("-arm64")
    }


# -- data, not branches ------------------------------------------------------------------------------


def test_a_distribution_is_five_to_ten_lines_and_one_for_each_release() -> None:
    """Counted as people do: comments aside, rows of the matrix apart."""
    entries = re.split(r"^  - ", PLATFORMS.read_text().partition("\ndiskimages:")[0], flags=re.MULTILINE)[1:]
    for entry in entries:
        lines = [line for line in entry.splitlines() if line.strip() and not line.strip().startswith("#")]
        rows = [line for line in lines if line.strip().startswith("- {")]
        assert 5 <= len(lines) - len(rows) <= 10, entry
    assert len(entries) == len({distribution for _, distribution, _ in EXPECTED.values()})


def test_a_release_more_is_a_line_more(tmp_path: Path) -> None:
    text = PLATFORMS.read_text()
    known = next(line for line in text.splitlines() if "release: trixie" in line)
    line = known.replace("trixie", "forky").replace("13", "14")
    (tmp_path / "platforms.yaml").write_text(text.replace(known, f"{known}\n{line}"))
    (tmp_path / "imagepool.yaml").write_text("include: [platforms.yaml]\nproviders: []\n")
    config = loaded(tmp_path / "imagepool.yaml")
    assert config.diskimages.keys() - shipped().diskimages.keys() == {"debian-forky", "debian-forky-arm64"}
    new, old = config.diskimages["debian-forky"], config.diskimages["debian-trixie"]
    assert (new.elements, new.environment["DIB_RELEASE"]) == (old.elements, "forky")
    assert new.metadata["os_version"] == "14"
    assert made_of(new).elements == recipe("debian-trixie").elements


def keys(changes: tuple[Change, ...]) -> set[str]:
    """What differs, at the innermost."""
    return {key for each in changes for key in (keys(each.inner) if each.inner else {each.key})}


@pytest.mark.parametrize(
    ("before", "after", "differing"),
    [
        (
            "debian-bookworm",
            "debian-trixie",
            {"name", "release", "codename", "version", "os_version", "DIB_RELEASE"},
        ),
        ("rocky-9", "rocky-10", {"name", "release", "version", "os_version", "DIB_RELEASE"}),
        ("rocky-9", "almalinux-9", {"name", "distribution", "base", "elements", "os_distro"}),
    ],
)
def test_two_platforms_differ_in_little(before: str, after: str, differing: set[str]) -> None:
    found = keys(differences.compare(shipped(), before, after).changes)
    assert found - {"mirror", "security-mirror", "updates-mirror"} == differing


def test_one_template_makes_all_images() -> None:
    entries = yaml.safe_load(PLATFORMS.read_text())["diskimages"]
    assert [entry.get("parent", "abstract") for entry in entries] == ["abstract", "ci"]
    assert {
        tuple(element for element in image.elements if element not in _differing(image.elements))
        for image in shipped().diskimages.values()
    } == {
        (
            *("vm", "openssh-server", "ci-base", "network-glean", "network-clean", "grow-root", "boot-fast"),
            *("kernel", "distribution-mirrors", "slim"),
        )
    }


def _differing(elements: tuple[str, ...]) -> set[str]:
    """What variables of the platform put into the list."""
    quick = {"base-cache", "package-cache", "apt-update-once", "initramfs-once", "fast-dpkg"}
    return (
        {each for each in elements if each.endswith(("-minimal", "-container"))}
        | quick
        | {
            "block-device-efi",
            "container-release",
        }
    )


@pytest.mark.parametrize("name", ["imagepool.yaml", "quickstart.yaml"])
def test_what_ships_has_no_problems(name: str) -> None:
    config = loaded(SHIPPED / name)
    assert config.diskimages["debian-bookworm"].elements == recipe("debian-bookworm").image.elements
    assert config.notes == ()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("debian", "ubuntu"))])
def test_base_cache_keeps_the_base_system_of_each_that_has_it(name: str) -> None:
    """It does only where it knows every hook that makes the base system."""
    functions = ELEMENTS / "base-cache/base-cache/functions"
    said = subprocess.run(
        ["bash", "-euc", f"source {functions}; echo $BASE_CACHE_KNOWN"],
        capture_output=True,
        text=True,
        check=True,
    )
    hooks = {
        hook.name for directory in recipe(name).elements.values() for hook in directory.glob("root.d/[0-9]*")
    }
    assert hooks - set(said.stdout.split()) == set()

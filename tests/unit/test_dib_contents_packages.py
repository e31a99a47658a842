"""The packages of an image, as its own databases tell them."""

from __future__ import annotations

from pathlib import Path

from builder.dib.contents import packages
from builder.dib.contents.packages import Distribution, Package
from tests.unit.contents_world import STATUS


def test_dpkg_lists_what_is_on_the_disk() -> None:
    assert list(packages.from_dpkg(STATUS)) == [
        Package(name="bash", version="5.2.15-2+b7", architecture="amd64", kind="deb"),
        Package(name="libc6", version="1:2.36-9", architecture="amd64", kind="deb", source="glibc"),
    ]


def test_images_without_dpkg_itself_say_no_status() -> None:
    found = list(packages.from_dpkg("Package: tzdata\nVersion: 2024a\nArchitecture: all\n"))
    assert [package.name for package in found] == ["tzdata"]


def test_rpm_lists_packages_and_no_keys() -> None:
    text = "bash\t5.2.26-3.fc40\tx86_64\tGPL-3.0-or-later\nvim\t2:9.1-1\tx86_64\tVim\ngpg-pubkey\ta1\t\tx\n"
    assert list(packages.from_rpm(text)) == [
        Package(
            name="bash",
            version="5.2.26-3.fc40",
            architecture="x86_64",
            kind="rpm",
            license="GPL-3.0-or-later",
        ),
        Package(name="vim", version="2:9.1-1", architecture="x86_64", kind="rpm", license="Vim"),
    ]


def test_an_image_without_a_database_has_no_packages(tmp_path: Path) -> None:
    assert packages.read(tmp_path) == ()
    assert packages.distribution(tmp_path) == Distribution()


def test_packages_are_in_order_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "dpkg").write_text(f"{STATUS}\nPackage: apt\nVersion: 2\nArchitecture: amd64\n\n{STATUS}")
    assert [package.name for package in packages.read(tmp_path)] == ["apt", "bash", "libc6"]


def test_the_digest_tells_versions_apart_and_not_the_order() -> None:
    one, two = packages.from_dpkg(STATUS)
    assert packages.digest([one, two]) == packages.digest([two, one])
    assert packages.digest([one, two]) != packages.digest([one])


def test_the_distribution_is_what_the_image_says(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(
        '# VERSION_ID=1\nPRETTY_NAME="It\'s \\"Debian\\""\nID=debian\nVERSION_ID="12"\nBROKEN="\n'
    )
    expected = Distribution(name="debian", version="12", title='It\'s "Debian"')
    assert packages.distribution(tmp_path) == expected

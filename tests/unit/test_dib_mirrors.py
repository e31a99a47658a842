"""Which mirrors a host's apt settings name."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config.model import Platform
from builder.dib.mirrors import HostMirrors, host_mirrors, mirror_environment

ONE_LINE = """\
# deb http://old.mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.test/debian/ bookworm main contrib
deb-src http://sources.mirror.test/debian bookworm main
deb http://mirror.test/debian bookworm-updates main
deb http://mirror.test/debian-security bookworm-security main # a comment
"""
DEB822 = """\
Types: deb deb-src
# where it was once
# URIs: http://snapshot.mirror.test/debian
URIs: http://mirror.test/debian/
Suites: bookworm
 bookworm-updates
Components: main

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
"""
EXPECTED = HostMirrors(main="http://mirror.test/debian", security="http://mirror.test/debian-security")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of a Debian 12 host without package sources."""
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    release = 'NAME="Debian GNU/Linux"\nVERSION_CODENAME=bookworm\nID=debian\n'
    (tmp_path / "etc/os-release").write_text(release)
    return tmp_path


def platform(**changes: str | None) -> Platform:
    settings = {"distribution": "debian", "release": "trixie", **changes}
    return Platform(name="p", **settings)  # type: ignore[arg-type]


def test_one_line_sources_are_read(host: Path) -> None:
    (host / "etc/apt/sources.list").write_text(ONE_LINE)
    assert host_mirrors("debian", host) == EXPECTED


def test_deb822_sources_are_read(host: Path) -> None:
    (host / "etc/apt/sources.list.d/debian.sources").write_text(DEB822)
    assert host_mirrors("debian", host) == EXPECTED


def test_a_disabled_source_does_not_count(host: Path) -> None:
    text = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")
    (host / "etc/apt/sources.list.d/debian.sources").write_text(text)
    assert host_mirrors("debian", host) == HostMirrors(main=None, security=EXPECTED.security)


def test_sources_of_third_parties_and_of_local_media_do_not_count(host: Path) -> None:
    (host / "etc/apt/sources.list").write_text(
        "deb cdrom:[Debian 12]/ bookworm main\n"
        "deb file:/srv/debian bookworm main\n"
        "deb https://apt.vendor.test bookworm main\n"
        "deb https://apt.vendor.test/debian cloud-sdk-bookworm main\n" + ONE_LINE
    )
    assert host_mirrors("debian", host) == EXPECTED


def test_files_apt_would_not_read_are_not_read(host: Path) -> None:
    (host / "etc/apt/sources.list.d/debian.sources.bak").write_text(DEB822)
    assert host_mirrors("debian", host) == HostMirrors()


def test_a_host_of_another_distribution_says_nothing(host: Path) -> None:
    (host / "etc/apt/sources.list").write_text(ONE_LINE)
    assert host_mirrors("ubuntu", host) == HostMirrors()


def test_a_host_without_apt_says_nothing(tmp_path: Path) -> None:
    assert host_mirrors("debian", tmp_path) == HostMirrors()


def test_host_means_the_hosts_mirrors_also_for_another_release(host: Path) -> None:
    (host / "etc/apt/sources.list").write_text(ONE_LINE)
    assert mirror_environment(platform(mirror="host", security_mirror="host"), host) == {
        "DIB_DISTRIBUTION_MIRROR": "http://mirror.test/debian",
        "DIB_DEBIAN_SECURITY_MIRROR": "http://mirror.test/debian-security",
    }


def test_nothing_configured_leaves_dibs_defaults(host: Path) -> None:
    (host / "etc/apt/sources.list").write_text(ONE_LINE)
    assert mirror_environment(platform(), host) == {}


def test_host_leaves_dibs_default_where_the_host_names_none(host: Path) -> None:
    assert mirror_environment(platform(mirror="host", security_mirror="host"), host) == {}


def test_a_url_is_taken_as_it_is(host: Path) -> None:
    chosen = platform(
        distribution="ubuntu", mirror="http://mine.test/ubuntu", security_mirror="http://s.test"
    )
    assert mirror_environment(chosen, host) == {"DIB_DISTRIBUTION_MIRROR": "http://mine.test/ubuntu"}

"""Which mirrors a host's package manager is set to, and what diskimage-builder is told of a platform's."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config.model import DiskImage, Platform
from builder.dib.hostmirrors import HostMirrors, host_mirrors
from builder.dib.mirrors import KEEP, mirror_environment, unused

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
EXPECTED = HostMirrors(
    main="http://mirror.test/debian",
    security="http://mirror.test/debian-security",
    updates="http://mirror.test/debian",
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of a Debian 12 host without package sources."""
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    release = 'NAME="Debian GNU/Linux"\nVERSION_CODENAME=bookworm\nID=debian\n'
    (tmp_path / "etc/os-release").write_text(release)
    return tmp_path


def platform(**changes: str | bool | None) -> Platform:
    settings: dict[str, object] = {"distribution": "debian", "release": "trixie", **changes}
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
    assert host_mirrors("debian", host) == HostMirrors(security=EXPECTED.security)


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


# -- security, updates, and what is kept -------------------------------------------------------------


def test_updates_from_elsewhere_need_the_whole_list_of_sources(host: Path) -> None:
    chosen = platform(
        mirror="http://a.test/debian",
        security_mirror="http://b.test/security",
        updates_mirror="http://c.test",
    )
    environment = mirror_environment(chosen, host, {"DIB_DEBIAN_COMPONENTS": "main,non-free-firmware"})
    assert environment["DIB_APT_SOURCES_CONF"].splitlines() == [
        "default:deb http://a.test/debian trixie main non-free-firmware",
        "updates:deb http://c.test trixie-updates main non-free-firmware",
        "security:deb http://b.test/security trixie-security main non-free-firmware",
    ]
    assert unused(image(chosen), host) == ()


def test_updates_from_the_main_mirror_are_what_dib_does_by_itself(host: Path) -> None:
    (host / "etc/apt/sources.list").write_text(ONE_LINE)
    chosen = platform(mirror="host", security_mirror="host", updates_mirror="host")
    assert mirror_environment(chosen, host).keys() == {
        "DIB_DISTRIBUTION_MIRROR",
        "DIB_DEBIAN_SECURITY_MIRROR",
    }


def test_unstable_has_neither_security_nor_updates(host: Path) -> None:
    urls = {"mirror": "http://a.test", "security_mirror": "http://b.test", "updates_mirror": "http://c.test"}
    chosen = platform(release="unstable", **urls)
    assert mirror_environment(chosen, host) == {"DIB_DISTRIBUTION_MIRROR": "http://a.test"}
    assert [text.partition(": ")[2] for text in unused(image(chosen), host)] == [
        "security-mirror is not used: unstable has one suite alone",
        "updates-mirror is not used: unstable has one suite alone",
    ]


@pytest.mark.parametrize("wish", ["host", None])
def test_what_nobody_asked_for_by_name_is_not_told(host: Path, wish: str | None) -> None:
    chosen = platform(distribution="rocky", release="9", mirror="http://a.test/rocky", security_mirror=wish)
    assert unused(image(chosen), host) == ()


@pytest.mark.parametrize("distribution", ["ubuntu", "rocky", "openeuler"])
def test_of_most_distributions_everything_comes_from_one_mirror(host: Path, distribution: str) -> None:
    chosen = platform(distribution=distribution, mirror="http://a.test", security_mirror="http://b.test")
    assert unused(image(chosen), host) == (
        f"platform p: security-mirror is not used: of {distribution}, everything comes from one mirror",
    )


def test_updates_alone_are_told_to_be_of_no_use(host: Path) -> None:
    (told,) = unused(image(platform(updates_mirror="http://c.test")), host)
    assert told == "platform p: updates-mirror is not used: it takes mirror and security-mirror beside it"
    assert mirror_environment(platform(updates_mirror="http://c.test"), host) == {}


def test_a_mirror_that_no_element_of_the_image_reads_is_told_of(host: Path) -> None:
    chosen = platform(distribution="almalinux", release="9", mirror="http://a.test/almalinux")
    (told,) = unused(image(chosen), host)
    assert "only the element distribution-mirrors reads it" in told
    assert unused(image(chosen, "almalinux-container", "distribution-mirrors"), host) == ()


def test_mirrors_are_kept_when_asked_for(host: Path) -> None:
    assert mirror_environment(platform(mirror="http://a.test", keep_mirrors=True), host)[KEEP] == "1"
    assert KEEP not in mirror_environment(platform(mirror="http://a.test"), host)
    assert mirror_environment(platform(keep_mirrors=True), host) == {}  # there are none


def test_an_ubuntu_host_has_nothing_for_the_architectures_of_ports(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "etc/os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    (host / "etc/apt/sources.list").write_text("deb http://mirror.test/ubuntu noble main\n")
    for machine, architecture, found in (
        ("x86_64", "amd64", True),
        ("x86_64", "arm64", False),
        ("aarch64", "amd64", False),
        ("aarch64", "arm64", True),
    ):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        chosen = platform(distribution="ubuntu", mirror="host", architecture=architecture)
        assert bool(mirror_environment(chosen, host)) is found, (machine, architecture)


# -- dnf and yum -------------------------------------------------------------------------------------


def image(chosen: Platform, *elements: str) -> DiskImage:
    return DiskImage(name="i", platform=chosen, elements=elements)


@pytest.mark.parametrize(
    ("identity", "url", "root"),
    [
        (
            "rocky",
            "http://m.test/pub/$contentdir/$releasever/BaseOS/$basearch/os/",
            "http://m.test/pub/rocky",
        ),
        ("rocky", "http://m.test/rocky/9.6/BaseOS/x86_64/os", "http://m.test/rocky"),
        ("almalinux", "https://m.test/alma/$releasever/BaseOS/$basearch/os/", "https://m.test/alma"),
        ("centos", "http://m.test/stream/$stream/BaseOS/$basearch/os/", "http://m.test/stream"),
        ("centos", "http://m.test/stream/9-stream/BaseOS/$basearch/os/", "http://m.test/stream"),
        (
            "fedora",
            "http://m.test/linux/releases/$releasever/Everything/$basearch/os/",
            "http://m.test/linux",
        ),
        ("openEuler", "http://m.test/openEuler-24.03-LTS-SP3/OS/$basearch/", "http://m.test"),
        # Of others, and what can't be used from elsewhere.
        ("rocky", "http://m.test/epel/$releasever/Everything/$basearch/", None),
        ("rocky", "file:///srv/rocky/9/BaseOS/x86_64/os/", None),
        ("rocky", "http://m.test/$unknown/$releasever/BaseOS/$basearch/os/", None),
        ("rocky", "", None),
    ],
)
def test_a_host_of_the_red_hat_family_names_where_its_releases_are(
    tmp_path: Path, identity: str, url: str, root: str | None
) -> None:
    for directory in ("etc/yum.repos.d", "etc/dnf/vars"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text(f'ID="{identity}"\nVERSION_ID="9.6"\n')
    (tmp_path / "etc/dnf/vars/contentdir").write_text("rocky\n")
    (tmp_path / "etc/yum.repos.d/a.repo").write_text("this is no such file\n")
    (tmp_path / "etc/yum.repos.d/b.repo").write_text(
        "[off]\nenabled=0\nbaseurl=http://off.test/rocky/9/BaseOS/x86_64/os/\n"
        f"[baseos]\nname=BaseOS\nmirrorlist=http://list.test/%\nbaseurl={url}\n"
    )
    assert host_mirrors(identity.lower(), tmp_path) == HostMirrors(main=root)

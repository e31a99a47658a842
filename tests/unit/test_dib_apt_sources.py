"""Which apt sources the build of a Debian or Ubuntu image uses, by diskimage-builder's own elements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from diskimage_builder import paths

from builder.dib.contents.apt_sources import FAMILIES, Source, sources_of
from builder.dib.contents.deadline import CannotTellError, Deadline

MIRROR = {"DIB_DISTRIBUTION_MIRROR": "http://mirror.test/x", "PATH": "/usr/bin:/bin", "ARCH": "amd64"}
DEBIAN = {
    **MIRROR,
    "DIB_RELEASE": "bookworm",
    "DIB_DEBIAN_SECURITY_MIRROR": "http://mirror.test/security/",
}


def sources(
    family: str, environment: Mapping[str, str], keyrings: Path = Path("/nonexistent")
) -> tuple[Source, ...]:
    own = Path(paths.get_path("elements"))
    elements = {name: own / name for name in FAMILIES[family]}
    return sources_of(family, elements, environment, Deadline(seconds=30), keyrings=keyrings)


def lines(found: tuple[Source, ...]) -> list[str]:
    return [" ".join((source.base, *source.components)) for source in found]


@pytest.fixture
def keyrings(tmp_path: Path) -> Path:
    (tmp_path / "debian-archive-keyring.gpg").touch()
    return tmp_path


def test_debian_has_updates_and_security() -> None:
    assert lines(sources("debian-minimal", DEBIAN)) == [
        "http://mirror.test/x/dists/bookworm main",
        "http://mirror.test/x/dists/bookworm-updates main",
        "http://mirror.test/security/dists/bookworm-security main",
    ]


def test_the_mirror_of_debian_alone_comes_first_and_components_are_many() -> None:
    own = {
        "DIB_DEBIAN_DISTRIBUTION_MIRROR": "http://mirror.test/own",
        "DIB_DEBIAN_COMPONENTS": "main,contrib",
    }
    assert lines(sources("debian-minimal", {**DEBIAN, **own}))[0] == (
        "http://mirror.test/own/dists/bookworm main contrib"
    )


@pytest.mark.parametrize("release", ["testing", "unstable"])
def test_what_is_not_released_has_one_suite(release: str) -> None:
    found = sources("debian-minimal", {**DEBIAN, "DIB_RELEASE": release})
    assert lines(found) == [f"http://mirror.test/x/dists/{release} main"]


def test_the_defaults_are_those_of_the_element() -> None:
    found = sources("debian-minimal", {"PATH": "/usr/bin:/bin"})
    assert [source.suite for source in found] == ["stable", "stable-updates", "stable-security"]
    assert all(source.url.startswith("http://") for source in found)


def test_ubuntu_has_its_pockets_on_one_mirror() -> None:
    environment = {**MIRROR, "DIB_RELEASE": "noble", "DIB_UBUNTU_MIRROR_DISTS": "updates,security"}
    assert lines(sources("ubuntu-minimal", environment)) == [
        "http://mirror.test/x/dists/noble main universe",
        "http://mirror.test/x/dists/noble-updates main universe",
        "http://mirror.test/x/dists/noble-security main universe",
    ]


def test_sources_of_the_users_own(keyrings: Path, tmp_path: Path) -> None:
    key = tmp_path / "own.gpg"
    key.touch()
    text = (
        "a:deb [arch=amd64 trusted=yes] http://mirror.test/a bookworm main # ours\n"
        f"b:deb [signed-by={key}] http://mirror.test/b ./\n"
        "c:deb-src http://mirror.test/c bookworm main\n"
        "d:deb http://mirror.test/d sub/dir/\n\n"
    )
    debian = keyrings / "debian-archive-keyring.gpg"
    assert sources("debian-minimal", {**DEBIAN, "DIB_APT_SOURCES_CONF": text}, keyrings) == (
        Source(url="http://mirror.test/a", suite="bookworm", components=("main",)),
        Source(url="http://mirror.test/b", suite="./", keyrings=(key,)),
        Source(url="http://mirror.test/d", suite="sub/dir/", keyrings=(debian,)),
    )


def test_a_flat_repository_has_its_release_file_beside_the_packages() -> None:
    assert Source(url="http://mirror.test/b", suite="./").base == "http://mirror.test/b"
    assert Source(url="http://mirror.test/b", suite="sub/dir/").base == "http://mirror.test/b/sub/dir"


def test_keys_that_the_image_gets_count_as_well(keyrings: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "ours.gpg").touch()
    found = sources("debian-minimal", {**DEBIAN, "DIB_ADD_APT_KEYS": str(more)}, keyrings)
    assert found[0].keyrings == (keyrings / "debian-archive-keyring.gpg", more / "ours.gpg")
    other = sources("debian-minimal", {**DEBIAN, "DIB_APT_KEYRING": str(more / "ours.gpg")}, keyrings)
    assert other[0].keyrings == (more / "ours.gpg",)


@pytest.mark.parametrize(
    "line", ["a:deb http://us:topsecret@mirror.test/a", "a:deb http://mirror.test/ bookworm"]
)
def test_what_apt_would_not_read_is_not_read(line: str) -> None:
    with pytest.raises(CannotTellError, match=r"no line of sources\.list") as caught:
        sources("debian-minimal", {**DEBIAN, "DIB_APT_SOURCES_CONF": line})
    assert "topsecret" not in str(caught.value)


def test_no_source_at_all_is_not_nothing_to_compare() -> None:
    with pytest.raises(CannotTellError, match="names no package source"):
        sources("debian-minimal", {**DEBIAN, "DIB_APT_SOURCES_CONF": "\n"})


def test_a_script_that_fails_is_told(tmp_path: Path) -> None:
    script = tmp_path / "environment.d" / "10-x"
    script.parent.mkdir()
    script.write_text("echo topsecret >&2; exit 7\n")
    with pytest.raises(CannotTellError, match="exit code 7") as caught:
        sources_of("debian-minimal", {"debian-minimal": tmp_path}, DEBIAN, Deadline(seconds=30))
    assert "topsecret" not in str(caught.value)

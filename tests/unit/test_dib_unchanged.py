"""Whether a new build would only repeat the last one: against a mirror and repositories of the test."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from diskimage_builder import paths  # type: ignore[import-untyped]

from builder.config.loader import load
from builder.config.model import FormatOptions
from builder.dib import tools
from builder.dib.command import shipped_elements
from builder.dib.contents import download, inputs, unchanged, unforeseen
from builder.dib.contents.download import Downloader
from builder.dib.contents.unchanged import Comparison
from builder.model import Failure, FailureClass, ImageFormat
from tests.unit.mirror_world import (
    INSTALLED,
    KEY,
    MAIN,
    SECURITY,
    Handler,
    Mirror,
    World,
    running_mirror,
    signing_key,
    world,
)

SAME = Comparison(same=True)
DIB = Path(paths.get_path("elements"))
SHIPPED = Path(__file__).parents[2] / "config" / "imagepool.yaml"


def changed(*lines: str) -> Comparison:
    return Comparison(same=False, changes=lines)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as running:
        yield running


@pytest.fixture
def built(tmp_path: Path, mirror: Mirror) -> World:
    """An image whose last build is what a new one would be."""
    return world(tmp_path, mirror)


# -- packages -----------------------------------------------------------------------------------------


def test_nothing_changed(built: World) -> None:
    assert built.compare() == SAME


def test_a_package_became_newer(built: World) -> None:
    built.mirror.suite(MAIN, {**INSTALLED, "curl": "7.88.1-11"})
    assert built.compare() == changed("package curl 7.88.1-10 -> 7.88.1-11")


def test_a_security_update_is_out(built: World) -> None:
    built.mirror.suite(SECURITY, {"curl": "7.88.1-10+deb12u5", "base-files": "12.4"})
    assert built.compare() == changed("package curl 7.88.1-10 -> 7.88.1-10+deb12u5")


def test_a_package_vanished(built: World) -> None:
    rest = {name: version for name, version in INSTALLED.items() if name != "dbus"}
    built.mirror.suite(MAIN, rest)
    assert built.compare() == changed("package dbus 1.14.10-1~deb12u1 -> gone from the mirrors")


def test_a_package_was_taken_back(built: World) -> None:
    built.mirror.suite(MAIN, {**INSTALLED, "dbus": "1.14.8-2"})
    assert built.compare() == changed("package dbus 1.14.10-1~deb12u1 -> 1.14.8-2")


def test_new_packages_that_the_image_has_not_are_no_change(built: World) -> None:
    built.mirror.suite(MAIN, {**INSTALLED, "zsh": "5.9"})
    assert built.compare() == SAME


VERSIONS = [
    ("1:2.66-4", "9:0.1", "9:0.1"),
    ("1:2.66-4", "3.0", "1:2.66-4"),
    ("1:2.66-4", "1:2.66-4~bpo1", "1:2.66-4"),
    ("1:2.66-4", "1:2.66-4+b1", "1:2.66-4+b1"),
    ("1:2.66-4", "1:2.66-10", "1:2.66-10"),
    ("1:2.66-4", "1:2.66~rc1-9", "1:2.66-4"),
]


@pytest.mark.parametrize(("main", "updates", "highest"), VERSIONS)
def test_the_highest_version_of_all_suites_counts_as_dpkg_orders_them(
    built: World, main: str, updates: str, highest: str
) -> None:
    built.mirror.suite(MAIN, {**INSTALLED, "libcap2": main})
    built.mirror.suite(f"{MAIN}-updates", {"libcap2": updates})
    expected = SAME if highest == main else changed(f"package libcap2 {main} -> {highest}")
    assert built.compare() == expected
    higher = subprocess.run(["dpkg", "--compare-versions", updates, "gt", main], check=False).returncode == 0
    assert higher is (highest == updates)


def test_a_suite_that_is_not_automatic_offers_only_what_no_other_has(built: World) -> None:
    backports = f"deb {built.mirror.url}/debian bookworm-backports main"
    main = f"default:deb {built.mirror.url}/debian bookworm main"
    built.set(DIB_APT_SOURCES_CONF=f"{main}\nbackports:{backports}")
    built.build()
    fields = {"NotAutomatic": "yes", "ButAutomaticUpgrades": "yes"}
    built.mirror.suite(f"{MAIN}-backports", {"curl": "8.0"}, **fields)
    assert built.compare() == SAME
    built.mirror.suite(f"{MAIN}-backports", {"curl": "8.0"})
    assert built.compare() == changed("package curl 7.88.1-10 -> 8.0")


def test_a_version_that_nobody_can_order_is_not_judged(built: World) -> None:
    built.mirror.suite(SECURITY, {"curl": "one-point-two"})
    assert built.compare() == Comparison(
        same=False, unknown="7.88.1-10 and one-point-two of package curl can't be compared"
    )


def test_packages_of_two_architectures_are_not_judged(built: World) -> None:
    file = built.records / "packages.json"
    record = json.loads(file.read_text())
    record["packages"][1]["architecture"] = "i386"
    file.write_text(json.dumps(record))
    assert built.compare().unknown == "packages of architectures amd64, i386 can't be compared"


def test_a_long_list_of_changes_is_cut(built: World) -> None:
    many = {f"lib{number:02}": "1" for number in range(30)}
    built.build(installed=many)
    built.mirror.suite(MAIN, dict.fromkeys(many, "2"))
    changes = built.compare().changes
    assert changes[:2] == ("package lib00 1 -> 2", "package lib01 1 -> 2")
    assert changes[20:] == ("and 10 more",)


# -- mirrors in trouble -----------------------------------------------------------------------------------


def test_an_index_that_is_kept_is_not_asked_for_again(built: World) -> None:
    assert built.compare() == SAME
    built.mirror.files = {path: file for path, file in built.mirror.files.items() if "InRelease" in path}
    assert built.compare() == SAME


def test_several_images_are_compared_at_once(built: World) -> None:
    # They share the mirror's indexes, of which there are none yet.
    with ThreadPoolExecutor() as pool:
        assert [each.result() for each in [pool.submit(built.compare) for _ in range(4)]] == [SAME] * 4


def test_an_index_that_was_kept_in_part_is_fetched_again(built: World) -> None:
    assert built.compare() == SAME
    for kept in built.indexes.glob("index-*"):
        kept.write_text(kept.read_text()[:-8])
    built.mirror.suite(SECURITY, {"curl": "7.88.1-12"})
    assert built.compare() == changed("package curl 7.88.1-10 -> 7.88.1-12")


def spoilt(mirror: Mirror) -> None:
    path = mirror.index_path(MAIN)
    content = mirror.files[path]
    assert isinstance(content, bytes)
    mirror.files[path] = content[:-1] + b"?"


def being_updated(mirror: Mirror) -> None:
    before = mirror.files[f"{MAIN}/InRelease"]
    mirror.suite(MAIN, {**INSTALLED, "curl": "7.88.1-11"})
    mirror.files[f"{MAIN}/InRelease"] = before


def without_a_suite(mirror: Mirror) -> None:
    del mirror.files[f"{MAIN}-updates/InRelease"]


def without_an_index(mirror: Mirror) -> None:
    del mirror.files[mirror.index_path(MAIN)]


def broken(mirror: Mirror) -> None:
    mirror.files[f"{MAIN}/InRelease"] = lambda handler: handler.answer(503, b"")


def going_round(mirror: Mirror) -> None:
    path = f"{MAIN}/InRelease"
    mirror.files[path] = lambda handler: handler.answer(302, b"", Location=f"{mirror.url}{path}")


def leading_to_a_file(mirror: Mirror) -> None:
    mirror.files[f"{MAIN}/InRelease"] = lambda handler: handler.answer(
        302, b"", Location="file:///etc/hostname"
    )


def breaking_off(mirror: Mirror) -> None:
    def half(handler: Handler) -> None:
        handler.answer(200, b"Origin: Test", Content_Length="4000")

    mirror.files[f"{MAIN}/InRelease"] = half


def sending_a_bomb(mirror: Mirror) -> None:
    zeros = lzma.compress(bytes(40 << 20))
    mirror.suite(MAIN, INSTALLED, plain_size=4000, pack=lambda text: zeros)


def wanting_much_memory(mirror: Mirror) -> None:
    def pack(text: bytes) -> bytes:
        # The block header of an .xz file: its size, flags, filter, and the code of 3 GiB of dictionary.
        packed = bytearray(lzma.compress(text))
        end = 12 + packed[12] * 4
        packed[16] = 39
        packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
        return bytes(packed)

    mirror.suite(MAIN, INSTALLED, pack=pack)


def sending_without_end(mirror: Mirror) -> None:
    path = mirror.index_path(MAIN)
    content = mirror.files[path]
    assert isinstance(content, bytes)
    mirror.files[path] = content + bytes(1 << 20)


def sending_nonsense(mirror: Mirror) -> None:
    mirror.suite(MAIN, INSTALLED, pack=lambda text: text)


def sending_half_of_an_archive(mirror: Mirror) -> None:
    mirror.suite(MAIN, INSTALLED, pack=lambda text: lzma.compress(text)[:-40])


def sending_a_page(mirror: Mirror) -> None:
    mirror.files[f"{MAIN}/InRelease"] = b"<html>Please log in</html>"


def out_of_date(mirror: Mirror) -> None:
    mirror.suite(MAIN, INSTALLED, Valid_Until="Thu, 05 Mar 2020 00:12:41 UTC")


def with_no_time(mirror: Mirror) -> None:
    mirror.suite(MAIN, INSTALLED, Valid_Until="soon")


def without_the_component(mirror: Mirror) -> None:
    mirror.suite(MAIN, INSTALLED, component="contrib")


TROUBLES: list[tuple[Callable[[Mirror], None], str]] = [
    (spoilt, "is not the file that its Release file names"),
    (being_updated, "is not the file that its Release file names"),
    (without_a_suite, "/debian/dists/bookworm-updates/Release: there is no such file"),
    (without_an_index, "there is no such file"),
    (broken, "the mirror answers 503"),
    (going_round, "more than 5 redirects"),
    (leading_to_a_file, "not a usable address or answer"),
    (breaking_off, "broke off"),
    (sending_a_bomb, "unpacks to more than 4000 bytes"),
    (wanting_much_memory, "Packages.xz can't be read: Memory usage limit exceeded"),
    (sending_without_end, "more than"),
    (sending_nonsense, "Packages.xz can't be read"),
    (sending_half_of_an_archive, "Packages.xz can't be read: it ends too early"),
    (sending_a_page, "names no file by its SHA256"),
    (out_of_date, "was valid until Thu, 05 Mar 2020 00:12:41 UTC"),
    (with_no_time, "'soon' is no time"),
    (without_the_component, "has no index main/binary-amd64/Packages"),
]


@pytest.mark.parametrize(("trouble", "told"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
def test_a_mirror_in_trouble_is_no_reason_to_skip(
    built: World, trouble: Callable[[Mirror], None], told: str
) -> None:
    trouble(built.mirror)
    found = built.compare()
    assert (found.same, found.changes) == (False, ())
    assert told in found.unknown
    assert "127.0.0.1" in found.unknown
    assert not [file for file in built.indexes.glob("*") if not file.name.startswith(("release-", "index-"))]


def test_a_mirror_that_nobody_runs_is_not_judged(built: World) -> None:
    built.set(DIB_DISTRIBUTION_MIRROR="http://127.0.0.1:9/debian")
    assert "can't be reached" in built.compare().unknown


@pytest.mark.parametrize(
    "url", ["http://[bad/", "http://us:topsecret@[bad/", "http://us:topsecret@a\u2100.test/"]
)
def test_a_mirror_whose_url_is_none_is_not_judged(built: World, url: str) -> None:
    built.set(DIB_DISTRIBUTION_MIRROR=url)
    built.build()
    found = built.compare()
    assert not found.same
    assert "is no URL" in found.unknown
    assert "topsecret" not in found.unknown


@pytest.mark.parametrize("proxy", ["", "http://us:topsecret@[bad", "http://us:topsecret@a\u2100.test"])
def test_a_proxy_or_a_redirect_that_is_none_is_not_judged(built: World, proxy: str) -> None:
    built.mirror.files[f"{MAIN}/InRelease"] = lambda handler: handler.answer(
        302, b"", Location="http://[bad/"
    )
    built.proxies = {"http_proxy": proxy}
    found = built.compare()
    assert not found.same
    assert "not a usable address or answer" in found.unknown
    assert "topsecret" not in found.unknown


def test_a_mirror_that_hangs_is_waited_for_in_bounds(built: World) -> None:
    built.mirror.files[f"{MAIN}/InRelease"] = built.mirror.hang
    built.seconds = 2
    # It hangs for as long as the test goes on: to come back at all is not to wait for it.
    found = built.compare()
    assert (found.same, found.changes) == (False, ())
    assert "no answer" in found.unknown


def test_who_stops_the_daemon_need_not_wait_for_a_mirror(
    built: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up, hanging = threading.Event(), f"{MAIN}/InRelease"
    built.mirror.files[hanging] = built.mirror.hang
    monkeypatch.setattr(download, "_PATIENCE", 100.0)
    read = download.Downloader.read

    def patiently(downloader: Downloader, url: str, *, limit: int) -> bytes:
        try:
            return read(downloader, url, limit=limit)
        finally:
            if url.endswith(hanging):
                given_up.set()

    monkeypatch.setattr(download.Downloader, "read", patiently)
    built.seconds = 100
    stop = Failure(failure_class=FailureClass.INTERRUPTED, message="the daemon stops")

    def asked() -> bool:
        return any(path == hanging for _, path in built.mirror.asked)

    found = unchanged.compare(built.job(), lambda: stop if asked() else None)
    assert found == Comparison(same=False, unknown="stopped: the daemon stops")
    assert not given_up.is_set()


def test_a_redirect_is_followed(built: World) -> None:
    mirror = built.mirror
    mirror.files["/elsewhere"] = mirror.files[f"{MAIN}/InRelease"]
    mirror.files[f"{MAIN}/InRelease"] = lambda handler: handler.answer(301, b"", Location="/elsewhere")
    assert built.compare() == SAME


def test_a_mirror_that_is_valid_for_long_is_believed(built: World) -> None:
    built.mirror.suite(MAIN, INSTALLED, Valid_Until="Thu, 05 Mar 2120 00:12:41 UTC")
    assert built.compare() == SAME


def test_an_old_mirror_has_a_release_file_only(built: World) -> None:
    files = built.mirror.files
    files[f"{MAIN}/Release"] = files.pop(f"{MAIN}/InRelease")
    assert built.compare() == SAME


def test_a_mirror_may_be_a_directory(built: World, tmp_path: Path) -> None:
    for path, content in built.mirror.files.items():
        file = tmp_path / "mirror" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        file.write_bytes(content)
    built.set(DIB_DISTRIBUTION_MIRROR=f"file://{tmp_path}/mirror/debian")
    built.build()
    assert built.compare() == SAME
    assert not [path for _, path in built.mirror.asked if path.startswith("/debian/")]


def test_a_proxy_of_the_builds_is_asked_but_for_what_is_near(built: World) -> None:
    built.set(DIB_DISTRIBUTION_MIRROR="http://mirror.test/debian")
    built.build()
    built.proxies = {"http_proxy": built.mirror.url, "no_proxy": "127.0.0.1"}
    assert built.compare() == SAME
    main, security = f"{MAIN}/InRelease", f"{SECURITY}/InRelease"
    hosts = {path: host for host, path in built.mirror.asked}
    assert (hosts[main], hosts[security]) == ("mirror.test", built.mirror.url.removeprefix("http://"))


def test_credentials_of_a_mirror_are_not_told(built: World, caplog: pytest.LogCaptureFixture) -> None:
    url = built.mirror.url.replace("http://", "http://us:topsecret@")
    built.set(DIB_DISTRIBUTION_MIRROR=f"{url}/none")
    caplog.set_level("DEBUG")
    assert "there is no such file" in built.compare().unknown
    assert "topsecret" not in built.compare().unknown + caplog.text


# -- signatures -----------------------------------------------------------------------------------------


@pytest.fixture
def signed(built: World, tmp_path: Path) -> Iterator[World]:
    """The same with a mirror that signs, and the key at hand."""
    with signing_key(tmp_path / "gnupg") as sign:
        built.mirror.sign = sign
        built.keyrings = tmp_path / "keyrings"
        built.keyrings.mkdir()
        (tmp_path / "gnupg/keyring.gpg").rename(built.keyrings / "debian-archive-keyring.gpg")
        built.mirror.suite(MAIN, INSTALLED)
        built.mirror.suite(f"{MAIN}-updates", {"tzdata": "1"})
        built.mirror.suite(SECURITY, {"curl": "7.88.1-9"})
        yield built


def test_a_good_signature_is_believed(signed: World) -> None:
    assert signed.compare() == SAME


def test_a_signed_change_is_seen_without_the_key_too(signed: World) -> None:
    signed.mirror.suite(MAIN, {**INSTALLED, "curl": "7.88.1-11"})
    signed.keyrings = Path("/nonexistent")
    assert signed.compare() == changed("package curl 7.88.1-10 -> 7.88.1-11")


def test_what_was_changed_after_it_was_signed_is_not_believed(signed: World) -> None:
    content = signed.mirror.files[f"{MAIN}/InRelease"]
    assert isinstance(content, bytes)
    signed.mirror.files[f"{MAIN}/InRelease"] = content.replace(b"Origin: Test", b"Origin: Toast")
    found = signed.compare()
    assert not found.same
    assert found.unknown.endswith("/debian/dists/bookworm is wrong")


def test_what_somebody_else_signed_is_not_believed(signed: World, tmp_path: Path) -> None:
    with signing_key(tmp_path / "another") as sign:
        signed.mirror.sign = sign
        signed.mirror.suite(MAIN, INSTALLED)
        assert "has no signature by a key of" in signed.compare().unknown


def test_what_nobody_signed_is_not_believed_where_signatures_are_asked_for(signed: World) -> None:
    signed.mirror.sign = lambda text: text
    signed.mirror.suite(MAIN, INSTALLED)
    assert "that is not signed" in signed.compare().unknown
    # ... as in the build itself, unless it is told not to ask.
    signed.set(DIB_DEBOOTSTRAP_EXTRA_ARGS="--no-check-gpg")
    signed.build()
    assert signed.compare() == SAME


# -- the recipe -------------------------------------------------------------------------------------------


def test_an_element_changed(built: World) -> None:
    built.element("mine", {"install.d/50-mine": "install-packages curl\n"})
    built.build()
    assert built.compare() == SAME
    built.element("mine", {"install.d/50-mine": "install-packages wget\n"})
    assert built.compare() == changed("element mine")


def test_all_that_changed_is_told(built: World) -> None:
    built.set(DIB_GRUB_TIMEOUT="0", DIB_SIZE="4")
    built.build()
    built.set(DIB_GRUB_TIMEOUT="5", DIB_MORE="1")
    built.image = replace(
        built.image,
        elements=(*built.image.elements, "growroot"),
        format_options={ImageFormat.QCOW2: FormatOptions(compression="none")},
    )
    built.mirror.suite(MAIN, {**INSTALLED, "curl": "7.88.1-11"})
    built.tools = {**built.tools, "qemu-img": "0.1"}
    found = built.compare()
    now = inputs.collect(built.image, built.render(), key=KEY)
    assert found == changed(
        "the command: with growroot",
        "element growroot new",
        "element install-static new",
        "environment variable DIB_GRUB_TIMEOUT",
        "environment variable DIB_MORE new",
        f"formats qcow2 -> {now.digests['formats']}",
        f"tool qemu-img 0.1 -> {tools.versions()['qemu-img']}",
        "package curl 7.88.1-10 -> 7.88.1-11",
    )


def test_a_secret_that_changed_is_told_by_its_name(built: World) -> None:
    built.image = replace(built.image, secret_names=frozenset({"DIB_TOKEN"}))
    built.set(DIB_TOKEN="hunter2")
    built.build()
    assert built.compare() == SAME
    built.set(DIB_TOKEN="hunter3")
    assert built.compare() == changed("environment variable DIB_TOKEN")


def test_the_kernel_of_the_machine_makes_no_image(built: World) -> None:
    built.tools = {**built.tools, "kernel": "0.1"}
    assert built.compare() == SAME


# -- what can't be judged ------------------------------------------------------------------------------------


def test_a_build_of_another_machine_is_not_judged(built: World) -> None:
    found = unchanged.compare(replace(built.job(), records=None), lambda: None)
    assert found == Comparison(same=False, unknown="its package list is on builder builder7")


@pytest.mark.parametrize("name", ["packages.json", "inputs.json"])
@pytest.mark.parametrize("content", [None, "{", '{"packages": []}'])
def test_a_build_without_its_lists_is_not_judged(built: World, name: str, content: str | None) -> None:
    file = built.records / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert "there is no list of what went into it" in built.compare().unknown


FETCHING = {
    "install.d/50-x": "set -eu\ncurl -fO https://files.test/x\n",
    "post-install.d/50-x": "if true; then sudo wget https://files.test/x; fi",
    "pre-install.d/50-x": "/opt/venv/bin/pip install thing",
    "bin/fetch": "import urllib.request\nurllib.request.urlopen('https://files.test')",
    "extra-data.d/50-x": "git clone https://git.test/x",
    "extra-data.d/60-x": "python3 -m pip download thing",
}


@pytest.mark.parametrize("path", FETCHING)
def test_an_element_that_downloads_by_itself_is_not_judged(built: World, path: str) -> None:
    built.element("mine", {path: FETCHING[path]})
    built.build()
    found = built.compare()
    assert found.unknown.startswith(f"element mine: {path} downloads by itself (")
    assert not found.same


@pytest.mark.parametrize(
    "text",
    [
        "# curl https://files.test/x\n",
        "install-packages curl \\\n    wget\n",
        "echo no curl here\n",
        "curl -fO https://files.test/x-1.2  # imagepool: fixed\n",
    ],
)
def test_an_element_that_does_not_is(built: World, text: str) -> None:
    built.element("mine", {"install.d/50-x": text, "README.rst": "curl it\n"})
    built.build()
    assert built.compare() == SAME


def test_an_element_that_says_what_it_downloads_is_not_judged(built: World) -> None:
    built.element("mine", {"extra-data.d/50-x": "# imagepool: downloads the weather.\n./hidden\n"})
    built.build()
    assert built.compare().unknown == "element mine: extra-data.d/50-x downloads the weather"


def test_of_shipped_elements_only_what_follows_repositories_is_not_judged() -> None:
    """The others bring packages, or what a version or a checksum says."""
    found = {
        directory.name: unforeseen.reasons(
            {"debian-minimal": DIB / "debian-minimal", directory.name: directory}, dib=DIB
        )
        for directory in shipped_elements().iterdir()
    }
    assert {"cache-files", "network-glean", "ci-base", "base-cache"} < found.keys()
    told = {name: reasons for name, reasons in found.items() if reasons}
    assert told.keys() == {"cache-git", "cache-bindep"}
    assert "downloads the repositories of its list" in told["cache-git"][0]


def test_shipped_images_of_debian_are_judged_as_long_as_they_have_no_cache_of_repositories() -> None:
    config = load(SHIPPED, image_format_of=lambda _cloud, _region: ImageFormat.QCOW2, environ={})
    image = config.diskimages["debian-bookworm"]
    search = {"ELEMENTS_PATH": f"{shipped_elements()}:{DIB}", "PATH": os.environ["PATH"]}

    def reasons(*more: str) -> tuple[str, ...]:
        command = ("disk-image-create", *image.elements, *more)
        return unforeseen.reasons(inputs.resolve(command, {**search, **image.environment}), dib=DIB)

    assert {"network-glean", "base-cache"} < {*image.elements}
    assert reasons() == ()
    assert reasons("cache-files") == ()
    [reason] = reasons("cache-git")
    assert reason.startswith("element cache-git: extra-data.d/50-cache-git downloads the repositories")


def test_an_element_that_sets_another_mirror_is_not_judged(built: World) -> None:
    built.element("mine", {"environment.d/50-x": 'export DIB_DISTRIBUTION_MIRROR="http://mirror.test"\n'})
    built.build()
    assert built.compare().unknown == "element mine: environment.d/50-x sets DIB_DISTRIBUTION_MIRROR"


def test_an_element_that_adds_package_sources_is_not_judged(built: World) -> None:
    built.element("mine", {"pre-install.d/50-x": "echo deb x y z >/etc/apt/sources.list.d/x.list\n"})
    built.build()
    assert built.compare().unknown == ("element mine: pre-install.d/50-x changes which packages apt chooses")


def test_other_families_are_not_judged(built: World) -> None:
    built.image = replace(built.image, elements=("fedora-container", "vm"))
    built.build()
    assert "package versions can't be compared with element containerfile" in built.compare().unknown


def test_another_program_is_not_judged(built: World) -> None:
    built.image = replace(built.image, dib_cmd=("/opt/make-image",))
    built.build()
    assert built.compare().unknown == "what make-image does can't be known before"


# -- repositories -------------------------------------------------------------------------------------------


class Repository:
    """A git repository of the test's."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.git("init", "--quiet", "--initial-branch", "master")
        self.commit()

    @property
    def url(self) -> str:
        return f"file://{self.place}"

    def git(self, *arguments: str) -> str:
        name = ["-c", "user.name=test", "-c", "user.email=test@git.test", "-c", "commit.gpgsign=false"]
        argv = ["git", "-C", str(self.place), *name, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        self.git("commit", "--quiet", "--allow-empty", "--message", "more")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "thing.git")


def cloning(built: World, line: str, **heads: str) -> None:
    """Let the image clone what a source-repository file says, and have it built with those heads."""
    built.element(
        "thing", {"source-repository-thing": f"# what it is\n\n{line}\n"}, depends=["source-repositories"]
    )
    built.build(heads={f"git {name}": commit for name, commit in heads.items()})


def test_a_repository_went_on(built: World, repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD")
    cloning(built, f"thing git /opt/thing {repository.url}", thing=before)
    assert built.compare() == SAME
    now = repository.commit()
    assert built.compare() == changed(f"repository thing {before[:12]} -> {now[:12]}")


def test_a_branch_is_not_taken_for_another_that_ends_alike(built: World, repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD")
    cloning(built, f"thing git /opt/thing {repository.url} master", thing=before)
    repository.git("checkout", "--quiet", "-b", "a/master")
    repository.commit()
    assert built.compare() == SAME


@pytest.mark.parametrize("of", ["v1", "v1^{}"])
def test_a_tag_stays(built: World, repository: Repository, of: str) -> None:
    repository.git("tag", "--annotate", "--message", "one", "v1")
    recorded = repository.git("rev-parse", of)
    repository.commit()
    cloning(built, f"thing git /opt/thing {repository.url} v1", thing=recorded)
    assert built.compare() == SAME


def test_a_commit_is_a_commit(built: World, repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD")
    repository.commit()
    cloning(built, f"thing git /opt/thing {repository.url} {before}", thing=before)
    assert built.compare() == SAME


def test_variables_say_where_a_repository_is(built: World, repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD")
    repository.git("branch", "next")
    repository.commit()
    built.set(THING="thing", DIB_REPOREF_thing="next")
    cloning(
        built, f"thing git /opt/thing file://{repository.place.parent}/$THING.${{END:-git}}", thing=before
    )
    assert built.compare() == SAME
    built.set(DIB_REPOLOCATION_thing="file:///nonexistent/thing.git")
    built.build(heads={"git thing": before})
    assert built.compare().unknown.startswith(
        "repository thing at file:///nonexistent/thing.git can't be asked"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("thing tar /opt/thing https://files.test/x.tar.gz .", "thing is (tar https://files.test/x.tar.gz)"),
        ("thing file /opt/thing https://us:topsecret@files.test/x", "(file https://********@files.test/x)"),
        ("thing git /opt/thing {url} nosuch", "has no nosuch"),
        ("thing git /opt/thing {url} *", "is cloned with all its branches"),
        ("thing git /opt/thing $(cat /where)", "a shell has to read"),
    ],
)
def test_what_no_server_tells_is_not_judged(
    built: World, repository: Repository, line: str, told: str
) -> None:
    cloning(built, line.format(url=repository.url), thing=repository.git("rev-parse", "HEAD"))
    found = built.compare()
    assert told in found.unknown
    assert (found.same, "topsecret" in found.unknown) == (False, False)


def test_what_is_installed_from_a_package_is_not_cloned(built: World) -> None:
    built.set(DIB_INSTALLTYPE_thing="package")
    cloning(built, "thing git /opt/thing http://127.0.0.1:9/thing.git")
    assert built.compare() == SAME


def test_a_git_server_that_hangs_is_waited_for_in_bounds(built: World) -> None:
    built.mirror.files["/thing.git/info/refs"] = built.mirror.hang
    cloning(built, f"thing git /opt/thing {built.mirror.url}/thing.git", thing="0" * 40)
    built.seconds = 2
    # As long as the test goes on.
    found = built.compare()
    assert (found.same, found.changes) == (False, ())
    assert "no answer" in found.unknown or "did not end within" in found.unknown

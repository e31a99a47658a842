"""Mirrors that answer, mirrors that don't, and what a build is told about them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.config.model import DiskImage, Platform
from builder.dib.checks import reachable
from builder.dib.checks.reachable import Mirror, mirrors_of
from builder.findings import Finding, Level
from builder.model import FailureClass
from tests.unit.dib_world import image
from tests.unit.reachable_world import FakeMirror, closed_mirror, mirror, silent_mirror


@pytest.fixture
def served() -> Iterator[FakeMirror]:
    with mirror() as running:
        yield running


def ask(url: str, suite: str = "bookworm", **environment: str) -> Finding:
    indexes = (f"/dists/{suite}/InRelease", f"/dists/{suite}/Release") if suite else ("",)
    named = Mirror(variable="DIB_DISTRIBUTION_MIRROR", url=url, suite=suite, indexes=indexes)
    return reachable.ask(named, environment, timeout=0.5, pause=0)


# -- which are asked ------------------------------------------------------------------------------


def of(distribution: str) -> DiskImage:
    return image(platform=Platform(name="p", distribution=distribution, release="r"))


URLS = {
    "DIB_DISTRIBUTION_MIRROR": "http://mirror.test/main",
    "DIB_DEBIAN_SECURITY_MIRROR": "http://mirror.test/security",
}


@pytest.mark.parametrize(
    ("recipe", "release", "suites"),
    [
        (of("debian"), "bookworm", {"main": "bookworm", "security": "bookworm-security"}),
        (of("debian"), "unstable", {"main": "unstable"}),
        (of("debian"), "", {"main": "", "security": ""}),
        (of("ubuntu"), "noble", {"main": "noble"}),
        (of("rocky"), "9", {"main": "9/BaseOS/x86_64/os"}),
        (of("rocky"), "", {"main": ""}),
        (of("gentoo"), "latest", {"main": ""}),
        (image(platform=None), "bookworm", {"main": "bookworm", "security": "bookworm-security"}),
        (
            image(platform=None, elements=("centos-minimal",)),
            "9-stream",
            {"main": "9-stream/BaseOS/x86_64/os"},
        ),
    ],
)
def test_the_mirrors_that_a_build_names(recipe: DiskImage, release: str, suites: dict[str, str]) -> None:
    found = mirrors_of(recipe, {**URLS, "DIB_RELEASE": release})
    assert {m.url.rpartition("/")[2]: m.suite for m in found} == suites


def test_without_a_named_mirror_none_is_asked() -> None:
    assert mirrors_of(of("debian"), {"DIB_RELEASE": "bookworm"}) == ()


def test_debian_has_a_variable_of_its_own_that_wins() -> None:
    found = mirrors_of(of("debian"), {**URLS, "DIB_DEBIAN_DISTRIBUTION_MIRROR": "http://mirror.test/own"})
    assert found[0].url == "http://mirror.test/own"


def test_sources_given_as_a_whole_are_asked_instead() -> None:
    conf = (
        "default:deb [trusted=yes] http://mirror.test/main bookworm main\n"
        "updates:deb http://elsewhere.test/debian bookworm-updates main\n"
        "security:deb http://mirror.test/own bookworm-security main"
    )
    found = mirrors_of(of("debian"), {**URLS, "DIB_RELEASE": "bookworm", "DIB_APT_SOURCES_CONF": conf})
    assert [(each.url, each.suite) for each in found] == [
        ("http://mirror.test/main", "bookworm"),
        ("http://elsewhere.test/debian", "bookworm-updates"),
        ("http://mirror.test/own", "bookworm-security"),
    ]


@pytest.mark.parametrize(
    ("distribution", "release", "index"),
    [
        ("centos", "10-stream", "/10-stream/BaseOS/aarch64/os/repodata/repomd.xml"),
        ("almalinux", "9", "/9/BaseOS/aarch64/os/repodata/repomd.xml"),
        ("fedora", "45", "/releases/45/Everything/aarch64/os/repodata/repomd.xml"),
        ("openeuler", "24.03-LTS-SP3", "/openEuler-24.03-LTS-SP3/OS/aarch64/repodata/repomd.xml"),
    ],
)
def test_of_the_red_hat_family_the_releases_repository_is_asked_for(
    served: FakeMirror, distribution: str, release: str, index: str
) -> None:
    root = served.url.removesuffix("/debian")
    environment = {"DIB_DISTRIBUTION_MIRROR": root, "DIB_RELEASE": release, "ARCH": "arm64"}
    (named,) = mirrors_of(of(distribution), environment)
    assert reachable.ask(named, {}, timeout=0.5, pause=0).failure_class is FailureClass.CONFIG
    served.paths.add(index)
    assert reachable.ask(named, {}, timeout=0.5, pause=0).level is Level.OK
    assert served.asked == [index, index]


def test_the_security_suite_may_be_in_a_subpath() -> None:
    environment = {**URLS, "DIB_RELEASE": "bookworm", "DIB_DEBIAN_SECURITY_SUBPATH": "/updates"}
    assert mirrors_of(of("debian"), environment)[1].suite == "bookworm-security/updates"


# -- what they say --------------------------------------------------------------------------------


def test_a_mirror_with_the_release_is_fine(served: FakeMirror) -> None:
    finding = ask(served.url)
    assert finding.level is Level.OK
    assert f"{served.url} has bookworm" in finding.text
    assert served.asked == ["/debian/dists/bookworm/InRelease"]


def test_a_release_signed_apart_will_do(served: FakeMirror) -> None:
    served.paths = {"/debian/dists/bookworm/Release"}
    assert ask(served.url).level is Level.OK


def test_a_release_that_is_not_there_is_for_the_configuration_to_mend(served: FakeMirror) -> None:
    finding = ask(served.url, "bokworm")
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.CONFIG)
    assert "has no bokworm: it answers 404 for dists/bokworm/InRelease" in finding.text


SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: Debian\nSuite: unstable\n"


@pytest.mark.parametrize(
    ("until", "text"),
    [
        ("Fri, 06 Nov 2020 02:10:56 UTC", "has bookworm, but its index expired on 2020-11-06"),
        ("Fri, 06 Nov 2020 02:10:56", "has bookworm, but its index expired on 2020-11-06"),
        ("Wed, 06 Nov 2999 02:10:56 UTC", "has bookworm"),
        ("when it pleases", "has bookworm"),
        ("", "has bookworm"),
    ],
)
def test_a_mirror_that_lags_behind_is_told(served: FakeMirror, until: str, text: str) -> None:
    served.body = SIGNED + f"Valid-Until: {until}\nSHA256:\n".encode()
    found = ask(served.url)
    assert text in found.text
    if "expired" in text:
        assert (found.failure_class, found.hint[:15]) == (FailureClass.MIRROR, "Wait for it to ")


def test_a_build_that_is_told_not_to_mind_takes_it_as_it_is(served: FakeMirror, tmp_path: Path) -> None:
    served.body = SIGNED + b"Valid-Until: Fri, 06 Nov 2020 02:10:56 UTC\n"
    file = tmp_path / "apt.conf"
    file.write_text('Acquire::Check-Valid-Until "false";\n')
    for arguments, level in (
        (f"--aptopt={file}", Level.OK),
        ("--dpkgopt=force-unsafe-io '--aptopt=Acquire::Check-Valid-Until \"false\"'", Level.OK),
        (f"--aptopt={tmp_path / 'none'}", Level.PROBLEM),
        ("--aptopt='", Level.PROBLEM),
    ):
        assert ask(served.url, DIB_MMDEBSTRAP_EXTRA_ARGS=arguments).level is level, arguments


def test_of_an_unknown_layout_only_the_root_is_asked(served: FakeMirror) -> None:
    # It need not be listable.
    assert ask(served.url, "").level is Level.OK
    assert served.asked == ["/debian/"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_mirror_in_trouble_is_asked_twice(served: FakeMirror, status: int) -> None:
    served.statuses = (status,)
    finding = ask(served.url)
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.MIRROR)
    assert f"answers {status}" in finding.text
    assert len(served.asked) == 2


def test_a_passing_trouble_passes(served: FakeMirror) -> None:
    served.statuses = (503, 200)
    assert ask(served.url).level is Level.OK


@pytest.mark.parametrize(
    ("status", "who"), [(401, "it refuses"), (403, "it refuses"), (407, "the proxy refuses")]
)
def test_a_mirror_that_refuses_us_is_no_passing_trouble(served: FakeMirror, status: int, who: str) -> None:
    served.statuses = (status,)
    finding = ask(served.url)
    assert finding.failure_class is FailureClass.CONFIG
    assert f"{who} us ({status})" in finding.text
    assert len(served.asked) == 1


def test_a_mirror_that_does_not_run() -> None:
    finding = ask(closed_mirror())
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.MIRROR)
    assert "does not answer: connection refused" in finding.text


def test_a_mirror_that_hangs() -> None:
    with silent_mirror() as url:
        finding = ask(url)
    assert finding.failure_class is FailureClass.MIRROR
    assert "does not answer: nothing came within 0.5 s" in finding.text


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # The real resolver would ask the world outside.
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    finding = ask("http://mirror.test/debian")
    assert finding.failure_class is FailureClass.MIRROR
    assert "the name mirror.test can't be resolved" in finding.text


def test_what_is_no_web_address_is_not_asked() -> None:
    finding = ask("file:///srv/mirror")
    assert finding.level is Level.WARNING
    assert "is not asked" in finding.text


@pytest.mark.parametrize(
    "url", ["http://[bad/", "http://me:hunter2@[bad/", "http://me:hunter2@mirror\u2100.test/"]
)
def test_what_is_no_url_is_for_the_configuration_to_mend(url: str) -> None:
    finding = ask(url)
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.CONFIG)
    assert "(DIB_DISTRIBUTION_MIRROR) is no URL" in finding.text
    assert "hunter2" not in finding.text


@pytest.mark.parametrize("url", ["http://", "http://mirror.test:port/", "http://.mirror.test/"])
def test_a_url_without_a_usable_host_is_for_the_configuration_to_mend(url: str) -> None:
    finding = ask(url)
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.CONFIG)
    assert "(DIB_DISTRIBUTION_MIRROR) can't be asked: its URL" in finding.text


def test_a_password_in_an_address_is_never_told(served: FakeMirror) -> None:
    for url in (served.url, closed_mirror(), f"{served.url}/nothing"):
        told = ask(url.replace("://", "://me:hunter2@"))
        assert "hunter2" not in f"{told.text}{told.hint}"
        assert "://********@127.0.0.1" in told.text


# -- proxies --------------------------------------------------------------------------------------


@pytest.fixture
def proxy(served: FakeMirror) -> FakeMirror:
    """A proxy is asked for whole URLs, as a mirror is for paths."""
    served.paths = {"http://mirror.test/debian/dists/bookworm/InRelease"}
    served.url = served.url.removesuffix("/debian")
    return served


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_the_proxy_of_the_build_is_used(proxy: FakeMirror, variable: str) -> None:
    assert ask("http://mirror.test/debian", **{variable: proxy.url}).level is Level.OK
    assert proxy.asked == ["http://mirror.test/debian/dists/bookworm/InRelease"]


def test_the_proxy_of_this_process_is_not(served: FakeMirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", closed_mirror())
    assert ask(served.url).level is Level.OK


def test_no_proxy_is_heeded(served: FakeMirror) -> None:
    assert ask(served.url, http_proxy=closed_mirror(), no_proxy="localhost,127.0.0.1").level is Level.OK


def test_a_proxy_that_does_not_run_is_named_without_its_password() -> None:
    finding = ask("http://mirror.test/debian", http_proxy=closed_mirror().replace("://", "://me:hunter2@"))
    assert finding.failure_class is FailureClass.MIRROR
    assert "by the proxy http://********@127.0.0.1" in finding.text
    assert "hunter2" not in finding.text


def test_a_proxy_whose_url_is_none_is_for_the_configuration_to_mend() -> None:
    finding = ask("http://mirror.test/debian", http_proxy="http://me:hunter2@[bad")
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.CONFIG)
    assert "by the proxy http://********@[bad can't be asked" in finding.text
    assert "hunter2" not in finding.text


def test_one_that_was_given_up_is_told_like_the_others() -> None:
    named = mirrors_of(replace(of("debian")), {**URLS, "DIB_RELEASE": "bookworm"})[0]
    assert "does not answer within 12 s" in reachable.silent(named, 12).text


def test_what_comes_with_a_redirect_is_not_read() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # It announces a body that never comes: whoever reads it waits until the time is over.
            elsewhere = not self.path.startswith("/debian")
            self.send_response(200 if elsewhere else 302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0" if elsewhere else str(1 << 40))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            assert ask(f"http://127.0.0.1:{server.server_port}/debian").level is Level.OK
        finally:
            server.shutdown()
            thread.join()

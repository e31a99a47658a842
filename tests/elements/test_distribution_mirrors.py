"""The element distribution-mirrors: built from a mirror, named after none."""

from __future__ import annotations

import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.config.model import Platform
from builder.dib.mirrors import mirror_environment
from tests.elements.trees import KEPT, PROJECT, Tree, Trees
from tests.unit.elements_world import DIB_ELEMENTS as DIB

ELEMENT = PROJECT / "elements/distribution-mirrors"
#: Answered by the test's proxy alone.
HOST = "mirror.example"
MAIN, SECURITY = f"http://{HOST}/debian", f"http://{HOST}/debian-security"
SOURCES = f"""\
default:deb {MAIN} bookworm main
updates:deb {MAIN} bookworm-updates main
security:deb {SECURITY} bookworm-security main"""
#: Sources as debian-minimal writes them, what people add in the newer format, and settings of apt.
WRITE_SOURCES = """#!/bin/bash
set -eu
apt=$TARGET_ROOT/etc/apt
rm -rf $apt/sources.list $apt/sources.list.d
mkdir $apt/sources.list.d
while IFS=: read -r name line; do
    echo "$line" > $apt/sources.list.d/$name.list
done <<< "$DIB_APT_SOURCES_CONF"
printf 'Enabled: no\\nTypes: deb\\nURIs: %s/ http://vendor.example/debian\\nSuites: x\\nComponents: y\\n' \\
    "$DIB_DISTRIBUTION_MIRROR" > $apt/sources.list.d/more.sources
echo 'Acquire::Check-Valid-Until "false";' > $apt/apt.conf.d/99mmdebstrap
printf 'Acquire::http::Proxy "%s";\\nAcquire::Retries "2";\\n' "$http_proxy" > $apt/apt.conf.d/95mine
"""
SEE_INDEXES = "#!/bin/bash\nls /var/lib/apt/lists\n"
SEE_REPOSITORIES = "#!/bin/bash\ncat /etc/yum.repos.d/*.repo\nmkdir -p /var/cache/dnf/baseos\n"


@contextmanager
def proxy(upstream: Mapping[str, str]) -> Iterator[str]:
    """A proxy that knows the host of the mirror: each path's beginning is on another real one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = next(
                (self.path.replace(a, b, 1) for a, b in upstream.items() if self.path.startswith(a)), ""
            )
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    self.send_response(200)
                    self.send_header("Content-Length", answer.headers["Content-Length"])
                    self.end_headers()
                    shutil.copyfileobj(answer, self.wfile)
            except (urllib.error.URLError, ValueError):
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def default(element: str, variable: str, **environment: str) -> str:
    """What an element of diskimage-builder makes of a variable that nobody sets."""
    (file,) = (DIB / element / "environment.d").glob("10-*")
    script = f'source {file}; echo "${variable}"'
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return said.stdout.strip().rstrip("/")


PUBLIC_MAIN = default("debian-minimal", "DIB_DISTRIBUTION_MIRROR", DIB_RELEASE="bookworm")
PUBLIC_SECURITY = default("debian-minimal", "DIB_DEBIAN_SECURITY_MIRROR", DIB_RELEASE="bookworm")


def element(directory: Path, files: Mapping[str, str]) -> str:
    """An element "probe" with these hooks; gives the search path for elements."""
    for name, text in files.items():
        file = directory / "probe" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o755)
    return f"{KEPT}:{PROJECT / 'elements'}:{directory}"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the proxy is that knows the mirror."""
    host = Platform(
        name="p", distribution="debian", release="bookworm", mirror="host", security_mirror="host"
    )
    real = mirror_environment(host)
    upstream = {
        f"{SECURITY}/": real.get("DIB_DEBIAN_SECURITY_MIRROR", PUBLIC_SECURITY) + "/",
        f"{MAIN}/": real.get("DIB_DISTRIBUTION_MIRROR", PUBLIC_MAIN) + "/",
    }
    with proxy(upstream) as running:
        yield running


@pytest.fixture(scope="module")
def debian(trees: Trees, address: str, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Built from mirrors and by a proxy, all of another name than what they stand for."""
    hooks = {"root.d/20-probe": WRITE_SOURCES, "finalise.d/10-probe": SEE_INDEXES}
    return trees.build(
        "distribution-mirrors",
        "probe",
        environment={
            "ELEMENTS_PATH": element(tmp_path_factory.mktemp("elements"), hooks),
            "http_proxy": address,
            "DIB_DISTRIBUTION_MIRROR": MAIN,
            "DIB_DEBIAN_SECURITY_MIRROR": SECURITY,
            "DIB_APT_SOURCES_CONF": SOURCES,
        },
    )


def naming(tree: Tree, name: str) -> list[str]:
    """Every file of the tree that has a name in it, or in its own name."""
    found = subprocess.run(
        ["grep", "-rlF", "--devices=skip", name, "."],
        cwd=tree.root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    return [*found, *(str(path) for path in tree.root.rglob(f"*{name}*"))]


def test_the_image_was_built_from_the_mirror(debian: Tree) -> None:
    assert f"{HOST}_debian_dists_bookworm_InRelease" in debian.log
    assert f"{HOST}_debian-security_dists_bookworm-security_InRelease" in debian.log


def test_nothing_in_the_whole_image_names_the_mirror_or_the_proxy(debian: Tree, address: str) -> None:
    assert naming(debian, HOST) == []
    assert naming(debian, address) == []


def test_sources_are_the_public_ones_in_both_formats(debian: Tree) -> None:
    directory = debian.root / "etc/apt/sources.list.d"
    assert {file.name: file.read_text() for file in directory.glob("*.list")} == {
        "default.list": f"deb {PUBLIC_MAIN} bookworm main\n",
        "updates.list": f"deb {PUBLIC_MAIN} bookworm-updates main\n",
        "security.list": f"deb {PUBLIC_SECURITY} bookworm-security main\n",
    }
    assert f"\nURIs: {PUBLIC_MAIN} http://vendor.example/debian\n" in (directory / "more.sources").read_text()


def test_settings_of_apt_that_are_no_proxy_stay(debian: Tree) -> None:
    assert debian.read("/etc/apt/apt.conf.d/95mine") == 'Acquire::Retries "2";\n'


def test_settings_for_the_build_alone_do_not_stay(debian: Tree) -> None:
    assert not (debian.root / "etc/apt/apt.conf.d/99mmdebstrap").exists()


def test_apt_knows_its_packages_by_the_public_sources_without_asking_anybody(
    trees: Trees, debian: Tree
) -> None:
    with trees.changeable(debian) as tree:
        said = tree.run("apt-cache", "policy", "hello").stdout
    assert f"500 {PUBLIC_MAIN} bookworm/main amd64 Packages" in said


# -- what the hooks do by themselves -----------------------------------------------------------------


def table(directory: Path, **environment: str) -> Path:
    """What the hook writes down of the build's mirrors, beside the functions."""
    shutil.copytree(ELEMENT, directory, dirs_exist_ok=True)
    subprocess.run(
        [ELEMENT / "extra-data.d/50-distribution-mirrors"],
        env={
            "PATH": "/usr/bin:/bin",
            "TMP_HOOKS_PATH": str(directory),
            "ELEMENTS_PATH": str(DIB),
            **environment,
        },
        capture_output=True,
        check=True,
    )
    return directory / "distribution-mirrors/table"


def test_ubuntus_ports_are_another_mirror(tmp_path: Path) -> None:
    wanted = {}
    for architecture in ("amd64", "arm64"):
        settings = {
            "ARCH": architecture,
            "DIB_RELEASE": "noble",
            "DIB_DISTRIBUTION_MIRROR": "http://m.example/u",
        }
        written = table(tmp_path / architecture, DISTRO_NAME="ubuntu", **settings).read_text()
        wanted[architecture] = written.split()[1]
    assert wanted["arm64"].endswith("/ubuntu-ports") and wanted["amd64"].endswith("/ubuntu")


def test_diskimage_builders_defaults_are_no_mirrors(tmp_path: Path) -> None:
    settings = {"DISTRO_NAME": "debian", "DIB_RELEASE": "trixie", "ARCH": "amd64"}
    conf = f"default:deb {PUBLIC_MAIN}/ trixie main\nsecurity:deb {PUBLIC_SECURITY}/ trixie-security main"
    mirrors = {"DIB_DISTRIBUTION_MIRROR": PUBLIC_MAIN, "DIB_APT_SOURCES_CONF": conf}
    assert table(tmp_path, **settings, **mirrors).read_text() == ""


def test_a_mirror_of_a_distribution_nobody_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        table(tmp_path, DISTRO_NAME="gentoo", DIB_RELEASE="1", ARCH="amd64", DIB_DISTRIBUTION_MIRROR=MAIN)
    assert b"not known what gentoo does with a mirror" in failed.value.stdout


def test_mirrors_stay_when_they_are_asked_for(trees: Trees, debian: Tree, tmp_path: Path) -> None:
    with trees.changeable(debian) as tree:
        hooks = tree.root / "opt/hooks"
        settings = {"DISTRO_NAME": "debian", "DIB_RELEASE": "bookworm", "ARCH": "amd64"}
        table(hooks, **settings, DIB_DISTRIBUTION_MIRROR=MAIN)
        source = tree.root / "etc/apt/sources.list"
        source.write_text(f"deb {MAIN} bookworm main\n")
        hook = "/opt/hooks/finalise.d/98-distribution-mirrors"
        tree.run(hook, DIB_KEEP_MIRRORS="1")
        assert source.read_text() == f"deb {MAIN} bookworm main\n"
        for _ in range(2):
            tree.run(hook, DIB_KEEP_MIRRORS="0")
            assert source.read_text() == f"deb {PUBLIC_MAIN} bookworm main\n"


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("etc/motd", f"from {MAIN}\n", True),
        ("var/lib/x", f"\0{MAIN}/pool\0", True),
        (f"var/lib/apt/lists/{HOST}_debian_dists_bookworm_InRelease", "", True),
        ("usr/share/doc/x", f"from {MAIN}\n", False),  # a package's own
        ("var/log/apt/term.log", f"from {MAIN}\n", False),  # emptied later
        ("etc/motd", f"from {HOST}\n", False),  # the host has more than this mirror
    ],
)
def test_what_still_names_the_mirror_fails_the_build(
    tmp_path: Path, path: str, text: str, found: bool
) -> None:
    hooks, root = tmp_path / "hooks", tmp_path / "root"
    table(hooks, DISTRO_NAME="debian", DIB_RELEASE="bookworm", ARCH="amd64", DIB_DISTRIBUTION_MIRROR=MAIN)
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/dib-manifests").symlink_to(tmp_path / "mine")  # which is not the image's
    mine = tmp_path / "mine/dib_environment"
    mine.parent.mkdir()
    mine.write_text(MAIN)
    settings = {"TARGET_ROOT": str(root), "TMP_HOOKS_PATH": str(hooks), "DIB_KEEP_MIRRORS": "0"}
    done = subprocess.run(
        [ELEMENT / "cleanup.d/990-distribution-mirrors"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0, path in done.stdout) == (found, found)
    assert mine.read_text() == MAIN


# -- the Red Hat family ------------------------------------------------------------------------------


def test_the_release_packages_repositories_are_back_in_the_end(trees: Trees, tmp_path: Path) -> None:
    tree = trees.build(
        "distribution-mirrors",
        "probe",
        family="redhat",
        distribution="almalinux",
        environment={
            "ELEMENTS_PATH": element(tmp_path, {"install.d/90-probe": SEE_REPOSITORIES}),
            "DIB_DISTRIBUTION_MIRROR": "http://near.test/almalinux/",
        },
    )
    # While packages were installed.
    assert "\nbaseurl=http://near.test/almalinux/$releasever/BaseOS/$basearch/os/\n" in tree.log
    assert "\nbaseurl=http://near.test/almalinux/$releasever/extras/$basearch/os/\n" in tree.log
    assert naming(tree, "near.test") == []
    repository = tree.read("/etc/yum.repos.d/rocky.repo")
    assert "\nmirrorlist=https://" in repository and "\nbaseurl=" not in repository
    assert list((tree.root / "var/cache/dnf").iterdir()) == []


def repositories(text: str, **environment: str) -> str:
    """A repository file once it points at a mirror."""
    file = 'file=$(mktemp); cat > "$file"; point_at_mirror "$file"; cat "$file"; rm "$file"'
    script = f"source {ELEMENT / 'distribution-mirrors/functions'}; {file}"
    environment = {
        "PATH": "/usr/bin:/bin",
        "DIB_DISTRIBUTION_MIRROR": "http://near.test/linux",
        **environment,
    }
    return subprocess.run(
        ["bash", "-euc", script], input=text, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_fedoras_updates_are_beside_its_releases() -> None:
    text = (
        "[fedora]\n#baseurl=http://x.example/pub/fedora/linux/releases/$releasever/Everything/$basearch/os/\n"
        "metalink=https://x.example/metalink?repo=fedora-$releasever\nenabled=1\n"
        "[updates]\n#baseurl=http://x.example/pub/fedora/linux/updates/$releasever/Everything/$basearch/\n"
        "metalink=https://x.example/metalink?repo=updates-$releasever\n"
        "[vendor]\nbaseurl=http://vendor.example/$releasever/\n"
    )
    changed = repositories(text, DISTRO_NAME="fedora", DIB_RELEASE="45")
    assert [line for line in changed.splitlines() if line.startswith(("baseurl", "metalink"))] == [
        "baseurl=http://near.test/linux/releases/$releasever/Everything/$basearch/os/",
        "baseurl=http://near.test/linux/updates/$releasever/Everything/$basearch/",
        "baseurl=http://vendor.example/$releasever/",
    ]


@pytest.mark.parametrize("release", ["9-stream", "10-stream"])
def test_centos_stream_is_begun_from_the_mirror(tmp_path: Path, release: str) -> None:
    shutil.copytree(ELEMENT, tmp_path, dirs_exist_ok=True)
    shutil.copytree(DIB / "centos-minimal/yum.repos.d", tmp_path / "yum.repos.d")
    seen = 'cat "$DIB_YUM_MINIMAL_BOOTSTRAP_REPOS"/dib-mirror-*.repo'
    script = f'source {ELEMENT}/environment.d/*.bash; "$0"; {seen}'
    made = subprocess.run(
        ["bash", "-euc", script, ELEMENT / "root.d/02-distribution-mirrors"],
        env={
            "PATH": "/usr/bin:/bin",
            "TMP_HOOKS_PATH": str(tmp_path),
            "DISTRO_NAME": "centos",
            "DIB_RELEASE": release,
            "DIB_DISTRIBUTION_MIRROR": "http://near.test/stream",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(line for line in made.splitlines() if line.startswith(("baseurl=", "metalink="))) == [
        f"baseurl=http://near.test/stream/{release}/AppStream/$basearch/os/",
        f"baseurl=http://near.test/stream/{release}/BaseOS/$basearch/os/",
    ]

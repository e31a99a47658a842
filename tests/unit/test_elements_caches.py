"""The elements base-cache and package-cache: dib's own hooks, with a mirror and a bootstrap tool of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.trees import differences
from tests.unit.dib_world import need_root
from tests.unit.elements_world import DIB_ELEMENTS, ELEMENTS, copy_hooks, run_parts

PROGRAMS = {
    "sudo": '[ "$1" != -E ] || shift; exec "$@"',
    "debootstrap": "echo 'debootstrap 1.0.128'",
    "mmdebstrap": """
[ "$1" != --version ] || { echo "mmdebstrap 1.3.5"; exit; }
while [ "$1" != bookworm ]; do shift; done
echo "bootstrap from $3" >> "$MIRROR/log"
cd "$2"
mkdir -p usr/sbin usr/bin etc/apt/apt.conf.d etc/dpkg/dpkg.cfg.d tmp var/lib/dpkg \\
    var/lib/apt/lists var/cache/apt/archives/partial
ln -s usr/sbin sbin
echo real > usr/sbin/start-stop-daemon
echo aaaabbbbccccddddeeeeffff00001111 > etc/machine-id
echo ping > usr/bin/ping
ln usr/bin/ping usr/bin/ping6
chmod 4755 usr/bin/ping
python3 -c 'import os; os.setxattr("usr/bin/ping", "security.capability",
    bytes.fromhex("01000002" + "0020" + "00" * 14))'
cat "$MIRROR/release" > var/lib/dpkg/status
""",
}
#: In the place of 75-debian-minimal-baseinstall, whose apt needs more of a system than we have.
BASE_INSTALL = """
cat "$MIRROR/release" > "$TARGET_ROOT/var/lib/apt/lists/mirror.test_dists_bookworm_InRelease"
rm -f "$TARGET_ROOT"/var/cache/apt/archives/*.deb
if ! cmp -s "$MIRROR/packages" "$TARGET_ROOT/var/lib/dpkg/status"; then
    echo upgrade >> "$MIRROR/log"
    cat "$MIRROR/packages" > "$TARGET_ROOT/var/lib/dpkg/status"
fi
ls "$DIB_IMAGE_CACHE/apt/debian" > "$MIRROR/archives"
"""


@dataclass
class Machine:
    """A machine that builds images, a mirror, and a cache."""

    place: Path
    builds: int = 0

    def build(self, *, hooks: str = "", **environment: str) -> tuple[Path, str]:
        """Run the phase root.d of a build; the tree, and what the hooks printed.

        `hooks` is one more hook of root.d, `environment` is added to the build's.
        """
        self.builds += 1
        place = self.place / f"build{self.builds}"
        root, copies = place / "root", place / "hooks"
        root.mkdir(parents=True)
        for element in ("debootstrap", "dpkg"):
            copy_hooks(DIB_ELEMENTS / element, copies)
        for element in ("base-cache", "package-cache", "apt-update-once"):
            copy_hooks(ELEMENTS / element, copies)
        script(copies / "root.d" / "75-debian-minimal-baseinstall", BASE_INSTALL)
        if hooks:
            script(copies / "root.d" / hooks, ":")
        text = run_parts(
            copies,
            "root",
            {
                "PATH": f"{self.place / 'bin'}:{os.environ['PATH']}",
                "MIRROR": str(self.mirror),
                "TARGET_ROOT": str(root),
                "DIB_IMAGE_CACHE": str(self.cache),
                "DIB_OFFLINE": "",
                "DISTRO_NAME": "debian",
                "DIB_RELEASE": "bookworm",
                "DIB_DISTRIBUTION_MIRROR": "http://mirror.test/debian",
                "ARCH": "amd64",
                **environment,
            },
        )
        return root, text

    @property
    def mirror(self) -> Path:
        """What the mirror has, and what was asked of it."""
        return self.place / "mirror"

    @property
    def cache(self) -> Path:
        """DIB_IMAGE_CACHE."""
        return self.place / "cache"

    def offers(self, *, release: str = "bash 1\n", packages: str | None = None) -> None:
        """Let the mirror have this release, and these packages with all updates."""
        (self.mirror / "release").write_text(release)
        (self.mirror / "packages").write_text(release if packages is None else packages)

    def asked(self) -> list[str]:
        """What was done since the last time we asked."""
        log = self.mirror / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def kept(self) -> list[Path]:
        """The trees in the cache."""
        return sorted((self.cache / "base-cache").glob("*"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose cache is empty; the mirror has a release and one update to it."""
    need_root()
    machine = Machine(tmp_path)
    for name in ("bin", "cache", "mirror"):
        (tmp_path / name).mkdir()
    for name, text in PROGRAMS.items():
        script(tmp_path / "bin" / name, text)
    machine.offers(packages="bash 2\n")
    return machine


def script(path: Path, text: str) -> None:
    """A shell script that fails with its first failing command."""
    path.write_text(f"#!/bin/sh\nset -eu\n{text}\n")
    path.chmod(0o755)


BOOTSTRAP = "bootstrap from http://mirror.test/debian"


def test_the_second_build_starts_from_the_tree_of_the_first_and_comes_out_the_same(machine: Machine) -> None:
    first, _ = machine.build()
    assert machine.asked() == [BOOTSTRAP, "upgrade"]

    second, _ = machine.build()
    assert machine.asked() == []
    assert differences(first, second) == {"etc/machine-id"}
    assert (second / "sbin/start-stop-daemon.REAL").read_text() == "real\n"
    assert "Fake" in (second / "sbin/start-stop-daemon").read_text()
    assert (second / "etc/machine-id").read_text() != (first / "etc/machine-id").read_text()


def test_an_updated_package_has_the_tree_made_anew(machine: Machine) -> None:
    machine.build()
    machine.asked()

    machine.offers(packages="bash 3\n")
    stale, text = machine.build()
    assert machine.asked()[-2:] == [BOOTSTRAP, "upgrade"]
    assert "starting over" in text
    assert (stale / "var/lib/dpkg/status").read_text() == "bash 3\n"

    machine.build()
    assert machine.asked() == []
    assert len(machine.kept()) == 1


def test_a_new_release_has_the_tree_made_anew_though_no_package_changed(machine: Machine) -> None:
    machine.build()
    machine.asked()

    machine.offers(release="bash 2\n", packages="bash 2\n")
    machine.build()

    assert machine.asked() == [BOOTSTRAP]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_tree_is_made_anew(machine: Machine, damage: str) -> None:
    first, _ = machine.build()
    machine.asked()
    (kept,) = machine.kept()
    whole = kept.read_bytes()
    kept.write_bytes({"truncated": whole[:-100], "garbage": b"x" * 9000, "empty": b""}[damage])

    second, _ = machine.build()
    assert machine.asked() == [BOOTSTRAP, "upgrade"]
    assert differences(first, second) == set()
    machine.build()
    assert machine.asked() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DIB_DISTRIBUTION_MIRROR", "http://other.test/debian"),
        ("DIB_DEBIAN_COMPONENTS", "main,contrib"),
        ("DIB_MMDEBSTRAP_EXTRA_ARGS", "--include=vim"),
        ("ARCH", "arm64"),
        ("http_proxy", "http://proxy.test"),
    ],
)
def test_what_decides_on_the_tree_has_one_of_its_own(machine: Machine, name: str, value: str) -> None:
    machine.build()
    machine.asked()

    machine.build(**{name: value})
    assert machine.asked() != []
    assert len(machine.kept()) == 2
    machine.build()
    assert machine.asked() == []


def test_what_does_not_decide_on_it_shares_the_tree(machine: Machine) -> None:
    shared = str(machine.place / "shared")
    machine.build(DIB_BASE_CACHE=shared, DIB_IMAGE_CACHE=str(machine.place / "one"))
    machine.asked()

    machine.build(DIB_BASE_CACHE=shared, DIB_IMAGE_CACHE=str(machine.place / "two"), DIB_GRUB_TIMEOUT="0")
    assert machine.asked() == []


def test_no_tree_is_kept_with_a_hook_whose_work_is_unknown(machine: Machine) -> None:
    for _ in range(2):
        _, text = machine.build(hooks="60-other")
        assert machine.asked() == [BOOTSTRAP, "upgrade"]
        assert "base-cache: not used, for root.d/60-other" in text
    assert machine.kept() == []


def test_the_hosts_indexes_and_what_is_mounted_into_the_tree_are_not_kept(machine: Machine) -> None:
    (machine.cache / "apt" / "debian").mkdir(parents=True)
    (machine.cache / "apt" / "debian" / "bash_1_amd64.deb").write_text("an archive")
    machine.build()

    (kept,) = machine.kept()
    names = subprocess.run(
        ["tar", "--zstd", "-tf", str(kept)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "./var/cache/apt/archives/partial/" in names
    assert not [name for name in names if name.endswith((".deb", "InRelease"))]


def plant(machine: Machine, links: dict[str, Path]) -> None:
    """Put links into the kept tree, in the place of what is there."""
    (kept,) = machine.kept()
    tree = machine.place / "planted"
    tree.mkdir()
    subprocess.run(["tar", "--zstd", "-C", tree, "-xpf", kept], check=True)
    for path, target in links.items():
        link = tree / path
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    subprocess.run(["tar", "--zstd", "-C", tree, "-cpf", kept, "."], check=True)


def contents(directory: Path) -> dict[str, str]:
    """The files below a directory, by path."""
    return {
        str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture
def host(machine: Machine) -> Path:
    """What of the machine no tree may reach."""
    place = machine.place / "host"
    for path, text in (
        ("etc/machine-id", f"{'0' * 32}\n"),
        ("etc/apt/apt.conf.d/keep", ""),
        ("etc/dpkg/dpkg.cfg.d/keep", ""),
        ("sbin/start-stop-daemon", "the host's\n"),
        ("sbin/start-stop-daemon.REAL", "planted\n"),
        ("shadow", "root\n"),
    ):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


@pytest.mark.parametrize(
    ("link", "target"), [("etc/machine-id", "etc/machine-id"), (".extra_settings", "shadow")]
)
def test_nothing_is_written_through_a_link_in_a_kept_tree(
    machine: Machine, host: Path, link: str, target: str
) -> None:
    machine.build()
    before = contents(host)
    plant(machine, {link: host / target})
    machine.asked()
    machine.build()
    assert machine.asked() == []
    assert contents(host) == before


@pytest.mark.parametrize(
    ("link", "target"), [("etc", "etc"), ("sbin", "sbin"), ("usr/sbin", "sbin"), (".base-cache", "shadow")]
)
def test_a_kept_tree_that_leads_out_of_itself_is_made_anew(
    machine: Machine, host: Path, link: str, target: str
) -> None:
    first, _ = machine.build()
    before = contents(host)
    plant(machine, {link: host / target})
    machine.asked()
    second, text = machine.build()
    assert "made anew" in text
    assert machine.asked() == [BOOTSTRAP, "upgrade"]
    assert contents(host) == before
    assert differences(first, second) == set()


def test_nothing_is_written_through_a_link_in_a_new_tree(machine: Machine, host: Path) -> None:
    before = contents(host)
    with (machine.place / "bin" / "mmdebstrap").open("a") as stream:
        stream.write(f'[ "$1" = --version ] || ln -s {host}/shadow .base-cache\n')
    root, _ = machine.build()
    assert contents(host) == before
    assert not (root / ".base-cache").is_symlink()
    assert len(machine.kept()) == 1


def test_archives_of_packages_outlive_the_base_installation(machine: Machine) -> None:
    archives = machine.cache / "apt" / "debian"
    archives.mkdir(parents=True)
    (archives / "bash_1_amd64.deb").write_text("an archive")

    machine.build()

    assert "bash" not in (machine.mirror / "archives").read_text()
    assert [path.name for path in archives.iterdir()] == ["bash_1_amd64.deb"]
    assert not (machine.cache / "apt" / "debian.aside").exists()


def test_archives_that_a_killed_build_left_aside_come_back(machine: Machine) -> None:
    aside = machine.cache / "apt" / "debian.aside"
    aside.mkdir(parents=True)
    (aside / "bash_1_amd64.deb").write_text("an archive")

    machine.build()

    assert (machine.cache / "apt" / "debian" / "bash_1_amd64.deb").exists()


def test_a_cache_that_can_not_be_written_is_no_reason_to_fail(machine: Machine) -> None:
    (machine.place / "file").write_text("no directory")

    _, text = machine.build(DIB_BASE_CACHE=str(machine.place / "file" / "below"))

    assert "the build goes on" in text

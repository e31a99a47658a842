"""The elements initramfs-once and apt-update-once, hook by hook in a root tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.dib_world import need_root
from tests.unit.elements_world import Tree

#: Tells what it was asked for, and makes what the real one makes.
UPDATE_INITRAMFS = """
echo "$*" >> /var/tmp/asked
echo "${compresslevel:-}" "$(command -v zstd)" >> /var/tmp/helped
while getopts k:cudvtb: option; do [ "$option" != k ] || touch "/boot/initrd.img-$OPTARG"; done
"""
#: Tells what it was asked for, and makes it. Debian's hook and wrapper call it; here they do nothing else.
DRACUT = """
echo "$*" >> /var/tmp/asked
touch -- "$2"
"""
DRACUT_HOOK = 'dracut --force "$(dirname "$2")/initrd.img-$1" "$1" >&2'
DRACUT_UPDATE = """
while getopts k:cudvs: option; do [ "$option" != k ] || version=$OPTARG; done
dracut --force "/boot/initrd.img-$version" "$version"
"""
APT_GET = """
echo "$*" >> /var/tmp/asked
[ "$*" != "-y update" ] || touch /var/lib/apt/lists/mirror_InRelease
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A root tree with two kernels, in a build with the element initramfs-once."""
    need_root()
    tree = Tree(tmp_path, "initramfs-once")
    tree.program("sbin/update-initramfs", UPDATE_INITRAMFS)
    tree.program("bin/linux-version", 'case "$1" in list) ls /lib/modules ;; sort) sort -r ;; esac')
    for version in ("6.1.0-1", "6.1.0-2"):
        (tmp_path / "usr" / "lib" / "modules" / version).mkdir(parents=True)
        (tree.root / "boot" / f"vmlinuz-{version}").touch()
    return tree


def asked(tree: Tree) -> list[str]:
    """What the real program of a tree was asked for so far."""
    file = tree.root / "var" / "tmp" / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_two_kernels_and_three_triggers_make_two_initramfs_and_leave_nothing(tree: Tree) -> None:
    before = tree.files()

    tree.hook("pre-install.d/00-initramfs-once")
    tree.run("update-initramfs", "-c", "-k", "6.1.0-1", "-b", "/boot")
    tree.run("update-initramfs", "-c", "-k", "6.1.0-2", "-b", "/boot")
    tree.run("update-initramfs", "-u")
    tree.run("update-initramfs", "-u", "-k", "all")
    assert asked(tree) == []

    tree.hook("post-install.d/99-initramfs-once")
    assert sorted(asked(tree)) == ["-c -k 6.1.0-1", "-c -k 6.1.0-2"]
    assert {path for path in tree.files() - before if "/var/tmp/" not in path} == {
        "/boot/initrd.img-6.1.0-1",
        "/boot/initrd.img-6.1.0-2",
    }


def test_apt_gives_maintainer_scripts_the_stand_in_first(tree: Tree) -> None:
    tree.hook("pre-install.d/00-initramfs-once")

    path = tree.run("apt-config", "shell", "path", "DPkg::Path").split("=", 1)[1].strip("'\n")
    tree.run("update-initramfs", "-u", path=path)
    assert path.endswith("/usr/sbin:/usr/bin:/sbin:/bin")
    assert asked(tree) == []


def test_an_initramfs_that_is_there_is_updated_once_if_it_is_the_newest(tree: Tree) -> None:
    for version in ("6.1.0-1", "6.1.0-2"):
        (tree.root / "boot" / f"initrd.img-{version}").touch()

    tree.hook("pre-install.d/00-initramfs-once")
    for _ in range(3):
        tree.run("update-initramfs", "-u")
    tree.hook("post-install.d/99-initramfs-once")

    assert asked(tree) == ["-u -k 6.1.0-2"]


def test_a_kernel_that_is_removed_again_gets_none(tree: Tree) -> None:
    tree.hook("pre-install.d/00-initramfs-once")
    tree.run("update-initramfs", "-c", "-k", "6.1.0-1")
    tree.run("update-initramfs", "-c", "-k", "6.1.0-2")
    tree.run("update-initramfs", "-d", "-k", "6.1.0-1")
    tree.hook("post-install.d/99-initramfs-once")

    assert asked(tree) == ["-d -k 6.1.0-1", "-c -k 6.1.0-2"]


def test_nothing_wanted_is_nothing_made(tree: Tree) -> None:
    tree.hook("pre-install.d/00-initramfs-once")
    tree.hook("post-install.d/99-initramfs-once")

    assert asked(tree) == []


def test_kernel_hooks_that_missed_it_see_it(tree: Tree) -> None:
    for name in ("aa-before", "initramfs-tools", "zz-after"):
        hook = tree.root / "etc" / "kernel" / "postinst.d" / name
        hook.write_text('#!/bin/sh\nls "/boot/initrd.img-$1"; echo "${0##*/} $*" >> /var/tmp/hooks\n')
        hook.chmod(0o755)

    tree.hook("pre-install.d/00-initramfs-once")
    tree.run("update-initramfs", "-c", "-k", "6.1.0-2")
    tree.hook("post-install.d/99-initramfs-once")

    ran = (tree.root / "var" / "tmp" / "hooks").read_text()
    assert ran == "zz-after 6.1.0-2 /boot/vmlinuz-6.1.0-2\n"


@pytest.fixture
def dracut(tree: Tree) -> Tree:
    """The same, where dracut makes the initramfs."""
    tree.program("bin/dracut", DRACUT)
    tree.program("sbin/update-initramfs", DRACUT_UPDATE)
    for name, text in (("dracut", DRACUT_HOOK), ("zz-after", 'echo "$*" >> /var/tmp/after')):
        hook = tree.root / "etc" / "kernel" / "postinst.d" / name
        hook.write_text(f"#!/bin/sh\n{text}\n")
        hook.chmod(0o755)
    return tree


def kernel_hook(tree: Tree, version: str) -> None:
    """Do what the installation of a kernel does."""
    tree.run("/etc/kernel/postinst.d/dracut", version, f"/boot/vmlinuz-{version}")


def test_dracut_is_called_once_for_the_kernel_and_its_own_trigger(dracut: Tree) -> None:
    before = dracut.files()

    dracut.hook("pre-install.d/00-initramfs-once")
    kernel_hook(dracut, "6.1.0-2")
    dracut.run("update-initramfs", "-u")
    assert asked(dracut) == []

    dracut.hook("post-install.d/99-initramfs-once")
    assert asked(dracut) == ["--force /boot/initrd.img-6.1.0-2 6.1.0-2"]
    assert {path for path in dracut.files() - before if "/var/tmp/" not in path} == {
        "/boot/initrd.img-6.1.0-2"
    }
    assert (dracut.root / "var" / "tmp" / "after").read_text() == "6.1.0-2 /boot/vmlinuz-6.1.0-2\n"


def test_dracut_alone_is_enough(dracut: Tree) -> None:
    dracut.hook("pre-install.d/00-initramfs-once")
    dracut.run("rm", "/usr/sbin/update-initramfs")
    dracut.run("dracut", "-q", "--force", "/boot/initrd.img-6.1.0-1", "6.1.0-1")
    dracut.hook("post-install.d/99-initramfs-once")

    assert asked(dracut) == ["--force /boot/initrd.img-6.1.0-1 6.1.0-1"]


@pytest.mark.parametrize(
    "argv",
    [
        ("dracut", "--force", "/tmp/other.img", "6.1.0-1"),
        ("dracut", "--regenerate-all", "--force"),
        ("update-initramfs", "-u", "-k", "6.1.0-1", "-s", "0"),
    ],
)
def test_whatever_else_dracut_is_asked_for_is_done_at_once(dracut: Tree, argv: tuple[str, ...]) -> None:
    dracut.hook("pre-install.d/00-initramfs-once")
    dracut.run(*argv)

    assert len(asked(dracut)) == 1


@pytest.mark.parametrize(
    ("level", "told"),
    [("${compress_level_zstd-15}", "zstd 3\n"), ("15", "zstd -q -3 -T0 15\n")],
)
def test_dracut_is_told_the_level_in_the_way_it_takes_it(dracut: Tree, level: str, told: str) -> None:
    settings = dracut.directory / "usr" / "lib" / "dracut" / "dracut.conf.d"
    settings.mkdir(parents=True)
    (dracut.root / "boot" / "config-6.1.0-2").write_text("CONFIG_RD_ZSTD=y\n")
    dracut.program("bin/zstd", "")
    read = f". /usr/lib/dracut/dracut.conf.d/*.conf; echo $compress {level} > /var/tmp/helped"
    dracut.program("bin/dracut", f"exec bash -c '{read}'")

    dracut.hook("pre-install.d/00-initramfs-once")
    kernel_hook(dracut, "6.1.0-2")
    dracut.hook("post-install.d/99-initramfs-once")

    assert (dracut.root / "var" / "tmp" / "helped").read_text() == told
    assert list(settings.iterdir()) == []


def test_an_image_without_zstd_is_lent_one_unless_its_modules_are_compressed_by_it(tree: Tree) -> None:
    def made() -> str:
        tree.hook("pre-install.d/00-initramfs-once")
        tree.run("update-initramfs", "-c", "-k", "6.1.0-1")
        tree.hook("post-install.d/99-initramfs-once")
        return (tree.root / "var" / "tmp" / "helped").read_text().splitlines()[-1]

    lent = tree.hooks / "initramfs-once" / "lent-zstd"
    lent.write_text("#!/bin/sh\n")
    lent.chmod(0o755)
    tree.run("rm", "-f", "/usr/bin/zstd")
    assert made() == "3 /usr/bin/zstd"
    assert not (tree.directory / "usr" / "bin" / "zstd").is_file()

    (tree.directory / "usr" / "lib" / "modules" / "6.1.0-1" / "one.ko.zst").touch()
    assert made() == "3 "


def test_a_failing_initramfs_fails_the_build(tree: Tree) -> None:
    tree.hook("pre-install.d/00-initramfs-once")
    tree.run("update-initramfs", "-c", "-k", "6.1.0-1")
    tree.program("sbin/update-initramfs", "exit 3")

    with pytest.raises(AssertionError):
        tree.hook("post-install.d/99-initramfs-once")


@pytest.fixture
def apt(tmp_path: Path) -> Tree:
    """A root tree in a build with apt-update-once, whose base installation has asked the mirror."""
    need_root()
    tree = Tree(tmp_path, "apt-update-once")
    tree.program("bin/apt-get", APT_GET)
    (tree.root / "var" / "lib" / "apt" / "lists").mkdir(parents=True)
    (tree.root / "var" / "lib" / "apt" / "lists" / "mirror_InRelease").touch()
    (tree.root / "etc" / "apt" / "sources.list").write_text("deb http://mirror.test/debian bookworm main\n")
    (tree.hooks / "apt-update-once" / "is-fresh").touch()
    return tree


def test_an_update_that_would_change_nothing_is_left_out(apt: Tree) -> None:
    before = apt.files()

    apt.hook("pre-install.d/01-apt-update-once")
    apt.run("apt-get", "-y", "update")
    apt.run("apt-get", "--assume-yes", "install", "bash")
    apt.run("apt-get", "-y", "update")
    apt.hook("post-install.d/98-apt-update-once")

    assert asked(apt) == ["--assume-yes install bash"]
    assert apt.files() - before == {"/var/tmp/asked"}


def test_a_base_that_comes_with_old_indexes_is_updated_once(apt: Tree) -> None:
    (apt.hooks / "apt-update-once" / "is-fresh").unlink()

    apt.hook("pre-install.d/01-apt-update-once")
    apt.run("apt-get", "-y", "update")
    apt.run("apt-get", "-y", "update")

    assert asked(apt) == ["-y update"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("etc/apt/sources.list", "deb http://other.test/debian bookworm main\n"),
        ("etc/apt/trusted.gpg.d/new.asc", "a key\n"),
        ("etc/apt/apt.conf.d/50pin", 'Acquire::http::Proxy "http://proxy.test";\n'),
        ("var/lib/apt/lists/mirror_InRelease", "changed\n"),
    ],
)
def test_a_changed_source_key_setting_or_index_is_asked_for_again(apt: Tree, file: str, text: str) -> None:
    apt.hook("pre-install.d/01-apt-update-once")
    (apt.root / file).parent.mkdir(exist_ok=True)
    (apt.root / file).write_text(text)
    apt.run("apt-get", "-y", "update")
    apt.run("apt-get", "-y", "update")

    assert asked(apt) == ["-y update"]


def test_an_update_that_fails_is_no_update(apt: Tree) -> None:
    (apt.hooks / "apt-update-once" / "is-fresh").unlink()
    apt.hook("pre-install.d/01-apt-update-once")
    apt.program("bin/apt-get", 'echo "$*" >> /var/tmp/asked; exit 100')
    for _ in range(2):
        with pytest.raises(AssertionError):
            apt.run("apt-get", "-y", "update")

    assert asked(apt) == ["-y update", "-y update"]

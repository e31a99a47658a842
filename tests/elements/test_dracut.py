"""boot-fast and initramfs-once where dracut makes the initramfs: what is in it, and how often it is made.

A kernel is installed between their hooks as a build does it, and nothing is booted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.elements.hooks import Hooks
from tests.elements.trees import Tree, Trees

#: What an image has before its kernel. dracut comes with that, as the first that apt finds for an initramfs.
PACKAGES: Final = ("e2fsprogs", "kmod", "linux-base", "systemd-cryptsetup", "systemd-sysv", "udev", "zstd")
KERNEL: Final = "linux-image-cloud-amd64"
#: Asks the initramfs, as systemd does when it starts there, how long to wait for the root file system's disk.
GENERATOR: Final = """
cd /unpacked
echo "root=$1 ro quiet" > cmdline
mount -t proc proc proc
mount --bind cmdline proc/cmdline
rm -rf units
chroot . /usr/lib/systemd/system-generators/dracut-rootfs-generator /units /units /units
ls units/initrd.target.wants
cat units/*.device.d/timeout.conf
"""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image whose kernel was installed between the hooks, and its initramfs."""

    tree: Tree
    installing: str  #: what apt said
    afterwards: str  #: what the hooks said that came after it
    files: frozenset[str]

    @property
    def modules(self) -> set[str]:
        """The kernel modules of the initramfs."""
        names = (Path(file).name.partition(".ko")[0] for file in self.files if ".ko" in file)
        return {name.replace("-", "_") for name in names}


@pytest.fixture(scope="module")
def built(trees: Trees, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    hooks = Hooks(tmp_path_factory.mktemp("hooks") / "hooks", "boot-fast", "initramfs-once")
    with trees.changeable(trees.installed("sid", PACKAGES, (KERNEL,))) as tree:
        hooks.inside(tree, "pre-install.d")
        install = ("apt-get", "--yes", "--no-install-recommends", "--no-download", "install", KERNEL)
        installed = tree.run(*install, DEBIAN_FRONTEND="noninteractive")
        done = hooks.inside(tree, "post-install.d")
        (initramfs,) = (tree.root / "boot").glob("initrd.img-*")
        (tree.root / "unpacked").mkdir()
        tree.run("bash", "-ec", f"cd /unpacked; lsinitrd --unpack /boot/{initramfs.name}")
        unpacked = tree.root / "unpacked"
        yield Built(
            tree=tree,
            installing=installed.stdout + installed.stderr,
            afterwards=done.stdout + done.stderr,
            files=frozenset(str(file.relative_to(unpacked)) for file in unpacked.rglob("*")),
        )


def test_the_drivers_of_the_clouds_are_in_it_and_no_others(built: Built) -> None:
    assert {"virtio_blk", "virtio_scsi", "sd_mod", "ahci", "ata_piix", "xen_blkfront", "xfs"} <= built.modules
    assert not [name for name in built.modules if name.startswith(("nls_", "mac_", "hid", "nd_", "sr_"))]


def test_it_neither_looks_for_swap_nor_knows_all_hardware(built: Built) -> None:
    known = built.tree.run("lsinitrd", "--mod", f"/boot/{initramfs(built).name}").stdout.split()
    assert "dracut-systemd" in known
    assert not {"hwdb", "resume", "qemu", "nvdimm", "lunmask", "i18n", "plymouth"} & set(known)
    # That of Red Hat's dracut gives up after three minutes; here only what asks for keys brings it.
    assert not {"crypt", "initqueue"} & set(known)
    assert not [file for file in built.files if file.endswith("hwdb.bin")]


@pytest.mark.parametrize(
    ("root", "device"),
    [
        ("LABEL=cloudimg-rootfs", r"dev-disk-by\x2dlabel-cloudimg\x2drootfs.device"),
        ("UUID=5ca1-ab1e", r"dev-disk-by\x2duuid-5ca1\x2dab1e.device"),
        ("/dev/vda1", "dev-vda1.device"),
    ],
)
def test_a_disk_may_come_as_late_as_it_likes(built: Built, root: str, device: str) -> None:
    wants, *settings = built.tree.run("bash", "-euc", GENERATOR, "bash", root).stdout.splitlines()
    assert wants == device
    assert {"JobTimeoutSec=infinity", "JobRunningTimeoutSec=infinity"} <= set(settings)


def test_it_is_made_once_and_compressed_lightly(built: Built) -> None:
    # By the kernel's hook, and by dracut's own trigger.
    assert built.installing.count("for the end of the installation") == 2
    assert built.afterwards.count("Generating") == 1
    # A level that dracut does not take is told.
    assert "mapped to" not in built.afterwards
    assert b"\x28\xb5\x2f\xfd" in initramfs(built).read_bytes()


def test_nothing_of_it_stays(built: Built) -> None:
    root = built.tree.root
    for path in (
        "etc/apt/apt.conf.d/99initramfs-once",
        "usr/lib/dracut/dracut.conf.d/00-initramfs-once.conf",
        "usr/local/sbin/dracut",
        "usr/local/sbin/update-initramfs",
        "var/tmp/initramfs-once",
    ):
        assert not (root / path).exists()
        assert not (root / path).is_symlink()


def initramfs(built: Built) -> Path:
    """The only one there is."""
    (file,) = (built.tree.root / "boot").glob("initrd.img-*")
    return file

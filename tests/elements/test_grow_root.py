"""The element grow-root: a disk that grew, and a root file system that does not fill it yet.

The program of the tree works on loop devices. Growing ext4 while it is mounted takes a right that a
container may not have (CAP_SYS_RESOURCE); where it is missing, xfs stands for both.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.elements.trees import Tree, Trees
from tests.realparts.loops import partitions
from tests.realparts.mounts import PATIENCE, Mounts, mounts

ELEMENTS = ("network-glean", "grow-root", "boot-fast")
PROGRAM = "usr/lib/grow-root/bin/grow-root"
MIB = 1024 * 1024
#: Tables with the root partition as the last one, as diskimage-builder makes them, and its number.
TABLES = {
    "gpt": ("label: gpt\n,20M,U\n,8M\n,+\n", 3),
    "mbr": ("label: dos\n2048,+\n", 1),
    "none": (None, 0),
}


@pytest.fixture(scope="module")
def debian(trees: Trees) -> Tree:
    return trees.build(*ELEMENTS)


@pytest.fixture(scope="module")
def redhat(trees: Trees) -> Tree:
    return trees.build(*ELEMENTS, family="redhat")


class Disk:
    """A disk of 400 MiB with one file system, mounted at `point` of `mounts`."""

    def __init__(self, tree: Tree, file: Path, loop: str, device: str, mounts: Mounts, point: Path) -> None:
        self.tree = tree
        self.file = file
        self.loop = loop
        self.device = device
        self.mounts = mounts
        self.point = point
        self.mounted = mounts.seen(point)
        self.stamp = file.parent / "state/filled"

    def become(self, mib: int) -> None:
        """Make the disk as large as that."""
        os.truncate(self.file, mib * MIB)
        run("losetup", "-c", self.loop)

    def boot(self, path: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the program on the mounted file system as it would run on /, and find programs in `path`."""
        program = str(self.tree.root / PROGRAM)
        return self.mounts.run("/bin/sh", program, str(self.point), str(self.stamp), path=path, check=check)

    @property
    def size(self) -> int:
        """MiB of the file system."""
        system = os.statvfs(self.mounted)
        return system.f_blocks * system.f_frsize // MIB

    def table(self) -> str:
        return run("sfdisk", "--dump", self.loop)


def run(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def disk(tree: Tree, directory: Path, table: str, kind: str = "xfs", extra: str = "") -> Iterator[Disk]:
    file = directory / "disk.raw"
    file.touch()
    os.truncate(file, 400 * MIB)
    script, number = TABLES.get(table, (extra, 1))
    if script:
        run("sfdisk", "-q", str(file), stdin=script)
    with ExitStack() as undo:
        loop = run("losetup", "-f", "--show", str(file)).strip()
        undo.callback(run, "losetup", "-d", loop)
        device = loop
        if script:
            undo.enter_context(partitions(loop))
            device = f"{loop}p{number}"
            deadline = time.monotonic() + 10
            while not Path(device).exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        run(f"mkfs.{kind}", "-q", device)
        point = directory / "mounted"
        point.mkdir()
        own = undo.enter_context(mounts())
        own.run("mount", device, str(point))
        undo.callback(own.run, "umount", str(point))
        grown = Disk(tree, file, loop, device, own, point)
        (grown.mounted / "kept").write_text("as it was")
        yield grown


@pytest.mark.parametrize("table", TABLES)
def test_the_file_system_fills_the_disk_at_once_and_again_when_that_grows(
    debian: Tree, tmp_path: Path, table: str
) -> None:
    with disk(debian, tmp_path, table) as grown:
        grown.become(1200)
        grown.boot()
        assert 1100 < grown.size <= 1200
        grown.become(2000)
        grown.boot()
        assert 1900 < grown.size <= 2000
        assert (grown.mounted / "kept").read_text() == "as it was"
        if table != "none":
            assert "No errors detected" in run("sfdisk", "--verify", grown.loop)


@pytest.mark.parametrize("table", TABLES)
def test_with_nothing_to_do_nothing_is_said_started_or_written(
    debian: Tree, tmp_path: Path, table: str
) -> None:
    with disk(debian, tmp_path, table) as grown:
        grown.become(1200)
        grown.boot()
        before = (grown.size, grown.stamp.stat().st_mtime_ns, "" if table == "none" else grown.table())
        alone = grown.boot(path="/nowhere")
        assert (alone.stdout, alone.stderr) == ("", "")
        after = (grown.size, grown.stamp.stat().st_mtime_ns, "" if table == "none" else grown.table())
        assert after == before


def test_the_other_partitions_and_their_names_stay(debian: Tree, tmp_path: Path) -> None:
    with disk(debian, tmp_path, "gpt") as grown:
        before = [line for line in grown.table().splitlines() if line.startswith("/dev/")]
        identifier = [line for line in grown.table().splitlines() if line.startswith("label-id")]
        grown.become(1200)
        grown.boot()
        after = [line for line in grown.table().splitlines() if line.startswith("/dev/")]
        assert after[:2] == before[:2]
        assert after[2].partition("uuid=")[2] == before[2].partition("uuid=")[2]
        assert identifier == [line for line in grown.table().splitlines() if line.startswith("label-id")]


def test_power_lost_after_the_partition_grew_is_made_good_at_the_next_boot(
    debian: Tree, tmp_path: Path
) -> None:
    with disk(debian, tmp_path, "gpt") as grown:
        grown.become(1200)
        # What a boot does first, and nothing after it.
        run(
            "sfdisk", "-q", "--force", "--no-reread", "--no-tell-kernel", "-N", "3", grown.loop, stdin=", +\n"
        )
        run("partx", "--update", "--nr", "3", grown.loop)
        assert grown.size < 400
        grown.boot()
        assert grown.size > 1100


def test_a_partition_before_another_one_is_left_alone(debian: Tree, tmp_path: Path) -> None:
    with disk(debian, tmp_path, "other", extra="label: gpt\n,350M\n,+\n") as grown:
        before = grown.table()
        grown.become(1200)
        done = grown.boot()
        assert "another partition lies between" in done.stdout
        assert grown.table() == before
        assert grown.size < 400


def test_a_table_that_cannot_be_changed_is_an_error_that_says_so(debian: Tree, tmp_path: Path) -> None:
    with disk(debian, tmp_path, "mbr") as grown:
        grown.become(1200)
        run("blockdev", "--setro", grown.loop)
        try:
            done = grown.boot(check=False)
        finally:
            run("blockdev", "--setrw", grown.loop)
        assert done.returncode == 1
        assert f"the partition table of {grown.loop} could not be changed" in done.stderr
        assert not grown.stamp.exists()


def test_ext4_grows_where_the_kernel_lets_us(debian: Tree, tmp_path: Path) -> None:
    with disk(debian, tmp_path, "mbr", kind="ext4") as grown:
        grown.become(1200)
        done = grown.boot(check=False)
        # The partition has grown in any case.
        assert int(Path(f"/sys/class/block/{Path(grown.device).name}/size").read_text()) > 1100 * 2048
        if "Permission denied to resize" in done.stdout:
            assert done.returncode == 1
            assert not grown.stamp.exists()
            grown.mounts.run("umount", str(grown.point))
            run("resize2fs", "-f", grown.device)
            grown.mounts.run("mount", grown.device, str(grown.point))
            done = grown.boot()
        assert "fills it" in done.stdout
        assert grown.size > 1050


def test_a_root_without_a_disk_is_left_alone(debian: Tree, tmp_path: Path) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
    try:
        done = subprocess.run(
            ["sh", str(debian.root / PROGRAM), str(tmp_path), str(tmp_path / "stamp")],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        run("umount", str(tmp_path))
    assert "nothing to do" in done.stdout


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_the_service_is_there_for_both_families(family: str, request: pytest.FixtureRequest) -> None:
    tree: Tree = request.getfixturevalue(family)
    assert tree.run("systemctl", "is-enabled", "grow-root.service").stdout == "enabled\n"
    assert "grow-root" not in tree.run("systemd-analyze", "verify", "grow-root.service", check=False).stderr
    for tool in ("sfdisk", "partx", "resize2fs"):
        assert tree.run("sh", "-c", f"command -v {tool}").returncode == 0
    assert not (tree.root / "var/lib/grow-root").exists()

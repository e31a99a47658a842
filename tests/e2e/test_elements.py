"""Our elements and the benchmark, on real builds: the caches are used, and the image is the same.

Needs root, loop devices and a Debian package mirror; takes about four minutes.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.machine import left_of, run
from tests.realparts.mounts import mounts
from tests.trees import differences

pytestmark = pytest.mark.e2e

BENCH = Path(__file__).parents[1] / "bench" / "build"
#: What is not the same in any two builds, or is what the elements are about.
EXPLAINED = {
    "boot/grub/grub.cfg": "names the file system by its UUID, which is random",
    "boot/initrd.img-*": "compressed otherwise; what is in it is compared below",
    "etc/dib-manifests": "",
    "etc/dib-manifests/*": "tells the build's own name, elements and environment",
    "etc/iscsi/initiatorname.iscsi": "random, made when open-iscsi is installed",
    "etc/shadow*": "tells the day on which passwords were set, which may be yesterday's in a kept tree",
    "var/cache/ldconfig/aux-cache": "holds inode numbers and times",
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on a disk, for two builds."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: run the end-to-end tests as root")
    with tempfile.TemporaryDirectory(prefix="imagepool-e2e-", dir="/var/tmp") as name:
        yield Path(name)


@contextmanager
def mounted(raw: Path, target: Path) -> Iterator[Path]:
    """The root file system of a raw image, for reading."""
    table = json.loads(run("sfdisk", "--json", str(raw)))["partitiontable"]
    offset = table["partitions"][-1]["start"] * table.get("sectorsize", 512)
    target.mkdir()
    with mounts() as own:
        own.run("mount", "-o", f"loop,ro,noload,offset={offset}", str(raw), str(target))
        try:
            yield own.seen(target)
        finally:
            own.run("umount", str(target))


def unpacked(initramfs: Path, target: Path) -> Path:
    """What is in an initramfs, compressed by gzip or zstd."""
    tool = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}[initramfs.read_bytes()[:2]]
    target.mkdir()
    plain = subprocess.run([tool, "-dc", str(initramfs)], check=True, capture_output=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet", "-D", str(target)], input=plain, check=True)
    return target


def compare(theirs: Path, mine: Path, scratch: Path) -> None:
    """Check that two images are the same, but for what must differ."""
    unexplained = {
        path
        for path in differences(theirs, mine)
        if not any(fnmatch.fnmatchcase(path, pattern) for pattern in EXPLAINED)
    }
    assert unexplained == set()

    # Of the initramfs, every file is the same as well, but for the name that is random in each image.
    (wanted,) = (theirs / "boot").glob("initrd.img-*")
    scratch.mkdir()
    want = unpacked(wanted, scratch / "theirs")
    made = unpacked(mine / "boot" / wanted.name, scratch / "mine")
    assert differences(want, made) <= {"etc/initiatorname.iscsi"}
    assert (made / "etc/initiatorname.iscsi").read_text() in (
        mine / "etc/iscsi/initiatorname.iscsi"
    ).read_text()


def test_builds_with_our_elements_use_the_caches_and_the_image_is_the_same(place: Path) -> None:
    builds = place / "builds"
    done = subprocess.run(
        [str(BENCH), "--json", "--keep", str(builds)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr  # 1 tells that packages differ

    # It prints one JSON object. How large the gain is, a busy machine can't tell.
    metrics = json.loads(done.stdout)
    assert metrics.keys() == {"warm", "cold", "peak_disk"}
    assert all(metric["ours"] > 0 and metric["baseline"] > 0 for metric in metrics.values())
    # At most it is the tree and the raw image, in which the tree is again, and a little beside them, but no
    # third copy. The stock command's may be missed: on a busy machine looks at the disk are too far apart.
    (raw,) = (builds / "cold" / "images").glob("*.raw")
    assert metrics["peak_disk"]["ours"] <= 2.2 * raw.stat().st_blocks * 512
    assert "base-cache: used" in (builds / "warm" / "build.log").read_text()

    (stock,) = (builds / "stock" / "images").glob("*.raw")
    with mounted(stock, place / "stock") as theirs:
        for name in ("cold", "warm"):
            (ours,) = (builds / name / "images").glob("*.raw")
            with mounted(ours, place / name) as mine:
                compare(theirs, mine, place / f"{name}-initramfs")

    assert left_of(place) == []

"""The element ami: a root file system alone, and beside it the newest kernel with its ramdisk.

The builds are the real disk-image-create with an operating system of a few programs, so that each takes
seconds; what is in /boot of it is named as the packages of a distribution name it.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from builder.config.model import DiskImage
from builder.dib import engine
from builder.dib.job import Job
from builder.dib.output import artifacts
from builder.errors import ActionFailedError
from builder.model import Artifact, Build, BuildPhase, BuildState, Failure, FailureClass, ImageFormat
from tests.elements.trees import PROJECT, require_root

ELEMENTS: Final = PROJECT / "tests/elements"
BUILD: Final = uuid.uuid4().hex
DEBIAN: Final = {
    "vmlinuz-6.1.0-9-amd64": "an older kernel",
    "initrd.img-6.1.0-9-amd64": "an older ramdisk",
    "vmlinuz-6.1.0-56-amd64": "the kernel",
    "initrd.img-6.1.0-56-amd64": "the ramdisk",
    "config-6.1.0-56-amd64": "",
    "System.map-6.1.0-56-amd64": "",
}
REDHAT: Final = {
    "vmlinuz-5.14.0-70.el9.x86_64": "an older kernel",
    "initramfs-5.14.0-70.el9.x86_64.img": "an older ramdisk",
    "vmlinuz-5.14.0-503.el9.x86_64": "the kernel",
    "initramfs-5.14.0-503.el9.x86_64.img": "the ramdisk",
    "vmlinuz-5.14.0-503.el9.x86_64+debug": "a kernel to be debugged",
    "initramfs-5.14.0-503.el9.x86_64+debug.img": "",
    "vmlinuz-0-rescue-0123456789abcdef": "a kernel to rescue with",
    "initramfs-0-rescue-0123456789abcdef.img": "",
}
#: It takes next to nothing, so that a small disk will do for it.
SMALL: Final = Build(
    id="f" * 32,
    image="tiny",
    state=BuildState.READY,
    state_time=datetime(2026, 11, 20, 14, 14, tzinfo=UTC),
    work_bytes=1 << 20,
    artifacts=(
        Artifact(format=ImageFormat.AMI, size=1 << 20, virtual_size=1 << 20, md5="", sha256="", sha512=""),
    ),
)


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def job(place: Path, boot: Mapping[str, str], *elements: str, **environment: str) -> Job:
    """A build of a tiny operating system that has these files in /boot."""
    hook = place / "elements/kernels/root.d/50-kernels"
    hook.parent.mkdir(parents=True)
    lines = [f"printf '%s' '{text}' > \"$TARGET_ROOT/boot/{name}\"" for name, text in boot.items()]
    hook.write_text("\n".join(["#!/bin/bash", "set -eu", 'mkdir "$TARGET_ROOT/boot"', *lines, ""]))
    hook.chmod(0o755)
    return Job(
        image=DiskImage(
            name="tiny",
            elements=("tiny-os", "kernels", *(elements or ("ami",))),
            formats=(ImageFormat.AMI,),
            # No base element, which needs packages; and in so small a file system a journal to fit.
            dib_cmd=("disk-image-create", "-n"),
            environment={"DIB_JOURNAL_SIZE": "4", **environment},
        ),
        build_id=BUILD,
        installation_id="the-installation",
        state_dir=place / "state",
        images_dir=place / "images",
        work_dir=place / "work",
        cache_dir=place / "cache",
        log_path=place / "build.log",
        elements_dirs=(place / "elements", ELEMENTS),
        earlier=(SMALL,),
    )


def build(work: Job) -> dict[ImageFormat, Path]:
    product = engine.run(work, on_phase=lambda _: None, stop=lambda: None)
    return {
        each.format: artifacts.path(work.images_dir, "tiny", BUILD, each.format) for each in product.artifacts
    }


def failure_of(work: Job) -> Failure:
    with pytest.raises(ActionFailedError) as caught:
        engine.run(work, on_phase=lambda _: None, stop=lambda: None)
    assert caught.value.failure is not None
    assert [*work.work_dir.iterdir(), *work.images_dir.glob("*")] == []
    return caught.value.failure


@contextmanager
def mounted(root: Path, place: Path) -> Iterator[Path]:
    """The file system in a file, as a machine finds it on a disk that has nothing else."""
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(root), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_build_leaves_a_root_its_newest_kernel_and_the_ramdisk(tmp_path: Path) -> None:
    files = build(job(tmp_path, DEBIAN))

    assert files.keys() == {ImageFormat.AMI, ImageFormat.AKI, ImageFormat.ARI}
    assert files[ImageFormat.AKI].read_text() == "the kernel"
    assert files[ImageFormat.ARI].read_text() == "the ramdisk"
    root = files[ImageFormat.AMI]
    told = subprocess.run(
        ["blkid", "-p", "-o", "export", str(root)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    # Of a whole disk that would be its partition table.
    assert {"TYPE=ext4", "LABEL=cloudimg-rootfs"} <= set(told)
    assert not [line for line in told if line.startswith("PTTYPE")]
    with mounted(root, tmp_path / "mnt") as tree:
        (line,) = (tree / "etc/fstab").read_text().splitlines()
        assert line.split()[:3] == ["LABEL=cloudimg-rootfs", "/", "ext4"]
        assert {each.name for each in (tree / "boot").iterdir()} == DEBIAN.keys()
        assert (tree / "usr/bin/bash").is_file()


@pytest.mark.parametrize(
    ("boot", "environment", "phase", "said"),
    [
        ({"config-6.1": ""}, {}, BuildPhase.FINALISE, "there is no kernel in /boot"),
        (
            DEBIAN,
            {
                "DIB_BLOCK_DEVICE_CONFIG": "[{local_loop: {name: image0}}, {partitioning: {base: image0,"
                " label: mbr, partitions: [{name: root, flags: [boot], size: 100%, mkfs: {mount:"
                " {mount_point: /}}}]}}]"
            },
            BuildPhase.PACKAGES,
            "the block device is to have 'partitioning'",
        ),
    ],
    ids=["no kernel", "partitions"],
)
def test_what_can_not_come_out_well_ends_the_build_with_the_reason(
    tmp_path: Path, boot: Mapping[str, str], environment: Mapping[str, str], phase: BuildPhase, said: str
) -> None:
    failure = failure_of(job(tmp_path, boot, **environment))
    assert failure.phase == phase
    assert failure.step in ("ami/cleanup.d/97-ami", "ami/extra-data.d/01-ami")
    assert said in "\n".join([failure.message, *failure.lines])


def test_with_vm_the_build_ends_before_anything_is_built(tmp_path: Path) -> None:
    failure = failure_of(job(tmp_path, DEBIAN, "ami", "vm"))
    assert (failure.failure_class, failure.phase) == (FailureClass.CONFIG, BuildPhase.PREFLIGHT)
    assert failure.message == "block-device: already provided by ['ami']"


# -- the hook alone -----------------------------------------------------------------------------------


def extract(place: Path, boot: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the hook on a tree with these files in /boot."""
    directory = place / "tree/boot"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in boot.items():
        (directory / name).write_text(text)
    return run_hook(place)


def run_hook(place: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    environment |= {"TARGET_ROOT": str(place / "tree"), "IMAGE_NAME": str(place / "image")}
    hook = PROJECT / "elements/ami/cleanup.d/97-ami"
    return subprocess.run(
        [str(hook)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("boot", [DEBIAN, REDHAT], ids=["debian", "redhat"])
def test_the_newest_kernel_of_either_family_is_taken(tmp_path: Path, boot: Mapping[str, str]) -> None:
    done = extract(tmp_path, boot)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image.aki").read_text() == "the kernel"
    assert (tmp_path / "image.ari").read_text() == "the ramdisk"
    assert "lie beside the image" in done.stdout


def test_done_twice_it_leaves_the_same(tmp_path: Path) -> None:
    extract(tmp_path, DEBIAN)
    assert extract(tmp_path, DEBIAN).returncode == 0
    assert (tmp_path / "image.aki").read_text() == "the kernel"


def test_a_ramdisk_that_root_alone_may_read_is_readable_beside_the_image(tmp_path: Path) -> None:
    extract(tmp_path, REDHAT)
    (tmp_path / "tree/boot/initramfs-5.14.0-503.el9.x86_64.img").chmod(0o600)
    assert run_hook(tmp_path).returncode == 0
    assert (tmp_path / "image.ari").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("lost", ["initrd.img-6.1.0-56-amd64", "vmlinuz-6.1.0-56-amd64"])
def test_a_newest_kernel_without_ramdisk_is_no_reason_to_take_an_older_one(tmp_path: Path, lost: str) -> None:
    done = extract(tmp_path, {name: text for name, text in DEBIAN.items() if name != lost})
    if lost.startswith("initrd"):
        assert done.returncode == 1
        assert "no ramdisk of the newest kernel, 6.1.0-56-amd64" in done.stderr
        assert not (tmp_path / "image.aki").exists()
    else:
        assert (tmp_path / "image.aki").read_text() == "an older kernel"
        assert (tmp_path / "image.ari").read_text() == "an older ramdisk"


def test_no_link_of_the_tree_leads_to_the_machine_that_builds(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name, text in DEBIAN.items():
        (outside / name).write_text(text)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/boot").symlink_to(outside)
    assert run_hook(tmp_path).returncode == 1
    (tmp_path / "tree/boot").unlink()
    (tmp_path / "tree/boot").mkdir()
    for name in DEBIAN:
        (tmp_path / "tree/boot" / name).symlink_to(outside / name)
    done = run_hook(tmp_path)
    assert (done.returncode, list(tmp_path.glob("image.*"))) == (1, [])
    assert "there is no kernel in /boot" in done.stderr


def test_an_empty_kernel_is_none(tmp_path: Path) -> None:
    done = extract(tmp_path, {**DEBIAN, "vmlinuz-6.1.0-56-amd64": ""})
    assert done.returncode == 1 and "is empty" in done.stderr

"""A file is looked at before it is uploaded, and whatever is not as its record says is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from builder.dib.limits import Limits
from builder.dib.output import convert, inspect
from builder.errors import ActionFailedError, ToolMissingError
from builder.model import Artifact, Failure, FailureClass, ImageFormat
from builder.process.child import find_tool

SIZE = 8 << 20
QEMU = find_tool("qemu-img")
RAW, QCOW2, VHD, VHDX, VMDK = (
    ImageFormat.RAW,
    ImageFormat.QCOW2,
    ImageFormat.VHD,
    ImageFormat.VHDX,
    ImageFormat.VMDK,
)
DISKS = (RAW, QCOW2, VHD, VHDX, VMDK)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Artifact]:
    """One disk in every format."""
    raw = tmp_path_factory.mktemp("made") / "image.raw"
    with raw.open("wb") as stream:
        stream.write(bytes(510) + b"\x55\xaa" + os.urandom(1 << 20))
        stream.truncate(SIZE)
    return dict(convert.make(raw, DISKS, limits=Limits()).artifacts)


def of(made: dict[Path, Artifact], wanted: ImageFormat, place: Path) -> tuple[Path, Artifact]:
    """A copy of the file in a format, to be spoilt, and its record."""
    file, artifact = next((f, a) for f, a in made.items() if a.format is wanted)
    return Path(shutil.copy(file, place / file.name)), artifact


def failure_of(file: Path, artifact: Artifact, wanted: ImageFormat | None = None) -> Failure:
    with pytest.raises(ActionFailedError) as caught:
        inspect.check(file, artifact, wanted or artifact.format)
    assert caught.value.failure is not None
    assert caught.value.message == caught.value.failure.message
    return caught.value.failure


def create(file: Path, *arguments: str) -> None:
    subprocess.run([QEMU, "create", "-q", *arguments], check=True, cwd=file.parent)


def as_recorded(file: Path, artifact: Artifact) -> Artifact:
    """The record, with the file's own size: what is wrong is found out otherwise."""
    return replace(artifact, size=file.stat().st_size)


@pytest.mark.parametrize("wanted", DISKS)
def test_what_was_made_is_as_its_record_says(made: dict[Path, Artifact], wanted: ImageFormat) -> None:
    file, artifact = next((f, a) for f, a in made.items() if a.format is wanted)
    inspect.check(file, artifact, wanted)


@pytest.mark.parametrize("wanted", DISKS)
def test_a_file_of_another_size_is_told_with_both(
    made: dict[Path, Artifact], tmp_path: Path, wanted: ImageFormat
) -> None:
    file, artifact = of(made, wanted, tmp_path)
    os.truncate(file, artifact.size - 512)
    failure = failure_of(file, artifact)
    assert failure.failure_class is FailureClass.DISK
    assert f"has {artifact.size - 512} bytes, {artifact.size} are on record" in failure.message


@pytest.mark.parametrize("wanted", DISKS)
def test_a_disk_of_another_size_is_told_with_both(
    made: dict[Path, Artifact], tmp_path: Path, wanted: ImageFormat
) -> None:
    file, artifact = of(made, wanted, tmp_path)
    failure = failure_of(file, replace(artifact, virtual_size=SIZE + 512))
    assert failure.failure_class is FailureClass.DISK
    assert f"has a disk of {SIZE} bytes, {SIZE + 512} are on record" in failure.message


@pytest.mark.parametrize(("recorded", "found"), [*permutations(DISKS, 2)])
def test_a_file_in_another_format_is_told_with_both(
    made: dict[Path, Artifact], tmp_path: Path, recorded: ImageFormat, found: ImageFormat
) -> None:
    file, artifact = of(made, found, tmp_path)
    failure = failure_of(file, replace(artifact, format=recorded))
    assert failure.failure_class is FailureClass.DISK
    assert f"looks like {found}, {recorded} is on record" in failure.message


def test_a_record_in_another_format_than_wanted_is_a_matter_of_the_configuration(
    made: dict[Path, Artifact], tmp_path: Path
) -> None:
    file, artifact = of(made, QCOW2, tmp_path)
    failure = failure_of(file, artifact, VHD)
    assert failure.failure_class is FailureClass.CONFIG
    assert failure.message == "image.qcow2 is on record as qcow2, vhd is wanted"


def test_a_file_that_is_gone_is_told(made: dict[Path, Artifact], tmp_path: Path) -> None:
    file, artifact = of(made, QCOW2, tmp_path)
    file.unlink()
    failure = failure_of(file, artifact)
    assert failure.failure_class is FailureClass.DISK
    assert failure.message == f"{file}: No such file or directory"


FOREIGN = {
    "qed": b"QED\0",
    "luks": b"LUKS\xba\xbe\0\1",
    "vdi": bytes(64) + b"\x7f\x10\xda\xbe",
    "parallels": b"WithoutFreeSpace",
    "qcow2": b"QFI\xfb\0\0\0\3",
    "vmdk": b"# Disk DescriptorFile\n",
}


@pytest.mark.parametrize(("looks", "beginning"), FOREIGN.items(), ids=FOREIGN.keys())
def test_a_raw_disk_that_others_would_take_for_something_else_is_told(
    made: dict[Path, Artifact], tmp_path: Path, looks: str, beginning: bytes
) -> None:
    file, artifact = of(made, RAW, tmp_path)
    with file.open("r+b") as stream:
        stream.write(beginning)
    assert f"looks like {looks}, raw is on record" in failure_of(file, artifact).message


def test_a_file_that_needs_another_is_not_whole(made: dict[Path, Artifact], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(SIZE))
    qcow2, backed = of(made, QCOW2, tmp_path)
    create(qcow2, "-f", "qcow2", "-F", "raw", "-b", "secret", qcow2.name)
    assert "names a backing file" in failure_of(qcow2, as_recorded(qcow2, backed)).message

    create(qcow2, "-f", "qcow2", "-o", "data_file=data", qcow2.name, str(SIZE))
    assert "has its data in another file" in failure_of(qcow2, as_recorded(qcow2, backed)).message

    vmdk, flat = of(made, VMDK, tmp_path)
    create(vmdk, "-f", "vmdk", "-o", "subformat=monolithicFlat", vmdk.name, str(SIZE))
    assert "is a description of other files" in failure_of(vmdk, as_recorded(vmdk, flat)).message

    create(qcow2, "-f", "vmdk", "parent.vmdk", str(SIZE))
    vmdk.unlink()
    create(vmdk, "-f", "vmdk", "-F", "vmdk", "-b", "parent.vmdk", vmdk.name)
    assert "backs onto 'parent.vmdk'" in failure_of(vmdk, as_recorded(vmdk, flat)).message


def test_qemu_img_is_not_asked_before_it_is_known_that_it_opens_no_other_file(
    made: dict[Path, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, artifact = of(made, QCOW2, tmp_path)
    create(file, "-f", "qcow2", "-o", "data_file=data", file.name, str(SIZE))
    (tmp_path / "qemu-img").write_text("#!/bin/sh\ntouch asked\nexit 1\n")
    (tmp_path / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    failure_of(file, as_recorded(file, artifact))
    assert not (tmp_path / "asked").exists()


def test_a_file_that_qemu_img_can_not_read_is_told(made: dict[Path, Artifact], tmp_path: Path) -> None:
    file, artifact = of(made, QCOW2, tmp_path)
    with file.open("r+b") as stream:
        stream.seek(20)
        stream.write(b"\xff\xff\xff\xff")  # cluster_bits
    failure = failure_of(file, artifact)
    assert failure.failure_class is FailureClass.DISK
    assert "is no usable qcow2 image" in failure.message
    assert "luster" in " ".join(failure.lines)


def test_a_machine_without_qemu_img_is_told(
    made: dict[Path, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, artifact = of(made, QCOW2, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError):
        inspect.check(file, artifact, QCOW2)


def test_what_killed_qemu_img_is_not_blamed_on_the_file(
    made: dict[Path, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, artifact = of(made, QCOW2, tmp_path)
    (tmp_path / "qemu-img").write_text("#!/bin/bash\nkill -KILL $$\n")
    (tmp_path / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    failure = failure_of(file, artifact)
    assert failure.failure_class is FailureClass.UNKNOWN
    assert "SIGKILL" in failure.message


def test_the_disk_of_a_raw_image_is_read_as_raw_whatever_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + bytes((1 << 20) - 8))
    assert inspect.virtual_size(file, RAW) == 1 << 20
    plain = subprocess.run([QEMU, "info", "--output=json", str(file)], capture_output=True, check=False)
    assert plain.returncode != 0 or json.loads(plain.stdout)["format"] != "raw"

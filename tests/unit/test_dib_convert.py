"""Formats made from a raw image by the real qemu-img, and the hashes of files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from builder.dib import convert
from builder.dib.limits import Limits
from builder.errors import ActionFailedError
from builder.model import FailureClass, ImageFormat

SIZE = (5 << 20) + 512  #: no multiple of any cluster size


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    file = tmp_path / "image.raw"
    with file.open("wb") as stream:
        stream.write(os.urandom(1 << 20))
        stream.truncate(SIZE)
    return file


@pytest.mark.parametrize("wanted", [f for f in ImageFormat if f is not ImageFormat.RAW])
def test_every_format_holds_what_raw_holds(raw: Path, wanted: ImageFormat) -> None:
    target = raw.with_suffix(f".{wanted}")
    convert.convert(raw, target, wanted, Limits())
    back = raw.with_suffix(".back")
    qemu = {"vhd": "vpc"}.get(wanted, str(wanted))
    subprocess.run(["qemu-img", "convert", "-f", qemu, "-O", "raw", str(target), str(back)], check=True)
    content = back.read_bytes()
    assert content[:SIZE] == raw.read_bytes()
    assert not any(content[SIZE:])
    assert convert.inspect(target, wanted) == len(content)


def test_qcow2_is_compressed_with_zstd(raw: Path) -> None:
    target = raw.with_suffix(".qcow2")
    convert.convert(raw, target, ImageFormat.QCOW2, Limits())
    info = subprocess.run(
        ["qemu-img", "info", str(target)], check=True, capture_output=True, text=True
    ).stdout
    assert "compression type: zstd" in info


def test_vhd_keeps_the_exact_size(raw: Path) -> None:
    target = raw.with_suffix(".vhd")
    convert.convert(raw, target, ImageFormat.VHD, Limits())
    assert convert.inspect(target, ImageFormat.VHD) == SIZE


def test_all_formats_are_described_by_what_is_on_disk(raw: Path) -> None:
    made = convert.make(raw, (ImageFormat.QCOW2, ImageFormat.RAW), Limits())
    assert {artifact.format for artifact in made.values()} == {ImageFormat.QCOW2, ImageFormat.RAW}
    for file, artifact in made.items():
        content = file.read_bytes()
        assert artifact.size == len(content)
        assert artifact.virtual_size == SIZE
        assert artifact.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
        assert artifact.sha512 == hashlib.sha512(content).hexdigest()


def test_a_raw_image_that_pretends_to_be_qcow2_is_raw(tmp_path: Path) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + bytes((1 << 20) - 8))
    assert convert.inspect(file, ImageFormat.RAW) == 1 << 20


def test_a_broken_image_is_told(tmp_path: Path) -> None:
    file = tmp_path / "image.qcow2"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ActionFailedError, match="no usable qcow2 image"):
        convert.inspect(file, ImageFormat.QCOW2)


def test_a_missing_raw_image_is_told_with_qemu_imgs_words(tmp_path: Path) -> None:
    with pytest.raises(ActionFailedError) as caught:
        convert.convert(tmp_path / "no.raw", tmp_path / "no.qcow2", ImageFormat.QCOW2, Limits())
    failure = caught.value.failure
    assert failure is not None
    assert failure.step == "qemu-img"
    assert "No such file" in " ".join(failure.lines)


def test_hashing_and_converting_end_when_the_build_is_stopped(raw: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    limits = Limits(cancelled=stopped)
    with pytest.raises(ActionFailedError) as caught:
        convert.hash_file(raw, limits)
    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is FailureClass.CANCELLED


def test_an_empty_file_has_the_hashes_of_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    hashes = convert.hash_file(file)
    assert (hashes.size, hashes.sha256) == (0, hashlib.sha256().hexdigest())

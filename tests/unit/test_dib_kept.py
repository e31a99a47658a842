"""Which builds a disk has the proof of, and what their files are now."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builder.dib.output import artifacts, kept
from builder.errors import ActionFailedError
from builder.model import ImageFormat
from tests.unit.dib_world import BUILD, DISK, FINISHED, INSTALLATION, publish

IMAGE = "debian-bookworm"
STARTED = datetime(2026, 11, 20, 14, 14, tzinfo=UTC)
PROOF = artifacts.Proof(
    installation_id=INSTALLATION,
    image=IMAGE,
    build_id=BUILD,
    created=STARTED,
    started=STARTED,
    environment={},
    tools={"qemu-img": "7.2"},
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An images directory with one published build of a real qcow2."""
    made = tmp_path / "made.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(made), str(DISK.size)], check=True)
    publish(tmp_path / "images", PROOF, [(made, ImageFormat.QCOW2)])
    return tmp_path / "images"


def home(images: Path) -> Path:
    return artifacts.directory(images, IMAGE, BUILD)


def file(images: Path) -> Path:
    return artifacts.path(images, IMAGE, BUILD, ImageFormat.QCOW2)


def rewrite(images: Path, **changes: Any) -> None:
    proof = home(images) / artifacts.PROOF
    record = {**json.loads(proof.read_text()), **changes}
    proof.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


def test_a_finished_build_is_found_with_all_that_its_proof_tells(images: Path) -> None:
    (found,) = kept.find(images)
    assert (found.installation_id, found.image, found.build_id) == (INSTALLATION, IMAGE, BUILD)
    assert (found.created, found.started, found.finished) == (STARTED, STARTED, FINISHED)
    assert (found.raw_sha256, found.raw_size) == (DISK.sha256, DISK.size)
    assert found.tools == {"qemu-img": "7.2"} and found.formats == (ImageFormat.QCOW2,)
    assert found.artifacts == (kept.measure(images, found, ImageFormat.QCOW2),)


def test_an_unfinished_build_is_found_as_such(tmp_path: Path) -> None:
    artifacts.Publication(tmp_path, PROOF).begin()
    (found,) = kept.find(tmp_path)
    assert (found.finished, found.artifacts, found.formats, found.described) == (None, (), (), False)
    assert found.failed is None


def test_a_failed_build_whose_files_stayed_is_found_as_such(tmp_path: Path) -> None:
    publication = artifacts.Publication(tmp_path / "images", PROOF)
    publication.begin()
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "packages.json").write_text("[]")
    publication.fail(tmp_path / "manifests", FINISHED)
    (found,) = kept.find(tmp_path / "images")
    assert (found.failed, found.finished, found.artifacts, found.described) == (FINISHED, None, (), True)
    assert home(tmp_path / "images").joinpath("packages.json").is_file()
    rewrite(tmp_path / "images", failed="yesterday")
    assert [each.failed for each in kept.find(tmp_path / "images")] == [None]


def test_without_a_directory_there_is_nothing(tmp_path: Path) -> None:
    assert kept.find(tmp_path / "nowhere") == ()


def test_a_changed_file_is_measured_as_it_is_now(images: Path) -> None:
    (found,) = kept.find(images)
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", str(file(images)), "4M"], check=True)
    now = kept.measure(images, found, ImageFormat.QCOW2)
    assert now.virtual_size == 4 << 20 and now.sha512 != found.artifacts[0].sha512


@pytest.mark.parametrize("content", [b"", b"QFI\xfb garbage", b"no image at all"])
def test_what_is_no_image_of_that_format_is_told(images: Path, content: bytes) -> None:
    (found,) = kept.find(images)
    file(images).write_bytes(content)
    with pytest.raises(ActionFailedError) as raised:
        kept.measure(images, found, ImageFormat.QCOW2)
    assert kept.trouble_with(raised.value)


def test_a_file_that_would_open_another_is_told(images: Path) -> None:
    (found,) = kept.find(images)
    file(images).unlink()
    base = images / "base.raw"
    base.write_bytes(bytes(4096))
    options = ["-f", "qcow2", "-b", str(base), "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-q", *options, str(file(images))], check=True)
    with pytest.raises(ActionFailedError, match="backing file"):
        kept.measure(images, found, ImageFormat.QCOW2)


def test_a_file_that_is_gone_is_told(images: Path) -> None:
    (found,) = kept.find(images)
    file(images).unlink()
    with pytest.raises(FileNotFoundError) as raised:
        kept.measure(images, found, ImageFormat.QCOW2)
    assert kept.trouble_with(raised.value) == "No such file or directory"
    assert kept.find(images)[0].formats == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '"x"', "[" * 100_000, '{"image": "another"}'], ids=lambda t: t[:20]
)
def test_a_proof_that_proves_nothing_is_passed_over(images: Path, text: str) -> None:
    (home(images) / artifacts.PROOF).write_text(text)
    assert kept.find(images) == ()


def test_names_that_are_none_and_links_are_passed_over(images: Path) -> None:
    for name in ("x.d", f"-{BUILD}.d", f"{IMAGE}-{'z' * 32}.d", f"{IMAGE}-{BUILD}"):
        (images / name).mkdir()
    (images / f"linked-{BUILD}.d").symlink_to(home(images))
    assert [found.image for found in kept.find(images)] == [IMAGE]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"finished": "today"}, {"finished": None}),
        ({"finished": "2026-11-20T14:30:00"}, {"finished": None}),
        ({"finished": "0001-01-01T00:00:00+23:59"}, {"finished": None}),
        ({"created": 7, "started": []}, {"created": None, "started": None}),
        ({"raw_sha256": "../x", "raw_size": True}, {"raw_sha256": None, "raw_size": None}),
        ({"raw_size": -1, "tools": 3}, {"raw_size": None, "tools": {}}),
        ({"artifacts": {"format": "qcow2"}}, {"artifacts": ()}),
        ({"artifacts": [7, {"format": "../x"}, {"format": "raw", "size": 1}]}, {"artifacts": ()}),
    ],
)
def test_what_makes_no_sense_in_a_proof_is_left_out(
    images: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    (whole,) = kept.find(images)
    rewrite(images, **changes)
    assert kept.find(images) == (replace(whole, **expected),)

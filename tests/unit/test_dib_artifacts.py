"""Files of builds: how they appear, and that only provably ours ever go."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.dib.limits import Limits
from builder.dib.output import artifacts, sparse
from builder.errors import RefusedError
from builder.model import Artifact, ImageFormat
from tests.unit.dib_world import BUILD, DISK, FINISHED, INSTALLATION, need_root, publish

IMAGE = "debian-bookworm"
CONTENT = b"the content of an image"
PROOF = artifacts.Proof(
    installation_id=INSTALLATION,
    image=IMAGE,
    build_id=BUILD,
    created=datetime(2026, 11, 20, 14, 14, tzinfo=UTC),
    command=("disk-image-create", "vm"),
    environment={"DIB_RELEASE": "bookworm"},
    tools={"qemu-img": "7.2"},
)


FILE = Artifact(format=ImageFormat.QCOW2, size=23, virtual_size=1 << 20, md5="m", sha256="s", sha512="t")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An images directory with one published build."""
    made = tmp_path / "made.qcow2"
    made.write_bytes(CONTENT)
    manifests = tmp_path / "made.d"
    (manifests / "dib-manifests").mkdir(parents=True)
    (manifests / "dib-manifests" / "dib_arguments").write_text("vm\n")
    images = tmp_path / "images"
    publish(images, PROOF, [(made, ImageFormat.QCOW2)], manifests)
    return images


def delete(images: Path, *, image: str = IMAGE, build: str = BUILD, installation: str = INSTALLATION) -> None:
    artifacts.delete(images, image, build, installation)


def everything_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_published_build_is_whole_and_says_whose_it_is(images: Path) -> None:
    base = f"{IMAGE}-{BUILD}"
    assert everything_in(images) == [
        f"{base}.d",
        f"{base}.d/build.json",
        f"{base}.d/dib-manifests",
        f"{base}.d/dib-manifests/dib_arguments",
        f"{base}.qcow2",
    ]
    record = json.loads((images / f"{base}.d" / "build.json").read_text())
    assert record["installation_id"] == INSTALLATION
    assert record["command"] == ["disk-image-create", "vm"]
    assert artifacts.path(images, IMAGE, BUILD, ImageFormat.QCOW2).read_bytes() == CONTENT


def test_the_proof_tells_what_is_in_the_files_once_that_is_known(tmp_path: Path) -> None:
    proof = artifacts.directory(tmp_path, IMAGE, BUILD) / artifacts.PROOF
    publication = artifacts.Publication(tmp_path, PROOF)
    publication.begin()
    assert not {"raw_sha256", "finished", "artifacts"} & json.loads(proof.read_text()).keys()
    publication.finish(tmp_path / "no-manifests", DISK, (FILE,), FINISHED)
    record = json.loads(proof.read_text())
    assert (record["raw_sha256"], record["raw_size"]) == (DISK.sha256, DISK.size)
    assert record["finished"] == FINISHED.isoformat()
    assert record["artifacts"] == [
        {"format": "qcow2", "size": 23, "virtual_size": 1 << 20, "md5": "m", "sha256": "s", "sha512": "t"}
    ]
    assert record["installation_id"] == INSTALLATION


def test_what_is_published_so_far_can_be_deleted_at_any_moment(tmp_path: Path) -> None:
    images, made = tmp_path / "images", tmp_path / "made"
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "packages.json").write_text("[]")
    for steps in range(4):
        publication = artifacts.Publication(images, PROOF)
        made.write_bytes(CONTENT)
        for step in (
            publication.begin,
            lambda: publication.add(made, ImageFormat.QCOW2, Limits()),  # noqa: B023  called at once
            lambda: publication.finish(manifests, DISK, (FILE,), FINISHED),  # noqa: B023
        )[:steps]:
            step()
        delete(images)
        assert everything_in(images) == []


def test_raw_may_be_published_while_it_is_still_read(tmp_path: Path) -> None:
    raw = tmp_path / "made.raw"
    raw.write_bytes(CONTENT)
    publication = artifacts.Publication(tmp_path / "images", PROOF)
    publication.begin()
    publication.add(raw, ImageFormat.RAW, Limits(), stays=True)
    published = artifacts.path(tmp_path / "images", IMAGE, BUILD, ImageFormat.RAW)
    assert published.read_bytes() == raw.read_bytes() == CONTENT
    assert published.samefile(raw)  # no second copy on the disk


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_where_there_are_no_links_raw_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    raw = tmp_path / "made.raw"
    raw.write_bytes(CONTENT)
    publication = artifacts.Publication(tmp_path / "images", PROOF)
    publication.begin()
    publication.add(raw, ImageFormat.RAW, Limits(), stays=True)
    published = artifacts.path(tmp_path / "images", IMAGE, BUILD, ImageFormat.RAW)
    assert published.read_bytes() == raw.read_bytes() == CONTENT
    assert everything_in(tmp_path / "images") == [
        f"{IMAGE}-{BUILD}.d",
        f"{IMAGE}-{BUILD}.d/build.json",
        f"{IMAGE}-{BUILD}.raw",
    ]


def test_a_published_build_is_not_for_everybody_to_read(images: Path) -> None:
    assert artifacts.path(images, IMAGE, BUILD, ImageFormat.QCOW2).stat().st_mode & 0o777 == 0o640
    assert artifacts.directory(images, IMAGE, BUILD).stat().st_mode & 0o777 == 0o750


def test_without_manifests_its_directory_is_closed_as_well(tmp_path: Path) -> None:
    publish(tmp_path, PROOF, [])
    assert artifacts.directory(tmp_path, IMAGE, BUILD).stat().st_mode & 0o777 == 0o750


def test_all_that_is_published_is_on_disk_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut that comes later finds no file empty."""
    synced: dict[int, int] = {}
    to_disk = os.fsync

    def fsync(descriptor: int) -> None:
        to_disk(descriptor)
        status = os.fstat(descriptor)
        appeared = {path.stat().st_ino for path in (tmp_path / "images").rglob(f"{IMAGE}*")}
        if status.st_ino not in appeared:
            synced[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", fsync)
    manifests = tmp_path / "made.d"
    (manifests / "deep").mkdir(parents=True)
    (manifests / "deep" / "packages.json").write_text("[]")
    (manifests / "nowhere").symlink_to("/not-there")
    (tmp_path / "made.raw").write_bytes(CONTENT)
    publish(tmp_path / "images", PROOF, [(tmp_path / "made.raw", ImageFormat.RAW)], manifests)
    published = [path for path in (tmp_path / "images").rglob("*") if not path.is_symlink()]
    assert {path.name for path in published} >= {"build.json", "deep", "packages.json"}
    assert {path.stat().st_ino: path.stat().st_size for path in published}.items() <= synced.items()


def test_an_image_from_another_file_system_comes_with_its_holes(tmp_path: Path) -> None:
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "imagepool-test", str(disk)], check=True)
    try:
        made = disk / "made.raw"
        with made.open("wb") as stream:
            for begin in (0, 3 << 20):
                stream.seek(begin)
                stream.write(os.urandom(8192))
            stream.truncate(8 << 20)
        content = made.read_bytes()
        publish(tmp_path / "images", PROOF, [(made, ImageFormat.RAW)])
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    published = artifacts.path(tmp_path / "images", IMAGE, BUILD, ImageFormat.RAW)
    assert published.read_bytes() == content
    assert sparse.data_size(published) < 1 << 20


def test_a_deleted_build_is_gone_and_deleting_it_again_is_fine(images: Path) -> None:
    delete(images)
    assert everything_in(images) == []
    delete(images)


def test_deleting_one_build_leaves_its_neighbours(images: Path) -> None:
    neighbours = [
        f"{IMAGE}-arm64-{BUILD}.qcow2",
        f"{IMAGE}-{BUILD[::-1]}.qcow2",
        f"{IMAGE}-{BUILD}.qcow2.old",
    ]
    for name in neighbours:
        (images / name).write_text("another's")
    delete(images)
    assert everything_in(images) == sorted(neighbours)


@pytest.mark.parametrize("lie", ["installation_id", "image", "build_id"])
def test_files_of_somebody_else_are_refused_and_untouched(images: Path, lie: str) -> None:
    proof = artifacts.directory(images, IMAGE, BUILD) / artifacts.PROOF
    proof.write_text(json.dumps({**json.loads(proof.read_text()), lie: "another"}))
    before = everything_in(images)
    with pytest.raises(RefusedError, match=lie):
        delete(images)
    assert everything_in(images) == before


@pytest.mark.parametrize("text", ["", "{", "[]", None])
def test_files_without_a_readable_proof_are_refused_and_untouched(images: Path, text: str | None) -> None:
    proof = artifacts.directory(images, IMAGE, BUILD) / artifacts.PROOF
    if text is None:
        proof.unlink()
    else:
        proof.write_text(text)
    before = everything_in(images)
    with pytest.raises(RefusedError):
        delete(images)
    assert everything_in(images) == before


def test_an_image_with_no_proof_beside_it_is_refused(tmp_path: Path) -> None:
    foreign = artifacts.path(tmp_path, IMAGE, BUILD, ImageFormat.RAW)
    foreign.write_bytes(CONTENT)
    with pytest.raises(RefusedError, match="proves"):
        delete(tmp_path)
    assert foreign.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "", "x" * 300, ".hidden"])
def test_names_that_leave_the_directory_are_refused(images: Path, name: str) -> None:
    with pytest.raises(RefusedError):
        delete(images, image=name)
    with pytest.raises(RefusedError):
        artifacts.path(images, name, BUILD, ImageFormat.RAW)


@pytest.mark.parametrize("build", ["", "..", "*", f"{BUILD}/..", BUILD[:8]])
def test_build_ids_that_are_none_are_refused(images: Path, build: str) -> None:
    with pytest.raises(RefusedError):
        delete(images, build=build)


def test_what_a_crash_while_publishing_left_can_be_deleted(images: Path) -> None:
    (images / f".{IMAGE}-{BUILD}.raw.partial").write_bytes(CONTENT)
    draft = images / f".{IMAGE}-{BUILD}.d.partial"
    draft.mkdir()
    (draft / artifacts.PROOF).write_text("{ha")
    delete(images)
    assert everything_in(images) == []


def test_a_deletion_cut_short_can_be_taken_up_again(images: Path) -> None:
    # Artifacts and manifests are gone, the proof is still there: it goes last.
    artifacts.path(images, IMAGE, BUILD, ImageFormat.QCOW2).unlink()
    home = artifacts.directory(images, IMAGE, BUILD)
    (home / "dib-manifests" / "dib_arguments").unlink()
    delete(images)
    assert everything_in(images) == []


def test_a_file_is_checked_against_its_record(images: Path) -> None:
    file = artifacts.path(images, IMAGE, BUILD, ImageFormat.QCOW2)
    good = Artifact(
        format=ImageFormat.QCOW2,
        size=len(CONTENT),
        virtual_size=1 << 20,
        md5="",
        sha256="",
        sha512=hashlib.sha512(CONTENT).hexdigest(),
    )
    assert artifacts.check(file, good, hashes=True) is None
    file.write_bytes(CONTENT.swapcase())
    assert artifacts.check(file, good) is None
    assert "sha512" in (artifacts.check(file, good, hashes=True) or "")
    file.write_bytes(CONTENT[:-1])
    assert "22 bytes, 23 are on record" in (artifacts.check(file, good) or "")
    file.unlink()
    assert "No such file" in (artifacts.check(file, good) or "")


# -- one file of several ----------------------------------------------------------------------------


def delete_one(images: Path, image_format: ImageFormat, installation: str = INSTALLATION) -> None:
    artifacts.delete_artifact(images, IMAGE, BUILD, image_format, installation)


def test_one_file_goes_and_all_else_stays(images: Path) -> None:
    before = everything_in(images)
    raw = artifacts.path(images, IMAGE, BUILD, ImageFormat.RAW)
    raw.write_bytes(CONTENT)
    delete_one(images, ImageFormat.RAW)
    assert everything_in(images) == before
    delete_one(images, ImageFormat.RAW)
    delete_one(images, ImageFormat.QCOW2)
    assert [name for name in before if name not in everything_in(images)] == [f"{IMAGE}-{BUILD}.qcow2"]
    delete(images)
    assert everything_in(images) == []


def test_one_file_of_somebody_else_is_refused_and_untouched(images: Path) -> None:
    before = everything_in(images)
    with pytest.raises(RefusedError, match="installation_id"):
        delete_one(images, ImageFormat.QCOW2, "f" * 32)
    assert everything_in(images) == before


def test_one_file_without_a_proof_is_refused_and_untouched(images: Path) -> None:
    (images / f"{IMAGE}-{BUILD}.d" / "build.json").unlink()
    with pytest.raises(RefusedError, match="no readable"):
        delete_one(images, ImageFormat.QCOW2)
    assert artifacts.path(images, IMAGE, BUILD, ImageFormat.QCOW2).exists()


def test_a_file_that_is_gone_with_all_its_build_is_fine(tmp_path: Path) -> None:
    delete_one(tmp_path, ImageFormat.QCOW2)
    assert everything_in(tmp_path) == []

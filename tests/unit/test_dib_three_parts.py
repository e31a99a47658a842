"""Builds in three parts: the root is what diskimage-builder made, and the others lie beside it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from builder.dib import command, engine
from builder.dib.checks import space
from builder.dib.contents import inputs
from builder.dib.limits import Limits
from builder.dib.output import artifacts, convert, inspect, kept
from builder.errors import ActionFailedError, RefusedError
from builder.model import Artifact, BuildPhase, Failure, FailureClass, ImageFormat
from tests.unit.dib_world import BUILD, INSTALLATION, SMALL, image, job, need_root, shellcheck

ROOT, KERNEL, RAMDISK = ImageFormat.AMI, ImageFormat.AKI, ImageFormat.ARI
SIZE = 4 << 20


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A root file system, and beside it what it boots with; none of a size in sectors."""
    file = tmp_path / "image.raw"
    with file.open("wb") as stream:
        stream.write(bytes(1024) + os.urandom(1 << 20))
        stream.truncate(SIZE)
    # As a kernel for EFI begins.
    (tmp_path / "image.aki").write_bytes(b"MZ\xea" + os.urandom(3000))
    (tmp_path / "image.ari").write_bytes(b"070701" + os.urandom(777))
    return file


def make(raw: Path) -> dict[ImageFormat, tuple[Path, Artifact]]:
    made = convert.make(raw, [ROOT], limits=Limits()).artifacts
    return {artifact.format: (file, artifact) for file, artifact in made.items()}


def failure_of(raw: Path) -> Failure:
    before = {each: each.read_bytes() for each in raw.parent.iterdir()}
    with pytest.raises(ActionFailedError) as caught:
        make(raw)
    assert {each: each.read_bytes() for each in raw.parent.iterdir()} == before
    assert caught.value.failure is not None
    return caught.value.failure


def test_each_part_is_described_by_what_is_on_disk(raw: Path) -> None:
    content = raw.read_bytes()
    made = convert.make(raw, [ROOT], limits=Limits())
    files = {artifact.format: file for file, artifact in made.artifacts.items()}
    assert files == {ROOT: raw, KERNEL: raw.with_suffix(".aki"), RAMDISK: raw.with_suffix(".ari")}
    for file, artifact in made.artifacts.items():
        known = file.read_bytes()
        assert artifact.size == artifact.virtual_size == len(known)
        assert artifact.md5 == hashlib.md5(known, usedforsecurity=False).hexdigest()
        assert (artifact.sha256, artifact.sha512) == (
            hashlib.sha256(known).hexdigest(),
            hashlib.sha512(known).hexdigest(),
        )
    assert raw.read_bytes() == content
    assert made.disk is not None
    assert (made.disk.size, made.disk.sha256) == (SIZE, hashlib.sha256(content).hexdigest())
    assert made.timings.keys() == {"hash ami", "hash aki", "hash ari"}


@pytest.mark.parametrize(("part", "word"), [("aki", "kernel"), ("ari", "ramdisk")])
@pytest.mark.parametrize("empty", [False, True])
def test_a_build_that_left_no_part_is_told_which_and_what_to_do(
    raw: Path, part: str, word: str, empty: bool
) -> None:
    raw.with_suffix(f".{part}").write_bytes(b"")
    if not empty:
        raw.with_suffix(f".{part}").unlink()
    failure = failure_of(raw)
    assert failure.failure_class is FailureClass.CONFIG
    assert f"the build left no {word} (.{part})" in failure.message and "element `ami`" in failure.message


def test_a_disk_with_partitions_is_no_root_file_system(raw: Path) -> None:
    with raw.open("r+b") as stream:
        stream.seek(510)
        stream.write(b"\x55\xaa")
    failure = failure_of(raw)
    assert failure.failure_class is FailureClass.CONFIG
    assert "partition table" in failure.message and "take `vm`" in failure.message


def test_a_root_file_system_becomes_no_disk_that_would_not_boot(raw: Path) -> None:
    with pytest.raises(ActionFailedError, match="qcow2 would not boot") as caught:
        convert.make(raw, [ImageFormat.QCOW2], limits=Limits())
    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is FailureClass.CONFIG
    assert "element `ami`" in caught.value.failure.message


@pytest.mark.parametrize("wanted", [ROOT, KERNEL, RAMDISK])
def test_a_file_is_checked_before_it_is_sent(raw: Path, wanted: ImageFormat) -> None:
    file, artifact = make(raw)[wanted]
    inspect.check(file, artifact, wanted)
    assert inspect.whole_virtual_size(file, wanted) == artifact.virtual_size
    with pytest.raises(ActionFailedError, match="are on record"):
        inspect.check(file, replace(artifact, size=artifact.size + 1), wanted)
    file.write_bytes(b"QFI\xfb".ljust(artifact.size, b"\0"))
    with pytest.raises(ActionFailedError, match=f"looks like qcow2, {wanted} is on record"):
        inspect.check(file, artifact, wanted)


@pytest.fixture
def control(tmp_path: Path) -> Path:
    need_root()
    directory = tmp_path / "control"
    directory.mkdir()
    return directory


def test_a_build_publishes_all_three_and_they_go_together(tmp_path: Path, control: Path) -> None:
    (control / "parts").write_text("aki ari")
    work = job(tmp_path, image(control, formats=(ROOT,), elements=("debian-minimal", "ami")))
    phases: list[BuildPhase] = []
    told: list[Artifact] = []

    product = engine.run(work, on_phase=phases.append, on_artifact=told.append, stop=lambda: None)

    assert {each.format for each in product.artifacts} == {ROOT, KERNEL, RAMDISK}
    assert sorted(told, key=str) == sorted(product.artifacts, key=str)
    for each in product.artifacts:
        file = artifacts.path(work.images_dir, work.image.name, BUILD, each.format)
        assert artifacts.check(file, each, hashes=True) is None
        assert file.stat().st_mode & 0o777 == 0o640
    (found,) = kept.find(work.images_dir)
    assert {each.format for each in found.artifacts} == set(found.formats) == {ROOT, KERNEL, RAMDISK}
    assert {kept.measure(work.images_dir, found, each) for each in found.formats} == {*product.artifacts}
    described = json.loads(
        (artifacts.directory(work.images_dir, work.image.name, BUILD) / "build.json").read_text()
    )
    assert {each["format"]: each["sha512"] for each in described["artifacts"]} == {
        str(each.format): each.sha512 for each in product.artifacts
    }
    assert list(work.work_dir.iterdir()) == []
    artifacts.delete(work.images_dir, work.image.name, BUILD, INSTALLATION)
    assert list(work.images_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "said"),
    [("", "left no kernel"), ("aki", "left no ramdisk"), (None, "partition table")],
    ids=["without kernel", "without ramdisk", "without the element"],
)
def test_a_build_without_them_fails_with_the_reason_and_leaves_nothing(
    tmp_path: Path, control: Path, parts: str | None, said: str
) -> None:
    if parts is not None:
        (control / "parts").write_text(parts)
    work = job(tmp_path, image(control, formats=(ROOT,)))
    with pytest.raises(ActionFailedError) as caught:
        engine.run(work, on_phase=lambda _: None, stop=lambda: None)
    failure = caught.value.failure
    assert failure is not None
    assert (failure.failure_class, failure.phase) == (FailureClass.CONFIG, BuildPhase.CONVERT)
    assert said in failure.message
    assert [*work.work_dir.iterdir(), *work.images_dir.iterdir()] == []


def test_what_the_disk_needs_counts_the_parts() -> None:
    alone = space.needs((ImageFormat.RAW,), ()).artifacts
    assert space.needs((ROOT,), ()).artifacts == alone + 2 * space.DEFAULT_PART
    parts = ((ROOT, 700), (KERNEL, 20), (RAMDISK, 30))
    made = tuple(
        Artifact(format=each, size=size << 20, virtual_size=1, md5="", sha256="", sha512="")
        for each, size in parts
    )
    last = replace(SMALL, artifacts=made, work_bytes=2 << 30)
    assert space.needs((ROOT,), (last,)).artifacts == int((750 << 20) * space.GROWTH)


def test_a_script_by_hand_makes_the_same_files(tmp_path: Path) -> None:
    wanted = image(formats=(ROOT,), elements=("debian-minimal", "ami"))
    rendered = command.render(
        wanted,
        build_id=BUILD,
        output=tmp_path / "out/image",
        work_dir=tmp_path / "work",
        cache_dir=tmp_path / "cache",
        elements_dirs=(),
        mirrors={},
    )
    script = command.script(rendered, wanted)
    assert shellcheck(script) == ""
    output = rendered.environment["DIB_IMAGE_FILENAME"]
    lines = script.splitlines()
    assert f"mv {output}.raw {output}.ami" in lines
    assert not [line for line in lines if line.startswith(("qemu-img", f"rm -f {output}"))]


@pytest.mark.parametrize("other", ["vm", "bootloader", "block-device-mbr", "block-device-efi"])
def test_the_element_goes_with_nothing_that_makes_partitions(other: str) -> None:
    environment = {"ELEMENTS_PATH": str(command.shipped_elements())}
    alone = ["disk-image-create", "-x", "-o", "image", "debian-minimal", "ami"]
    assert "ami" in inputs.resolve(alone, environment)
    with pytest.raises(RefusedError, match=r"already provided|exclude each other"):
        inputs.resolve([*alone, other], environment)

"""Formats made from a raw image by the real qemu-img, and what is told when it can't."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import FormatOptions
from builder.dib.limits import Limits
from builder.dib.output import convert, inspect
from builder.dib.output.convert import Listener, Made
from builder.dib.output.hashing import Disk
from builder.errors import ActionFailedError, ToolMissingError
from builder.model import Artifact, BuildPhase, Failure, FailureClass, ImageFormat
from builder.process.child import find_tool
from tests.unit.dib_world import need_root, processes_naming

#: A multiple of a sector and of nothing else that a format counts in.
SIZE = (24 << 20) + 3 * 512
PART = 1 << 20  #: where the partition begins
QEMU = {ImageFormat.VHD: "vpc"}
REAL = find_tool("qemu-img")
#: What is made of a disk; test_dib_three_parts.py has the others.
ALL = (ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.VHD, ImageFormat.VHDX, ImageFormat.VMDK)

QCOW2_OPTIONS = [
    FormatOptions(),
    FormatOptions(compression="zstd"),
    FormatOptions(compression="zlib"),
    FormatOptions(compression="none"),
    FormatOptions(compat="1.1"),
    FormatOptions(compat="0.10"),
    FormatOptions(compression="zlib", compat="0.10"),
    FormatOptions(compression="none", compat="0.10"),
]
OTHERS = [ImageFormat.VHD, ImageFormat.VHDX, ImageFormat.VMDK]
KINDS = [
    *((ImageFormat.QCOW2, options) for options in QCOW2_OPTIONS),
    *((f, FormatOptions()) for f in OTHERS),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk as guests have it: a partition table, and a file system with files and room."""
    home = tmp_path_factory.mktemp("disk")
    tree = home / "tree"
    tree.mkdir()
    (tree / "random").write_bytes(os.urandom(3 << 20))
    (tree / "text").write_text("".join(f"line {number}\n" for number in range(200_000)))
    file = home / "disk.raw"
    with file.open("wb") as stream:
        stream.truncate(SIZE)
    subprocess.run(
        [find_tool("sfdisk"), "--quiet", str(file)],
        input=f"label: dos\nstart={PART // 512}, type=83, bootable\n",
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    mkfs = [find_tool("mkfs.ext4"), "-q", "-F", "-d", str(tree), "-E", f"offset={PART}", str(file), "20M"]
    subprocess.run(mkfs, check=True)
    return file


@pytest.fixture
def raw(disk: Path, tmp_path: Path) -> Path:
    """An image of a test's own, holes and all."""
    copy = tmp_path / "image.raw"
    subprocess.run(["cp", "--sparse=always", str(disk), str(copy)], check=True)
    return copy


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """An image that takes a while to make a vmdk from, which is compressed on one core."""
    file = tmp_path / "slow.raw"
    file.write_bytes(os.urandom(32 << 20).hex().encode())
    return file


@dataclass
class Told:
    """What `make` told its caller."""

    phases: list[BuildPhase] = field(default_factory=list)
    converting: list[tuple[int, int]] = field(default_factory=list)
    hashing: list[tuple[int, int]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def on_phase(self, phase: BuildPhase) -> None:
        self.phases.append(phase)
        self.threads.add(threading.get_ident())

    def on_bytes(self, done: int, total: int) -> None:
        (self.hashing if self.phases else self.converting).append((done, total))
        self.threads.add(threading.get_ident())


def make(raw: Path, *wanted: ImageFormat, **more: Any) -> Made:
    listener = {name: more.pop(name) for name in [*more] if name in vars(Listener())}
    return convert.make(raw, wanted, listener=Listener(**listener), **{"limits": Limits(), **more})


def info(file: Path, wanted: ImageFormat) -> dict[str, Any]:
    said = subprocess.run(
        [REAL, "info", "--output=json", "-f", QEMU.get(wanted, wanted), str(file)],
        check=True,
        capture_output=True,
    )
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer


def allocated(file: Path) -> int:
    return file.stat().st_blocks * 512


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Put a program before the real qemu-img, which it knows as $REAL."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "qemu-img"
    program.write_text(f"#!/bin/bash\nREAL={REAL}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def failure_of_making(raw: Path, *wanted: ImageFormat, **more: Any) -> Failure:
    with pytest.raises(ActionFailedError) as caught:
        make(raw, *wanted, **more)
    assert caught.value.failure is not None
    return caught.value.failure


# -- what is made -------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "options"), KINDS, ids=str)
def test_every_format_holds_what_raw_holds(
    raw: Path, disk: Path, wanted: ImageFormat, options: FormatOptions
) -> None:
    [(target, artifact)] = make(raw, wanted, options={wanted: options}).artifacts.items()
    compared = subprocess.run(
        [REAL, "compare", "-f", "raw", "-F", QEMU.get(wanted, wanted), str(disk), str(target)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert artifact.virtual_size == info(target, wanted)["virtual-size"] == SIZE


@pytest.mark.parametrize("options", QCOW2_OPTIONS, ids=str)
def test_qcow2_is_as_the_options_want_it(raw: Path, options: FormatOptions) -> None:
    [target] = make(raw, ImageFormat.QCOW2, options={"qcow2": options}).artifacts
    version = struct.unpack(">I", target.read_bytes()[4:8])[0]
    checked = subprocess.run(
        [REAL, "check", "--output=json", "-f", "qcow2", str(target)], check=True, capture_output=True
    )
    compressed = json.loads(checked.stdout).get("compressed-clusters", 0)
    compression = info(target, ImageFormat.QCOW2)["format-specific"]["data"].get("compression-type")
    old = options.compat == "0.10"
    assert version == (2 if old else 3)
    assert (compressed > 0) == (options.compression != "none")
    if not old:
        assert compression == ("zstd" if options.compression in (None, "zstd") else "zlib")


def test_zlib_is_asked_for_in_a_way_that_an_old_qemu_img_understands() -> None:
    for options in (FormatOptions(compression="zlib"), FormatOptions(compat="0.10")):
        said = convert.arguments(Path("a.raw"), Path("a.qcow2"), ImageFormat.QCOW2, options)
        assert "-c" in said
        assert "compression_type" not in " ".join(said)


def test_a_vhd_is_the_disk_and_a_footer_that_tells_its_exact_size(raw: Path, disk: Path) -> None:
    # Microsoft, "Virtual Hard Disk Image Format Specification" 1.0: hard disk footer format.
    [target] = make(raw, ImageFormat.VHD).artifacts
    content = target.read_bytes()
    disk_part, footer = content[:-512], content[-512:]
    assert disk_part == disk.read_bytes()
    original, current = struct.unpack(">QQ", footer[40:56])
    kind, checksum = struct.unpack(">II", footer[60:68])
    assert footer[:8] == b"conectix"
    assert (original, current, kind) == (SIZE, SIZE, 2)  # 2: fixed
    assert checksum == ~sum(footer[:64] + bytes(4) + footer[68:]) & 0xFFFFFFFF


@pytest.mark.parametrize("wanted", ALL)
def test_holes_stay_holes(raw: Path, wanted: ImageFormat) -> None:
    data = allocated(raw)
    assert data < SIZE * 2 // 3
    [target] = make(raw, wanted).artifacts
    # A dynamic vhdx has its own metadata: a log and a table, each in a MB of its own.
    assert allocated(target) <= data + (8 << 20 if wanted is ImageFormat.VHDX else 1 << 18)


def test_a_raw_image_that_ends_within_a_sector_gets_its_zeros(tmp_path: Path) -> None:
    for wanted in ALL:
        raw = tmp_path / f"{wanted}-of.raw"
        raw.write_bytes(b"x" * (5 << 20) + b"yz")
        [artifact] = make(raw, wanted).artifacts.values()
        assert artifact.virtual_size == (5 << 20) + 512


def test_all_formats_are_described_by_what_is_on_disk(raw: Path) -> None:
    made = make(raw, *ALL)
    assert {artifact.format for artifact in made.artifacts.values()} == set(ALL)
    for file, artifact in made.artifacts.items():
        content = file.read_bytes()
        assert file.name == f"image.{artifact.format}"
        assert artifact.size == len(content)
        assert artifact.virtual_size == SIZE
        assert artifact.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
        assert artifact.sha512 == hashlib.sha512(content).hexdigest()
    converted = {f"convert {wanted}" for wanted in ALL if wanted is not ImageFormat.RAW}
    assert made.timings.keys() == converted | {f"hash {wanted}" for wanted in ALL}
    assert all(seconds > 0 for seconds in made.timings.values())


def test_raw_is_kept_as_it_is_when_wanted_and_gone_when_not(raw: Path, disk: Path) -> None:
    make(raw, ImageFormat.RAW, ImageFormat.QCOW2)
    assert raw.read_bytes() == disk.read_bytes()
    made = make(raw, ImageFormat.QCOW2)
    assert "hash raw" not in made.timings
    assert not raw.exists()


@pytest.mark.parametrize("rest", [0, 2])
def test_the_disk_is_what_every_format_gives_back(raw: Path, rest: int) -> None:
    """So that whoever converts a file to raw, as a compute node does, can check what came out."""
    os.truncate(raw, SIZE - (512 - rest if rest else 0))
    made = make(raw, *ALL)
    assert made.disk is not None
    assert (made.disk.size, made.disk.size % 512) == (SIZE, 0)
    back = raw.with_name("back")
    for file, artifact in made.artifacts.items():
        convert_back = [REAL, "convert", "-f", QEMU.get(artifact.format, artifact.format), "-O", "raw"]
        subprocess.run([*convert_back, str(file), str(back)], check=True)
        content = back.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (made.disk.size, made.disk.sha256)


def test_the_disk_is_the_same_whether_raw_is_wanted_or_not(raw: Path, disk: Path) -> None:
    expected = Disk(sha256=hashlib.sha256(disk.read_bytes()).hexdigest(), size=SIZE)
    wanted = make(raw, ImageFormat.RAW, ImageFormat.QCOW2)
    alone = make(raw, ImageFormat.QCOW2)
    assert (wanted.disk, alone.disk) == (expected, expected)
    assert "hash disk" in alone.timings and "hash disk" not in wanted.timings
    assert not raw.exists()


@pytest.mark.parametrize("first", [ImageFormat.QCOW2, ImageFormat.RAW])
def test_a_file_is_handed_on_while_others_are_still_made(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: ImageFormat
) -> None:
    go = tmp_path / "go"
    wait = f"until [ -e {go} ]; do sleep 0.05; done"
    pretend(monkeypatch, tmp_path, f'case "$*" in convert*vmdk*) {wait};; esac\nexec $REAL "$@"')
    told: list[object] = []
    kept: list[Path] = []

    def on_artifact(artifact: Artifact) -> None:
        assert raw.with_suffix(f".{artifact.format}") in kept
        told.append(artifact.format)
        go.touch()  # nothing else lets the other one begin

    made = make(
        raw,
        ImageFormat.VMDK,
        first,
        on_disk=told.append,
        on_artifact=on_artifact,
        keep=lambda file, _artifact, _limits: kept.append(file),
    )
    assert told == [made.disk, first, ImageFormat.VMDK]


def test_a_file_that_can_not_be_kept_ends_all(slow: Path, tmp_path: Path) -> None:
    def full(_file: Path, artifact: Artifact, _limits: Limits) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make(slow, ImageFormat.VMDK, ImageFormat.RAW, keep=full)
    assert processes_naming(tmp_path) == []


def test_nothing_wanted_is_nothing_made(raw: Path) -> None:
    told = Told()
    made = make(raw, on_phase=told.on_phase, on_bytes=told.on_bytes)
    assert (made, told) == (Made(artifacts={}, timings={}, disk=None), Told())


def test_a_raw_image_that_pretends_to_be_qcow2_is_raw(tmp_path: Path) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + bytes((1 << 20) - 8))
    assert inspect.virtual_size(file, ImageFormat.RAW) == 1 << 20
    [target] = make(file, ImageFormat.VHDX).artifacts
    assert inspect.virtual_size(target, ImageFormat.VHDX) == 1 << 20


# -- what is told meanwhile ---------------------------------------------------------------------


def test_progress_is_told_on_the_callers_thread_and_ends_at_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, go = tmp_path / "image.raw", tmp_path / "go"
    raw.write_bytes(b"text" * (1 << 20))
    with raw.open("ab") as stream:
        stream.truncate(64 << 20)
    half = 'read -r -N $((2 << 20)) _ <"${@: -2:1}"'
    wait = f"until [ -e {go} ]; do sleep 0.05; done"
    pretend(monkeypatch, tmp_path, f'[ $1 = convert ] && {{ {half}; {wait}; }}\nexec $REAL "$@"')
    told = Told()

    def on_bytes(done: int, total: int) -> None:
        told.on_bytes(done, total)
        # What the shell reads to start with counts as well, and is told when a look comes early.
        if done >= total // 2:
            go.touch()

    made = make(raw, ImageFormat.QCOW2, ImageFormat.RAW, on_phase=told.on_phase, on_bytes=on_bytes)

    data, hashed = 4 << 20, sum(artifact.size for artifact in made.artifacts.values())
    assert told.phases == [BuildPhase.HASH]
    assert told.threads == {threading.get_ident()}
    for reports, total in ((told.converting, data), (told.hashing, hashed)):
        assert reports == sorted(reports)
        assert {one[1] for one in reports} == {total}
    assert any(data // 2 <= done < data for done, _total in told.converting)
    assert told.hashing[-1] == (hashed, hashed)


def test_raw_alone_is_hashed_and_nothing_is_converted(raw: Path) -> None:
    told = Told()
    make(raw, ImageFormat.RAW, on_phase=told.on_phase, on_bytes=told.on_bytes)
    assert (told.phases, told.converting) == ([BuildPhase.HASH], [])
    assert told.hashing[-1] == (SIZE, SIZE)


def test_what_a_callback_raises_passes_through_and_ends_all(slow: Path, tmp_path: Path) -> None:
    def lost(done: int, _total: int) -> None:
        if done:
            raise ConnectionError("the store is gone")

    with pytest.raises(ConnectionError, match="the store is gone"):
        make(slow, ImageFormat.VMDK, ImageFormat.RAW, on_bytes=lost)
    assert processes_naming(tmp_path) == []


def test_qemu_img_and_the_hashing_stand_back(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(
        monkeypatch, tmp_path, f'[ $1 = convert ] && echo "$(nice) $MARK" >{tmp_path}/said\nexec $REAL "$@"'
    )
    before = os.getpriority(os.PRIO_PROCESS, 0)
    make(raw, ImageFormat.QCOW2, prefix=("env", "MARK=here"), nice=before + 3)
    assert (tmp_path / "said").read_text() == f"{before + 3} here\n"
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_conversion_ends_when_the_build_is_cancelled(slow: Path, tmp_path: Path) -> None:
    cancelled = threading.Event()
    failure = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by an admin")
    found = failure_of_making(
        slow,
        ImageFormat.VMDK,
        limits=Limits(stop=lambda: failure if cancelled.is_set() else None),
        on_bytes=lambda done, _total: cancelled.set() if done else None,
    )
    assert found == failure
    assert processes_naming(tmp_path) == []


def test_a_conversion_ends_when_the_time_is_over(slow: Path, tmp_path: Path) -> None:
    found = failure_of_making(slow, ImageFormat.VMDK, limits=Limits(allowed=0.3))
    assert found.failure_class is FailureClass.TIMEOUT
    assert processes_naming(tmp_path) == []


def test_one_that_fails_ends_the_others_and_is_the_one_that_is_told(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    hang = f"*vmdk*) echo $$ >{pid}; exec sleep 600;;"
    fail = f"*) until [ -s {pid} ]; do sleep 0.05; done; exit 1;;"
    pretend(monkeypatch, tmp_path, f'case "$*" in {hang} {fail} esac')
    found = failure_of_making(raw, ImageFormat.VMDK, ImageFormat.QCOW2)
    assert found.message == "qemu-img could not make qcow2 from raw"
    assert found.step == "qemu-img"
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_options_that_exclude_each_other_are_told(raw: Path) -> None:
    found = failure_of_making(
        raw, ImageFormat.QCOW2, options={"qcow2": FormatOptions(compression="zstd", compat="0.10")}
    )
    assert found.failure_class is FailureClass.TOOL
    assert "could not make qcow2" in found.message
    assert "1.1" in " ".join(found.lines)


OLD = {
    "before 5.1": "Invalid parameter 'compression_type'",
    "built without zstd": "x: error while converting qcow2: Parameter 'compression-type' does not accept"
    " value 'zstd'",
    "built without zstd, older": "x: error while converting qcow2: Invalid parameter 'zstd'",
}


@pytest.mark.parametrize("said", OLD.values(), ids=OLD.keys())
def test_a_qemu_img_without_zstd_is_told_with_what_to_set(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    pretend(monkeypatch, tmp_path, f'echo "qemu-img: {said}" >&2; exit 1')
    found = failure_of_making(raw, ImageFormat.QCOW2)
    assert (found.failure_class, found.exit_code) == (FailureClass.TOOL, 1)
    assert "format-options: {qcow2: {compression: zlib}}" in found.message
    assert found.lines == (f"qemu-img: {said}",)


def test_a_format_that_qemu_img_lacks_is_told(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, """echo "qemu-img: Unknown file format 'vhdx'" >&2; exit 1""")
    found = failure_of_making(raw, ImageFormat.VHDX)
    assert found.failure_class is FailureClass.TOOL
    assert "install a newer one" in found.message


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "imagepool-test", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told(raw: Path, little_disk: Path) -> None:
    full = little_disk / "image.raw"
    subprocess.run(["cp", "--sparse=always", str(raw), str(full)], check=True)
    found = failure_of_making(full, ImageFormat.VHD)
    assert found.failure_class is FailureClass.DISK
    assert "the disk is full" in found.message
    assert "No space left on device" in " ".join(found.lines)


def test_a_qemu_img_that_is_killed_is_told(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "kill -KILL $$")
    found = failure_of_making(raw, ImageFormat.QCOW2)
    assert found.failure_class is FailureClass.UNKNOWN
    assert "SIGKILL, as the kernel does when memory runs out" in found.message


def test_a_machine_without_qemu_img_is_told_what_to_install(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError) as caught:
        make(raw, ImageFormat.QCOW2)
    assert "qemu-utils" in caught.value.hint


def test_a_missing_raw_image_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make(tmp_path / "no.raw", ImageFormat.QCOW2)


def test_a_disk_of_another_size_is_no_success(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(
        monkeypatch,
        tmp_path,
        '[ $1 = convert ] && exec $REAL create -q -f qcow2 "${@: -1}" 1M\nexec $REAL "$@"',
    )
    found = failure_of_making(raw, ImageFormat.QCOW2)
    assert found.message == f"image.qcow2 has a disk of {1 << 20} bytes, not of {SIZE}"


def test_a_file_that_is_broken_inside_is_no_success(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The refcount table is the second cluster.
    spoil = 'head -c 8 /dev/zero | dd of="${@: -1}" bs=1 seek=65536 conv=notrunc status=none; exit'
    pretend(monkeypatch, tmp_path, f'$REAL "$@" || exit\n[ $1 = convert ] || exit 0\n{spoil} 0')
    found = failure_of_making(raw, ImageFormat.QCOW2)
    assert "image.qcow2 broken" in found.message


def test_a_file_of_another_format_is_told(tmp_path: Path) -> None:
    file = tmp_path / "image.qcow2"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ActionFailedError, match="no usable qcow2 image"):
        inspect.virtual_size(file, ImageFormat.QCOW2)


def test_whatever_qemu_img_says_last_is_on_the_record(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "seq 1 100; exit 3")
    found = failure_of_making(raw, ImageFormat.QCOW2)
    assert (found.exit_code, found.lines) == (3, tuple(str(number) for number in range(81, 101)))

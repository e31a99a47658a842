"""Work directories: what is released, and what is never touched."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.dib.isolation import sudo, workspace
from builder.dib.isolation.workspace import Workspace
from builder.errors import RefusedError
from tests.realparts.loops import drop
from tests.unit.dib_world import BUILD, INSTALLATION, bound_loops, eventually, need_root, traces

NOW = datetime(2026, 11, 20, 14, 14, tzinfo=UTC)
OTHER = BUILD[::-1]


def create(work_dir: Path, build_id: str = BUILD, installation: str = INSTALLATION) -> Workspace:
    return workspace.create(
        work_dir, image="debian-bookworm", build_id=build_id, installation_id=installation, now=NOW
    )


@contextmanager
def mounted(source: Path, point: Path) -> Iterator[None]:
    """A directory bound over another."""
    need_root()
    subprocess.run(["mount", "--bind", str(source), str(point)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A directory with something precious in it."""
    directory = tmp_path / "treasure"
    directory.mkdir()
    (directory / "gold").write_text("x")
    return directory


@pytest.fixture
def attach() -> Iterator[Callable[[Path], str]]:
    """Attaches a loop device to a new disk of 8 MiB with one partition; the device's path."""
    need_root()
    made: list[tuple[str, Path]] = []

    def attach(file: Path) -> str:
        with file.open("wb") as stream:
            stream.truncate(8 << 20)
        subprocess.run(["sfdisk", "--quiet", str(file)], input="2048,,83,*\n", text=True, check=True)
        answer = subprocess.run(
            ["losetup", "--show", "-f", str(file)], check=True, capture_output=True, text=True
        )
        device = answer.stdout.strip()
        drop(device)
        subprocess.run(["partx", "--add", device], check=True)
        made.append((device, file))
        return device

    yield attach
    for device, file in made:
        if bound_loops().get(device, "").startswith(str(file)):
            drop(device)
            subprocess.run(["losetup", "--detach", device], check=True)


def test_a_work_directory_says_whose_it_is_before_anything_is_in_it(tmp_path: Path) -> None:
    space = create(tmp_path)
    record = json.loads((space.directory / workspace.LEDGER).read_text())
    assert record == {
        "installation_id": INSTALLATION,
        "image": "debian-bookworm",
        "build_id": BUILD,
        "started": "2026-11-20T14:14:00+00:00",
    }


def test_what_the_build_sees_as_tmp_is_open_to_everybody_inside_and_nobody_outside(tmp_path: Path) -> None:
    space = create(tmp_path)
    assert space.shared_tmp.stat().st_mode & 0o7777 == 0o1777
    assert space.shared_tmp.parent.stat().st_mode & 0o7777 == 0o700
    assert space.shared_tmp.parent.parent == space.directory


def test_one_build_has_one_work_directory(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(FileExistsError):
        create(tmp_path)


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "", "x" * 300])
def test_names_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError):
        workspace.create(tmp_path / "w", image=name, build_id=BUILD, installation_id="i", now=NOW)
    assert not (tmp_path / "w").exists()


def test_a_released_directory_is_gone_with_all_that_is_in_it(tmp_path: Path) -> None:
    space = create(tmp_path)
    (space.tmp / "deep" / "down").mkdir(parents=True)
    (space.tmp / "link").symlink_to(tmp_path)
    released = workspace.release(space)
    assert released.problem == ""
    assert list(tmp_path.iterdir()) == []


def test_releasing_twice_is_fine(tmp_path: Path) -> None:
    space = create(tmp_path)
    workspace.release(space)
    assert workspace.release(space).problem == ""


def test_loop_devices_below_it_are_detached_with_their_partitions_and_links(
    tmp_path: Path, attach: Callable[[Path], str]
) -> None:
    space = create(tmp_path)
    device = attach(space.tmp / "image0.raw")
    link = Path("/dev/mapper", f"{Path(device).name}p1")
    subprocess.run(
        ["bash", "-c", f"until mkdir -p {link.parent} && ln -s {device}p1 {link}; do :; done"], check=True
    )
    assert traces(device, space.tmp / "image0.raw") == [device, f"{device}p1", str(link)]

    released = workspace.release(space)

    assert released.devices == (device,)
    eventually(lambda: traces(device, space.tmp / "image0.raw") == [], "nothing is left of the device")
    assert not space.directory.exists()


def test_a_loop_device_over_a_deleted_file_is_found_by_its_path(
    tmp_path: Path, attach: Callable[[Path], str]
) -> None:
    space = create(tmp_path)
    device = attach(space.tmp / "image0.raw")
    (space.tmp / "image0.raw").unlink()
    assert workspace.release(space).devices == (device,)


def test_a_loop_device_made_in_a_namespace_that_is_gone_is_found_by_its_file(tmp_path: Path) -> None:
    """The kernel tells the path from the file system's own root then: it has no prefix to go by."""
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "imagepool-test", str(disk)], check=True)
    try:
        space = create(disk / "work")
        file = space.tmp / "image0.raw"
        file.write_bytes(bytes(1 << 20))
        device = subprocess.run(
            ["unshare", "--mount", "losetup", "--show", "-f", str(file)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        eventually(lambda: str(disk) not in bound_loops()[device], "the namespace is gone")
        released = workspace.release(space)
        assert released.devices == (device,)
        eventually(lambda: traces(device, file) == [], "nothing is left of the device")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_partitions_of_a_device_the_kernel_detached_by_itself_go(
    tmp_path: Path, attach: Callable[[Path], str]
) -> None:
    space = create(tmp_path)
    device = attach(space.tmp / "image0.raw")
    space.loops.write_text(f"{device}\n")
    subprocess.run(["losetup", "--detach", device], check=True)
    assert Path(f"{device}p1").exists()
    workspace.release(space)
    eventually(lambda: traces(device, space.tmp / "image0.raw") == [], "nothing is left of the device")


def test_the_list_of_loop_devices_names_nothing_else(tmp_path: Path, attach: Callable[[Path], str]) -> None:
    """Whatever else the build writes there would become a path and an argument of partx."""
    space = create(tmp_path)
    device = attach(space.tmp / "image0.raw")
    subprocess.run(["losetup", "--detach", device], check=True)
    space.loops.write_bytes(f"/dev/loop1x\n..\n/dev/**\n\n/dev/sda\n{device}\n".encode() + b"\xff\n")
    released = workspace.release(space)
    # Once detached, the device may be another test's, partitions and all; or this one's still, as long as
    # somebody else has it open.
    assert set(released.devices) <= {device, f"partitions of {device}"}
    assert released.problem == ""


def test_devices_of_others_stay(tmp_path: Path, attach: Callable[[Path], str]) -> None:
    theirs = attach(tmp_path / "theirs.raw")
    neighbour = create(tmp_path / "work", OTHER)
    neighbours = attach(neighbour.tmp / "image0.raw")
    workspace.release(create(tmp_path / "work"))
    assert {theirs, neighbours} <= bound_loops().keys()
    assert Path(f"{theirs}p1").exists()
    assert neighbour.directory.exists()


@pytest.mark.parametrize("name", ["work", "w d\u00e4r", "w\\303\\244"])
def test_nothing_is_removed_beyond_a_mount(tmp_path: Path, treasure: Path, name: str) -> None:
    space = create(tmp_path / name)
    point = space.tmp / "a mount"
    point.mkdir()
    with mounted(treasure, point):
        released = workspace.release(space)
        assert f"{point} is still mounted" in released.problem
        assert (treasure / "gold").exists()
        assert (space.directory / workspace.LEDGER).exists()
    (again,) = workspace.sweep(tmp_path / name)
    assert again.problem == ""
    assert (treasure / "gold").exists()


@pytest.mark.parametrize("where", [".", "tmp", "tmp/deep/down"])
def test_nothing_is_removed_from_a_mount_that_came_too_late_to_be_listed(
    tmp_path: Path, treasure: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").touch()
    monkeypatch.setattr(workspace, "_MOUNTS", tmp_path / "mountinfo")
    space = create(tmp_path / "work")
    point = space.directory / where
    point.mkdir(parents=True, exist_ok=True)
    with mounted(treasure, point):
        released = workspace.release(space)
        assert "still mounted" in released.problem
        assert str(point) in released.problem
        assert (treasure / "gold").exists()
    assert (space.directory / workspace.LEDGER).exists()
    assert workspace.release(space).problem == ""


def test_a_mount_elsewhere_whose_name_is_no_text_hinders_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = b"29 1 254:0 / /mnt/\xff\x0b\x85 rw,relatime shared:1 - ext4 /dev/v\rda rw\n"
    (tmp_path / "mountinfo").write_bytes(strange * 2)
    monkeypatch.setattr(workspace, "_MOUNTS", tmp_path / "mountinfo")
    space = create(tmp_path / "work")
    assert workspace.release(space).problem == ""
    assert not space.directory.exists()


@pytest.mark.parametrize("table", [b"rubbish\n", b"\x00\n"])
def test_what_cannot_be_read_is_a_problem_that_is_told(
    tmp_path: Path, table: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_bytes(table)
    monkeypatch.setattr(workspace, "_MOUNTS", tmp_path / "mountinfo")
    space = create(tmp_path / "work")
    assert workspace.release(space).problem != ""
    assert space.directory.exists()


def test_directories_nested_beyond_measure_are_a_problem_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = create(tmp_path)
    monkeypatch.chdir(space.tmp)
    for _ in range(2000):
        Path("d").mkdir()
        os.chdir("d")
    monkeypatch.undo()
    try:
        assert "recursion" in workspace.release(space).problem
    finally:
        subprocess.run(["rm", "-r", str(space.directory)], check=True)


@pytest.mark.parametrize("answer", ["rubbish", "[]", "{}", '{"loopdevices": [{"name": "/dev/loop0"}]}'])
def test_a_losetup_that_talks_rubbish_is_a_problem_that_is_told(
    tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root()
    program(tmp_path / "bin" / "losetup", answer, monkeypatch)
    space = create(tmp_path / "work")
    assert "losetup does not list the loop devices as it should" in workspace.release(space).problem
    assert space.directory.exists()


@pytest.mark.parametrize(
    "answer",
    ["", "Welcome!\n{}", "[]", "null", '{"problem": ""}', '{"devices": [], "problem": "", "more": 1}'],
)
def test_an_answer_of_roots_that_makes_no_sense_is_a_problem_that_is_told(
    tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sudo, "needed", lambda: True)
    program(tmp_path / "bin" / sudo.PROGRAM, "", monkeypatch)
    program(tmp_path / "bin" / "sudo", answer, monkeypatch)
    space = create(tmp_path / "work")
    assert workspace.release(space).problem.startswith("imagepool-root answers ")
    assert space.directory.exists()


def program(file: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program, first on PATH, that prints one answer whatever it is asked."""
    file.parent.mkdir(exist_ok=True)
    (file.parent / f"{file.name}.answer").write_text(answer)
    file.write_text(f"#!/bin/sh\nexec cat '{file}.answer'\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("full", ["size=4k", "nr_inodes=4"])
def test_a_work_directory_that_a_full_disk_cut_short_is_not_left(tmp_path: Path, full: str) -> None:
    """Once at the ledger's content, once at the directories that come after it."""
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", full, "imagepool-test", str(disk)], check=True)
    try:
        (disk / "filler").write_bytes(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            create(disk)
        assert [path.name for path in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_sweep_releases_what_has_our_ledger_and_nothing_else(tmp_path: Path) -> None:
    ours = create(tmp_path, BUILD)
    theirs = create(tmp_path, OTHER, installation="another")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "a-file").touch()

    (released,) = workspace.sweep(tmp_path, INSTALLATION)

    assert released.directory == ours.directory
    assert BUILD in str(released)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {theirs.directory.name, "lost+found", "precious", "a-file"}


def test_a_sweep_needs_no_work_directory(tmp_path: Path) -> None:
    assert workspace.sweep(tmp_path / "not-there") == ()


@pytest.mark.parametrize("ledger", [None, ""])
def test_a_directory_that_a_crash_left_before_its_ledger_goes(tmp_path: Path, ledger: str | None) -> None:
    directory = tmp_path / f"debian-bookworm-{BUILD}"
    directory.mkdir()
    if ledger is not None:
        (directory / workspace.LEDGER).write_text(ledger)
    workspace.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_names_another_directory_proves_nothing(tmp_path: Path) -> None:
    space = create(tmp_path)
    moved = space.directory.rename(tmp_path / f"debian-bookworm-{OTHER}")
    assert workspace.sweep(tmp_path) == ()
    assert (moved / workspace.LEDGER).exists()


def test_a_link_to_a_work_directory_is_not_followed(tmp_path: Path) -> None:
    space = create(tmp_path / "elsewhere")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / space.directory.name).symlink_to(space.directory)
    assert workspace.sweep(tmp_path / "work") == ()
    assert space.directory.exists()


def test_what_a_build_makes_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    space = create(tmp_path)
    assert space.output.parent.stat().st_mode & 0o077 == 0

"""The sandbox: whatever a build starts ends with it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.config.model import BuildLimits
from builder.dib.isolation import cgroups, nosync, sandbox, workspace
from builder.dib.isolation.workspace import Workspace
from builder.process.child import Child
from tests.unit.cgroup_world import cgroup_corner
from tests.unit.dib_world import BUILD, eventually, need_root, processes_naming

NOW = datetime(2026, 11, 20, 14, 14, tzinfo=UTC)
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Running:
    """A bash script running in a sandbox."""

    def __init__(
        self, space: Workspace, script: str, limits: BuildLimits = sandbox.USUAL, **environment: str
    ) -> None:
        self.lines: list[str] = []
        self.child: Child = sandbox.start(
            ["bash", "-c", script],
            env={**ENVIRONMENT, "MARK": str(space.directory), **environment},
            workspace=space,
            on_line=self.lines.append,
            limits=limits,
        )

    def end(self) -> int:
        code = self.child.wait(30)
        assert code is not None
        return code


@pytest.fixture
def space() -> Iterator[Workspace]:
    """A workspace outside /tmp, so that the sandbox has a /tmp of its own."""
    need_root()
    place = Path(tempfile.mkdtemp(prefix="imagepool-test-", dir="/var/tmp"))
    yield workspace.create(place, image="image", build_id=BUILD, installation_id="test", now=NOW)
    shutil.rmtree(place)


@pytest.fixture
def hierarchy(tmp_path: Path) -> Iterator[Path]:
    need_root()
    with cgroup_corner(tmp_path / "cgroup") as corner:
        yield corner


def assert_gone(space: Workspace) -> None:
    eventually(lambda: processes_naming(space.directory) == [], "all processes are gone")


def test_the_exit_code_and_the_output_are_the_commands(space: Workspace) -> None:
    running = Running(space, "echo out; echo err >&2; exit 42")
    assert running.end() == 42
    assert running.lines == ["out", "err"]


def test_a_command_that_died_of_a_signal_says_so(space: Workspace) -> None:
    assert Running(space, "kill -9 $$").end() == 128 + signal.SIGKILL


def test_the_command_starts_in_the_workspace_with_only_its_environment(space: Workspace) -> None:
    running = Running(space, "pwd; env | sort")
    assert running.end() == 0
    assert running.lines[0] == str(space.directory)
    names = {line.partition("=")[0] for line in running.lines[1:]}
    assert names <= {"PATH", "MARK", "PWD", "OLDPWD", "SHLVL", "_"}


def test_it_sees_only_its_own_processes(space: Workspace) -> None:
    running = Running(space, "echo /proc/[0-9]*")
    running.end()
    assert len(running.lines[0].split()) <= 3


def test_mounts_stay_inside(space: Workspace) -> None:
    point = space.tmp / "point"
    point.mkdir()
    running = Running(space, f"sudo mount -t tmpfs t {point} && touch {point}/file && ls {point}")
    assert running.end() == 0
    assert running.lines == ["file"]
    assert list(point.iterdir()) == []
    assert str(point) not in Path("/proc/self/mountinfo").read_text()


def test_what_programs_leave_in_tmp_goes_with_the_workspace(space: Workspace) -> None:
    running = Running(space, "cd /tmp; touch left-by-a-test; sudo touch left-by-sudo")
    assert running.end() == 0
    assert not Path("/tmp/left-by-a-test").exists()
    assert sorted(path.name for path in space.shared_tmp.iterdir()) == ["left-by-a-test", "left-by-sudo"]


def test_two_builds_at_once_do_not_meet(space: Workspace) -> None:
    other = workspace.create(
        space.directory.parent, image="image", build_id=BUILD[::-1], installation_id="test", now=NOW
    )
    script = "touch /tmp/$ME $TMPDIR/$ME; until [ -e $GO ]; do sleep 0.05; done; ls /tmp $TMPDIR"
    go = space.directory.parent / "go"
    builds = [
        Running(each, script, ME=name, TMPDIR=str(each.tmp), GO=str(go))
        for each, name in ((space, "one"), (other, "two"))
    ]
    eventually((space.tmp / "one").exists, "the one is there")
    eventually((other.tmp / "two").exists, "the other is there")
    go.touch()
    assert [build.end() for build in builds] == [0, 0]
    assert [build.lines[1::3] for build in builds] == [["one", "one"], ["two", "two"]]
    assert [len(build.lines) for build in builds] == [5, 5]  # two directories, their names, a blank line


def test_of_the_real_tmp_it_sees_only_what_it_names(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "needed").write_text("here")
    stranger = Path(tempfile.mkdtemp(dir="/tmp"))
    script = "cat $FILE; touch $FILE.made /tmp/left; ls -d /tmp/*"
    running = Running(space, script, FILE=str(tmp_path / "needed"))
    assert running.end() == 0
    top = Path(*tmp_path.parts[:3])
    assert running.lines == ["here/tmp/left", str(top)]
    assert (tmp_path / "needed.made").exists()
    assert not Path("/tmp/left").exists()
    stranger.rmdir()


def test_dots_are_no_names_in_tmp(space: Workspace) -> None:
    assert sandbox.names_below_tmp(["/tmp/../etc", "-o /tmp/./x", "A=/tmp/..", "/tmp/.hidden:/tmp/a/b"]) == [
        ".hidden",
        "a",
    ]
    script = "echo $FILE; ls -A /tmp; cut -d' ' -f5 /proc/self/mountinfo | grep -o \"^$MARK/shared.*\""
    running = Running(space, script, FILE="/tmp/../etc/hostname")
    assert running.end() == 1
    assert running.lines == ["/tmp/../etc/hostname"]


def test_the_umask_is_the_usual_one_whatever_the_daemons_is(space: Workspace) -> None:
    before = os.umask(0o077)
    try:
        running = Running(space, "umask")
    finally:
        os.umask(before)
    assert running.end() == 0
    assert running.lines == ["0022"]


@pytest.mark.parametrize("name", ["it's", "$(touch injected)", 'a "b"', "`touch injected`"])
def test_stand_ins_write_their_list_wherever_the_work_directory_is(tmp_path: Path, name: str) -> None:
    loops = tmp_path / name / "loops"
    loops.parent.mkdir()
    script = sandbox.stand_ins(loops=loops)["kpartx"]
    assert "@LOOPS@" not in script
    (line,) = (line for line in script.splitlines() if ">>" in line)
    subprocess.run(["bash", "-c", line], check=True, cwd=tmp_path, env={"device": "/dev/loop7"})
    assert loops.read_text() == "/dev/loop7\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_machine_can_resolve_its_own_name(space: Workspace) -> None:
    before = os.uname().nodename
    running = Running(space, "getent hosts $(uname -n) >/dev/null && sudo true")
    assert running.end() == 0
    assert running.lines == []
    assert os.uname().nodename == before


def test_what_the_command_leaves_running_ends_with_it(space: Workspace) -> None:
    script = (
        "for n in 1 2 3; do setsid bash -c 'trap \"\" TERM HUP; echo up; sleep 300' & done; sleep 1; exit 0"
    )
    running = Running(space, script)
    assert running.end() == 0
    assert_gone(space)


def test_term_reaches_every_session_and_leaves_time_to_clean_up(space: Workspace) -> None:
    script = (
        "setsid bash -c 'trap \"echo far; exit\" TERM; echo up; while :; do sleep 0.1; done' &"
        " trap 'echo near; wait; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    )
    running = Running(space, script)
    eventually(lambda: running.lines.count("up") == 2, "both are up")
    assert running.child.stop(10.0) == 3
    assert set(running.lines) >= {"near", "far"}
    assert_gone(space)


def test_those_that_ignore_term_are_killed_below_sudo_as_well(space: Workspace) -> None:
    stubborn = 'trap "" TERM HUP; echo up; while :; do sleep 0.1; done'
    script = f"trap '' TERM; sudo setsid bash -c '{stubborn}' & sudo bash -c '{stubborn}'"
    running = Running(space, script)
    eventually(lambda: running.lines.count("up") == 2, "both are up")
    code = running.child.stop(0.3)
    assert code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert_gone(space)


def test_killing_the_outermost_process_ends_all_of_it(space: Workspace) -> None:
    running = Running(space, "trap '' TERM; setsid sleep 300 & sudo sleep 300 & echo up; wait")
    eventually(lambda: "up" in running.lines, "it is up")
    os.kill(running.child.pid, signal.SIGKILL)
    running.end()
    assert_gone(space)


def test_a_child_that_is_stopped_before_it_began_never_begins(space: Workspace) -> None:
    running = Running(space, "trap '' TERM; echo began; sleep 300")
    running.child.stop(0.2)
    assert_gone(space)


def test_nothing_waits_for_the_disk_below_sudo_and_chroot_either(space: Workspace) -> None:
    """A pipe can't be synced: whoever is told that it was has not asked the kernel's fsync."""
    with pytest.raises(OSError, match="Invalid argument"):
        reader, writer = os.pipe()
        try:
            os.fsync(writer)
        finally:
            os.close(reader)
            os.close(writer)
    calls = "import os; r, w = os.pipe(); os.fsync(w); os.fdatasync(w); print(os.getuid())"
    ask = f"python3 -I -c '{calls}'"
    nobody = f"setpriv --reuid 65534 --clear-groups {ask}"
    running = Running(space, f"{ask}; sudo {ask}; sudo chroot / {ask}; sudo chroot / {nobody}")
    assert running.end() == 0, running.lines
    assert running.lines == ["0", "0", "0", "65534"]


def test_where_the_filter_is_refused_the_build_goes_on_and_says_so(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = nosync.Filter(call=-1, program=bytes(8))
    monkeypatch.setattr(nosync, "filter_for", lambda machine: broken)
    running = Running(space, "echo on")
    assert running.end() == 0
    assert running.lines[0].startswith("imagepool: fsync is as slow as the disk in this build: ")
    assert running.lines[1:] == ["on"]


def test_what_was_written_through_a_loop_device_is_in_its_file_and_whole(space: Workspace) -> None:
    disk, point = space.tmp / "disk.raw", space.tmp / "point"
    script = f"""
    set -e
    truncate -s 64M {disk}; mkdir {point}
    device=$(losetup --show -f {disk})
    mkfs.ext4 -q $device
    mount $device {point}
    head -c 20M /dev/urandom > {point}/file
    sync; sha256sum < {point}/file
    umount {point}; losetup -d $device
    """
    running = Running(space, script)
    assert running.end() == 0, running.lines
    subprocess.run(["e2fsck", "-f", "-n", str(disk)], check=True, capture_output=True)
    subprocess.run(["debugfs", "-R", f"dump /file {disk}.file", str(disk)], check=True, capture_output=True)
    content = Path(f"{disk}.file").read_bytes()
    assert len(content) == 20 << 20
    assert running.lines[-1].split()[0] == hashlib.sha256(content).hexdigest()


def test_what_a_device_still_keeps_when_the_command_ends_is_in_its_file_as_well(space: Workspace) -> None:
    """udev, say, has it open just then: it is neither flushed nor detached when the build lets go."""
    disk, name, held = space.tmp / "disk.raw", space.tmp / "name", space.tmp / "held"
    script = f"""
    set -e
    truncate -s 8M {disk}
    device=$(losetup --show -f {disk}); echo $device > {name}.new; mv {name}.new {name}
    until [ -e {held} ]; do sleep 0.05; done
    dd if=/dev/urandom of=$device bs=1M count=4 conv=fsync status=none
    dd if=$device bs=1M count=4 status=none | sha256sum
    losetup -d $device
    """
    running = Running(space, script)
    eventually(name.exists, "the device is there")
    with Path(name.read_text().strip()).open("rb"):
        held.touch()
        assert running.end() == 0
        content = disk.read_bytes()[: 4 << 20]
    assert running.lines == [f"{hashlib.sha256(content).hexdigest()}  -"]


def test_fstrim_gives_back_what_was_deleted_though_sync_does_nothing(space: Workspace) -> None:
    disk, point = space.tmp / "disk.raw", space.tmp / "point"
    script = f"""
    set -e
    truncate -s 64M {disk}; mkdir {point}
    sudo mkfs.ext4 -q {disk}
    sudo mount -o loop {disk} {point}
    head -c 40M /dev/urandom > {point}/file; sync -f {point}; rm {point}/file
    sync; sudo fstrim --verbose {point}
    sudo umount {point}
    """
    running = Running(space, script)
    assert running.end() == 0, running.lines
    assert disk.stat().st_blocks * 512 < 16 << 20, running.lines


def test_a_build_lets_others_go_first_unless_told_otherwise(space: Workspace) -> None:
    script = "nice; ionice -p $$"
    usual, urgent = Running(space, script), Running(space, script, BuildLimits(nice=0, io="none"))
    lowest = Running(space, script, BuildLimits(nice=19, io="best-effort"))
    for running in (usual, urgent, lowest):
        assert running.end() == 0
    assert usual.lines == ["10", "idle"]
    assert urgent.lines == [str(os.getpriority(os.PRIO_PROCESS, 0)), "none: prio 0"]
    assert lowest.lines == ["19", "best-effort: prio 7"]


def test_limits_that_the_machine_can_not_hold_a_build_to_are_told_and_it_goes_on(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "available", lambda *_: cgroups.Support(problem="there is no moon"))
    running = Running(space, "echo on", BuildLimits(memory=1 << 30))
    assert running.end() == 0
    assert running.lines == ["imagepool: the build is not held to its build-limits: there is no moon", "on"]


def test_a_group_that_can_not_be_made_is_told_and_the_build_goes_on(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = cgroups.Support(memory=True, parent=space.tmp / "not-there")
    monkeypatch.setattr(cgroups, "available", lambda *_: support)
    running = Running(space, "echo on", BuildLimits(memory=1 << 30))
    assert running.end() == 0
    assert running.lines[0].startswith("imagepool: the build has no limits: ")
    assert running.lines[1:] == ["on"]


def test_the_limits_are_set_before_the_command_is_in_the_group(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = cgroups.Support(cpu=True, memory=True, parent=tmp_path)
    monkeypatch.setattr(cgroups, "available", lambda *_: support)
    group = tmp_path / f"imagepool-{BUILD}"
    group.mkdir()
    (group / "cgroup.procs").touch()
    assert Running(space, "true", BuildLimits(cpus=2, memory=1 << 30)).end() == 0
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
    files = {path.name: path.read_text() for path in group.iterdir()}
    assert files == {
        "cpu.max": "200000 100000",
        "memory.max": "1073741824",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cgroup.procs": "0",  # the process that writes
    }


def test_the_command_is_in_a_real_group_of_its_own_which_goes_with_the_workspace(
    space: Workspace, hierarchy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = hierarchy / space.group_name
    space.group.write_text(f"{group}\n")
    monkeypatch.setattr(cgroups, "group_for", lambda *_: cgroups.Group(path=group))
    running = Running(space, "grep ^0:: /proc/self/cgroup; sudo grep ^0:: /proc/self/cgroup")
    assert running.end() == 0, running.lines
    assert [Path(line).name for line in running.lines] == [space.group_name] * 2
    assert group.is_dir()
    assert workspace.release(space).problem == ""
    assert not group.exists()


def test_secrets_are_in_no_command_line_and_in_the_environment_of_the_command_alone(
    space: Workspace,
) -> None:
    running = Running(space, "echo up; sleep 300; true", PASSWORD=f"hunter2-{space.directory.parent.name}")
    eventually(lambda: "up" in running.lines, "it is up")
    secret = f"hunter2-{space.directory.parent.name}".encode()
    # Ours has it, as everything in this test's memory; the kernel shows no more than we began with.
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if secret in content(path)] == []
    holders = [path.parent for path in Path("/proc").glob("[0-9]*/environ") if secret in content(path)]
    programs = {Path(os.fsdecode(content(holder / "cmdline").split(b"\0")[0])).name for holder in holders}
    assert "bash" in programs
    assert programs <= {"bash", "sleep"}
    running.child.stop(1.0)


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_a_command_may_have_a_large_environment(space: Workspace) -> None:
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(5)}
    running = Running(space, "echo ${#LARGE_0} ${#LARGE_4}", **large)
    assert running.end() == 0
    assert running.lines == ["100000 100000"]


def test_a_sandbox_that_can_not_be_made_says_why(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_private_tmp", lambda *_: [(space.tmp / "no", space.tmp)])
    running = Running(space, "echo began")
    assert running.end() == 125
    (line,) = running.lines
    assert line.startswith(f"imagepool: the sandbox can't be made: binding {space.tmp}/no over {space.tmp}: ")


@pytest.mark.skipif(sandbox.has_device_mapper(), reason="kpartx itself is used where there is device-mapper")
def test_kpartx_works_without_device_mapper_as_dib_calls_it(space: Workspace) -> None:
    disk = space.tmp / "image0.raw"
    script = f"""
    set -e
    truncate -s 8M {disk}
    printf '2048,2048,83,*\\n4096,,83\\n' | sfdisk --quiet {disk}
    device=$(sudo losetup --show -f {disk})
    sudo kpartx -uvs $device
    test -b /dev/mapper/${{device#/dev/}}p1 -a -b /dev/mapper/${{device#/dev/}}p2
    sudo kpartx -av $device
    sudo dmsetup --noudevsync mknodes
    sudo kpartx -d $device
    test ! -e ${{device}}p1 -a ! -L /dev/mapper/${{device#/dev/}}p1
    sudo losetup -d $device
    sudo kpartx -av {disk}
    sudo kpartx -d {disk}
    """
    running = Running(space, script)
    assert running.end() == 0, running.lines
    assert running.lines[0].startswith("add map loop")
    assert len([line for line in running.lines if line.startswith("add map")]) == 6
    assert workspace.release(space).devices == ()


def test_a_kernel_with_device_mapper_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "misc").write_text("236 device-mapper\n232 kvm\n")
    assert sandbox.has_device_mapper(tmp_path)
    (tmp_path / "misc").write_text("232 kvm\n")
    assert not sandbox.has_device_mapper(tmp_path)

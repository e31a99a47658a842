"""The sandbox: whatever a build starts ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.dib import sandbox, workspace
from builder.dib.workspace import Workspace
from builder.process.child import Child
from tests.unit.dib_world import BUILD, eventually, need_root, processes_naming

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Running:
    """A bash script running in a sandbox."""

    def __init__(self, space: Workspace, script: str, **environment: str) -> None:
        self.lines: list[str] = []
        self.child: Child = sandbox.start(
            ["bash", "-c", script],
            env={**ENVIRONMENT, "MARK": str(space.directory), **environment},
            workspace=space,
            on_line=self.lines.append,
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
    yield workspace.create(
        place, image="image", build_id=BUILD, installation_id="test", now=datetime.now(UTC)
    )
    shutil.rmtree(place)


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
    before = Path("/proc/self/mountinfo").read_text()
    running = Running(space, "echo $FILE; ls -A /tmp", FILE="/tmp/../etc/hostname")
    assert running.end() == 0
    assert running.lines == ["/tmp/../etc/hostname"]
    assert Path("/proc/self/mountinfo").read_text() == before


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

"""Whatever ends a build, nothing of it is left, and nothing of anybody else is gone.

The build leaves all there is to leave: processes in sessions of their own that ignore TERM, a loop
device with partition nodes, mounts, files in /tmp and TMPDIR, and a cgroup.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.dib.isolation import workspace
from builder.dib.isolation.workspace import Workspace
from tests.realparts.loops import partitions
from tests.unit.cgroup_world import cgroup_corner
from tests.unit.dib_world import (
    BUILD,
    FAKE_DIB,
    INSTALLATION,
    bound_loops,
    eventually,
    need_root,
    processes_naming,
)

PROJECT = Path(__file__).parents[2]

#: A daemon that runs one build in a group of its own, and releases it when it ends or shall end.
DAEMON = f"""
import sys
from datetime import UTC, datetime
from pathlib import Path
from builder.dib.isolation import cgroups, sandbox, workspace
place, hierarchy, then = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
space = workspace.create(
    place / "work", image="image", build_id="{BUILD}", installation_id="{INSTALLATION}", now=datetime.now(UTC)
)
group = hierarchy / space.group_name
space.group.write_text(str(group))
cgroups.group_for = lambda *_: cgroups.Group(path=group)
script = 'mkdir $TMPDIR/point; mount -t tmpfs build $TMPDIR/point; touch $TMPDIR/point/file; exec "$@"'
child = sandbox.start(
    ["bash", "-ec", script, "bash", "{FAKE_DIB}", "-o", str(space.output), "-t", "raw", "an-element"],
    env={{
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(space.tmp),
        "HOME": str(space.home), "FAKE_DIB_CONTROL": str(place / "control"),
    }},
    workspace=space, on_line=print,
)
if then == "stop":
    sys.stdin.readline()
    child.stop(0.5)
print("ended with", child.wait())
print(workspace.release(space))
"""


@dataclass(frozen=True)
class World:
    """A machine with a build of ours, and with others who have nothing to do with it."""

    place: Path
    hierarchy: Path

    @property
    def control(self) -> Path:
        return self.place / "control"

    @property
    def work(self) -> Path:
        return self.place / "work"

    def start(self, then: str = "wait") -> subprocess.Popen[str]:
        for knob in ("hang.cleanup", "ignore-term", "children", "loop", "tmp"):
            (self.control / knob).touch()
        daemon = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(self.place), str(self.hierarchy), then],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            eventually((self.control / "paused").exists, "the build has made all there is to leave")
        except pytest.fail.Exception:
            daemon.kill()
            pytest.fail(f"the build did not get there: {daemon.communicate()[0]}")
        return daemon

    def go_on(self) -> None:
        (self.control / "hang.cleanup").unlink()

    def loops(self) -> dict[str, str]:
        """Loop devices over files of this build."""
        files = f"{self.work}/image-{BUILD}/"
        return {device: file for device, file in bound_loops().items() if file.startswith(files)}

    def nodes(self) -> set[str]:
        """Partition nodes, the kernel's and device-mapper's."""
        return {*map(str, Path("/dev").glob("loop*p*")), *map(str, Path("/dev/mapper").glob("loop*p*"))}

    def traces(self) -> list[str]:
        """What of the build there is, but for partitions."""
        found = [f"process {pid}" for pid in processes_naming(self.control)]
        found += [f"{device} over {file}" for device, file in self.loops().items()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {line}" for line in mounts if f"{self.work}/image-{BUILD}" in line]
        found += [str(path) for path in self.hierarchy.glob(f"imagepool-{BUILD}")]
        found += [str(path) for path in self.work.glob(f"*{BUILD}*")]
        return found + [str(path) for path in Path("/tmp").glob(f"left-by-fake-dib-{self.control.name}")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    need_root()
    place = Path(tempfile.mkdtemp(prefix="imagepool-test-", dir="/var/tmp"))
    (place / "control").mkdir()
    with cgroup_corner(place / "cgroup") as corner:
        yield World(place, corner)
        # A test that failed half-way is no reason to leave devices behind.
        workspace.sweep(place / "work")
    shutil.rmtree(place)


@pytest.fixture
def others(world: World) -> Iterator[Callable[[], None]]:
    """Somebody's disk, directory and mount, and another build of ours; the call asserts all is there."""
    with ExitStack() as made:
        neighbour = create(world, uuid.uuid4().hex)
        disks = [world.place / "theirs.raw", neighbour.tmp / "image0.raw"]
        devices = [made.enter_context(attached(disk)) for disk in disks]
        precious = world.work / "precious"
        precious.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "theirs", str(precious)], check=True)
        made.callback(subprocess.run, ["umount", str(precious)], check=True)
        (precious / "file").touch()
        group = world.hierarchy / neighbour.group_name
        group.mkdir()
        made.callback(group.rmdir)

        def untouched() -> None:
            assert [bound_loops().get(device) for device in devices] == [str(disk) for disk in disks]
            assert all(Path(f"{device}p1").exists() for device in devices)
            assert (precious / "file").exists()
            assert workspace.load(neighbour.directory) == neighbour
            assert group.is_dir()

        yield untouched


def create(world: World, build_id: str) -> Workspace:
    return workspace.create(
        world.work, image="image", build_id=build_id, installation_id="another", now=datetime.now(UTC)
    )


@contextmanager
def attached(disk: Path) -> Iterator[str]:
    """A loop device over a new disk with one partition."""
    with disk.open("wb") as stream:
        stream.truncate(8 << 20)
    subprocess.run(["sfdisk", "--quiet", str(disk)], input="2048,,83,*\n", text=True, check=True)
    find = ["losetup", "--show", "--find", str(disk)]
    device = subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()
    try:
        with partitions(device):
            yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def assert_nothing_left(world: World, nodes: set[str], said: str) -> None:
    eventually(lambda: world.traces() == [], f"nothing is left of the build: {world.traces()}")
    eventually(lambda: not nodes & world.nodes(), f"its partitions are gone: {nodes & world.nodes()}")
    assert "NOT COMPLETE" not in said


def own_nodes(world: World) -> set[str]:
    """The partitions of the build's loop device: it must have some, or the test proves nothing."""
    (device,) = world.loops()
    nodes = {node for node in world.nodes() if Path(node).name.startswith(f"{Path(device).name}p")}
    assert len(nodes) == 2
    return nodes


def sweep(world: World) -> str:
    return " ".join(map(str, workspace.sweep(world.work, INSTALLATION)))


@pytest.mark.parametrize("code", [0, 100])
def test_success_and_failure(world: World, others: Callable[[], None], code: int) -> None:
    if code:
        (world.control / "fail").write_text(f"cleanup {code}\n")
    with world.start() as daemon:
        nodes = own_nodes(world)
        assert world.traces()
        world.go_on()
        said = daemon.communicate(timeout=60)[0]
    assert f"ended with {code}\n" in said
    assert_nothing_left(world, nodes, said)
    others()


def test_a_timeout_or_a_cancellation(world: World, others: Callable[[], None]) -> None:
    with world.start("stop") as daemon:
        nodes = own_nodes(world)
        said = daemon.communicate("stop\n", timeout=60)[0]
    assert "ended with 137\n" in said
    assert_nothing_left(world, nodes, said)
    others()


def test_the_daemon_is_killed(world: World, others: Callable[[], None]) -> None:
    with world.start() as daemon:
        nodes = own_nodes(world)
        daemon.kill()
    # The build hangs for as long as nobody ends it, and nothing but the kernel has had a hand in it yet.
    eventually(lambda: processes_naming(world.control) == [], "its processes ended with it")
    assert world.loops()
    assert list(world.hierarchy.glob(f"imagepool-{BUILD}"))
    said = sweep(world)
    assert BUILD in said
    assert_nothing_left(world, nodes, said)
    others()


def test_the_daemon_is_killed_and_the_next_one_starts_at_once(world: World) -> None:
    """What is about to die still holds on to what the sweep releases."""
    with world.start() as daemon:
        nodes = own_nodes(world)
        daemon.kill()
        said = sweep(world)
    assert BUILD in said
    assert_nothing_left(world, nodes, said)


def test_the_thread_that_runs_the_build_ends_and_the_daemon_goes_on(world: World) -> None:
    """The kernel takes the end of the thread that started it for the daemon's."""
    started: list[subprocess.Popen[str]] = []
    thread = threading.Thread(target=lambda: started.append(world.start()))
    thread.start()
    thread.join()
    (daemon,) = started
    nodes = own_nodes(world)
    with daemon:
        assert daemon.poll() is None
        daemon.kill()
    assert_nothing_left(world, nodes, sweep(world))


def test_the_power_fails(world: World, others: Callable[[], None]) -> None:
    """Processes, mounts and devices are gone by that; files are not, and links where /dev is no tmpfs."""
    space = workspace.create(
        world.work, image="image", build_id=BUILD, installation_id=INSTALLATION, now=datetime.now(UTC)
    )
    (space.tmp / "dib_build.x" / "mnt").mkdir(parents=True)
    space.loops.write_text("/dev/loop9999\n")
    space.group.write_text(str(world.hierarchy / space.group_name))
    said = sweep(world)
    assert BUILD in said
    assert_nothing_left(world, set(), said)
    others()


def test_what_the_build_says_of_its_group_removes_no_other(world: World) -> None:
    space = create(world, BUILD)
    stranger = world.hierarchy / "a-stranger"
    stranger.mkdir()
    try:
        space.group.write_text(str(stranger))
        assert workspace.release(space).problem == ""
        assert stranger.is_dir()
    finally:
        stranger.rmdir()


def test_a_group_goes_with_the_processes_and_groups_in_it(world: World) -> None:
    space = create(world, BUILD)
    group = world.hierarchy / space.group_name
    (group / "deep" / "down").mkdir(parents=True)
    with subprocess.Popen(["sleep", "300"]) as left:
        (group / "deep" / "cgroup.procs").write_text(str(left.pid))
        space.group.write_text(str(group))
        assert workspace.release(space).problem == ""
        assert left.wait(timeout=30) == -9
    assert not group.exists()

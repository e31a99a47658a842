"""Building as a service user: what root does for it through sudo, and what is left, which is nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.dib.isolation import asroot, workspace
from builder.dib.isolation.workspace import Workspace
from tests.unit.dib_world import (
    BUILD,
    FAKE_DIB,
    INSTALLATION,
    bound_loops,
    eventually,
    need_root,
    processes_naming,
)
from tests.unit.service_user import NAME, NUMBER, RULE, ServiceUser, service_user

#: Calls imagepool-root: its exit code, and what it printed on both streams.
Call = Callable[..., tuple[int, str, str]]

#: A daemon: one build of the scripted disk-image-create, and a release unless told to keep it.
DAEMON = f"""
import json, os, sys
from datetime import UTC, datetime
from pathlib import Path
from builder.dib import tools
from builder.dib.isolation import sandbox, workspace
work, control, then = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
tools.require()
space = workspace.create(
    work, image="image", build_id="{BUILD}", installation_id="{INSTALLATION}", now=datetime.now(UTC)
)
environment = {{
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(space.tmp),
    "HOME": str(space.home), "FAKE_DIB_CONTROL": str(control), "PASSWORD": "hunter2-" + work.parent.name,
}}
child = sandbox.start(
    ["{FAKE_DIB}", "-o", str(space.output), "-t", "raw", "an-element"],
    env=environment, workspace=space, on_line=lambda line: None,
)
code = child.stop(0.5) if then == "stop" and sys.stdin.readline() else child.wait()
raw = space.output.with_name(space.output.name + ".raw")
answer = {{"code": code, "uid": os.geteuid()}}
if raw.exists():
    with raw.open("r+b") as stream:
        answer["size"] = len(stream.read())
    raw.rename(work / "kept.raw")
released = workspace.release(space)
print(json.dumps(answer | {{"devices": released.devices, "problem": released.problem}}))
"""
SWEEP = f"""
import sys
from pathlib import Path
from builder.dib.isolation import workspace
for released in workspace.sweep(Path(sys.argv[1]), "{INSTALLATION}"):
    print(released)
"""
REQUIRE = """
from builder.dib import tools
from builder.errors import ImagepoolError
try:
    tools.require()
except ImagepoolError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def user() -> Iterator[ServiceUser]:
    """A service user with the control directory of a scripted disk-image-create."""
    need_root()
    with service_user() as user:
        control = user.place / "control"
        control.mkdir()
        yield user
        # A test that failed half-way is no reason to leave devices behind.
        workspace.sweep(user.work)


def knobs(user: ServiceUser, *names: str) -> None:
    for name in names:
        (user.place / "control" / name).touch()


def start(user: ServiceUser, then: str = "wait") -> subprocess.Popen[str]:
    return user.start(DAEMON, str(user.work), str(user.place / "control"), then)


def paused(user: ServiceUser) -> None:
    eventually((user.place / "control" / "paused").exists, "the build hangs where it was told to")


def assert_nothing_left(user: ServiceUser) -> None:
    eventually(lambda: processes_naming(user.place / "control") == [], "all its processes are gone")
    assert [file for file in bound_loops().values() if str(user.place) in file] == []
    assert str(user.place) not in Path("/proc/self/mountinfo").read_text()
    assert [path.name for path in user.work.iterdir() if path.name != "kept.raw"] == []


def create(work: Path) -> Workspace:
    return workspace.create(
        work, image="image", build_id=BUILD, installation_id=INSTALLATION, now=datetime.now(UTC)
    )


def test_a_build_runs_as_root_and_its_image_is_the_users(user: ServiceUser) -> None:
    knobs(user, "tmp", "loop")
    with start(user) as daemon:
        answer = json.loads(daemon.communicate(timeout=60)[0])
    assert (answer["code"], answer["uid"], answer["size"]) == (0, NUMBER, 4 << 20)
    assert (user.work / "kept.raw").stat().st_uid == NUMBER
    assert [device[:9] for device in answer["devices"]] == ["/dev/loop"]
    assert answer["problem"] == ""
    assert_nothing_left(user)


def test_a_failed_build_says_so_and_leaves_nothing(user: ServiceUser) -> None:
    (user.place / "control" / "fail").write_text("install 100\n")
    with start(user) as daemon:
        answer = json.loads(daemon.communicate(timeout=60)[0])
    assert answer["code"] == 100
    assert_nothing_left(user)


def test_secrets_are_in_no_command_line_and_in_the_environment_of_the_build_alone(user: ServiceUser) -> None:
    knobs(user, "hang.install")
    with start(user) as daemon:
        paused(user)
        holders = [path.parent for path in Path("/proc").glob("[0-9]*/environ") if holds(path, user)]
        assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if holds(path, user)] == []
        assert holders
        assert all("disk-image-create" in (holder / "cmdline").read_text() for holder in holders)
        (user.place / "control" / "hang.install").unlink()
        daemon.communicate(timeout=60)


def holds(file: Path, user: ServiceUser) -> bool:
    try:
        return f"hunter2-{user.place.name}".encode() in file.read_bytes()
    except OSError:
        return False


def test_stopping_ends_what_ignores_term_in_sessions_of_its_own(user: ServiceUser) -> None:
    knobs(user, "hang.finalise", "ignore-term", "children", "loop")
    with start(user, "stop") as daemon:
        paused(user)
        answer = json.loads(daemon.communicate("stop\n", timeout=60)[0])
    assert answer["code"] == 128 + signal.SIGKILL
    assert answer["problem"] == ""
    assert_nothing_left(user)


def test_a_daemon_killed_takes_everything_along_and_the_next_start_releases_the_rest(
    user: ServiceUser,
) -> None:
    knobs(user, "hang.finalise", "ignore-term", "children", "loop", "tmp")
    with start(user) as daemon:
        paused(user)
        daemon.kill()
    # The build hangs for as long as nobody ends it, and nothing but the kernel has had a hand in it yet.
    eventually(lambda: processes_naming(user.place / "control") == [], "all its processes are gone")
    assert [file for file in bound_loops().values() if str(user.place) in file]

    said = user.run(SWEEP, str(user.work))

    assert BUILD in said
    assert "/dev/loop" in said
    assert "NOT COMPLETE" not in said
    assert_nothing_left(user)
    assert user.run(SWEEP, str(user.work)) == ""


def test_a_user_that_may_build_needs_nothing_else(user: ServiceUser) -> None:
    assert user.run(REQUIRE) == ""


def test_a_user_without_the_rule_is_told_which_one(user: ServiceUser) -> None:
    user.forbid()
    said = user.run(REQUIRE)
    assert said.startswith(f"UnavailableError building images needs root, and sudo does not run {user.bin}/")
    assert f"`{NAME} ALL=(root) NOPASSWD: {user.bin}/imagepool-root`" in said
    assert "docs/service-user.md" in said


def test_a_user_without_the_program_is_told_to_install_it(user: ServiceUser) -> None:
    (user.bin / "imagepool-root").unlink()
    said = user.run(REQUIRE)
    assert "imagepool-root that sudo would run is not installed" in said


def test_what_cannot_be_released_stays_on_the_list(user: ServiceUser) -> None:
    """sudo may refuse for a while: a rule is being changed, a directory service is away."""
    knobs(user, "hang.finalise")
    with start(user) as daemon:
        paused(user)
        daemon.kill()
    user.forbid()
    assert "NOT COMPLETE: sudo: " in user.run(SWEEP, str(user.work))
    user.allow()
    assert "NOT COMPLETE" not in user.run(SWEEP, str(user.work))
    assert_nothing_left(user)


def test_the_rule_that_ships_is_one_that_sudo_takes() -> None:
    subprocess.run(["visudo", "--check", "--quiet", f"--file={RULE}"], check=True)


class TestTheProgram:
    """What imagepool-root does, called by root directly."""

    @pytest.fixture(autouse=True)
    def root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        need_root()
        monkeypatch.delenv("SUDO_UID", raising=False)

    @pytest.fixture
    def call(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
        def call(*words: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["imagepool-root", *words])
            return (asroot.main(), *capsys.readouterr())

        return call

    def test_it_can_be_called(self, call: Call) -> None:
        assert call("check") == (0, "", "")

    @pytest.mark.parametrize(
        "words", [(), ("check", "x"), ("sandbox",), ("release",), ("rm", "/"), ("prune", "/c", "-1")]
    )
    def test_it_does_nothing_else(self, call: Call, words: tuple[str, ...]) -> None:
        code, _, said = call(*words)
        assert code == 2
        assert "usage: imagepool-root" in said

    def test_it_releases_a_work_directory(self, call: Call, tmp_path: Path) -> None:
        space = create(tmp_path)
        assert call("release", str(space.directory)) == (0, '{"devices": [], "problem": ""}\n', "")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("verb", ["release", "sandbox"])
    def test_what_is_no_work_directory_is_left_alone(self, call: Call, tmp_path: Path, verb: str) -> None:
        plain = tmp_path / f"image-{BUILD}"
        plain.mkdir()
        code, _, said = call(verb, str(plain))
        assert (code, said) == (4, f"imagepool-root: {plain} is no work directory of a build\n")
        assert plain.exists()

    @pytest.mark.parametrize("verb", ["release", "sandbox"])
    def test_a_link_to_a_work_directory_is_none(self, call: Call, tmp_path: Path, verb: str) -> None:
        space = create(tmp_path / "real")
        link = tmp_path / space.directory.name
        link.symlink_to(space.directory)
        assert call(verb, str(link))[0] == 4
        assert call("prune", str(link), "0")[0] == 4
        assert space.directory.exists()

    def test_a_path_that_depends_on_where_one_stands_is_refused(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        space = create(tmp_path)
        monkeypatch.chdir(tmp_path)
        assert call("release", space.directory.name)[0] == 4
        assert space.directory.exists()

    def test_what_a_service_user_can_not_remove_from_its_cache_is_pruned(
        self, call: Call, tmp_path: Path
    ) -> None:
        archive = tmp_path / "image-create" / "image" / "apt" / "a.deb"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(bytes(8192))
        code, answer, _ = call("prune", str(tmp_path), "4096")
        assert (code, json.loads(answer)) == (0, {"removed": 1, "freed": 8192, "left": 0})
        assert not archive.exists()

    def test_what_is_no_cache_is_not_pruned(self, call: Call, tmp_path: Path) -> None:
        (tmp_path / "precious").write_bytes(bytes(8192))
        code, _, said = call("prune", str(tmp_path), "0")
        assert (code, said) == (4, f"imagepool-root: {tmp_path} is no cache of builds\n")
        assert (tmp_path / "precious").exists()

    @pytest.mark.parametrize("verb", ["release", "sandbox"])
    def test_another_users_build_is_out_of_reach(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        space = create(tmp_path)
        monkeypatch.setenv("SUDO_UID", str(NUMBER))
        code, _, said = call(verb, str(space.directory))
        assert code == 4
        assert "belongs to another user" in said
        assert space.directory.exists()

    def test_it_does_nothing_for_whom_is_not_root(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: NUMBER)
        code, _, said = call("check")
        assert code == 4
        assert "this program is for root" in said

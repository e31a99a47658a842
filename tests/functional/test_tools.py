"""The tools a person runs first: their help, wrong usage, and what they do when nothing is there."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NAMES = ("devcloud", "quickstart", "run-tests")

Result = subprocess.CompletedProcess[str]


class Bench:
    """Runs the tools with directories of their own."""

    def __init__(self, root: Path) -> None:
        self.cloud = root / "cloud"
        self.environment = {
            **os.environ,
            "DEVCLOUD_DIR": str(self.cloud),
            "QUICKSTART_DIR": str(root / "quickstart"),
        }

    def run(self, name: str, *arguments: str, timeout: float = 60, **variables: str) -> Result:
        return subprocess.run(
            [str(TOOLS / name), *arguments],
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def remember(self, pid: int, started: int) -> None:
        """Leave the notes of a cloud whose Keystone is this process."""
        self.cloud.mkdir()
        state = {
            "ports": {"keystone": 1, "glance-RegionOne": 2, "glance-RegionTwo": 3},
            "admin_password": "a",
            "user_password": "b",
            "service_password": "c",
            "running": {"keystone": {"pid": pid, "started": started}},
        }
        (self.cloud / "state.json").write_text(json.dumps(state))

    def masters(self) -> dict[str, int]:
        """The server processes of the cloud, by service."""
        running = json.loads((self.cloud / "state.json").read_text())["running"]
        return {name: entry["pid"] for name, entry in running.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that no tool started."""
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def fields_of(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return []


def start_tick(pid: int) -> int:
    return int(fields_of(pid)[19])


def runs(pid: int) -> bool:
    """Whether the process runs; one that only waits for init to take note of its end doesn't."""
    return fields_of(pid)[:1] not in ([], ["Z"])


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_what_the_tool_does_and_its_exit_codes(bench: Bench, name: str) -> None:
    result = bench.run(name, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: {name}")
    assert "exit codes:" in result.stdout


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("devcloud", ()),
        ("devcloud", ("fly",)),
        ("devcloud", ("up", "--fast")),
        ("quickstart", ("fly",)),
        ("quickstart", ("stop", "now")),
        ("run-tests", ("-e", "no-such-environment")),
    ],
)
def test_wrong_usage_is_exit_code_2_and_changes_nothing(
    bench: Bench, name: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    result = bench.run(name, *arguments)
    assert result.returncode == 2
    assert f"{name}: error:" in result.stderr or f"usage: {name}" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_status_of_no_cloud_is_a_failure_that_says_how_to_make_one(bench: Bench) -> None:
    result = bench.run("devcloud", "status")
    assert result.returncode == 1
    assert "devcloud up" in result.stderr
    assert not bench.cloud.exists()


def test_taking_down_no_cloud_is_done_at_once(bench: Bench) -> None:
    assert bench.run("devcloud", "down").returncode == 0
    assert not bench.cloud.exists()


def test_a_port_that_is_none_is_refused_by_name(bench: Bench) -> None:
    result = bench.run("devcloud", "up", DEVCLOUD_PORT_BASE="eighty")
    assert result.returncode == 1
    assert "DEVCLOUD_PORT_BASE" in result.stderr


def test_down_stops_the_process_it_remembers(bench: Bench, stranger: subprocess.Popen[bytes]) -> None:
    bench.remember(stranger.pid, start_tick(stranger.pid))
    assert bench.run("devcloud", "down").returncode == 0
    assert stranger.wait(timeout=30) == -signal.SIGTERM


def test_down_leaves_a_process_alone_that_only_has_the_same_id(
    bench: Bench, stranger: subprocess.Popen[bytes]
) -> None:
    bench.remember(stranger.pid, start_tick(stranger.pid) - 1)
    assert bench.run("devcloud", "down").returncode == 0
    assert stranger.poll() is None


def test_purging_leaves_what_the_tool_did_not_make(bench: Bench, stranger: subprocess.Popen[bytes]) -> None:
    bench.remember(stranger.pid, 0)
    (bench.cloud / "venv").mkdir()
    assert bench.run("devcloud", "down", "--purge").returncode == 0
    assert sorted(path.name for path in bench.cloud.iterdir()) == ["lock", "venv"]


def test_stopping_a_quickstart_that_does_not_run_is_done_at_once(bench: Bench) -> None:
    assert bench.run("quickstart", "stop").returncode == 0


def test_there_is_no_environment_for_a_quickstart_that_does_not_run(bench: Bench) -> None:
    result = bench.run("quickstart", "env")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "./tools/quickstart" in result.stderr


@pytest.mark.real
def test_a_cloud_comes_up_is_repaired_and_goes_down(bench: Bench) -> None:
    try:
        assert bench.run("devcloud", "up", timeout=280).returncode == 0
        assert stat.S_IMODE((bench.cloud / "clouds.yaml").stat().st_mode) == 0o600
        before = bench.masters()
        clouds = (bench.cloud / "clouds.yaml").read_text()

        os.kill(before["glance-RegionTwo"], signal.SIGKILL)
        status = bench.run("devcloud", "status")
        assert status.returncode == 1
        assert [line.split()[-1] for line in status.stdout.splitlines()] == ["up", "up", "running"]

        assert bench.run("devcloud", "up", timeout=120).returncode == 0
        after = bench.masters()
        assert bench.run("devcloud", "status").returncode == 0
        assert {name for name in before if after[name] != before[name]} == {"glance-RegionTwo"}
        assert (bench.cloud / "clouds.yaml").read_text() == clouds
    finally:
        down = bench.run("devcloud", "down", "--purge")
    assert down.returncode == 0
    assert [pid for pid in after.values() if runs(pid)] == []

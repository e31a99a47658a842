"""The tools a person runs first: their help, wrong usage, and what they do when nothing is there."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from openstack.config import OpenStackConfig

TOOLS = Path(__file__).resolve().parents[2] / "tools"
REQUIREMENTS = TOOLS / "lib" / "devcloud" / "requirements.txt"
NAMES = ("build-image", "devcloud", "quickstart", "run-tests")

Result = subprocess.CompletedProcess[str]


class Bench:
    """Runs the tools with directories of their own."""

    def __init__(self, root: Path) -> None:
        self.cloud = root / "cloud"
        self.quickstart = root / "quickstart"
        self.environment = {
            **os.environ,
            "DEVCLOUD_DIR": str(self.cloud),
            "QUICKSTART_DIR": str(self.quickstart),
        }

    def run(self, name: str, *arguments: str, timeout: float = 60, **variables: str) -> Result:
        return self._run([str(TOOLS / name), *arguments], timeout, variables)

    def run_without_privileges(self, name: str, *arguments: str) -> Result:
        """Root may read everything; without these capabilities the modes of files count for it too."""
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        return self._run([*drop, str(TOOLS / name), *arguments], 60, {})

    def _run(self, command: list[str], timeout: float, variables: dict[str, str]) -> Result:
        return subprocess.run(
            command,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def remember(self, pid: int, started: int, port: int = 1) -> None:
        """Leave the notes of a cloud whose Keystone is this process, all services on one port."""
        self.cloud.mkdir()
        state = {
            "ports": dict.fromkeys(("keystone", "glance-RegionOne", "glance-RegionTwo"), port),
            "admin_password": "a",
            "user_password": "b",
            "service_password": "c",
            "running": {"keystone": {"pid": pid, "started": started}},
        }
        (self.cloud / "state.json").write_text(json.dumps(state))

    def remember_quickstart(self, pid: int, started: int, zookeeper: str) -> None:
        """Leave the notes of a quickstart whose daemon is this process, with its ZooKeeper there."""
        endpoint = self.quickstart / "state" / "zookeeper" / "endpoint"
        endpoint.parent.mkdir(parents=True)
        endpoint.write_text(zookeeper + "\n")
        notes = {"daemon": {"pid": pid, "started": started}, "started_cloud": False}
        (self.quickstart / "started.json").write_text(json.dumps(notes))

    def venv_that_counts_as_installed(self, root: Path) -> Path:
        """A virtual environment without a single command, but with the mark of a complete one."""
        root.mkdir(parents=True)
        (root / "devcloud-requirements.txt").write_text(REQUIREMENTS.read_text())
        return root

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


class Squatter:
    """A server on a port that was a cloud's; `heard` is what it was asked."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                heard.append(self.rfile.readline().decode())
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def squatter() -> Iterator[Squatter]:
    server = Squatter()
    yield server
    server.close()


def limits(cloud: Path, region: str) -> dict[str, dict[str, int]]:
    """What a region's image service says a project may have and has."""
    config = OpenStackConfig(config_files=[str(cloud / "clouds.yaml")], load_envvars=False)
    session = config.get_one("devcloud", region_name=region).get_session()
    port = json.loads((cloud / "state.json").read_text())["ports"][f"glance-{region}"]
    usage: dict[str, dict[str, int]] = session.get(f"http://127.0.0.1:{port}/v2/info/usage").json()["usage"]
    return usage


def storm(cloud: Path) -> Counter[int]:
    """The statuses a region answers to five clients that make, fill and delete images all at once."""
    config = OpenStackConfig(config_files=[str(cloud / "clouds.yaml")], load_envvars=False)
    session = config.get_one("devcloud", region_name="RegionOne").get_session()
    port = json.loads((cloud / "state.json").read_text())["ports"]["glance-RegionOne"]
    base = f"http://127.0.0.1:{port}/v2/images"

    def client(_number: int) -> list[int]:
        statuses = []
        for _ in range(6):
            made = session.post(base, json={"disk_format": "raw", "container_format": "bare"})
            image = f"{base}/{made.json()['id']}"
            headers = {"Content-Type": "application/octet-stream"}
            sent = session.put(f"{image}/file", data=b"x" * 1000, headers=headers, raise_exc=False)
            gone = session.delete(image, raise_exc=False)
            statuses += [made.status_code, sent.status_code, gone.status_code]
        return statuses

    with ThreadPoolExecutor(5) as pool:
        return Counter(status for statuses in pool.map(client, range(5)) for status in statuses)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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


def test_limits_for_a_region_that_is_none_are_refused_by_name(bench: Bench) -> None:
    result = bench.run("devcloud", "up", DEVCLOUD_LIMITS="RegionTwo,RegionSix")
    assert result.returncode == 1
    assert "DEVCLOUD_LIMITS names 'RegionSix'" in result.stderr
    assert not bench.cloud.exists()


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


@pytest.mark.parametrize("command", ["status", "up"])
def test_whoever_took_the_port_of_a_stopped_cloud_is_told_nothing(
    bench: Bench, squatter: Squatter, tmp_path: Path, command: str
) -> None:
    bench.remember(os.getpid(), start_tick(os.getpid()) - 1, squatter.port)
    venv = bench.venv_that_counts_as_installed(tmp_path / "venv")
    result = bench.run("devcloud", command, DEVCLOUD_VENV=str(venv))
    assert result.returncode == 1  # `up` ends where it needs a command of its services
    assert squatter.heard == []


def test_without_keystone_no_region_is_up(bench: Bench, stranger: subprocess.Popen[bytes]) -> None:
    bench.remember(stranger.pid, 0)
    notes = json.loads((bench.cloud / "state.json").read_text())
    notes["running"]["glance-RegionOne"] = {"pid": stranger.pid, "started": start_tick(stranger.pid)}
    (bench.cloud / "state.json").write_text(json.dumps(notes))
    result = bench.run("devcloud", "status")
    assert result.returncode == 1
    assert [line.split()[2:] for line in result.stdout.splitlines()] == [
        ["not", "running"],
        ["no", "token:", "keystone", "is", "not", "running"],
        ["not", "running"],
    ]


def test_the_directory_of_a_cloud_is_closed_to_others_when_its_venv_comes_first(bench: Bench) -> None:
    # Nothing is fetched: there is no index at this address, so the installation fails.
    result = bench.run(
        "devcloud",
        "install",
        DEVCLOUD_VENV=str(bench.cloud / "venv"),
        PIP_INDEX_URL="http://127.0.0.1:1/",
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="0",
    )
    assert result.returncode == 1
    assert mode_of(bench.cloud) == 0o700


def test_stopping_a_quickstart_that_does_not_run_is_done_at_once(bench: Bench) -> None:
    assert bench.run("quickstart", "stop").returncode == 0


def test_there_is_no_environment_for_a_quickstart_that_does_not_run(bench: Bench) -> None:
    result = bench.run("quickstart", "env")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "./tools/quickstart" in result.stderr


def test_the_environment_of_a_quickstart_leads_a_shell_to_its_zookeeper(
    bench: Bench, stranger: subprocess.Popen[bytes]
) -> None:
    bench.remember_quickstart(stranger.pid, start_tick(stranger.pid), "127.0.0.1:2345/pool")
    result = bench.run("quickstart", "env")
    assert result.returncode == 0
    shell = f'{result.stdout}\nprintf "%s %s" "$IMAGEPOOL_ZOOKEEPER" "$OS_CLOUD"'
    told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert told.stdout == "127.0.0.1:2345/pool devcloud"


def test_another_users_quickstart_is_refused_with_a_word_on_whose_it_is(
    bench: Bench, stranger: subprocess.Popen[bytes]
) -> None:
    bench.remember_quickstart(stranger.pid, start_tick(stranger.pid), "127.0.0.1:1")
    (bench.quickstart / "started.json").chmod(0)
    result = bench.run_without_privileges("quickstart", "stop")
    assert result.returncode == 1
    assert result.stderr == (
        f"quickstart: {bench.quickstart}/started.json: permission denied; "
        "run this as the user who started it, or as root\n"
    )
    assert stranger.poll() is None


@pytest.mark.real
def test_a_cloud_comes_up_is_repaired_and_goes_down(bench: Bench) -> None:
    try:
        assert bench.run("devcloud", "up", timeout=280).returncode == 0
        assert stat.S_IMODE((bench.cloud / "clouds.yaml").stat().st_mode) == 0o600
        before = bench.masters()
        clouds = (bench.cloud / "clouds.yaml").read_text()

        assert set(storm(bench.cloud)) == {201, 204}

        assert limits(bench.cloud, "RegionTwo") == {}
        os.kill(before["glance-RegionTwo"], signal.SIGKILL)
        status = bench.run("devcloud", "status")
        assert status.returncode == 1
        assert [line.split()[-1] for line in status.stdout.splitlines()] == ["up", "up", "running"]

        repaired = bench.run("devcloud", "up", timeout=120, DEVCLOUD_LIMITS="RegionTwo")
        assert repaired.returncode == 0
        after = bench.masters()
        assert bench.run("devcloud", "status").returncode == 0
        assert {name for name in before if after[name] != before[name]} == {"glance-RegionTwo"}
        assert (bench.cloud / "clouds.yaml").read_text() == clouds
        assert limits(bench.cloud, "RegionOne") == {}
        assert limits(bench.cloud, "RegionTwo")["image_count_total"] == {"limit": 10_000, "usage": 0}
    finally:
        down = bench.run("devcloud", "down", "--purge")
    assert down.returncode == 0
    assert [pid for pid in after.values() if runs(pid)] == []

"""The private ZooKeeper server: found while it runs, back when it dies, gone with its daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.config.model import Config, ZooKeeper
from builder.errors import RefusedError, StoreUnavailableError, ToolMissingError, UsageError
from builder.store import embedded
from builder.store.embedded import EmbeddedZooKeeper, find_endpoint, resolve
from builder.store.zookeeper import ZooKeeperStore
from tests.contract.records import a_build
from tests.contract.worlds import eventually

pytestmark = pytest.mark.real


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedZooKeeper]:
    here = EmbeddedZooKeeper(tmp_path)
    yield here
    here.stop()


def config(state_dir: Path, zookeeper: ZooKeeper | None = None) -> Config:
    return Config(
        path=state_dir / "imagepool.yaml",
        state_dir=state_dir,
        images_dir=state_dir,
        work_dir=state_dir,
        cache_dir=state_dir,
        log_dir=state_dir,
        zookeeper=zookeeper,
    )


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestRunning:
    def test_it_is_found_while_it_runs_and_keeps_port_and_records(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        assert find_endpoint(tmp_path) is None
        server.stop()
        server.start()
        endpoint = server.endpoint
        assert find_endpoint(tmp_path) == endpoint
        assert (tmp_path / "zookeeper" / "endpoint").read_text() == f"{endpoint.hosts}\n"
        assert (tmp_path / "zookeeper").stat().st_mode & 0o777 == 0o700
        pid = server.pid
        assert pid is not None
        store = ZooKeeperStore(endpoint, watch=False)
        store.start()
        build = store.create_build(a_build())
        store.close()

        server.stop()
        server.stop()
        assert find_endpoint(tmp_path) is None
        assert not (tmp_path / "zookeeper" / "endpoint").exists()
        assert not alive(pid)

        server.start()
        assert server.endpoint == endpoint
        store = ZooKeeperStore(endpoint, watch=False)
        store.start()
        assert store.list_builds("debian") == (build,)
        store.close()

    def test_it_comes_back_when_it_dies(self, server: EmbeddedZooKeeper, tmp_path: Path) -> None:
        server.start()
        store = ZooKeeperStore(server.endpoint, watch=True)
        store.start()
        try:
            build = store.create_build(a_build())
            first = server.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            eventually(lambda: not store.connected, "the store knows that the server is gone")
            eventually(lambda: store.connected, "the server is back", within=30)
            assert server.pid not in (None, first)
            assert find_endpoint(tmp_path) == server.endpoint
            assert store.snapshot().image("debian").builds == (build,)
        finally:
            store.close()

    def test_a_second_daemon_is_refused_and_told_what_to_do(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        server.start()
        with pytest.raises(RefusedError, match="IMAGEPOOL_ZOOKEEPER"):
            EmbeddedZooKeeper(tmp_path).start()
        assert find_endpoint(tmp_path) == server.endpoint

    def test_it_dies_with_its_daemon_and_leaves_nothing_that_confuses(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        daemon = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent("""
                    import pathlib, signal, sys
                    from builder.store.embedded import EmbeddedZooKeeper
                    server = EmbeddedZooKeeper(pathlib.Path(sys.argv[1]))
                    server.start()
                    print(server.pid, flush=True)
                    signal.pause()
                """),
                str(tmp_path),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        with daemon:
            assert daemon.stdout is not None
            pid = int(daemon.stdout.readline())
            assert alive(pid)
            assert find_endpoint(tmp_path) is not None
            daemon.kill()
        eventually(lambda: not alive(pid), "the server is gone with its daemon")
        assert (tmp_path / "zookeeper" / "endpoint").exists()
        assert find_endpoint(tmp_path) is None
        server.start()
        assert find_endpoint(tmp_path) == server.endpoint

    def test_another_port_is_taken_when_the_old_one_is_in_use(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        other = EmbeddedZooKeeper(tmp_path / "other")
        other.start()
        try:
            taken = other.endpoint.hosts.rpartition(":")[2]
            (tmp_path / "zookeeper").mkdir()
            (tmp_path / "zookeeper" / "port").write_text(taken)
            server.start()
            assert server.endpoint != other.endpoint
            assert find_endpoint(tmp_path) == server.endpoint
        finally:
            other.stop()


class TestNotRunning:
    def test_java_missing_names_the_package(
        self, server: EmbeddedZooKeeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def no_java(name: str, *, package: str = "", path: str | None = None) -> str:
            raise ToolMissingError(f"the program {name} is not installed", hint=f"Install {package}.")

        monkeypatch.setattr(embedded, "find_tool", no_java)
        with pytest.raises(ToolMissingError, match=r"java(.|\n)*default-jre-headless"):
            server.start()
        assert find_endpoint(tmp_path) is None

    def test_zookeeper_missing_names_the_package(
        self, server: EmbeddedZooKeeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(embedded, "_JAR", tmp_path / "zookeeper.jar")
        with pytest.raises(ToolMissingError, match="the package zookeeper"):
            server.start()

    def test_a_server_that_does_not_come_up_says_its_last_words(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        (tmp_path / "zookeeper").mkdir()
        (tmp_path / "zookeeper" / "data").mkdir()
        # The server wants a directory here.
        (tmp_path / "zookeeper" / "data" / "version-2").write_text("")
        with pytest.raises(StoreUnavailableError, match=r"does not come up: .+(.|\n)*server.log"):
            server.start()
        assert server.pid is None
        assert find_endpoint(tmp_path) is None


class TestResolve:
    def test_the_variable_goes_before_the_configuration(self, tmp_path: Path) -> None:
        configured = config(tmp_path, ZooKeeper(hosts="zk.example:2181", chroot="/pool"))
        environ = {"IMAGEPOOL_ZOOKEEPER": "one.example:2181,[::1]:2182/deep/root"}
        assert resolve(configured, environ) == ZooKeeper(
            hosts="one.example:2181,[::1]:2182", chroot="/deep/root"
        )
        assert resolve(configured, {"IMAGEPOOL_ZOOKEEPER": ""}) == configured.zookeeper
        assert resolve(configured, {}) == configured.zookeeper
        assert resolve(replace(configured, zookeeper=None), {}) is None

    def test_a_slash_alone_is_no_chroot(self, tmp_path: Path) -> None:
        assert resolve(config(tmp_path), {"IMAGEPOOL_ZOOKEEPER": "one.example:2181/"}) == ZooKeeper(
            hosts="one.example:2181"
        )

    @pytest.mark.parametrize(
        "text", ["one.example", "one.example:", "a:1 b:2", "/root", ":2181", "a:1,", "a:1//b"]
    )
    def test_a_variable_of_another_form_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(UsageError, match="IMAGEPOOL_ZOOKEEPER"):
            resolve(config(tmp_path), {"IMAGEPOOL_ZOOKEEPER": text})

    def test_without_either_the_running_server_is_found(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        server.start()
        assert resolve(config(tmp_path), {}) == server.endpoint

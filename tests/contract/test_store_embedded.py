"""The private ZooKeeper server: found while it runs, back when it dies, gone with its daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.security import OPEN_ACL_UNSAFE

from builder.config.model import Config, ZooKeeper, ZooKeeperTls
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


@contextlib.contextmanager
def somebody(endpoint: ZooKeeper) -> Iterator[KazooClient]:
    """Another program on this machine, without credentials."""
    client = KazooClient(endpoint.hosts)
    client.start(15)
    yield client
    client.stop()
    client.close()


def make_a_record(endpoint: ZooKeeper) -> str:
    """Put a build there; its path."""
    store = ZooKeeperStore(endpoint, watch=False)
    store.start()
    build = store.create_build(a_build())
    store.close()
    return f"/nodepool/images/debian/builds/{build.id}"


class TestAccess:
    def test_without_the_password_nothing_is_read_or_changed(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        server.start()
        record = make_a_record(server.endpoint)
        assert (tmp_path / "zookeeper" / "password").stat().st_mode & 0o777 == 0o600
        assert server.endpoint.password == (tmp_path / "zookeeper" / "password").read_text().strip()
        with somebody(server.endpoint) as client:
            for path in ("/", "/nodepool/images", record):
                with pytest.raises(NoAuthError):
                    client.get(path)
                with pytest.raises(NoAuthError):
                    client.get_children(path)
                with pytest.raises(NoAuthError):
                    client.set(path, b"mine")
                with pytest.raises(NoAuthError):
                    client.create(f"{path.rstrip('/')}/mine")
                with pytest.raises(NoAuthError):
                    client.set_acls(path, OPEN_ACL_UNSAFE)

    def test_an_open_one_is_anybodys(self, tmp_path: Path) -> None:
        server = EmbeddedZooKeeper(tmp_path, open_to_all=True)
        server.start()
        try:
            record = make_a_record(server.endpoint)
            assert (server.endpoint.username, server.endpoint.password) == (None, None)
            assert find_endpoint(tmp_path) == resolve(config(tmp_path), {}) == server.endpoint
            assert not (tmp_path / "zookeeper" / "password").exists()
            with somebody(server.endpoint) as client:
                for path in ("/", "/nodepool/images", record):
                    client.set(path, client.get(path)[0])
                    client.create(f"{path.rstrip('/')}/theirs")
        finally:
            server.stop()

    def test_a_tree_is_closed_and_opened_as_the_next_start_says(self, tmp_path: Path) -> None:
        paths = ["/"]
        for open_to_all in (True, False, True, False):
            server = EmbeddedZooKeeper(tmp_path, open_to_all)
            server.start()
            try:
                paths.append(make_a_record(find_endpoint(tmp_path) or server.endpoint))
                with somebody(server.endpoint) as client:
                    for path in paths:
                        if open_to_all:
                            client.set(path, client.get(path)[0])
                        else:
                            with pytest.raises(NoAuthError):
                                client.get(path)
                store = ZooKeeperStore(server.endpoint, watch=False)
                store.start()
                assert len(store.list_builds("debian")) == len(paths) - 1
                store.close()
            finally:
                server.stop()

    def test_it_stays_closed_when_it_comes_back(self, server: EmbeddedZooKeeper) -> None:
        server.start()
        record = make_a_record(server.endpoint)
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: server.pid not in (None, first), "the server is back", within=30)
        with somebody(server.endpoint) as client, pytest.raises(NoAuthError):
            client.get(record)

    def test_a_variable_that_names_it_finds_its_password(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        server.start()
        hosts = server.endpoint.hosts
        elsewhere = config(tmp_path, ZooKeeper(hosts="zk.example:2181"))
        for configured in (config(tmp_path), elsewhere):
            assert resolve(configured, {"IMAGEPOOL_ZOOKEEPER": hosts}) == server.endpoint
        below = resolve(config(tmp_path), {"IMAGEPOOL_ZOOKEEPER": f"{hosts}/deep/root"})
        assert below == replace(server.endpoint, chroot="/deep/root")
        make_a_record(below)
        other = resolve(config(tmp_path), {"IMAGEPOOL_ZOOKEEPER": f"{hosts},zk.example:2181"})
        assert other is not None
        assert other.password is None


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

    def test_the_configured_servers_keep_their_tls_and_credentials(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        tls = ZooKeeperTls(cert=tmp_path / "c", key=tmp_path / "k", ca=tmp_path / "a")
        zookeeper = ZooKeeper(
            hosts="a.example:1,b.example:2", chroot="/pool", tls=tls, username="pool", password="s3cret"
        )
        found = resolve(config(tmp_path, zookeeper), {"IMAGEPOOL_ZOOKEEPER": "b.example:2,a.example:1/x"})
        assert found == replace(zookeeper, hosts="b.example:2,a.example:1", chroot="/x")
        assert not caplog.records

    @pytest.mark.parametrize("secured", ["tls", "username"])
    def test_other_servers_than_the_configured_ones_get_no_credentials_and_that_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, secured: str
    ) -> None:
        tls = ZooKeeperTls(cert=tmp_path / "c", key=tmp_path / "k", ca=tmp_path / "a")
        zookeeper = replace(
            ZooKeeper(hosts="a.example:1", password="s3cret"), **{secured: {"tls": tls}.get(secured, "pool")}
        )
        found = resolve(config(tmp_path, zookeeper), {"IMAGEPOOL_ZOOKEEPER": "other.example:1"})
        assert found == ZooKeeper(hosts="other.example:1")
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert "other.example:1" in caplog.text
        assert "s3cret" not in caplog.text

    def test_other_servers_are_no_news_when_nothing_was_secured(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        resolve(config(tmp_path, ZooKeeper(hosts="a:1")), {"IMAGEPOOL_ZOOKEEPER": "b:1"})
        assert not caplog.records

    def test_a_slash_alone_is_no_chroot(self, tmp_path: Path) -> None:
        assert resolve(config(tmp_path), {"IMAGEPOOL_ZOOKEEPER": "one.example:2181/"}) == ZooKeeper(
            hosts="one.example:2181"
        )

    @pytest.mark.parametrize(
        "text",
        [
            *("one.example", "one.example:", "a:1 b:2", "/root", ":2181", "a:1,", "a:1//b"),
            *("a:0", "a:65536", "a:1,b:99999", "a:1/..", "a:1/pool/../x", "a:1/./x", "a:1/x/."),
        ],
    )
    def test_a_variable_of_another_form_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(UsageError, match="IMAGEPOOL_ZOOKEEPER"):
            resolve(config(tmp_path), {"IMAGEPOOL_ZOOKEEPER": text})

    def test_without_either_the_running_server_is_found(
        self, server: EmbeddedZooKeeper, tmp_path: Path
    ) -> None:
        server.start()
        assert resolve(config(tmp_path), {}) == server.endpoint

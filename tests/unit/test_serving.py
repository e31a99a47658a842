"""Clouds fetch what is offered, as long as it is offered, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from builder.errors import NotFoundError, UnavailableError
from builder.serving.http import CONNECTIONS, SOCKETS
from builder.serving.server import ArtifactServer

PATIENCE = 15.0
#: More than kernel and server buffer for a client that does not read.
LARGE = 64 * 1024 * 1024


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    running = ArtifactServer("127.0.0.1", 0)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "debian-1.qcow2"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.raw"
    with path.open("wb") as file:
        file.truncate(LARGE)
    return path


def ask(
    url: str, *, method: str = "GET", path: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of an answer; another `path` is asked of the same server."""
    connection = connected(url)
    try:
        connection.putrequest(method, urlsplit(url).path if path is None else path, skip_host=False)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def connected(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)


def address(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port


def reading_a_little(url: str) -> socket.socket:
    """A client that asked for a file, got the beginning, and reads no further."""
    client = socket.create_connection(address(url), timeout=PATIENCE)
    client.sendall(f"GET {urlsplit(url).path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert client.recv(64).startswith(b"HTTP/1.1 200 OK")
    return client


def rest(client: socket.socket) -> int:
    """How many bytes still come before the connection ends."""
    count = 0
    with client, contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 20):
            count += len(data)
    return count


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def open_files(path: Path) -> int:
    """How many descriptors of ours there are of a file."""
    return sum(1 for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link).startswith(str(path)))


class TestFetching:
    def test_the_bytes_are_those_of_the_file(self, server: ArtifactServer, artifact: Path) -> None:
        url = server.offer(artifact)
        status, headers, body = ask(url)
        assert (status, body) == (200, artifact.read_bytes())
        assert headers["content-length"] == str(artifact.stat().st_size)
        assert headers["content-type"] == "application/octet-stream"
        assert headers["connection"] == "close"

    def test_head_tells_the_size_and_sends_nothing(self, server: ArtifactServer, artifact: Path) -> None:
        status, headers, body = ask(server.offer(artifact), method="HEAD")
        assert (status, headers["content-length"], body) == (200, str(artifact.stat().st_size), b"")
        assert headers["accept-ranges"] == "bytes"

    @pytest.mark.parametrize(
        ("wanted", "start", "stop"),
        [("0-0", 0, 1), ("100-299", 100, 300), ("2097000-", 2097000, None), ("-5", -5, None)],
    )
    def test_a_part_is_sent_when_only_that_is_wanted(
        self, server: ArtifactServer, artifact: Path, wanted: str, start: int, stop: int | None
    ) -> None:
        whole = artifact.read_bytes()
        status, headers, body = ask(server.offer(artifact), headers={"range": f"bytes={wanted}"})
        assert (status, body) == (206, whole[start:stop])
        first = start % len(whole)
        assert headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/{len(whole)}"

    def test_a_part_that_is_not_there_is_refused(self, server: ArtifactServer, artifact: Path) -> None:
        url = server.offer(artifact)
        status, headers, _ = ask(url, headers={"range": "bytes=9999999-"})
        assert (status, headers["connection"]) == (416, "close")
        assert ask(url)[0] == 200

    def test_an_empty_file_is_a_file(self, server: ArtifactServer, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        status, headers, body = ask(server.offer(tmp_path / "empty"))
        assert (status, headers["content-length"], body) == (200, "0", b"")

    def test_many_fetch_at_the_same_time(self, server: ArtifactServer, artifact: Path) -> None:
        url, bodies = server.offer(artifact), []
        threads = [threading.Thread(target=lambda: bodies.append(ask(url)[2])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert bodies == [artifact.read_bytes()] * 8

    def test_a_proxy_may_put_its_own_prefix_before_the_path(
        self, server: ArtifactServer, artifact: Path
    ) -> None:
        url = server.offer(artifact)
        assert ask(url, path=f"/deep/images{urlsplit(url).path}")[2] == artifact.read_bytes()

    def test_the_prefix_by_which_clouds_reach_it_is_told(self, artifact: Path) -> None:
        running = ArtifactServer("127.0.0.1", 0, "https://images.example/pool/")
        running.start()
        try:
            url = running.offer(artifact)
            assert url.startswith("https://images.example/pool/")
            assert url.endswith("/debian-1.qcow2")
        finally:
            running.stop()

    def test_a_name_is_quoted_and_found(self, server: ArtifactServer, tmp_path: Path) -> None:
        path = tmp_path / "a b?c#d%2e\u00fc.raw"
        path.write_bytes(b"odd")
        url = server.offer(path)
        assert url.endswith(f"/{quote(path.name)}")
        assert ask(url)[2] == b"odd"

    def test_ipv6_works_where_there_is_any(self, artifact: Path) -> None:
        running = ArtifactServer("::1", 0)
        try:
            running.start()
        except UnavailableError:
            pytest.skip("this machine has no IPv6")
        try:
            assert ask(running.offer(artifact))[2] == artifact.read_bytes()
        finally:
            running.stop()


class TestSecrets:
    def test_what_is_withdrawn_is_not_found_and_closed(self, server: ArtifactServer, artifact: Path) -> None:
        url, other = server.offer(artifact), server.offer(artifact)
        assert url != other
        server.withdraw(url)
        server.withdraw(url)
        server.withdraw("nonsense")
        assert ask(url)[0] == 404
        assert ask(other)[2] == artifact.read_bytes()
        server.withdraw(other)
        eventually(lambda: open_files(artifact) == 0, "the file is closed")

    def test_no_two_addresses_are_alike_and_none_is_short(
        self, server: ArtifactServer, artifact: Path
    ) -> None:
        tokens = {urlsplit(server.offer(artifact)).path.split("/")[1] for _ in range(50)}
        assert len(tokens) == 50
        assert min(map(len, tokens)) >= 43  # 256 bits

    def test_who_does_not_know_the_whole_address_gets_nothing(
        self, server: ArtifactServer, artifact: Path
    ) -> None:
        secret = artifact.parent / "secret"
        secret.write_text("nothing for clouds")
        url = server.offer(artifact)
        token, name = urlsplit(url).path.split("/")[1:]
        for path in [
            *("/", "//", f"/{token}", f"/{token}/", f"/{name}", f"/x/{name}", f"/{token[:-1]}/{name}"),
            *(f"/{token}x/{name}", f"/{token}/secret", f"/{token}/../secret", f"/{token}/%2e%2e/secret"),
            *(f"/{token}/{name}/", f"/{token}/{name}/../secret", f"/{token}/..%2fsecret", "/etc/passwd"),
            *(f"/{token}/{name}%00", f"/{token}/.", f"/{token}/..", f"/..{artifact}", f"/{token}{artifact}x"),
            *("/" + "x" * 30_000, "/%ff%fe/%00", f"/?{token}/{name}", f"/{token}/./{name}"),
        ]:
            status, _, body = ask(url, path=path)
            assert (status, body) == (404, b"not found"), path
            assert ask(url, path=path, method="HEAD")[0] == 404
        assert ask(url)[0] == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
    def test_it_is_for_reading_alone(self, server: ArtifactServer, artifact: Path, method: str) -> None:
        before = artifact.read_bytes()
        url = server.offer(artifact)
        status, headers, body = ask(url, method=method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert len(body) < 100
        assert artifact.read_bytes() == before

    def test_a_link_is_not_offered_and_nothing_else_that_is_no_file(
        self, server: ArtifactServer, artifact: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(artifact)
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "link", tmp_path / "pipe", tmp_path, tmp_path / "nothing"):
            with pytest.raises(NotFoundError, match=str(path)):
                server.offer(path)

    def test_what_takes_the_place_of_the_file_is_never_sent(
        self, server: ArtifactServer, artifact: Path, tmp_path: Path
    ) -> None:
        whole = artifact.read_bytes()
        (tmp_path / "secret").write_bytes(b"s" * len(whole))
        url = server.offer(artifact)
        artifact.unlink()
        assert ask(url)[2] == whole
        artifact.symlink_to(tmp_path / "secret")
        assert ask(url)[2] == whole

    def test_no_address_gets_into_a_log(
        self, server: ArtifactServer, artifact: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            url = server.offer(artifact)
            token = urlsplit(url).path.split("/")[1]
            ask(url)
            ask(url, path=f"/{token}/other")
            ask(url, method="POST")
            client = reading_a_little(url)
            server.withdraw(url)
            rest(client)
            server.stop()
        assert f"127.0.0.1 was sent {artifact.stat().st_size} bytes of debian-1.qcow2" in caplog.text
        assert token not in caplog.text


class TestBadClients:
    def test_one_that_hangs_holds_nobody_up_and_is_cut_off_with_its_offer(
        self, server: ArtifactServer, artifact: Path, large: Path
    ) -> None:
        url, other = server.offer(large), server.offer(artifact)
        clients = [reading_a_little(url) for _ in range(5)]
        assert ask(other)[2] == artifact.read_bytes()
        server.withdraw(url)
        assert all(rest(client) < LARGE - 64 for client in clients)
        eventually(lambda: open_files(large) == 0, "the file is closed")
        assert ask(other)[0] == 200

    def test_one_that_breaks_off_leaves_nothing_open(self, server: ArtifactServer, large: Path) -> None:
        url = server.offer(large)
        held = open_files(large)
        client = reading_a_little(url)
        eventually(lambda: open_files(large) > held, "the file is being read")
        client.close()
        eventually(lambda: open_files(large) == held, "the transfer ended")

    @pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n", b"G"])
    def test_one_that_asks_for_nothing_is_cut_off(self, artifact: Path, said: bytes) -> None:
        running = ArtifactServer("127.0.0.1", 0, request_timeout=0.3)
        running.start()
        try:
            with socket.create_connection(address(running.offer(artifact)), PATIENCE) as client:
                client.sendall(said)
                assert rest(client) == 0
        finally:
            running.stop()

    def test_one_that_reads_slowly_is_served_as_long_as_it_takes(self, large: Path) -> None:
        running = ArtifactServer("127.0.0.1", 0, request_timeout=0.1)
        running.start()
        try:
            url = running.offer(large)
            client, impatient = reading_a_little(url), reading_a_little(url)
            # The time to ask in is over for both by the time that the other has it all.
            assert rest(impatient) > LARGE - 64
            silent = socket.create_connection(address(url), PATIENCE)
            assert rest(silent) == 0
            assert rest(client) > LARGE - 64
        finally:
            running.stop()

    @pytest.mark.parametrize(
        "said", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET /\r\n\r\n", b"x" * 200_000]
    )
    def test_one_that_speaks_no_http_is_sent_away(
        self, server: ArtifactServer, artifact: Path, said: bytes
    ) -> None:
        url = server.offer(artifact)
        client = socket.create_connection(address(url), PATIENCE)
        with contextlib.suppress(ConnectionError):
            client.sendall(said)
        assert rest(client) < 1000
        assert ask(url)[0] == 200

    def test_too_many_are_told_to_come_later(
        self, server: ArtifactServer, artifact: Path, large: Path
    ) -> None:
        url, other = server.offer(large), server.offer(artifact)
        clients = [reading_a_little(url) for _ in range(CONNECTIONS)]
        assert ask(other)[0] == 503
        server.withdraw(url)
        for client in clients:
            rest(client)
        eventually(lambda: ask(other)[0] == 200, "there is room again")

    def test_no_more_sockets_are_held_than_so_many(self) -> None:
        running = ArtifactServer("127.0.0.1", 0, request_timeout=4 * PATIENCE)
        running.start()
        try:
            here = address(running.url)
            silent = [socket.create_connection(here, PATIENCE) for _ in range(SOCKETS)]
            assert rest(socket.create_connection(here, PATIENCE)) == 0
            for client in silent:
                client.close()
        finally:
            running.stop()


class TestLife:
    def test_an_address_that_is_taken_is_said(self, server: ArtifactServer) -> None:
        port = urlsplit(server.url).port
        assert port is not None
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}.*in use") as caught:
            ArtifactServer("127.0.0.1", port).start()
        assert "artifact-server" in caught.value.hint

    @pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
    def test_an_address_that_is_not_ours_is_said(self, host: str) -> None:
        with pytest.raises(UnavailableError, match="can't listen"):
            ArtifactServer(host, 0).start()

    def test_it_ends_in_seconds_with_transfers_under_way(
        self, server: ArtifactServer, large: Path, artifact: Path
    ) -> None:
        clients = [reading_a_little(server.offer(large)) for _ in range(3)]
        silent = socket.create_connection(address(server.url), PATIENCE)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        assert all(rest(client) < LARGE - 64 for client in clients)
        assert rest(silent) == 0
        assert open_files(large) == 0
        assert "artifact-server" not in {thread.name for thread in threading.enumerate()}

    def test_what_does_not_run_offers_nothing(self, artifact: Path) -> None:
        running = ArtifactServer("127.0.0.1", 0)
        running.stop()
        with pytest.raises(UnavailableError):
            running.offer(artifact)
        running.start()
        url = running.offer(artifact)
        running.stop()
        running.stop()
        running.withdraw(url)
        with pytest.raises(UnavailableError):
            running.offer(artifact)
        with pytest.raises(OSError):
            ask(url)
        assert open_files(artifact) == 0

    def test_it_may_start_again_and_knows_no_old_offer(self, artifact: Path) -> None:
        running = ArtifactServer("127.0.0.1", 0)
        running.start()
        old = running.offer(artifact)
        running.stop()
        running.start()
        try:
            assert ask(old)[0] == 404
            assert ask(running.offer(artifact))[0] == 200
        finally:
            running.stop()

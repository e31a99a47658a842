"""How long a client of ZooKeeper waits for one server before it goes on to the next."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from queue import Queue
from typing import Any

import pytest
from kazoo.handlers.threading import SequentialThreadingHandler

from builder.config.model import ZooKeeper
from builder.store.client import a_client, disconnect

SESSION = 60.0


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """Where packets of those that want to connect get lost, as with a server whose machine is switched off:
    as many connections wait for being accepted as may."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        stack.enter_context(socket.create_connection(address, timeout=10))
        yield address


@pytest.mark.parametrize(("others", "share"), [(0, 20.0), (1, 20.0), (2, 20.0), (3, 15.0), (4, 12.0)])
def test_an_answer_is_waited_for_while_there_is_time_to_ask_again(
    others: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: Queue[float] = Queue()

    def never(
        self: object, reading: list[object], writing: list[object], failing: object, timeout: float
    ) -> Any:
        if reading:
            waited.put(timeout)
        return [], writing, []

    monkeypatch.setattr(SequentialThreadingHandler, "select", never)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = ",".join([f"127.0.0.1:{silent.getsockname()[1]}"] * (1 + others))
        client = a_client(ZooKeeper(hosts=hosts, timeout=SESSION), "")
        client.start_async()
        try:
            # At first, and at each further attempt.
            assert [waited.get(timeout=30) for _ in range(2)] == [share] * 2
        finally:
            disconnect(client)


@pytest.mark.parametrize(
    ("hosts", "timeout", "seconds"),
    [("a", 60.0, 10.0), ("a,b,c", 60.0, 10.0), ("a,b,c,d,e", 60.0, 6.0), ("a", 2.0, 1.0)],
)
@pytest.mark.parametrize("use_ssl", [False, True])
def test_so_is_a_connection(
    hosts: str, timeout: float, seconds: float, use_ssl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def refused(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(timeout)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("ssl.create_default_context", lambda *_, **__: _Context())
    handler = a_client(ZooKeeper(hosts=hosts, timeout=timeout), "").handler
    files = dict.fromkeys(("ca", "certfile", "keyfile", "hostname"), "x")
    with pytest.raises(ConnectionRefusedError):
        handler.create_connection(("127.0.0.1", 1), timeout=timeout, use_ssl=use_ssl, **files)
    assert asked == [pytest.approx(seconds, abs=0.1)]


def test_a_server_that_hears_nothing_is_given_up(deaf: tuple[str, int]) -> None:
    handler = a_client(ZooKeeper(hosts="a", timeout=2.0), "").handler
    with pytest.raises(TimeoutError) as given_up:
        handler.create_connection(deaf, timeout=3600.0)
    # By us: the kernel, which gives up after its last try, would say so by a number.
    assert given_up.value.errno is None


class _Context:
    """Of TLS, as far as it is prepared before there is a connection."""

    check_hostname = True

    def load_cert_chain(self, certfile: str, keyfile: str) -> None:
        """All is well."""

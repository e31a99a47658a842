"""The door to statsd: a real UDP socket gets what the protocol says."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest

from builder.errors import UsageError
from builder.metrics.base import Kind, Metric
from builder.metrics.statsd import Statsd, from_environment


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(10)
        yield listening


def port_of(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


def test_metrics_arrive_in_one_packet(server: socket.socket) -> None:
    sink = from_environment({"STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(port_of(server))})
    assert sink is not None
    with closing(sink):
        sink.send(
            [
                Metric(name="nodepool.image_build_requests", kind=Kind.GAUGE, value=3),
                Metric(name="nodepool.image_update.img.one", kind=Kind.TIMING, value=1500),
                Metric(name="nodepool.image_update.img.one", kind=Kind.COUNT, value=1),
            ]
        )
    lines = server.recv(4096).decode().splitlines()
    assert lines == [
        "nodepool.image_build_requests:3|g",
        "nodepool.image_update.img.one:1500.000000|ms",
        "nodepool.image_update.img.one:1|c",
    ]


def test_many_metrics_arrive_in_packets_that_no_network_cuts(server: socket.socket) -> None:
    names = {f"nodepool.image.image-{n}.image_build_requests" for n in range(100)}
    with closing(Statsd("127.0.0.1", port_of(server))) as sink:
        sink.send(Metric(name=name, kind=Kind.GAUGE, value=0) for name in sorted(names))
    seen: set[str] = set()
    while seen != names:
        packet = server.recv(65536)
        assert len(packet) <= 512
        seen |= {line.partition(":")[0] for line in packet.decode().splitlines()}


def test_without_a_host_there_is_no_statsd() -> None:
    assert from_environment({}) is None
    assert from_environment({"STATSD_HOST": " ", "STATSD_PORT": "8125"}) is None


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "81 25"])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(UsageError, match="STATSD_PORT is no port"):
        from_environment({"STATSD_HOST": "127.0.0.1", "STATSD_PORT": port})


@pytest.mark.parametrize("environ", [{"STATSD_HOST": "host"}, {"STATSD_HOST": "host", "STATSD_PORT": ""}])
def test_the_usual_port_is_taken_when_none_is_named(environ: Mapping[str, str]) -> None:
    sink = from_environment(environ)
    assert isinstance(sink, Statsd)
    assert sink.port == 8125


def test_a_host_that_nobody_knows_is_told_once_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    sink = Statsd("no-such-host.invalid", 8125)
    with caplog.at_level(logging.WARNING):
        sink.send([Metric(name="a", kind=Kind.GAUGE, value=1)])
        sink.send([Metric(name="a", kind=Kind.GAUGE, value=2)])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no-such-host.invalid" in caplog.text


def test_a_server_that_is_gone_hurts_nobody(server: socket.socket) -> None:
    sink = Statsd("127.0.0.1", port_of(server))
    server.close()
    with closing(sink):
        for value in range(3):
            sink.send([Metric(name="a", kind=Kind.GAUGE, value=value)])

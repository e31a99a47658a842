"""Sends metrics to a statsd server: the only place that knows the statsd library.

By UDP, as statsd is: what gets lost is lost, and nobody waits for an answer. The variables are those that
nodepool reads (https://zuul-ci.org/docs/nodepool/latest/operation.html#monitoring).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

import statsd

from builder.errors import UsageError
from builder.metrics.base import Kind, Metric

LOG = logging.getLogger(__name__)

HOST_VARIABLE: Final = "STATSD_HOST"
PORT_VARIABLE: Final = "STATSD_PORT"
DEFAULT_PORT: Final = 8125


def from_environment(environ: Mapping[str, str]) -> Statsd | None:
    """The server that STATSD_HOST and STATSD_PORT name, None when there is no STATSD_HOST; UsageError."""
    host = environ.get(HOST_VARIABLE, "").strip()
    if not host:
        return None
    port = environ.get(PORT_VARIABLE, "").strip() or str(DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{PORT_VARIABLE} is no port: {port!r}", hint="It is a number from 1 to 65535.")
    return Statsd(host, int(port))


class Statsd:
    """A statsd server, whose name is looked up when there is something to send.

    For one thread.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._client: statsd.StatsClient | None = None
        self._told = False

    def send(self, metrics: Iterable[Metric], /) -> None:
        """Send as few packets as hold them all; what can't be sent is gone."""
        client = self._connected()
        if client is None:
            return
        with client.pipeline() as pipeline:
            for metric in metrics:
                if metric.kind is Kind.GAUGE:
                    pipeline.gauge(metric.name, metric.value)
                elif metric.kind is Kind.TIMING:
                    pipeline.timing(metric.name, metric.value)
                else:
                    pipeline.incr(metric.name, metric.value)

    def close(self) -> None:
        """Give the socket back; may be called twice, and is undone by the next `send`."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> statsd.StatsClient | None:
        """The client; None, said once, while the server's name means nothing."""
        if self._client is None:
            try:
                self._client = statsd.StatsClient(self.host, self.port)
            except OSError as error:
                level = logging.DEBUG if self._told else logging.WARNING
                LOG.log(level, "no metrics are sent to %s for now: %s", self.host, error)
                self._told = True
                return None
            LOG.info("metrics go to %s, port %d", self.host, self.port)
        return self._client

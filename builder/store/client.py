"""Makes kazoo's clients as we need them: they trust one authority, queue nothing, and log no secret.

What is worked around here:

- Requests made while the connection is SUSPENDED are queued, not refused (kazoo 2.7 on), and a
  client that finds no server stays SUSPENDED for ever. https://github.com/python-zk/kazoo/pull/584
  A write whose writer has long given up would then be carried out at the reconnect.
- Its debug log shows requests in full, credentials included: its logger starts at INFO here.
- A chroot is never made by kazoo itself.
- ZooKeeper has no answer to a request that is larger than it takes: it hangs up, on all that is under way.
- A server that is there and says nothing, or that drops what is sent to it, must not cost the session: an
  attempt to connect may take kazoo the whole session timeout (of one host the answer, of each host the
  connection), and then no other is made in time (kazoo.protocol.connection, _connect).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    MarshallingError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry
from kazoo.security import make_digest_acl

from builder.config.model import ZooKeeper
from builder.errors import StoreUnavailableError

LOG = logging.getLogger(__name__)
# Below the session's, which is where anybody looks who wants to know more of the connection.
_kazoo_log = logging.getLogger("builder.store.session.kazoo")
if _kazoo_log.level == logging.NOTSET:  # else somebody has chosen, before we were needed
    _kazoo_log.setLevel(logging.INFO)

#: Errors that say nothing about the request, only that there is no (usable) session.
NO_ANSWER: Final = (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooTimeoutError,
    OperationTimeoutError,
    SessionExpiredError,
)
#: Bytes that one request may write: what a server takes (jute.maxbuffer), less what stands around them.
MOST_WRITTEN: Final = 1_000_000
#: A session timeout is enough for so many connections that are taken and not answered, and for twice as many
#: that don't come about; for as many as there are servers, where there are more.
_ATTEMPTS: Final = 3
#: Seconds that connecting may take at least, a TLS handshake included.
_CONNECT: Final = 1.0
#: States of a client that looks for a server.
_ON_THE_WAY: Final = (KeeperState.CONNECTING,)


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """Bounds what a server may take to be connected to and to be answered by, and trusts the configured CA
    alone. kazoo adds the CAs of the system and looks at no host name, so everybody with a certificate of any
    of these could pass for our ZooKeeper and be told the password."""

    def __init__(self, *, to_connect: float, to_answer: float) -> None:
        super().__init__()
        self._to_connect = to_connect
        self._to_answer = to_answer
        #: Whether the client of this handler looks for a server.
        self.is_on_the_way: Callable[[], bool] = lambda: False

    def select(self, reading: Any, writing: Any, failing: Any, timeout: float) -> Any:
        if self.is_on_the_way():
            timeout = min(timeout, self._to_answer)
        return super().select(reading, writing, failing, timeout)

    def create_connection(self, address: tuple[str, int], **options: Any) -> Any:
        options["timeout"] = min(options["timeout"], self._to_connect)
        if not options.get("use_ssl"):
            return super().create_connection(address, **options)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options["ca"])
        context.check_hostname = False
        context.load_cert_chain(options["certfile"], options["keyfile"])
        connection = socket.create_connection(address, options["timeout"])
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return context.wrap_socket(connection, server_hostname=options["hostname"])
        except BaseException:
            connection.close()
            raise


class _RefusingClient(KazooClient):  # type: ignore[misc]  # kazoo has no types
    """Refuses requests while there is no connection, as kazoo did before 2.7, and those that are too large:
    MarshallingError."""

    def __init__(self, *, handler: _Handler, **options: Any) -> None:
        super().__init__(handler=handler, **options)
        handler.is_on_the_way = lambda: self._state in _ON_THE_WAY

    def _call(self, request: Any, async_object: IAsyncResult) -> Any:
        if _written_by(request) > MOST_WRITTEN:
            async_object.set_exception(MarshallingError())
            return False
        if self._state in _ON_THE_WAY:
            async_object.set_exception(ConnectionLoss())
            return False
        sent = super()._call(request, async_object)
        # The connection may have gone between the look and the queue, which kazoo empties but once then.
        if self._state in _ON_THE_WAY:
            with contextlib.suppress(ValueError, IndexError):
                self._queue.remove((request, async_object))
                async_object.set_exception(ConnectionLoss())
        return sent


def _written_by(request: Any) -> int:
    """The bytes of data in a request, or in all of a transaction's."""
    return sum(len(getattr(each, "data", None) or b"") for each in getattr(request, "operations", (request,)))


def a_client(zookeeper: ZooKeeper, chroot: str) -> KazooClient:
    """A client that is not started yet, of a tree that need not be there."""
    options: dict[str, Any] = {}
    if zookeeper.tls is not None:
        options.update(
            use_ssl=True,
            certfile=str(zookeeper.tls.cert),
            keyfile=str(zookeeper.tls.key),
            ca=str(zookeeper.tls.ca),
        )
    if zookeeper.username is not None:
        password = zookeeper.password or ""
        options.update(
            auth_data=[("digest", f"{zookeeper.username}:{password}")],
            default_acl=[make_digest_acl(zookeeper.username, password, all=True)],
        )
    share = zookeeper.timeout / max(_ATTEMPTS, len(zookeeper.hosts.split(",")))
    return _RefusingClient(
        hosts=f"{zookeeper.hosts}{chroot}",
        timeout=zookeeper.timeout,
        # The default waits up to a minute between attempts, long after a server is back.
        connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=2.0),
        logger=_kazoo_log,
        handler=_Handler(to_connect=max(_CONNECT, share / 2), to_answer=share),
        **options,
    )


def connect(client: KazooClient, zookeeper: ZooKeeper, timeout: float) -> None:
    """Start a client and wait for a server; StoreUnavailableError after `timeout` seconds."""
    if client.start_async().wait(timeout):
        return
    raise StoreUnavailableError(
        f"no ZooKeeper server answers within {timeout:g} s: {zookeeper.hosts}",
        hint="Check that the server runs, and IMAGEPOOL_ZOOKEEPER, or zookeeper-servers and zookeeper-tls in"
        " the configuration.",
    )


def disconnect(client: KazooClient) -> None:
    """End a client, and with it its session."""
    # Raised when a connection attempt outlasts kazoo's patience; its thread ends by itself then.
    with contextlib.suppress(KazooException):
        client.stop()
        client.close()


def make_chroot(zookeeper: ZooKeeper, timeout: float) -> None:
    """Make the node under which all others are, within `timeout` seconds; StoreUnavailableError."""
    client = a_client(zookeeper, "")
    try:
        connect(client, zookeeper, timeout)
        client.ensure_path_async(zookeeper.chroot).get(timeout=timeout)
    except NO_ANSWER as error:
        raise StoreUnavailableError(
            f"the chroot {zookeeper.chroot} can't be made on {zookeeper.hosts}: {error}"
        ) from error
    finally:
        disconnect(client)
    LOG.info("made the chroot %s on %s", zookeeper.chroot, zookeeper.hosts)

"""Speaks HTTP with those who fetch offered files: starlette makes the answers, uvicorn the connections.

What uvicorn leaves to a proxy in front of it is done here, for there may be none: whoever connects and
asks for nothing is cut off, connections are bounded, and each serves one request. The address of a file
is a secret, so uvicorn's own logs, which would show it, stay silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from builder.serving.offers import Offer, Offers, Token

LOG = logging.getLogger(__name__)

#: Who fetch at the same time; whoever comes then is told to come later.
CONNECTIONS: Final = 64
#: Sockets that may be open, those that asked for nothing yet included.
SOCKETS: Final = 2 * CONNECTIONS
#: Seconds that a client has to say what it wants.
REQUEST_TIMEOUT: Final = 10.0
#: Seconds that transfers have to end once they were cut off.
_GRACE: Final = 1
#: Bytes in memory for each client; more makes it no faster.
_CHUNK: Final = 256 * 1024


class HttpServer(Server):
    """uvicorn on one listening socket, with nothing but the offers to serve.

    It sleeps while nobody connects; uvicorn by itself looks ten times a second whether it shall end.
    """

    def __init__(self, offers: Offers, *, request_timeout: float) -> None:
        super().__init__(
            Config(
                _Answers(offers, request_timeout),  # type: ignore[arg-type]  # for _Connection alone
                interface="asgi3",
                loop="asyncio",
                http=_Connection,
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                date_header=False,
                log_config=None,
                log_level="critical",
                access_log=False,
                # uvicorn counts the one that asks as well.
                limit_concurrency=CONNECTIONS + 1,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self.ready = threading.Event()  #: set once `cut` and `end` may be called
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    def cut(self, offer: Offer) -> None:
        """Break off all transfers of an offer; for other threads."""
        self._soon(partial(self._cut, offer))

    def end(self) -> None:
        """Break off all transfers and end `run`; for other threads."""
        self.should_exit = True
        self._soon(self._ending.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self.ready.set()

    async def main_loop(self) -> None:
        """Called by uvicorn; lasts until the server shall end."""
        await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn, which would wait for transfers to end by themselves."""
        # Whoever asyncio is just letting in when the listener is closed, it drops without closing it. So
        # first nobody comes in any more, and whoever did gets a transport that can be cut.
        for listener in sockets or []:
            asyncio.get_running_loop().remove_reader(listener)
        await asyncio.sleep(0)
        self._cut(None)
        await super().shutdown(sockets)
        self._cut(None)
        await asyncio.sleep(0)

    def _soon(self, action: Callable[[], None]) -> None:
        if self._loop is None:
            return
        # Raised once the loop has ended, and with it all that was to be broken off.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(action)

    def _cut(self, offer: Offer | None) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection) and (offer is None or connection.offer is offer):
                connection.transport.abort()


class _Answers:
    """What is said to a request."""

    def __init__(self, offers: Offers, request_timeout: float) -> None:
        self.request_timeout = request_timeout
        self._offers = offers

    async def answer(self, connection: _Connection, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of one connection."""
        last = _Last(send)
        if scope["method"] not in ("GET", "HEAD"):
            refusal = PlainTextResponse("only GET and HEAD", 405, headers={"allow": "GET, HEAD"})
            await refusal(scope, receive, last)
            return
        # What a proxy has put before it says nothing.
        pieces = ["", "", *str(scope["path"]).split("/")]
        offer = self._offers.held(Token(text=pieces[-2]), pieces[-1])
        if offer is None:
            LOG.debug("%s asks for what is not on offer", _peer(scope))
            await PlainTextResponse("not found", 404)(scope, receive, last)
            return
        connection.offer = offer
        try:
            await _transfer(offer, connection, scope, receive, last)
        finally:
            offer.drop()


class _Connection(H11Protocol):
    """A connection that is cut off when nothing is asked for in time, or there are too many."""

    offer: Offer | None = None  #: what is, or was, fetched by it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        if len(self.connections) > SOCKETS:
            transport.abort()
            return
        answers: _Answers = self.config.app  # type: ignore[assignment]  # see HttpServer
        self.app = partial(answers.answer, self)
        self.loop.call_later(answers.request_timeout, self._lose_patience)

    def _lose_patience(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class _Last:
    """Passes on what starlette sends as the last answer of its connection, and counts the bytes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.sent = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._send(message)
        self.sent += len(message.get("body", b""))


async def _transfer(
    offer: Offer, connection: _Connection, scope: Scope, receive: Receive, send: _Last
) -> None:
    response = FileResponse(offer.path, stat_result=offer.status, media_type="application/octet-stream")
    response.chunk_size = _CHUNK
    LOG.info("%s fetches %s", _peer(scope), offer.name)
    try:
        await response(scope, receive, send)
    except OSError as error:
        # The length was promised already, so the client has to see that there is less.
        LOG.warning("%s can't be read for %s: %s", offer.name, _peer(scope), error.strerror)
        connection.transport.abort()
    else:
        LOG.info("%s was sent %d bytes of %s", _peer(scope), send.sent, offer.name)


def _peer(scope: Scope) -> str:
    client = scope["client"]
    return client[0] if client else "somebody"

"""A web server that takes webhooks, on loopback: keeps what it got, and answers as it is told."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """One request."""

    path: str
    headers: Message
    body: bytes


@dataclass
class Receiver:
    """What came, and what is answered: an HTTP status, or what is done with the open connection."""

    url: str = ""
    got: list[Delivery] = field(default_factory=list)
    answers: list[int | Callable[[Receiver, BaseHTTPRequestHandler], None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  #: for those who wait

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """One request: 204 when nothing else was asked for."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.got.append(Delivery(handler.path, handler.headers, body))
        answer = self.answers.pop(0) if self.answers else 204
        if not isinstance(answer, int):
            answer(self, handler)
            return
        handler.send_response(answer)
        handler.send_header("Location", f"{self.url}/elsewhere?token=hush")
        handler.end_headers()


def hang(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    """No answer, but the connection stays."""
    receiver.released.wait(60)


def drip(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    """A header that never ends, a byte now and then."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not receiver.released.wait(0.1):
        handler.wfile.write(b"x")


def cut(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    """The connection ends without an answer."""


def babble(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    """Something that is no HTTP."""
    handler.wfile.write(b"hush hush hush\r\n\r\n")


@contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver on a free port; with a certificate (PEM, with its key) it speaks TLS."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                receiver.take(self)
            except (BrokenPipeError, ConnectionResetError):
                return  # it was hung up on, as it deserves
            finally:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that does not trust us hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            receiver.url = receiver.url.replace("http:", "https:")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.released.set()
            server.shutdown()
            thread.join()

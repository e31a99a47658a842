"""The HTTP server of the fake cloud: reads bodies in part, answers, hangs and breaks off."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fakes.glance.faults import Fault
from tests.fakes.glance.state import CloudState, Region, Request

CHUNK = 64 * 1024
#: Bytes of a JSON document that are kept; of what is larger, nothing is asked.
KEPT = 1024**2
#: A test that forgets a hanging request is freed after so many seconds.
HANG_LIMIT = 120.0

#: What a request is called, and what does it.
Route = tuple[str, Callable[[], None]]


class ResetError(Exception):
    """The connection is to be reset."""


class Server(ThreadingHTTPServer):
    """Listens on loopback, one thread for each connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], state: CloudState, handler: type[BaseHTTPRequestHandler]
    ) -> None:
        self.state = state
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Small, so that a server which stops reading is felt by the client after a few hundred KB.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """Break every connection there is; their threads close them."""
        with self._open_lock:
            for request in self._open:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that break off are what the tests are about: nothing to tell."""


class FaultyHandler(BaseHTTPRequestHandler):
    """One request: routed by the services' parts, and spoiled when the script says so."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer leave one after the other
    server: Server

    def log_message(self, *args: object) -> None:
        """The requests are on record; nothing goes to stderr."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    # -- dispatch -----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        parts = urlsplit(self.path)
        self.segments = [unquote(s) for s in parts.path.split("/") if s]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.state = self.server.state
        self.region = ""
        self.read_bytes = 0
        self.on, work = self.route()
        try:
            self._perform(work)
        except ResetError:
            self._record(0)
            self._reset()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _dispatch  # noqa: N815

    def route(self) -> Route:
        """What is asked."""
        return "other", lambda: self.refuse(404, "nothing is here")

    @property
    def here(self) -> Region:
        """The region that is asked; take the state's `lock`."""
        return self.state.there(self.region)

    @property
    def base(self) -> str:
        """The server's URL, as the client came to it."""
        return f"http://{self.headers['Host']}"

    def _perform(self, work: Callable[[], None]) -> None:
        self.fault = self.state.next_fault(self.on, self.region or None)
        token = self.headers.get("X-Auth-Token")
        if self.region and self.on != "versions" and not self.state.accepts(token):
            self.refuse(401, "This server could not verify that you are authorized")
        elif self.fault is not None and self.fault.do in _INSTEAD:
            _INSTEAD[self.fault.do](self, self.fault)
        else:
            work()

    def _record(self, status: int) -> None:
        """Before the answer leaves, so that who has it finds the request on record."""
        self.state.record(
            Request(
                on=self.on,
                method=self.command,
                path=self.path,
                region=self.region or None,
                status=status,
                headers=dict(self.headers),
                body=self.read_bytes,
            )
        )

    def after(self, image_id: str) -> None:
        """What the fault does once the work is done."""
        self.state.after(self.fault, self.region, image_id)
        if self.fault is not None and self.fault.do == "mute":
            raise ResetError

    # -- faults -------------------------------------------------------------------------------

    def _answer_fault(self, fault: Fault) -> None:
        self.read_part(fault.after)
        self.refuse(fault.status, fault.text or f"told to answer {fault.status}")

    def _reset_fault(self, fault: Fault) -> None:
        self.read_part(fault.after)
        raise ResetError

    def _hang_fault(self, fault: Fault) -> None:
        self.read_part(fault.after)
        self.state.released.wait(HANG_LIMIT)
        raise ResetError

    def _flood_fault(self, fault: Fault) -> None:
        self._begin(fault.status)
        for _ in range(0, fault.status, CHUNK):
            self.wfile.write(b" " * CHUNK)

    def _trickle_fault(self, fault: Fault) -> None:
        self._begin(10**6)
        end = time.monotonic() + HANG_LIMIT
        while time.monotonic() < end and not self.state.released.wait(0.05):
            self.wfile.write(b" ")
        raise ResetError

    def _begin(self, length: int) -> None:
        """Answer 200, with the body to be written."""
        self.read_part(1.0)
        self._record(200)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _store_nothing_fault(self, fault: Fault) -> None:
        self.read_part(1.0)
        self.reply(fault.status, b"")

    def _expire_fault(self, fault: Fault) -> None:
        self.read_part(fault.after)
        # This one alone: another region's upload has a token of its own, which goes on.
        self.state.revoke_token(self.headers.get("X-Auth-Token", ""))
        with self.state.lock:
            for image_id in self.segments:
                self.here.images.pop(image_id, None)
        self.refuse(401, "Authentication error - the token may have expired during file upload.")

    def _reset(self) -> None:
        # Linger 0: closing sends RST and forgets what was not sent.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The base class would send FIN first.
        self.rfile.close()
        self.connection.close()

    # -- bytes --------------------------------------------------------------------------------

    def length(self) -> int:
        """Bytes of the body, as the client says."""
        return int(self.headers.get("Content-Length") or 0)

    def document(self) -> Any:
        """The JSON that was sent."""
        return json.loads(self.read_part(1.0) or b"null")

    def read_part(self, part: float) -> bytes:
        """Read that part of the body; only small bodies are kept."""
        kept = bytearray()
        self.read_exactly(int(self.length() * part), lambda c: kept.extend(c) if len(kept) < KEPT else None)
        return bytes(kept)

    def read_exactly(self, length: int, use: Callable[[bytes], object]) -> bool:
        """Read so many bytes of the body; False when the client broke off before."""
        left = length
        while left:
            try:
                chunk = self.rfile.read1(min(CHUNK, left))
            except OSError:
                return False
            if not chunk:
                return False
            use(chunk)
            left -= len(chunk)
            self.read_bytes += len(chunk)
        return True

    # -- answers ------------------------------------------------------------------------------

    def refuse(self, status: int, text: str) -> None:
        """Say no, as web services of OpenStack do."""
        body = (
            f"<html><head><title>{status}</title></head><body><h1>{status}</h1>\n{text}<br /></body></html>"
        )
        self.reply(status, body.encode(), {"Content-Type": "text/html; charset=UTF-8"})

    def json(self, status: int, document: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer with a document."""
        more = {"Content-Type": "application/json", **(headers or {})}
        self.reply(status, json.dumps(document).encode(), more)

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Answer."""
        self._record(status)
        # What was not read of the body would be taken for the next request.
        unread = self.read_bytes < self.length()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.region:  # a proxy before Glance, or what else answers there, knows no such header
            self.send_header("x-openstack-request-id", f"req-{uuid.uuid4()}")
        self.send_header("Content-Length", str(len(body)))
        if unread:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)
        if unread:
            self._drain_a_little()

    def _drain_a_little(self) -> None:
        """Let the client see the answer before the connection goes, as good servers do."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1.0)
        end = time.monotonic() + 1.0
        while time.monotonic() < end and self.read_exactly(CHUNK, lambda _: None):
            pass


_INSTEAD: Mapping[str, Callable[[FaultyHandler, Fault], None]] = {
    "answer": FaultyHandler._answer_fault,
    "reset": FaultyHandler._reset_fault,
    "hang": FaultyHandler._hang_fault,
    "flood": FaultyHandler._flood_fault,
    "trickle": FaultyHandler._trickle_fault,
    "store-nothing": FaultyHandler._store_nothing_fault,
    "expire": FaultyHandler._expire_fault,
}

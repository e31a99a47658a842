"""A proxy before a real image service that breaks, swallows, changes and delays what goes through it.

It passes everything on to the service and back until a test adds faults:

    with FaultProxy.start("http://127.0.0.1:9292") as proxy:
        ... image_endpoint_override: proxy.url ...
        proxy.faults.append(resets(on="send", at=0.5))

What can be named in `on`: create, get, find, change, tag, share, delete, send, stage, import,
import-tasks, schema, info, quota. `at` is the part of the request's body that the service has got when
it happens: 0.0 none, and it hears nothing of the request; 1.0 all, and it does its work. A fault
happens `times` times, then no more; `times=None` is for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

CHUNK = 64 * 1024
#: A test that forgets a request that hangs is freed after so many seconds.
HANG_LIMIT = 120.0
#: Seconds for one step of the service.
SERVICE_TIMEOUT = 60.0

_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "host", "content-length")
_KINDS = (
    ("POST", r"/v2/images", "create"),
    ("GET", r"/v2/images", "find"),
    ("GET", r"/v2/images/[^/]+", "get"),
    ("PATCH", r"/v2/images/[^/]+", "change"),
    ("DELETE", r"/v2/images/[^/]+", "delete"),
    ("PUT|DELETE", r"/v2/images/[^/]+/tags/[^/]+", "tag"),
    ("POST", r"/v2/images/[^/]+/members", "share"),
    ("PUT", r"/v2/images/[^/]+/file", "send"),
    ("PUT", r"/v2/images/[^/]+/stage", "stage"),
    ("POST", r"/v2/images/[^/]+/import", "import"),
    ("GET", r"/v2/images/[^/]+/tasks", "import-tasks"),
    ("GET", r"/v2/schemas/image", "schema"),
    ("GET", r"/v2/info/usage", "quota"),
    ("GET", r"/v2/info/[^/]+", "info"),
)


def kind_of(method: str, path: str) -> str:
    """What a request is called in `on`; "other" when it has no name."""
    plain = urlsplit(path).path.rstrip("/")
    for methods, pattern, kind in _KINDS:
        if re.fullmatch(methods, method) and re.fullmatch(pattern, plain):
            return kind
    return "other"


@dataclass
class ProxyFault:
    """One thing that goes wrong on the way; made by the functions below."""

    on: str
    do: str
    at: float = 0.0
    status: int = 503
    text: str = ""
    seconds: float = 0.0
    change: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = 1


def answers(status: int, *, on: str, at: float = 0.0, text: str = "", **more: Any) -> ProxyFault:
    """The proxy loses its service and answers so by itself."""
    return ProxyFault(on=on, do="answer", at=at, status=status, text=text, **more)


def resets(*, on: str, at: float = 0.0, **more: Any) -> ProxyFault:
    """The connections on both sides break (RST to the client)."""
    return ProxyFault(on=on, do="reset", at=at, **more)


def stalls(*, on: str, at: float = 0.5, **more: Any) -> ProxyFault:
    """Nothing moves any more, in either direction, and no connection ends."""
    return ProxyFault(on=on, do="stall", at=at, **more)


def swallows(*, on: str, status: int = 204, **more: Any) -> ProxyFault:
    """Everything is taken and called a success, and the service hears nothing of it."""
    return ProxyFault(on=on, do="swallow", status=status, **more)


def cuts_answer(*, on: str, **more: Any) -> ProxyFault:
    """The service does its work, and its answer breaks off in the middle."""
    return ProxyFault(on=on, do="cut", **more)


def delays(seconds: float, *, on: str, **more: Any) -> ProxyFault:
    """The request waits so long before it goes on."""
    return ProxyFault(on=on, do="delay", seconds=seconds, **more)


def flips(*, on: str, at: float = 0.5, **more: Any) -> ProxyFault:
    """One byte of the request's body changes."""
    return ProxyFault(on=on, do="flip", at=at, **more)


def truncates(*, on: str, at: float = 0.5, **more: Any) -> ProxyFault:
    """The service gets only that part of the body, as if it were all of it."""
    return ProxyFault(on=on, do="truncate", at=at, **more)


def rewrites(*, on: str = "get", times: int | None = None, **change: Any) -> ProxyFault:
    """The service's JSON says something else on its way back; a value of None is null."""
    return ProxyFault(on=on, do="rewrite", change=change, times=times)


def then_deletes(*, on: str = "send", **more: Any) -> ProxyFault:
    """The service does its work, and then somebody deletes the image."""
    return ProxyFault(on=on, do="delete", **more)


@dataclass(frozen=True, kw_only=True)
class Passed:
    """One request: `status` is what the client was told, 0 for nothing; `body` the bytes it sent."""

    on: str
    method: str
    path: str
    status: int
    body: int
    headers: Mapping[str, str]


class _BrokenError(Exception):
    """One of the two connections is gone, or is to go."""


class FaultProxy:
    """The proxy. `requests` has every request that came, `faults` is the script."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults: list[ProxyFault] = []
        self.requests: list[Passed] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @classmethod
    def start(cls, target: str) -> Self:
        """A running proxy before the service at this URL."""
        proxy = cls(target)
        proxy._thread.start()
        return proxy

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        """All is well again, and nothing happened: requests that hang are let go, and none is on record."""
        released, self.released = self.released, threading.Event()
        released.set()
        with self._lock:
            self.faults, self.requests = [], []

    def stop(self) -> None:
        """The end: nothing listens any more."""
        self.reset()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def count(self, on: str) -> int:
        """How many requests of a kind came."""
        with self._lock:
            return sum(1 for request in self.requests if request.on == on)

    def next_fault(self, on: str) -> ProxyFault | None:
        """The first fault that fits, used up once; None when all is well."""
        with self._lock:
            for fault in self.faults:
                if fault.on == on and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
            return None

    def record(self, request: Passed) -> None:
        """Remember a request."""
        with self._lock:
            self.requests.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Small, so that a proxy which stops reading is felt by the client after a few hundred KB.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that break off are what the tests are about: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer leave one after the other
    server: _Server

    def log_message(self, *args: object) -> None:
        """The requests are on record; nothing goes to stderr."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def _dispatch(self) -> None:
        self.proxy = self.server.proxy
        self.on = kind_of(self.command, self.path)
        self.length = int(self.headers.get("Content-Length") or 0)
        self.taken = 0
        fault = self.proxy.next_fault(self.on)
        service = http.client.HTTPConnection(*self.proxy.target, timeout=SERVICE_TIMEOUT)
        try:
            if fault is None:
                self._relay(service)
            else:
                _DOES[fault.do](self, service, fault)
        except (_BrokenError, http.client.HTTPException, OSError):
            self._record(0)
            self._reset()
        finally:
            service.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _dispatch  # noqa: N815

    # -- faults -------------------------------------------------------------------------------

    def _answer_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self._forward_part(service, fault.at)
        service.close()
        text = fault.text or f"told to answer {fault.status}"
        self._reply(fault.status, f"<html><body>{text}</body></html>".encode(), {"Content-Type": "text/html"})

    def _reset_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self._forward_part(service, fault.at)
        raise _BrokenError

    def _stall_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self._forward_part(service, fault.at)
        self.proxy.released.wait(HANG_LIMIT)
        raise _BrokenError

    def _swallow_fault(self, _service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self._take(self.length, lambda _: None)
        self._reply(fault.status, b"", {})

    def _cut_fault(self, service: http.client.HTTPConnection, _fault: ProxyFault) -> None:
        self._forward_part(service, 1.0)
        answer = service.getresponse()
        body = answer.read()
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\nContent-Length: {len(body) or 1}\r\n"
        # Of an answer without a body, half of the head.
        self.connection.sendall(head.encode() + (b"\r\n" + body[: len(body) // 2] if body else b""))
        raise _BrokenError

    def _delay_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self.proxy.released.wait(fault.seconds)
        self._relay(service)

    def _flip_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self._begin(service, self.length)
        self._take(int(self.length * fault.at), service.send)
        self._take(1, lambda byte: service.send(bytes([byte[0] ^ 0x40])))
        self._take(self.length - self.taken, service.send)
        self._pass_back(service)

    def _truncate_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        part = int(self.length * fault.at)
        self._begin(service, part)
        self._take(part, service.send)
        self._take(self.length - part, lambda _: None)
        self._pass_back(service)

    def _rewrite_fault(self, service: http.client.HTTPConnection, fault: ProxyFault) -> None:
        self._forward_part(service, 1.0)
        self._pass_back(service, lambda body: _rewritten(body, fault.change))

    def _delete_fault(self, service: http.client.HTTPConnection, _fault: ProxyFault) -> None:
        self._forward_part(service, 1.0)
        answer = service.getresponse()
        body = answer.read()
        service.close()
        image = re.sub(r"(/v2/images/[^/]+).*", r"\1", self.path)
        service.request("DELETE", image, headers={"X-Auth-Token": self.headers["X-Auth-Token"]})
        service.getresponse().read()
        self._reply(answer.status, body, {})

    # -- passing on ---------------------------------------------------------------------------

    def _relay(self, service: http.client.HTTPConnection) -> None:
        self._begin(service, self.length)
        # A service that refuses early stops reading: its answer counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._take(self.length, service.send)
        self._pass_back(service)

    def _forward_part(self, service: http.client.HTTPConnection, part: float) -> None:
        if part > 0:
            self._begin(service, self.length)
            self._take(int(self.length * part), service.send)

    def _begin(self, service: http.client.HTTPConnection, length: int) -> None:
        service.putrequest(self.command, self.path, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP and not self._tells_size(name):
                service.putheader(name, value)
        if self.length:
            service.putheader("Content-Length", str(length))
        service.putheader("Connection", "close")
        service.endheaders()

    def _tells_size(self, name: str) -> bool:
        """Glance compares it with what comes; a proxy that loses bytes loses it, too."""
        return name.lower() == "x-openstack-image-size"

    def _take(self, count: int, use: Callable[[bytes], object]) -> None:
        """Read so many bytes of the body and use them; _BrokenError when the client leaves."""
        left = count
        while left:
            chunk = self.rfile.read1(min(CHUNK, left))
            if not chunk:
                raise _BrokenError
            self.taken += len(chunk)
            left -= len(chunk)
            use(chunk)

    def _pass_back(
        self, service: http.client.HTTPConnection, change: Callable[[bytes], bytes] | None = None
    ) -> None:
        answer = service.getresponse()
        body = answer.read()
        headers = {n: v for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP}
        self._reply(answer.status, change(body) if change else body, headers)

    # -- answers ------------------------------------------------------------------------------

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._record(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        unread = self.taken < self.length
        if unread:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)
        if unread:
            self._drain_a_little()

    def _drain_a_little(self) -> None:
        """Let the client see the answer before the connection goes, as good proxies do."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(0.5)
        with contextlib.suppress(_BrokenError, OSError):
            self._take(self.length - self.taken, lambda _: None)

    def _record(self, status: int) -> None:
        self.proxy.record(
            Passed(
                on=self.on,
                method=self.command,
                path=self.path,
                status=status,
                body=self.taken,
                headers=dict(self.headers),
            )
        )

    def _reset(self) -> None:
        # Linger 0: closing sends RST and forgets what was not sent.
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The base class would send FIN first.
        self.rfile.close()
        self.connection.close()


_DOES: Mapping[str, Callable[[_Handler, http.client.HTTPConnection, ProxyFault], None]] = {
    "answer": _Handler._answer_fault,
    "reset": _Handler._reset_fault,
    "stall": _Handler._stall_fault,
    "swallow": _Handler._swallow_fault,
    "cut": _Handler._cut_fault,
    "delay": _Handler._delay_fault,
    "flip": _Handler._flip_fault,
    "truncate": _Handler._truncate_fault,
    "rewrite": _Handler._rewrite_fault,
    "delete": _Handler._delete_fault,
}


def _rewritten(body: bytes, change: Mapping[str, Any]) -> bytes:
    """A JSON object with other values; anything else as it is."""
    try:
        document = json.loads(body)
    except ValueError:
        return body
    return json.dumps({**document, **change}).encode() if isinstance(document, dict) else body

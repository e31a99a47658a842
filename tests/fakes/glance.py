"""A Keystone and a Glance small enough to break on purpose, for the real openstacksdk to talk to.

One HTTP server on a free loopback port answers for one identity service and for one image service
per region. It keeps the bytes' hashes, not the bytes. Healthy by itself; a test adds faults:

    glance = FakeGlance.start(regions=("RegionOne", "RegionTwo"))
    glance.clouds_yaml(tmp_path / "clouds.yaml")         clouds "fake" with both regions
    glance.faults.append(answers(503, on="send", after=0.5))
    glance.faults.append(hangs(on="send", after=1.0))
    ...
    glance.images("RegionOne"); glance.count("send"); glance.stop()

What can be named in `on`: auth, create, send, get, find, delete, schema. `after` is the part of a
send's body that is read first: 0.0 none, 0.5 half, 1.0 all of it. A fault happens `times` times, then no
more; `times=None` is for ever. A fault with a `region` leaves the others alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import yaml

USER, PASSWORD, PROJECT = "imagepool", "kept-in-clouds-yaml", "ci"
PROJECT_ID = "9b1f6f3a0d6c4c5f8a4a0f6b6f0f1c2d"
CHUNK = 64 * 1024
#: A test that forgets a hanging request is freed after so many seconds.
HANG_LIMIT = 120.0


@dataclass
class Fault:
    """One thing that goes wrong; made by the functions below."""

    on: str
    do: str
    status: int = 503
    text: str = ""
    after: float = 0.0
    change: Mapping[str, Any] = field(default_factory=dict)
    region: str | None = None
    times: int | None = 1


def answers(status: int, *, on: str, text: str = "", after: float = 1.0, **more: Any) -> Fault:
    """The service answers so instead of doing its work."""
    return Fault(on=on, do="answer", status=status, text=text, after=after, **more)


def resets(*, on: str, after: float = 0.0, **more: Any) -> Fault:
    """The connection is reset (RST), without an answer."""
    return Fault(on=on, do="reset", after=after, **more)


def hangs(*, on: str, after: float = 1.0, **more: Any) -> Fault:
    """No answer ever comes; with `after` below 1.0 the server stops reading, too."""
    return Fault(on=on, do="hang", after=after, **more)


def floods(size: int, *, on: str, **more: Any) -> Fault:
    """An answer of so many bytes."""
    return Fault(on=on, do="flood", status=size, **more)


def trickles(*, on: str, **more: Any) -> Fault:
    """An answer that comes byte by byte, and never to its end."""
    return Fault(on=on, do="trickle", **more)


def stores_nothing(status: int = 204, **more: Any) -> Fault:
    """A send that is answered with success, and nothing was stored."""
    return Fault(on="send", do="store-nothing", status=status, **more)


def then_changes(*, on: str = "send", **change: Any) -> Fault:
    """The service does its work, and then the image says something else (Glance's own names)."""
    more = {name: change.pop(name) for name in ("region", "times") if name in change}
    return Fault(on=on, do="change", change=change, **more)


def then_loses(*, on: str = "send", **more: Any) -> Fault:
    """The service does its work, and then somebody deletes the image."""
    return Fault(on=on, do="lose", **more)


def loses_answer(*, on: str, **more: Any) -> Fault:
    """The service does its work, and the connection breaks before the answer."""
    return Fault(on=on, do="mute", **more)


def expires_token(**more: Any) -> Fault:
    """The token ends while the bytes move: they are thrown away, and the answer is 401."""
    return Fault(on="send", do="expire", status=401, after=1.0, **more)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as the server saw it: `status` is 0 when it was broken off, `body` the bytes read."""

    on: str
    method: str
    path: str
    region: str | None
    status: int
    headers: Mapping[str, str]
    body: int = 0


class _Reset(Exception):
    """The connection is to be reset."""


class FakeGlance:
    """The server. `requests` has every request answered or broken off, `faults` is the script."""

    def __init__(self, regions: Sequence[str], *, token_life: float = 3600.0, page_size: int = 25) -> None:
        self.regions = tuple(regions)
        self.password = PASSWORD
        self.token_life = token_life
        self.page_size = page_size
        self.disk_formats = {"qcow2", "raw", "vhd", "vhdx", "vmdk"}  #: that its schema lists
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.released = threading.Event()
        self._stored: dict[str, dict[str, dict[str, Any]]] = {region: {} for region in regions}
        self._tokens: dict[str, datetime] = {}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    # -- life ---------------------------------------------------------------------------------

    @classmethod
    def start(cls, regions: Sequence[str] = ("RegionOne", "RegionTwo"), **options: Any) -> Self:
        """A running server on a free port of 127.0.0.1."""
        glance = cls(regions, **options)
        glance.up()
        return glance

    def up(self) -> None:
        """Listen: on a free port the first time, on the same one after `down`."""
        self._server = _Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuse connections and drop those there are; images stay."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        server.drop_connections()
        self._thread.join(5.0)

    def stop(self) -> None:
        """The end: requests that hang are let go, and nothing listens any more."""
        self.released.set()
        self.down()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- what tests ask -----------------------------------------------------------------------

    @property
    def auth_url(self) -> str:
        """The identity endpoint."""
        return f"http://127.0.0.1:{self.port}/identity/v3"

    def clouds_yaml(
        self, path: Path, clouds: Mapping[str, Sequence[str]] | None = None, **settings: Any
    ) -> Path:
        """Write a clouds.yaml with these clouds and their regions ("fake" with all of them by default)."""
        entry = {
            "auth": {
                "auth_url": self.auth_url,
                "username": USER,
                "password": PASSWORD,
                "project_name": PROJECT,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "identity_api_version": 3,
            **settings,
        }
        content = {
            name: {**entry, "regions": list(regions)}
            for name, regions in (clouds or {"fake": self.regions}).items()
        }
        path.write_text(yaml.safe_dump({"clouds": content}))
        return path

    def images(self, region: str | None = None) -> list[dict[str, Any]]:
        """The images of a region, or of all; Glance's own names."""
        with self.lock:
            regions = self.regions if region is None else (region,)
            return [dict(image) for name in regions for image in self._stored[name].values()]

    def add(self, region: str, **image: Any) -> str:
        """Put an image there as somebody else would; returns its id."""
        made = self.new_image({"name": "foreign", "disk_format": "qcow2", "status": "active", **image})
        with self.lock:
            self._stored[region][made["id"]] = made
        return str(made["id"])

    def change(self, image_id: str, **change: Any) -> None:
        """Change an image behind everybody's back."""
        with self.lock:
            for images in self._stored.values():
                if image_id in images:
                    images[image_id].update(change)

    def count(self, on: str, region: str | None = None) -> int:
        """How many requests of a kind came."""
        with self.lock:
            return sum(1 for r in self.requests if r.on == on and region in (None, r.region))

    def revoke_tokens(self) -> None:
        """Every token given so far is worth nothing."""
        with self.lock:
            self._tokens.clear()

    def revoke_token(self, token: str) -> None:
        """One token is worth nothing any more."""
        with self.lock:
            self._tokens.pop(token, None)

    # -- what the handler asks ----------------------------------------------------------------

    def next_fault(self, on: str, region: str | None) -> Fault | None:
        """The first fault that fits, used up once; None when all is well."""
        with self.lock:
            for fault in self.faults:
                if fault.on == on and fault.times != 0 and fault.region in (None, region):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
            return None

    def new_token(self) -> tuple[str, datetime]:
        """A token and when it ends."""
        token, expires = uuid.uuid4().hex, datetime.now(UTC) + timedelta(seconds=self.token_life)
        with self.lock:
            self._tokens[token] = expires
        return token, expires

    def accepts(self, token: str | None) -> bool:
        """Whether a token is good now."""
        with self.lock:
            expires = self._tokens.get(token or "")
        return expires is not None and expires > datetime.now(UTC)

    def stored(self, region: str) -> dict[str, dict[str, Any]]:
        """The images of a region themselves; take `lock`."""
        return self._stored[region]

    def new_image(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """A new image record as Glance makes it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "id": str(uuid.uuid4()),
            "status": "queued",
            "size": None,
            "checksum": None,
            "os_hash_algo": None,
            "os_hash_value": None,
            "os_hidden": False,
            "protected": False,
            "min_disk": 0,
            "min_ram": 0,
            "visibility": "shared",
            "owner": PROJECT_ID,
            "tags": [],
            "virtual_size": None,
            "created_at": now,
            "updated_at": now,
            **document,
        }

    def record(self, request: Request) -> None:
        """Remember a request."""
        with self.lock:
            self.requests.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], glance: FakeGlance) -> None:
        self.glance = glance
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        """The requests are on record; nothing goes to stderr."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    # -- dispatch -----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        parts = urlsplit(self.path)
        self.segments = [s for s in parts.path.split("/") if s]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.glance = self.server.glance
        self.region: str | None = None
        self.read_bytes = 0
        self.on, work = self._route()
        try:
            self._perform(self.on, work)
        except _Reset:
            self._record(0)
            self._reset()

    def _record(self, status: int) -> None:
        """Before the answer leaves, so that who has it finds the request on record."""
        self.glance.record(
            Request(
                on=self.on,
                method=self.command,
                path=self.path,
                region=self.region,
                status=status,
                headers=dict(self.headers),
                body=self.read_bytes,
            )
        )

    do_GET = do_POST = do_PUT = do_DELETE = _dispatch  # noqa: N815

    def _route(self) -> tuple[str, Callable[[], None]]:
        match [self.command, *self.segments]:
            case ["POST", "identity", "v3", "auth", "tokens"]:
                return "auth", self._auth
            case ["GET", "identity", *_]:
                return "versions", self._identity_versions
            case [_, "image", region, *rest] if region in self.glance.regions:
                self.region = region
                return self._route_image(rest)
        return "other", lambda: self._refuse(404, "nothing is here")

    def _route_image(self, rest: list[str]) -> tuple[str, Callable[[], None]]:
        match [self.command, *rest]:
            case ["POST", "v2", "images"]:
                return "create", self._create
            case ["PUT", "v2", "images", image_id, "file"]:
                return "send", lambda: self._send(image_id)
            case ["GET", "v2", "images"]:
                return "find", self._find
            case ["GET", "v2", "images", image_id]:
                return "get", lambda: self._get(image_id)
            case ["GET", "v2", "schemas", "image"]:
                return "schema", self._schema
            case ["DELETE", "v2", "images", image_id]:
                return "delete", lambda: self._delete(image_id)
            case ["GET"] | ["GET", "versions"]:
                return "versions", self._image_versions
        return "other", lambda: self._refuse(404, "nothing is here")

    def _perform(self, on: str, work: Callable[[], None]) -> None:
        self.fault = self.glance.next_fault(on, self.region)
        if self.region and on != "versions" and not self.glance.accepts(self.headers.get("X-Auth-Token")):
            self._refuse(401, "This server could not verify that you are authorized")
        elif self.fault is not None and self.fault.do in _INSTEAD:
            _INSTEAD[self.fault.do](self, self.fault)
        else:
            work()

    # -- faults -------------------------------------------------------------------------------

    def _answer_fault(self, fault: Fault) -> None:
        self._read_part(fault.after)
        self._refuse(fault.status, fault.text or f"told to answer {fault.status}")

    def _reset_fault(self, fault: Fault) -> None:
        self._read_part(fault.after)
        raise _Reset

    def _hang_fault(self, fault: Fault) -> None:
        self._read_part(fault.after)
        self.glance.released.wait(HANG_LIMIT)
        raise _Reset

    def _flood_fault(self, fault: Fault) -> None:
        self._begin(fault.status)
        for _ in range(0, fault.status, CHUNK):
            self.wfile.write(b" " * CHUNK)

    def _trickle_fault(self, fault: Fault) -> None:
        self._begin(10**6)
        end = time.monotonic() + HANG_LIMIT
        while time.monotonic() < end and not self.glance.released.wait(0.05):
            self.wfile.write(b" ")
        raise _Reset

    def _begin(self, length: int) -> None:
        """Answer 200, with the body to be written."""
        self._read_part(1.0)
        self._record(200)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _store_nothing_fault(self, fault: Fault) -> None:
        self._read_part(1.0)
        self._reply(fault.status, b"")

    def _expire_fault(self, fault: Fault) -> None:
        self._read_part(fault.after)
        # This one alone: another region's upload has a token of its own, which goes on.
        self.glance.revoke_token(self.headers.get("X-Auth-Token", ""))
        self._refuse(401, "the token expired")

    def _reset(self) -> None:
        # Linger 0: closing sends RST and forgets what was not sent.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The base class would send FIN first.
        self.rfile.close()
        self.connection.close()

    # -- identity -----------------------------------------------------------------------------

    def _base(self) -> str:
        return f"http://127.0.0.1:{self.glance.port}"

    def _identity_versions(self) -> None:
        version = {
            "id": "v3.14",
            "status": "stable",
            "links": [{"rel": "self", "href": f"{self._base()}/identity/v3/"}],
            "media-types": [],
        }
        if self.segments[1:] == ["v3"]:
            self._json(200, {"version": version})
        else:
            self._json(300, {"versions": {"values": [version]}})

    def _auth(self) -> None:
        asked = json.loads(self._read_part(1.0))["auth"]["identity"]["password"]["user"]
        if (asked.get("name"), asked["password"]) != (USER, self.glance.password):
            self._json(401, {"error": {"code": 401, "title": "Unauthorized", "message": _REFUSED}})
            return
        token, expires = self.glance.new_token()
        stamp = "%Y-%m-%dT%H:%M:%S.%fZ"
        endpoints = [
            {
                "id": uuid.uuid4().hex,
                "interface": "public",
                "region": region,
                "region_id": region,
                "url": f"{self._base()}/image/{region}",
            }
            for region in self.glance.regions
        ]
        document = {
            "methods": ["password"],
            "issued_at": datetime.now(UTC).strftime(stamp),
            "expires_at": expires.strftime(stamp),
            "user": {"id": "u", "name": USER, "domain": {"id": "default", "name": "Default"}},
            "project": {"id": PROJECT_ID, "name": PROJECT, "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "member"}],
            "catalog": [{"id": "i", "type": "image", "name": "glance", "endpoints": endpoints}],
        }
        self._json(201, {"token": document}, {"X-Subject-Token": token})

    # -- image service ------------------------------------------------------------------------

    def _image_versions(self) -> None:
        href = f"{self._base()}/image/{self.region}/v2/"
        version = {"id": "v2.16", "status": "CURRENT", "links": [{"rel": "self", "href": href}]}
        self._json(300, {"versions": [version]})

    def _create(self) -> None:
        document = json.loads(self._read_part(1.0))
        wrong = [k for k, v in document.items() if k not in _TYPED and not isinstance(v, str)]
        if wrong:
            self._refuse(400, f"On attribute {wrong[0]!r}: not of type 'string'")
            return
        image = self.glance.new_image(document)
        with self.glance.lock:
            self.glance.stored(self.region or "")[image["id"]] = image
        self._after(image["id"])
        self._json(201, image, {"Location": f"{self._base()}/image/{self.region}/v2/images/{image['id']}"})

    def _send(self, image_id: str) -> None:
        images = self.glance.stored(self.region or "")
        with self.glance.lock:
            image = images.get(image_id)
            if image is None or image["status"] != "queued":
                state = image["status"] if image else None
            else:
                state, image["status"] = "", "saving"
        if state is None:
            self._refuse(404, f"No image found with ID {image_id}")
        elif state:
            self._refuse(409, f"Image status transition from {state} to saving is not allowed")
        else:
            self._receive(image_id)

    def _receive(self, image_id: str) -> None:
        sha512, md5 = hashlib.sha512(), hashlib.md5(usedforsecurity=False)
        length = self._length()

        def digest(chunk: bytes) -> None:
            sha512.update(chunk)
            md5.update(chunk)

        complete = self._read_exactly(length, digest)
        images = self.glance.stored(self.region or "")
        with self.glance.lock:
            if image_id not in images:
                self._refuse(410, "The image was deleted while it was sent")
                return
            if not complete:
                images[image_id]["status"] = "queued"
                raise _Reset
            images[image_id].update(
                status="active",
                size=length,
                os_hash_algo="sha512",
                os_hash_value=sha512.hexdigest(),
                checksum=md5.hexdigest(),
            )
        self._after(image_id)
        self._reply(204, b"")

    def _get(self, image_id: str) -> None:
        with self.glance.lock:
            image = self.glance.stored(self.region or "").get(image_id)
            document = None if image is None else dict(image)
        if document is None:
            self._refuse(404, f"No image found with ID {image_id}")
            return
        self._json(200, document)

    def _find(self) -> None:
        wanted = {k: v for k, v in self.query.items() if k not in ("limit", "marker", "sort")}
        wanted.setdefault("os_hidden", "false")
        with self.glance.lock:
            images = [dict(i) for i in self.glance.stored(self.region or "").values() if _fits(i, wanted)]
        marker = self.query.get("marker")
        if marker is not None:
            ids = [i["id"] for i in images]
            images = images[ids.index(marker) + 1 :] if marker in ids else []
        page = images[: self.glance.page_size]
        document: dict[str, Any] = {"images": page, "schema": "/v2/schemas/images"}
        if len(images) > len(page):
            document["next"] = "/v2/images?" + urlencode({**self.query, "marker": page[-1]["id"]})
        self._json(200, document)

    def _schema(self) -> None:
        listed = [None, *sorted(self.glance.disk_formats)]
        self._json(200, {"name": "image", "properties": {"disk_format": {"enum": listed}}})

    def _delete(self, image_id: str) -> None:
        with self.glance.lock:
            images = self.glance.stored(self.region or "")
            image = images.get(image_id)
            if image is not None and not image["protected"]:
                del images[image_id]
        if image is None:
            self._refuse(404, f"Failed to find image {image_id} to delete")
        elif image["protected"]:
            self._refuse(403, f"Image {image_id} is protected and cannot be deleted.")
        else:
            self._after(image_id)
            self._reply(204, b"")

    def _after(self, image_id: str) -> None:
        """What a fault does once the work is done."""
        if self.fault is None:
            return
        with self.glance.lock:
            images = self.glance.stored(self.region or "")
            if self.fault.do == "lose":
                images.pop(image_id, None)
            elif self.fault.do == "change" and image_id in images:
                images[image_id].update(self.fault.change)
        if self.fault.do == "mute":
            raise _Reset

    # -- bytes --------------------------------------------------------------------------------

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _read_part(self, part: float) -> bytes:
        """Read that part of the body; only small bodies are kept."""
        kept = bytearray()
        self._read_exactly(
            int(self._length() * part), lambda c: kept.extend(c) if len(kept) < CHUNK else None
        )
        return bytes(kept)

    def _read_exactly(self, length: int, use: Callable[[bytes], object]) -> bool:
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

    def _refuse(self, status: int, text: str) -> None:
        body = (
            f"<html><head><title>{status}</title></head><body><h1>{status}</h1>\n{text}<br /></body></html>"
        )
        self._reply(status, body.encode(), {"Content-Type": "text/html; charset=UTF-8"})

    def _json(self, status: int, document: object, headers: Mapping[str, str] | None = None) -> None:
        more = {"Content-Type": "application/json", **(headers or {})}
        self._reply(status, json.dumps(document).encode(), more)

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._record(status)
        # What was not read of the body would be taken for the next request.
        unread = self.read_bytes < self._length()
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
        self.wfile.write(body)
        if unread:
            self._drain_a_little()

    def _drain_a_little(self) -> None:
        """Let the client see the answer before the connection goes, as good servers do."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1.0)
        end = time.monotonic() + 1.0
        while time.monotonic() < end and self._read_exactly(CHUNK, lambda _: None):
            pass


_REFUSED = "The request you have made requires authentication."
_TYPED = ("min_disk", "min_ram", "protected", "os_hidden", "tags")
_INSTEAD: Mapping[str, Callable[[_Handler, Fault], None]] = {
    "answer": _Handler._answer_fault,
    "reset": _Handler._reset_fault,
    "hang": _Handler._hang_fault,
    "flood": _Handler._flood_fault,
    "trickle": _Handler._trickle_fault,
    "store-nothing": _Handler._store_nothing_fault,
    "expire": _Handler._expire_fault,
}


def _fits(image: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return all(_text(image.get(name)) == value for name, value in wanted.items())


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

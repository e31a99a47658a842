"""Offers files to a Glance for web-download, and serves something else when told to.

    with FileServer.start() as files:
        url = files.offer(path)          a URL on loopback
        files.trouble = "short"          from now on

`trouble`: "" none; "other" bytes of the same length; "short", half of them as if that were all;
"broken", half of them and then the connection ends; "missing", 404; "down", nobody listens.
"""

from __future__ import annotations

import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self


class FileServer:
    """An HTTP server on a free loopback port."""

    def __init__(self) -> None:
        self.trouble = ""
        self.offered: dict[str, Path] = {}  #: by the path of the URL
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @classmethod
    def start(cls) -> Self:
        """A running server."""
        files = cls()
        files._thread.start()
        return files

    def offer(self, path: Path) -> str:
        """The URL at which the file can be fetched from now on."""
        name = f"/{uuid.uuid4().hex}/{path.name}"
        self.offered[name] = path
        # Port 1 is for tcpmux, which nobody runs.
        port = 1 if self.trouble == "down" else self._server.server_address[1]
        return f"http://127.0.0.1:{port}{name}"

    def withdraw(self, url: str) -> None:
        """It can no longer be fetched there."""
        for name in [name for name in self.offered if url.endswith(name)]:
            del self.offered[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], files: FileServer) -> None:
        self.files = files
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer leave one after the other
    server: _Server

    def log_message(self, *args: object) -> None:
        """Nothing goes to stderr."""

    def do_GET(self) -> None:
        """Serve what was offered, or what the trouble makes of it."""
        path, trouble = self.server.files.offered.get(self.path), self.server.files.trouble
        if path is None or trouble == "missing":
            self.send_error(404)
            return
        data = path.read_bytes()
        half = data[: len(data) // 2]
        body = {"other": bytes(len(data)), "short": half, "broken": half}.get(trouble, data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) if trouble == "broken" else len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = trouble == "broken"

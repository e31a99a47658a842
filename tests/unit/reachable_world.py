"""A mirror on loopback that answers as it is told, one that says nothing, and one that doesn't run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeMirror:
    """What it has (`paths`), the answers for those (`statuses`, the last one for ever), what it was asked;
    `body` is what each answer has."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/debian"
        self.paths = {"/debian/dists/bookworm/InRelease"}
        self.statuses: Sequence[int] = (200,)
        self.asked: list[str] = []
        self.body = b""

    def answer(self, path: str) -> int:
        self.asked.append(path)
        if path not in self.paths:
            return 404
        return self.statuses[min(len(self.asked), len(self.statuses)) - 1]


@contextmanager
def mirror() -> Iterator[FakeMirror]:
    """A mirror that has the release bookworm."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(served.answer(self.path))
            self.send_header("Content-Length", str(len(served.body)))
            self.end_headers()
            self.wfile.write(served.body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = FakeMirror(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent_mirror() -> Iterator[str]:
    """The URL of a mirror that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/debian"


def closed_mirror() -> str:
    """The URL of a mirror that is not running."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/debian"

"""Git servers on loopback, repositories to serve, and the program of cache-git without an image."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
#: Where the modules of the program are.
_MODULES: Final = tuple(PROJECT / "elements" / name / name for name in ("cache-git", "cache-stage"))
_WHO: Final = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
#: Seconds; everything here takes milliseconds.
LIMIT: Final = 120.0


def git(*arguments: str, at: Path | None = None, check: bool = True, text: str | None = None) -> str:
    """Run git; what it prints."""
    done = subprocess.run(
        ["git", *([] if at is None else ["-C", str(at)]), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **_WHO},
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"git {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


@dataclass
class Forge:
    """A directory of bare repositories, served over HTTP by git's own back end."""

    directory: Path
    port: int = 0
    #: Requests by path; what is answered to a path instead, by its beginning; who may come in.
    asked: list[str] = field(default_factory=list)
    broken: dict[str, HTTPStatus] = field(default_factory=dict)
    login: str = ""
    #: How many requests fail first, by the beginning of their path; where others are sent to.
    stumbles: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    #: Packs are held back while this is clear; `waiting` tells that one is.
    held: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)
    texts: dict[str, bytes] = field(default_factory=dict)
    connections: int = 0

    def __post_init__(self) -> None:
        self.held.set()

    @property
    def address(self) -> str:
        """What the addresses of its repositories begin with."""
        return f"http://127.0.0.1:{self.port}"

    def commit(
        self, name: str, files: Mapping[str, str], *, branch: str = "main", onto: str | None = None
    ) -> str:
        """Add a commit with these files and no others to a branch; its id. The repository is made."""
        repository = self.repository(name)
        parent = git("rev-parse", "-q", "--verify", onto or branch, at=repository, check=False)
        stream = [
            f"commit refs/heads/{branch}",
            "committer A <a@example.org> 1700000000 +0000",
            "data 1",
            ".",
        ]
        if parent:
            stream += [f"from {parent}"]
        stream += ["deleteall"]
        for path, text in files.items():
            stream += [f'M 100644 inline "{path}"', f"data {len(text.encode())}", text]
        git("fast-import", "--quiet", "--force", at=repository, text="\n".join([*stream, ""]))
        return git("rev-parse", branch, at=repository)

    def repository(self, name: str) -> Path:
        """The bare repository of that name; made empty if there is none."""
        repository = self.directory / f"{name}.git"
        if not repository.exists():
            git("init", "-q", "--bare", "-b", "main", str(repository))
        return repository


@contextmanager
def served(forge: Forge) -> Iterator[Forge]:
    """Serve a forge on a port of its own."""

    class Handler(_Handler):
        world = forge

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    forge.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Answers are small and many.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 10
    world: Forge

    def setup(self) -> None:
        super().setup()
        self.world.connections += 1

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            self._answer(b"".join(iter(self._chunk, b"")))
        else:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: object) -> None:
        pass

    def _chunk(self) -> bytes:
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content

    def _answer(self, body: bytes) -> None:
        self.world.asked.append(self.path)
        for beginning, status in self.world.broken.items():
            if self.path.startswith(beginning):
                self._send(status, {}, b"")
                return
        for beginning, left in self.world.stumbles.items():
            if left and self.path.startswith(beginning):
                self.world.stumbles[beginning] -= 1
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, {}, b"")
                return
        for beginning, target in self.world.moved.items():
            if self.path.startswith(beginning):
                where = target + self.path.removeprefix(beginning)
                self._send(HTTPStatus.MOVED_PERMANENTLY, {"Location": where}, b"")
                return
        if b"command=fetch" in body and not self.world.held.is_set():
            self.world.waiting.set()
            self.world.held.wait(LIMIT)
        if self.world.login and self.headers.get("Authorization") != self.world.login:
            self._send(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        elif self.path in self.world.texts:
            self._send(HTTPStatus.OK, {}, self.world.texts[self.path])
        else:
            self._by_git(body)

    def _by_git(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        done = subprocess.run(
            ["git", "http-backend"],
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.world.directory),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": "127.0.0.1",
                **_WHO,
            },
            input=body,
            capture_output=True,
            check=False,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = HTTPStatus(int(headers.pop("Status", "200").split()[0]))
        self._send(status, headers, content)

    def _send(self, status: HTTPStatus, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@dataclass
class Builder:
    """A building machine with a cache; runs the program as the hook does, without the image."""

    place: Path
    runs: int = 0

    @property
    def cache(self) -> Path:
        """The cache."""
        return self.place / "cache"

    def fetch(self, repositories: str = "", **environment: str) -> Fetched:
        """Bring the cache up to date with a list, and lay it out."""
        started = self.start(repositories, **environment)
        log, _ = started.process.communicate(timeout=LIMIT)
        return Fetched(code=started.process.returncode, log=log, stage=started.stage, heads=started.heads)

    def start(self, repositories: str = "", **environment: str) -> Started:
        """Begin to."""
        self.runs += 1
        stage = self.cache / f"stage-{self.runs}"
        heads = self.place / f"heads-{self.runs}.json"
        stage.mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "cache_git", str(stage), str(heads)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.place),
                "PYTHONPATH": ":".join(map(str, _MODULES)),
                "DIB_CACHE_GIT_REPOSITORIES": repositories,
                "DIB_CACHE_GIT_BACKOFF": "0.05",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Started(process=process, stage=stage, heads=heads)


@dataclass(frozen=True)
class Started:
    """A run that has begun."""

    process: subprocess.Popen[str]
    stage: Path
    heads: Path


@dataclass(frozen=True)
class Fetched:
    """What a run said and left."""

    code: int
    log: str
    stage: Path
    heads: Path

    def at(self, path: str) -> Path:
        """A repository as it goes into the image."""
        return self.stage / path

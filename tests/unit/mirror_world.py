"""A package mirror on loopback, made by the test, and an image that was built from it."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from builder.config.model import DiskImage, Platform
from builder.dib import command, tools
from builder.dib.contents import inputs, unchanged
from builder.dib.contents.packages import FILE as PACKAGES
from builder.dib.contents.unchanged import CompareJob, Comparison
from builder.model import Build, BuildState, ImageFormat

NOW = datetime(2026, 3, 4, 14, 14, tzinfo=UTC)
BUILD = "0123456789abcdef0123456789abcdef"
KEY = b"k" * 32
MAIN, SECURITY = "/debian/dists/bookworm", "/security/dists/bookworm-security"

#: What was installed, and what the mirror has of it.
INSTALLED: Mapping[str, str] = {
    "base-files": "12.4+deb12u15",
    "curl": "7.88.1-10",
    "dbus": "1.14.10-1~deb12u1",
    "libcap2": "1:2.66-4",
}
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers from the mirror's files; a file may be a function that answers by itself."""

    mirror: Mirror

    def do_GET(self) -> None:
        # As a proxy it is asked for a whole URL.
        parts = urlsplit(self.path)
        self.mirror.asked.append((parts.netloc or self.headers["Host"], parts.path))
        found = self.mirror.files.get(parts.path)
        if callable(found):
            found(self)
        elif found is None:
            self.send_error(404)
        else:
            self.answer(200, found)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        dashed = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **dashed}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@dataclass(kw_only=True)
class Mirror:
    """The files of a mirror, by path, and what it was asked for."""

    port: int
    over: threading.Event
    files: dict[str, bytes | Answer] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    sign: Callable[[bytes], bytes] = lambda text: text

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def suite(
        self,
        path: str,
        packages: Mapping[str, str],
        *,
        component: str = "main",
        plain_size: int | None = None,
        pack: Callable[[bytes], bytes] = lzma.compress,
        by_hash: bool = False,
        **fields: str,
    ) -> None:
        """Publish a suite whose only index has those packages, at those versions."""
        text = index(packages)
        packed = pack(text)
        name = f"{component}/binary-amd64/Packages"
        suffix = ".gz" if pack is gzip.compress else ".xz"
        size = len(text) if plain_size is None else plain_size
        lines = [
            "Origin: Test",
            "Architectures: all amd64 arm64",
            "No-Support-for-Architecture-all: Packages",
            *(f"{key.replace('_', '-')}: {value}" for key, value in fields.items()),
            *(["Acquire-By-Hash: yes"] if by_hash else []),
            "MD5Sum:",
            f" {hashlib.md5(packed).hexdigest()} {len(packed)} {name}{suffix}",
            "SHA256:",
            f" {sha256(text)} {size} {name}",
            f" {sha256(packed)} {len(packed)} {name}{suffix}",
            f" {sha256(b'')} 0 {component}/binary-arm64/Packages",
        ]
        self.files[f"{path}/InRelease"] = self.sign("\n".join(lines).encode() + b"\n")
        place = f"{component}/binary-amd64/by-hash/SHA256/{sha256(packed)}" if by_hash else f"{name}{suffix}"
        self.files[f"{path}/{place}"] = packed

    def index_path(self, suite: str) -> str:
        return f"{suite}/main/binary-amd64/Packages.xz"

    def hang(self, handler: Handler) -> None:
        """Answer nothing until the test is over."""
        self.over.wait()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def index(packages: Mapping[str, str]) -> bytes:
    """An index as Debian's look, with one package of another architecture in it."""
    paragraphs = [
        f"Package: {name}\nSource: {name}-src (0.1)\nVersion: {version}\nInstalled-Size: 1\n"
        f"Architecture: {'all' if name == 'base-files' else 'amd64'}\n"
        f"Depends: libc6 (>= 2.3)\nDescription: it\n Version: 99\n .\n Architecture: more\n"
        for name, version in packages.items()
    ]
    paragraphs.append("Package: curl\nVersion: 99\nArchitecture: arm64\n")
    return "\n".join(paragraphs).encode()


@contextmanager
def running_mirror() -> Iterator[Mirror]:
    """A mirror with Debian's three suites, on which nothing happened since the build."""
    over = threading.Event()
    handler = type("MirrorHandler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        mirror = Mirror(port=server.server_address[1], over=over)
        handler.mirror = mirror  # type: ignore[attr-defined]
        publish(mirror)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            over.set()
            server.shutdown()
            thread.join()


def publish(mirror: Mirror) -> None:
    """What was there when the image was built."""
    mirror.suite(MAIN, INSTALLED, Suite="stable")
    mirror.suite(f"{MAIN}-updates", {"tzdata": "1"}, by_hash=True)
    mirror.suite(SECURITY, {"curl": "7.88.1-9"}, pack=gzip.compress)


@dataclass(kw_only=True)
class World:
    """An image that was built from a mirror: what it is now, and what is known of its last build."""

    place: Path
    mirror: Mirror
    image: DiskImage
    elements_dir: Path
    proxies: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 30.0
    keyrings: Path = Path("/nonexistent")
    tools: Mapping[str, str] = field(default_factory=cache(tools.versions))

    @property
    def records(self) -> Path:
        return self.place / "records"

    @property
    def indexes(self) -> Path:
        return self.place / "cache" / unchanged.CACHE

    def set(self, **variables: str) -> None:
        """Change variables of the diskimage."""
        self.image = replace(self.image, environment={**self.image.environment, **variables})

    def element(self, name: str, files: Mapping[str, str], *, depends: Sequence[str] = ()) -> None:
        """Write an element of the user's, and put it into the diskimage."""
        for path, text in {"element-deps": "\n".join(depends), **files}.items():
            file = self.elements_dir / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if name not in self.image.elements:
            self.image = replace(self.image, elements=(*self.image.elements, name))

    def render(self) -> command.Command:
        return command.render(
            self.image,
            build_id=BUILD,
            output=self.place / "out",
            work_dir=self.place / "work",
            cache_dir=self.place / "cache",
            elements_dirs=(self.elements_dir,),
            mirrors={},
            proxies=self.proxies,
        )

    def build(self, installed: Mapping[str, str] = INSTALLED, heads: Mapping[str, str] | None = None) -> None:
        """Write down what a build of the image as it is now would leave."""
        known = inputs.collect(self.image, self.render(), key=KEY)
        self.records.mkdir(exist_ok=True)
        inputs.write(self.records, known.with_digests(heads or {}))
        listed = [
            {
                "name": name,
                "version": version,
                "architecture": "all" if name == "base-files" else "amd64",
                "type": "deb",
            }
            for name, version in installed.items()
        ]
        (self.records / PACKAGES).write_text(json.dumps({"packages": listed}))

    def job(self) -> CompareJob:
        last = Build(
            id=BUILD,
            image=self.image.name,
            state=BuildState.READY,
            state_time=NOW,
            builder="builder7",
            tools=self.tools,
        )
        return CompareJob(
            image=self.image,
            rendered=self.render(),
            key=KEY,
            last=last,
            records=self.records,
            cache_dir=self.place / "cache",
            seconds=self.seconds,
            keyrings=self.keyrings,
        )

    def compare(self) -> Comparison:
        """Whether a build now would differ from the last one."""
        return unchanged.compare(self.job(), lambda: None)


def world(place: Path, mirror: Mirror) -> World:
    """A Debian image, built when the mirror was as `publish` makes it."""
    elements_dir = place / "elements"
    elements_dir.mkdir()
    image = DiskImage(
        name="debian-bookworm",
        platform=Platform(name="bookworm", distribution="debian", release="bookworm"),
        elements=("debian-minimal", "vm"),
        formats=(ImageFormat.QCOW2,),
        environment={
            "DIB_DISTRIBUTION_MIRROR": f"{mirror.url}/debian",
            "DIB_DEBIAN_SECURITY_MIRROR": f"{mirror.url}/security",
        },
    )
    built = World(place=place, mirror=mirror, image=image, elements_dir=elements_dir)
    built.build()
    return built


@contextmanager
def signing_key(home: Path) -> Iterator[Callable[[bytes], bytes]]:
    """A key of its own; gives the function that clear-signs, and leaves keyring.gpg in `home`."""
    home.mkdir(mode=0o700)
    gpg = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]

    def run(*arguments: str, text: bytes = b"") -> bytes:
        return subprocess.run([*gpg, *arguments], input=text, check=True, capture_output=True).stdout

    try:
        run("--quick-gen-key", "The mirror <mirror@mirror.test>", "ed25519", "sign", "never")
        (home / "keyring.gpg").write_bytes(run("--export"))
        yield lambda text: run("--clearsign", text=text)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
        shutil.rmtree(home, ignore_errors=True)

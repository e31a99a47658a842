"""The element cache-files: files with checksums, from servers into a cache, and from there into an image."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.unit.elements_world import ELEMENTS, copy_hooks, run_parts

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()


class Server:
    """Serves one content at any path; in parts when asked to."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.asked: list[tuple[str, str]] = []  #: path and range
        self.failures = 0  #: of the next requests
        self.breaks = 0  #: of the next requests that end in the middle
        self.resumes = True
        self.port = 0

    def address(self, path: str = "file") -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    world = Server()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            world.asked.append((self.path, wanted))
            if world.failures:
                world.failures -= 1
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            begin = int(wanted[6:].rstrip("-")) if wanted and world.resumes else 0
            if begin >= len(world.content):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            content = world.content[begin:]
            self.send_response(HTTPStatus.PARTIAL_CONTENT if begin else HTTPStatus.OK)
            if begin:
                self.send_header(
                    "Content-Range", f"bytes {begin}-{len(world.content) - 1}/{len(world.content)}"
                )
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if world.breaks:
                world.breaks -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    world.port = listener.server_port
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield world
    listener.shutdown()
    thread.join()
    listener.server_close()


class Image:
    """A directory that stands for an image, and the hooks of the element."""

    def __init__(self, place: Path) -> None:
        self.root, self.hooks, self.place = place / "root", place / "hooks", place
        self.root.mkdir()
        self.hooks.mkdir()
        for element in ("cache-stage", "cache-files"):
            copy_hooks(ELEMENTS / element, self.hooks)

    def build(self, files: str, **environment: str) -> str:
        """Run the hook that fills it; what it says. Raises AssertionError when it fails."""
        return run_parts(
            self.hooks,
            "extra-data",
            {
                "PATH": os.environ["PATH"],
                "DIB_IMAGE_CACHE": str(self.place / "cache"),
                "DIB_PYTHON_EXEC": sys.executable,
                "DIB_CACHE_FILES": files,
                "DIB_CACHE_FILES_BACKOFF": "0.01",
                "TMP_HOOKS_PATH": str(self.hooks),
                "TMP_MOUNT_PATH": str(self.root),
                **environment,
            },
        )

    def file(self, path: str) -> Path:
        return self.root / "opt" / "cache" / "files" / path

    @property
    def cache(self) -> Path:
        return self.place / "cache" / "cache-files"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_files_of_a_list_are_in_the_image(server: Server, image: Image, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text(
        f"# ours\n- {{url: '{server.address()}', sha256: {SHA256}}}\n"
        f"- url: {server.address('x')}\n  sha512: {SHA512.upper()}\n  path: a/b.c\n  mode: '0755'\n"
        f"- {server.address('y')} sha256:{SHA256} line\n"
    )
    image.build("", DIB_CACHE_FILES_LIST=str(listed))
    for name in ("file", "a/b.c", "line"):
        assert image.file(name).read_bytes() == CONTENT
    assert [image.file(name).stat().st_mode & 0o7777 for name in ("file", "a/b.c")] == [0o644, 0o755]


def test_what_is_cached_is_not_asked_for_again_and_is_verified_again(server: Server, image: Image) -> None:
    line = f"{server.address()} sha256:{SHA256} file"
    image.build(line)
    image.build(line)
    assert len(server.asked) == 1

    kept = image.cache / f"sha256-{SHA256}"
    kept.write_bytes(CONTENT[:-1] + b"x")
    image.build(line)
    assert len(server.asked) == 2
    assert image.file("file").read_bytes() == CONTENT

    kept.write_bytes(b"")
    with pytest.raises(AssertionError, match="DIB_OFFLINE is set"):
        image.build(line, DIB_OFFLINE="1")


def test_a_wrong_checksum_is_an_error_that_names_both(server: Server, image: Image) -> None:
    wrong = "0" * 64
    with pytest.raises(AssertionError) as error:
        image.build(f"{server.address()} sha256:{wrong} file")
    assert f"its sha256 is {SHA256}, but shall be {wrong}" in str(error.value)
    assert not image.file("file").exists()
    assert not [path for path in image.cache.rglob("sha256-*") if "locks" not in path.parts]
    assert len(server.asked) == 1


def test_a_download_goes_on_where_it_stopped(server: Server, image: Image) -> None:
    server.breaks = 1
    image.build(f"{server.address()} sha256:{SHA256} file")
    assert server.asked == [("/file", ""), ("/file", f"bytes={len(CONTENT) // 2}-")]
    assert image.file("file").read_bytes() == CONTENT


def test_a_download_goes_on_in_the_next_build(server: Server, image: Image) -> None:
    line = f"{server.address()} sha256:{SHA256} file"
    server.breaks = 1
    with pytest.raises(AssertionError):
        image.build(line, DIB_CACHE_FILES_TRIES="1")
    image.build(line)
    assert server.asked[-1] == ("/file", f"bytes={len(CONTENT) // 2}-")


@pytest.mark.parametrize("beginning", [b"of another file", CONTENT + b"more"], ids=["other", "longer"])
def test_a_beginning_that_is_not_of_this_file_is_thrown_away(
    server: Server, image: Image, beginning: bytes
) -> None:
    (image.cache / "parts").mkdir(parents=True)
    (image.cache / "parts" / f"sha256-{SHA256}").write_bytes(beginning)
    image.build(f"{server.address()} sha256:{SHA256} file")
    assert image.file("file").read_bytes() == CONTENT


def test_a_server_that_can_not_go_on_begins_anew(server: Server, image: Image) -> None:
    server.breaks, server.resumes = 1, False
    image.build(f"{server.address()} sha256:{SHA256} file")
    assert image.file("file").read_bytes() == CONTENT


def test_a_server_that_stumbles_is_asked_again_and_one_that_is_down_is_told(
    server: Server, image: Image
) -> None:
    server.failures = 2
    image.build(f"{server.address()} sha256:{SHA256} file")
    server.failures = 3
    with pytest.raises(AssertionError, match="503"):
        image.build(f"{server.address('other')} sha512:{SHA512} file")


def test_a_server_that_hangs_ends_with_its_time(image: Image) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(AssertionError, match="timed out"):
            image.build(
                f"http://127.0.0.1:{silent.getsockname()[1]}/ sha256:{SHA256} file",
                DIB_CACHE_FILES_TIMEOUT="1",
                DIB_CACHE_FILES_TRIES="1",
            )
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("password", ["s3cret", "s3cret/unquoted", "p@s3cret"])
def test_passwords_are_not_shown(server: Server, image: Image, password: str) -> None:
    server.failures = 3
    with pytest.raises(AssertionError) as error:
        image.build(
            f"http://me:{password}@127.0.0.1:{server.port}/x sha256:{SHA256} file", DIB_DEBUG_TRACE="1"
        )
    assert "s3cret" not in str(error.value)
    assert "unquoted" not in str(error.value)
    assert "http://***@127.0.0.1" in str(error.value)


WRONG = {
    "{address} sha256:{sum} ../outside": "is not one of plain names",
    "{address} sha256:{sum} /etc/outside": "is not one of plain names",
    "{address} sha256:{sum} a/../../outside": "is not one of plain names",
    "{address} sha256:{sum} a//outside": "is not one of plain names",
    "{address} sha256:{sum} -outside": "is not one of plain names",
    "{address} sha256:{sum} outside 4755": "is not a text of three octal digits",
    "{address} sha256:{sum} outside rwx": "is not a text of three octal digits",
    "{address} md5:{sum} outside": "it has 'md5'",
    "{address} sha256: outside": "is not 64 hexadecimal digits",
    "{address} sha256:{sum}0 outside": "is not 64 hexadecimal digits",
    "{address} outside": "nor a line",
    "file:///etc/passwd sha256:{sum} outside": "is not an address",
    "-o/tmp/outside sha256:{sum} outside": "is not an address",
    'http://x"/y sha256:{sum} outside': "is not an address",
    "http:///y sha256:{sum} outside": "is not an address",
}


def test_entries_that_are_wrong_are_all_told_before_anything_is_downloaded(
    server: Server, image: Image, tmp_path: Path
) -> None:
    lines = [line.format(address=server.address(), sum=SHA256) for line in WRONG]
    good = f"{server.address()} sha256:{SHA256} good"
    with pytest.raises(AssertionError) as error:
        image.build("\n".join([good, *lines, f"{server.address('x')} sha256:{SHA256} good", f"{good}/below"]))
    said = [line for line in str(error.value).splitlines() if line.startswith("cache-files: ERROR: ")]
    assert len(said) == len(WRONG) + 2
    for why, line in zip(WRONG.values(), said, strict=False):
        assert why in line
    assert "another one goes to good" in said[-2]
    assert "good would be a file and a directory" in said[-1]
    assert server.asked == []
    assert not list(image.root.iterdir())
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]


@pytest.mark.parametrize("link", ["opt", "opt/cache/files", "opt/cache/files/a", "opt/cache/files/a/file"])
def test_a_link_in_the_image_leads_nowhere(server: Server, image: Image, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (image.root / link).parent.mkdir(parents=True, exist_ok=True)
    (image.root / link).symlink_to(outside)
    with pytest.raises(AssertionError, match="is a link, or below one"):
        image.build(f"{server.address()} sha256:{SHA256} a/file")
    assert list(outside.iterdir()) == []


def test_what_no_image_wants_goes_when_it_is_old(server: Server, image: Image) -> None:
    image.build(f"{server.address()} sha256:{SHA256} file")
    old = image.cache / f"sha256-{SHA256}"
    long_ago = time.time() - 31 * 86400
    os.utime(old, (long_ago, long_ago))
    image.build(f"{server.address()} sha512:{SHA512} file")
    assert not old.exists()
    assert (image.cache / f"sha512-{SHA512}").exists()
    assert not list(image.cache.glob("stage-*"))

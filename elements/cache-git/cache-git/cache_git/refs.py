"""Asks servers which branches and tags they have, without starting a program where that is possible.

The words on the wire are those of git's protocol version 2 (gitprotocol-v2, gitprotocol-http): one request
over a connection that is used again for the next repository of the same host. A server that doesn't
understand it, wants to redirect, or asks who we are, is asked by git itself.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import SplitResult, urlsplit

from cache_git.git import Git, GitError
from cache_git.listing import Repository, basic

#: Bytes; a hundred thousand branches and tags take ten million.
_LARGEST = 64 * 1024 * 1024
#: Seconds for connecting, and for each part of the answer.
_PATIENCE = 30.0
_KINDS = ("refs/heads/", "refs/tags/")
_DEFAULTS = ("refs/heads/main", "refs/heads/master")


class _OtherwiseError(Exception):
    """The short way doesn't work with this server."""


@dataclass(frozen=True)
class Refs:
    """What a repository has: ids by full names of branches and tags, and what HEAD names."""

    ids: Mapping[str, str]
    head: str = ""  #: full name of a branch; "" when it is not known
    detached: str = ""  #: id of HEAD

    @property
    def branch(self) -> str:
        """The branch that HEAD shall name: what the server says, else the likeliest one; "" without any."""
        if self.head in self.ids:
            return self.head
        branches = sorted(name for name in self.ids if name.startswith("refs/heads/"))
        same = [name for name in branches if self.ids[name] == self.detached]
        for names in (same, branches):
            for name in (*_DEFAULTS, *names):
                if name in names:
                    return name
        return ""


class Asker:
    """Asks servers; keeps a connection for each thread and server."""

    def __init__(self, git: Git) -> None:
        self._git = git
        self._kept = threading.local()
        self._short = not _rewritten(git)
        self._patience = min(_PATIENCE, git.timeout)

    def ask(self, repository: Repository) -> Refs:
        """What the repository has now. Raises GitError."""
        parts = urlsplit(repository.url)
        try:
            if self._short and parts.scheme in {"http", "https"} and not _proxied(parts):
                return self._over_http(repository, parts)
            if self._short and parts.scheme == "git":
                return _over_tcp(parts, self._patience)
        except _OtherwiseError:
            pass
        return self._by_git(repository)

    def _by_git(self, repository: Repository) -> Refs:
        patterns = ("HEAD", *(f"{kind}*" for kind in _KINDS))
        text = self._git.run(
            "ls-remote", "--quiet", "--symref", "--", repository.url, *patterns, repository=repository
        )
        ids, head, detached = {}, "", ""
        for line in text.splitlines():
            value, _, name = line.partition("\t")
            if name == "HEAD" and value.startswith("ref: "):
                head = value.removeprefix("ref: ")
            elif name == "HEAD":
                detached = value
            elif name.startswith(_KINDS) and not name.endswith("^{}"):
                ids[name] = value
        return Refs(ids, head, detached)

    def _over_http(self, repository: Repository, parts: SplitResult) -> Refs:
        headers = {
            "Content-Type": "application/x-git-upload-pack-request",
            "Accept": "application/x-git-upload-pack-result",
            "Git-Protocol": "version=2",
            # Some servers send others to a page for people.
            "User-Agent": "git/2 (cache-git)",
        }
        if repository.user or repository.password:
            headers["Authorization"] = basic(repository.user, repository.password)
        path = f"{parts.path}/git-upload-pack"
        for again in (False, True):
            connection, used = self._connection(parts)
            try:
                connection.request("POST", path, body=_request(), headers=headers)
                answer = connection.getresponse()
                content = answer.read(_LARGEST + 1)
            except (http.client.HTTPException, OSError) as error:
                self._forget(parts)
                if used and not again:
                    continue  # servers close connections that had nothing to do
                if isinstance(error, ssl.SSLError) or not isinstance(error, OSError) or connection.sock:
                    raise _OtherwiseError from None
                raise _silent(parts, error) from None
            if not answer.isclosed():
                self._forget(parts)
            if answer.status != http.client.OK:
                raise _OtherwiseError
            return _parsed(_lines(content))
        raise _OtherwiseError

    def _connection(self, parts: SplitResult) -> tuple[http.client.HTTPConnection, bool]:
        kept: dict[str, http.client.HTTPConnection] = self._kept.__dict__.setdefault("by_server", {})
        server = f"{parts.scheme}://{parts.netloc}"
        if server in kept:
            return kept[server], True
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        kept[server] = kind(parts.hostname or "", parts.port, timeout=self._patience)
        return kept[server], False

    def _forget(self, parts: SplitResult) -> None:
        self._kept.by_server.pop(f"{parts.scheme}://{parts.netloc}").close()


def _over_tcp(parts: SplitResult, patience: float) -> Refs:
    try:
        connection = socket.create_connection((parts.hostname or "", parts.port or 9418), timeout=patience)
    except OSError as error:
        raise _silent(parts, error) from None
    try:
        with connection, connection.makefile("rb") as stream:
            connection.sendall(
                _packet(f"git-upload-pack {parts.path}\0host={parts.netloc}\0\0version=2\0".encode())
            )
            if next(_packets(stream), b"").strip() != b"version 2":
                raise _OtherwiseError
            for _ in _packets(stream):
                pass
            connection.sendall(_request())
            refs = _parsed(_packets(stream))
            connection.sendall(b"0000")
            return refs
    except OSError:
        raise _OtherwiseError from None


def _silent(parts: SplitResult, error: OSError) -> GitError:
    return GitError(f"{parts.netloc} does not answer: {error}", unreachable=True)


def _rewritten(git: Git) -> bool:
    """Whether this machine's settings send git elsewhere than an address says, or by other means."""
    if os.environ.get("GIT_SSL_NO_VERIFY") or os.environ.get("GIT_PROXY_COMMAND"):
        return True
    try:
        git.run("config", "--get-regexp", r"^(url\..*\.insteadof|(http\.(.*\.)?|core\.git)proxy)$")
    except GitError:
        return False  # git's way to say that there is none
    return True


def _proxied(parts: SplitResult) -> bool:
    configured = urllib.request.getproxies().keys() & {parts.scheme, "all"}
    return bool(configured) and not urllib.request.proxy_bypass(parts.hostname or "")


def _packet(content: bytes) -> bytes:
    return f"{len(content) + 4:04x}".encode() + content


def _request() -> bytes:
    return b"".join(
        (
            _packet(b"command=ls-refs\n"),
            _packet(b"object-format=sha1"),
            b"0001",
            _packet(b"symrefs\n"),
            _packet(b"ref-prefix HEAD\n"),
            *(_packet(f"ref-prefix {kind}\n".encode()) for kind in _KINDS),
            b"0000",
        )
    )


def _packets(stream: BinaryIO) -> Iterator[bytes]:
    """The packets up to the next flush packet."""
    total = 0
    while True:
        try:
            length = int(stream.read(4), 16)
        except ValueError:
            raise _OtherwiseError from None
        if length == 0:
            return
        content = stream.read(length - 4) if length > 4 else b""
        total += length
        if len(content) != length - 4 or total > _LARGEST:
            raise _OtherwiseError
        yield content


def _lines(content: bytes) -> Iterator[bytes]:
    at = 0
    while True:
        try:
            length = int(content[at : at + 4], 16)
        except ValueError:
            raise _OtherwiseError from None
        if length == 0 and at + 4 == len(content):
            return
        if length <= 4 or at + length > len(content):
            raise _OtherwiseError
        yield content[at + 4 : at + length]
        at += length


def _parsed(packets: Iterable[bytes]) -> Refs:
    ids, head, detached = {}, "", ""
    for packet in packets:
        value, _, rest = packet.decode(errors="surrogateescape").rstrip("\n").partition(" ")
        name, *attributes = rest.split(" ")
        if not name or len(value) not in {40, 64}:
            raise _OtherwiseError
        if name == "HEAD":
            detached = value
            for attribute in attributes:
                if attribute.startswith("symref-target:"):
                    head = attribute.removeprefix("symref-target:")
        elif name.startswith(_KINDS):
            ids[name] = value
    return Refs(ids, head, detached)

"""Reads lists of repositories, as lines or YAML, and refuses every entry that is not plainly one."""

from __future__ import annotations

import base64
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from cache_stage import lists
from cache_stage.addresses import masked

_COMPONENT = re.compile(r"[A-Za-z0-9._~+@][A-Za-z0-9._~+@-]{0,199}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


class RefusedError(Exception):
    """An entry of a list is not an address that is fetched from; says why."""


@dataclass(frozen=True)
class Repository:
    """A repository to fetch, and where it goes below the destination."""

    url: str  #: without user and password, but for the user of ssh
    path: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        """Who is asked for it."""
        return urlsplit(self.url).hostname or "localhost"


@dataclass(frozen=True)
class Refused:
    """An entry that is left out; nothing secret is in it."""

    entry: str
    why: str


def read(
    text: str, *, base: str = "", protocols: Sequence[str] = ("https",)
) -> tuple[list[Repository], list[Refused]]:
    """The repositories of a list in the order given, each once, and what was refused.

    `base` goes before entries that are names only. Raises ListError for YAML that is not a list.
    """
    repositories: dict[str, Repository] = {}
    refused = []
    for entry in lists.entries(text):
        shown = masked(repr(entry) if not isinstance(entry, str) or not entry.isprintable() else entry)
        try:
            repository = _repository(entry, base, protocols)
            other = repositories.setdefault(repository.path, repository)
            if other.url != repository.url:
                raise RefusedError(f"{other.url} goes to {repository.path} already; give one of them a path")
        except RefusedError as error:
            refused.append(Refused(shown[:200], str(error)))
    return list(repositories.values()), refused


def fetch(url: str, timeout: float) -> str:
    """The text of a list on a web server. Raises ListError."""
    parts = urlsplit(url)
    bare = url.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)
    request = urllib.request.Request(bare)
    if parts.username is not None:
        # A redirection to elsewhere must not take it along.
        request.add_unredirected_header("Authorization", basic(parts.username, parts.password or ""))
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(request, timeout=timeout) as answer:
            content: bytes = answer.read(lists.LARGEST + 1)
    except (OSError, ValueError) as error:
        raise lists.ListError(f"{masked(url)} can't be read: {masked(str(error))}") from None
    return lists.decoded(content, masked(url))


def basic(user: str, password: str) -> str:
    """The value of the header Authorization."""
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _repository(entry: object, base: str, protocols: Sequence[str]) -> Repository:
    url, path = _url_and_path(entry, base)
    if not url.isprintable() or any(letter.isspace() for letter in url):
        raise RefusedError("it has characters that no address has")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedError("it is no address") from None
    if parts.scheme not in protocols:
        raise RefusedError(
            f"{parts.scheme or 'what has no protocol'} is not allowed (DIB_CACHE_GIT_PROTOCOLS:"
            f" {' '.join(protocols)})"
        )
    host = parts.hostname or ""
    if parts.scheme == "file":
        if host not in {"", "localhost"}:
            raise RefusedError("a file is on this machine only")
        host = ""
    elif not _HOST.fullmatch(host):
        raise RefusedError("its host is not a name or an IPv4 address")
    if parts.query or parts.fragment or not parts.path.strip("/"):
        raise RefusedError("its address has no path, or more than a path")
    _checked(parts.path.strip("/"))
    name = path or f"{host or 'localhost'}/{parts.path.strip('/')}"
    user, password = parts.username or "", parts.password or ""
    where = f"{host}:{port}" if port else host
    if parts.scheme == "ssh" and user:
        if not re.fullmatch(r"[A-Za-z0-9._][A-Za-z0-9._-]*", user):
            raise RefusedError("its user is not a plain name")
        where, user, password = f"{user}@{where}", "", ""
    address = f"{parts.scheme}://{where}{parts.path.rstrip('/')}"
    return Repository(url=address, path=_checked(name.removesuffix(".git")), user=user, password=password)


def _url_and_path(entry: object, base: str) -> tuple[str, str]:
    if isinstance(entry, str):
        url, path, *more = [*entry.split(" "), ""] if " " in entry else [entry, ""]
        if any(more):
            raise RefusedError("it has more than an address and a path")
    elif isinstance(entry, dict) and ("url" in entry or "project" in entry):
        # The keys of Gerrit's lists of projects that are not about where they are don't matter here.
        if "url" in entry and not entry.keys() <= {"url", "path"}:
            raise RefusedError("it has other keys than url and path")
        url, path = entry["url"] if "url" in entry else entry["project"], entry.get("path", "")
    else:
        raise RefusedError("it is neither an address nor a mapping with url or project")
    if not isinstance(url, str) or not isinstance(path, str):
        raise RefusedError("its address or its path is not a text")
    if path:
        _checked(path)
    if "://" not in url:
        _checked(url)
        if not base:
            raise RefusedError("it is not an address (user@host:path is written ssh://user@host/path)")
        url = f"{base.rstrip('/')}/{url}"
    return url, path


def _checked(path: str) -> str:
    """The path, when it stays below where it is put and names nothing of git's own."""
    for component in path.split("/"):
        if component in {".", ".."} or component.lower() == ".git" or not _COMPONENT.fullmatch(component):
            raise RefusedError(f"{component!r} in its path is not a plain name")
    return path

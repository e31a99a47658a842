"""Read small files from mirrors: over HTTP or from a directory, bounded in size and time."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as SlowError

import builder
from builder.config.model import masked_credentials
from builder.dib.contents.deadline import CannotTellError, Deadline

LOG = logging.getLogger(__name__)

_CHUNK: Final = 16 * 1024
#: Seconds to wait for a connection, and for each piece of an answer.
_PATIENCE: Final = 8.0
_REDIRECTS: Final = 5


class AbsentError(CannotTellError):
    """The mirror answers, and has no such file."""


@dataclass(frozen=True, kw_only=True)
class Downloader:
    """Reads http:, https: and file: URLs, by the proxy variables of a build's `environment`.

    Only what is in the URL itself authenticates us: no netrc is read, as apt reads none.
    """

    deadline: Deadline
    environment: Mapping[str, str] = field(default_factory=dict)

    def read(self, url: str, *, limit: int) -> bytes:
        """A whole file of at most `limit` bytes; errors as `pieces`."""
        return b"".join(self.pieces(url, limit=limit))

    def pieces(self, url: str, *, limit: int) -> Iterator[bytes]:
        """A file as it comes. Raises AbsentError when there is none, and CannotTellError for all else:
        no URL, no answer in time, another status, too many redirects, more than `limit` bytes, fewer
        than announced."""
        scheme = _scheme(url)
        if scheme in ("http", "https"):
            source = self._remote(url)
        elif scheme == "file":
            source = _local(url)
        else:
            raise CannotTellError(f"{masked_credentials(url)}: only http, https and file can be read")
        total = 0
        for piece in source:
            self.deadline.check()
            total += len(piece)
            if total > limit:
                raise CannotTellError(f"{masked_credentials(url)}: more than {limit} bytes")
            yield piece

    def _remote(self, url: str) -> Iterator[bytes]:
        shown = masked_credentials(url)
        patience = max(0.1, min(_PATIENCE, self.deadline.remaining))
        try:
            with answered(url, self.environment, timeout=patience) as response:
                yield from _body(response, shown)
        except (requests.RequestException, HTTPError, ValueError) as error:
            # ValueError: the URL of a redirect or of the proxy can't be taken apart.
            # Their text may repeat the URL, or what a proxy said.
            LOG.debug("%s: %s", shown, masked_credentials(str(error)))
            raise CannotTellError(f"{shown}: {_said(error)}") from error


class _Session(requests.Session):
    """Follows no redirect and reads no body by itself."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: for whoever redirects us requests would read all of what comes with it, unpacked, and
        however much there is, before it even looks whether it shall follow."""
        return None


@contextmanager
def answered(url: str, environment: Mapping[str, str], *, timeout: float) -> Iterator[requests.Response]:
    """What a http(s) server answers, by the proxies of an environment, its body not yet read.

    At most _REDIRECTS redirects are followed, to http(s) only. `timeout`: seconds to connect, and between
    two pieces of the answer. Raises requests.RequestException and ValueError.
    """
    with _Session() as session, ExitStack() as answers:
        # The build's proxy, not this daemon's; and no password of a .netrc.
        session.trust_env = False
        session.verify = authorities()
        # Compressed on the way, the bytes would not be those that the index of the mirror names.
        session.headers["Accept-Encoding"] = "identity"
        session.headers["User-Agent"] = f"imagepool/{builder.__version__}"
        for _ in range(_REDIRECTS + 1):
            response = answers.enter_context(
                session.get(url, stream=True, timeout=timeout, proxies=proxies(url, environment))
            )
            if not response.is_redirect:
                yield response
                return
            url = urljoin(url, response.headers["Location"])
            if urlsplit(url).scheme not in ("http", "https"):
                raise requests.exceptions.InvalidSchema("a redirect to something else than http or https")
        raise requests.TooManyRedirects


def head(response: requests.Response, size: int) -> bytes:
    """How the body of an answer begins: at most so many bytes, fewer where no more come in one go.

    Raises requests.RequestException.
    """
    return next(response.iter_content(size), b"")


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise CannotTellError(f"{masked_credentials(url)} is no URL") from error


def _body(response: requests.Response, shown: str) -> Iterator[bytes]:
    if response.status_code in (404, 410):
        raise AbsentError(f"{shown}: there is no such file")
    if response.status_code != 200:
        raise CannotTellError(f"{shown}: the mirror answers {response.status_code}")
    announced, received = response.headers.get("Content-Length", ""), 0
    # read1 gives what is there: whoever sends a byte now and then must not hold us beyond our time.
    while piece := response.raw.read1(_CHUNK, decode_content=False):
        received += len(piece)
        yield piece
    if announced.isdecimal() and int(announced) != received:
        raise CannotTellError(f"{shown}: {received} of {announced} bytes came")


def _local(url: str) -> Iterator[bytes]:
    path = Path(unquote(urlsplit(url).path))
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_CHUNK):
                yield piece
    except FileNotFoundError as error:
        raise AbsentError(f"{path}: there is no such file") from error
    except OSError as error:
        raise CannotTellError(f"{path}: {error.strerror}") from error


def proxies(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The proxies for a URL by the variables of an environment, as curl and apt read them; for requests."""
    lower = {name.lower(): value for name, value in environment.items()}
    if _is_near(urlsplit(url).hostname or "", lower.get("no_proxy", "")):
        return {}
    named = {scheme: lower.get(f"{scheme}_proxy", "") for scheme in ("http", "https", "all")}
    return {scheme: proxy for scheme, proxy in named.items() if proxy}


def _is_near(host: str, no_proxy: str) -> bool:
    """Whether a host is one of those that no proxy is asked for: names, and what ends in ".name"."""
    names = (name.strip().lstrip(".") for name in no_proxy.split(","))
    return any(name == "*" or host == name or host.endswith(f".{name}") for name in names if name)


def authorities() -> str | bool:
    """Who may vouch for a server: this machine's authorities, as for apt, else those of requests."""
    places = ssl.get_default_verify_paths()
    return places.cafile or places.capath or True


def _said(error: Exception) -> str:
    if isinstance(error, requests.TooManyRedirects):
        return f"more than {_REDIRECTS} redirects"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, requests.Timeout | SlowError):
        return "no answer"
    if isinstance(error, requests.ConnectionError):
        return "can't be reached"
    if isinstance(error, HTTPError):
        return "the answer broke off"
    return "not a usable address or answer"

"""How bytes travel over HTTP: large blocks, bodies that can't be sent twice, answers with an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import requests
import urllib3
from keystoneauth1.session import TCPKeepAliveAdapter

from builder.cloud.base import Body

#: Bytes that are read and sent at once. http.client's own 16 KiB cost half as much CPU again. A block must
#: leave within the timeout for a stall, so one much larger would forbid slow lines.
BLOCK: Final = 256 * 1024
#: Bytes of any answer: a page of images with many properties has less than a megabyte.
ANSWER_LIMIT: Final = 16 << 20
#: Connections to one service that are kept open for the next request.
KEPT_CONNECTIONS: Final = 64


class _Adapter(TCPKeepAliveAdapter):  # type: ignore[misc]  # its types are not followed
    """Connections that send large blocks."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, blocksize=BLOCK, **more)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, blocksize=BLOCK, **more)


def mount(session: requests.Session) -> requests.Session:
    """Let a session of requests send as we want it; returns it."""
    adapter = _Adapter(pool_maxsize=KEPT_CONNECTIONS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


class Stream:
    """A body for requests that has a length and can't be rewound, so that nobody sends it twice.

    `error` is what the body raised; the libraries below would translate some of it.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        # requests takes only what can be iterated for a stream; urllib3 then calls `read`.
        while chunk := self.read(BLOCK):
            yield chunk

    def read(self, amount: int = -1) -> bytes:
        """The next bytes; what the body raises is kept."""
        try:
            return self._body.read(amount)
        except BaseException as error:
            self.error = error
            raise


class TooLongError(Exception):
    """An answer has more than ANSWER_LIMIT bytes."""


def read(answer: requests.Response, deadline: float) -> bytes:
    """The body of an answer, read until `deadline` (monotonic).

    requests knows a timeout only between two bytes, and no limit of size. Raises
    requests.RequestException and TooLongError.
    """
    body = bytearray()
    # One read to its end has given its connection back by then; of any other, closing ends it.
    with closing(answer):
        try:
            # Unlike `iter_content`, which waits until it has all it asked for.
            while chunk := answer.raw.read1(64 * 1024, decode_content=True):
                body += chunk
                if len(body) > ANSWER_LIMIT:
                    raise TooLongError
                if time.monotonic() > deadline:
                    raise requests.Timeout("the answer comes too slowly")
        except urllib3.exceptions.TimeoutError as error:
            raise requests.Timeout(str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(str(error)) from error
    return bytes(body)

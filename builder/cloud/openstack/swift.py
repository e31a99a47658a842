"""Objects in Swift that delete themselves, in segments where one would be too large."""

from __future__ import annotations

import logging
import re
from typing import Any, Final
from urllib.parse import quote

import requests

from builder.cloud.base import Body
from builder.cloud.openstack.connection import OBJECT_STORE
from builder.cloud.openstack.requester import Requester

LOG = logging.getLogger(__name__)

#: Where openstacksdk puts what a task shall import.
CONTAINER: Final = "images"
#: Seconds until Swift deletes an object by itself: long enough for any import.
LIFE: Final = 24 * 60 * 60
#: Bytes of the largest object that Swift takes (its default `max_file_size`), and of our segments.
LARGEST: Final = 5 * 1024**3
SEGMENT: Final = 1024**3

_EXPIRY: Final = {"X-Delete-After": str(LIFE)}


class Objects:
    """The object store of one provider's region."""

    def __init__(self, requester: Requester, *, largest: int = LARGEST, segment: int = SEGMENT) -> None:
        """`largest`: bytes above which an object is sent in segments of `segment` bytes."""
        self._requester = requester
        self._largest = largest
        self._segment = segment

    def put(self, name: str, body: Body, *, timeout: float) -> None:
        """Send an object; the container is made when it is missing.

        A large one is there only once all of its segments are (Swift's "static large objects").
        """
        what = f"send object {name}"
        path = self._path(what, name)
        # Making a container again does no harm, and an object's bytes can't be sent twice.
        self._requester.accept(what, self._ask(what, "PUT", f"/{CONTAINER}"))
        if len(body) <= self._largest:
            self._send(what, path, body, timeout)
        else:
            self._send_segments(what, name, body, timeout)

    def delete(self, name: str) -> None:
        """Delete an object with its segments, also those of one that was never finished."""
        what = f"delete object {name}"
        self._remove(what, name)
        for segment in self._segments(what, name):
            self._remove(what, segment)

    def _send(self, what: str, path: str, body: Body, timeout: float) -> str:
        """Send one object; its ETag."""
        answer = self._requester.put(what, path, body, timeout=timeout, service=OBJECT_STORE, headers=_EXPIRY)
        return str(self._requester.accept(what, answer).headers.get("Etag", "")).strip('"')

    def _send_segments(self, what: str, name: str, body: Body, timeout: float) -> None:
        manifest: list[dict[str, object]] = []
        for start in range(0, len(body), self._segment):
            part = _Part(body, min(self._segment, len(body) - start))
            # The names are openstacksdk's, too.
            segment = f"{name}/{len(manifest):06}"
            etag = self._send(what, self._path(what, segment), part, timeout)
            manifest.append({"path": f"/{CONTAINER}/{segment}", "size_bytes": len(part), "etag": etag})
        query = {"multipart-manifest": "put"}
        answer = self._ask(what, "PUT", self._path(what, name), params=query, json=manifest, headers=_EXPIRY)
        self._requester.accept(what, answer)
        LOG.debug("%s: it has %d segments", what, len(manifest))

    def _segments(self, what: str, name: str) -> list[str]:
        """The names of an object's segments."""
        prefix = f"{name}/"
        answer = self._ask(what, "GET", f"/{CONTAINER}", params={"prefix": prefix, "format": "json"})
        if answer.status_code == 404:
            return []
        self._requester.accept(what, answer)
        try:
            listed = answer.json() if answer.content else []
        except (ValueError, RecursionError):
            listed = None
        if not isinstance(listed, list):
            raise self._requester.failures.strange(what, "a list of objects that is none")
        names = [each.get("name") for each in listed if isinstance(each, dict)]
        number = re.compile(re.escape(prefix) + r"[0-9]{6}\Z")
        return [each for each in names if isinstance(each, str) and number.match(each)]

    def _remove(self, what: str, name: str) -> None:
        answer = self._ask(what, "DELETE", self._path(what, name))
        if answer.status_code != 404:
            self._requester.accept(what, answer)

    def _ask(self, what: str, method: str, path: str, **more: Any) -> requests.Response:
        return self._requester.ask(what, method, path, service=OBJECT_STORE, **more)

    def _path(self, what: str, name: str) -> str:
        """An object's path below the endpoint; CloudError for a name that would lead elsewhere."""
        if not all(part.strip(".") for part in name.split("/")):
            raise self._requester.failures.wrong(what, f"{name!r} is no name for an object")
        return f"/{CONTAINER}/{quote(name)}"


class _Part:
    """The next so many bytes of a body, as a body."""

    def __init__(self, body: Body, size: int) -> None:
        self._body = body
        self._size = size
        self._left = size

    def __len__(self) -> int:
        return self._size

    def read(self, amount: int = -1, /) -> bytes:
        wanted = self._left if amount < 0 else min(amount, self._left)
        # At the end of a part, the body is not at its own.
        chunk = self._body.read(wanted) if wanted else b""
        self._left -= len(chunk)
        return chunk

"""Small questions to the cloud's HTTP interfaces, with the standard library only."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devcloud.errors import DevCloudError

# Loopback only: a proxy from the environment would be asked for 127.0.0.1 otherwise.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TIMEOUT = 20.0  #: seconds; a service that needs longer for such a small question hangs


class ApiError(DevCloudError):
    """A service didn't answer, or refused; `status` is its HTTP status, None without an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who asks, with a password, for which project; everything in the domain Default."""

    user: str
    password: str
    project: str


class Session:
    """A token of one user, and requests made with it."""

    def __init__(self, keystone_url: str, login: Login) -> None:
        self._keystone = keystone_url
        domain = {"id": "default"}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": login.user, "domain": domain, "password": login.password}},
                },
                "scope": {"project": {"name": login.project, "domain": domain}},
            }
        }
        with _request("POST", f"{keystone_url}/auth/tokens", body, {}) as answer:
            self._token = {"X-Auth-Token": answer.headers["X-Subject-Token"]}

    def get(self, url: str) -> Any:
        """The JSON at a URL; a path is Keystone's."""
        return self._json("GET", url, None)

    def send(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the service answers to a change; None without a body."""
        return self._json(method, url, body)

    def _json(self, method: str, url: str, body: Mapping[str, Any] | None) -> Any:
        full = url if url.startswith("http") else self._keystone + url
        with _request(method, full, body, self._token) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def ask(url: str) -> None:
    """Ask without a token; ApiError when the answer isn't a success."""
    _request("GET", url, None, {}).close()


def _request(
    method: str, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json", **headers}
    )
    try:
        answer: http.client.HTTPResponse = _OPENER.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(500).decode(errors="replace")
        raise ApiError(f"{method} {url} answered {error.code}: {said}", error.code) from error
    except (OSError, http.client.HTTPException) as error:
        raise ApiError(f"{method} {url} got no answer: {error}") from error
    return answer

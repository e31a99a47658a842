"""Makes one request of a provider, and tells what came of it.

Repeating: a PUT of bytes is never sent twice, whatever happens. Any other request is repeated in
one case only, that the service answered 401 (it did nothing) to a token that had been revoked early.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import requests
from keystoneauth1.session import Session

from builder.cloud.base import Body
from builder.cloud.openstack.connection import IMAGE, Connection, connect
from builder.cloud.openstack.failures import FOREIGN_ERRORS, Failures
from builder.cloud.openstack.login import Logins
from builder.cloud.openstack.pace import Pace
from builder.cloud.openstack.transport import ANSWER_LIMIT, Stream, TooLongError, mount, read
from builder.config.model import Provider
from builder.errors import CloudError, ConfigError
from builder.model import FailureClass

LOG = logging.getLogger(__name__)

#: A token must live so many seconds more when a PUT starts: Glance throws a whole image away when
#: the token ends meanwhile.
TOKEN_LIFE: Final = 30 * 60
#: For other requests: more than keystoneauth itself wants, so that it never logs in on its own.
SHORT_LIFE: Final = 150

#: Arguments that make keystoneauth send a request once, and leave the answer's body to us: its debug
#: log would read it, however long. A redirected PUT would be an empty one.
_ONCE: Final[Mapping[str, Any]] = {
    "authenticated": True,
    "allow_reauth": False,
    "raise_exc": False,
    "redirect": False,
    "connect_retries": 0,
    "status_code_retries": 0,
    "stream": True,
    "log": False,
}


class Requester:
    """The requests of one provider, from any thread.

    clouds.yaml is read at the first, and again after the cloud refused who we are or could not be
    found: what was corrected needs no restart.
    """

    def __init__(self, provider: Provider, logins: Logins, answer_timeout: float) -> None:
        """`answer_timeout`: seconds for every request but a PUT of bytes."""
        self.failures = Failures(provider)
        self._provider = provider
        self._logins = logins
        self._answer_timeout = answer_timeout
        self._pace = Pace(provider.rate)
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def connection(self, what: str, *, life: float = SHORT_LIFE) -> Connection:
        """The way there, with a token that lives so many seconds; CloudError, CloudUnavailableError."""
        try:
            with self._lock:
                # Nothing here waits for the cloud, so the lock is never held for long.
                connection = self._connection
                if connection is None or connection.login.over:
                    connection = connect(self._provider, self._logins, self._answer_timeout)
                    self._connection = connection
        except ConfigError as error:
            raise self.failures.of_config(what, error) from error
        except FOREIGN_ERRORS as error:
            raise self.failures.of_error(what, error) from error
        try:
            connection.login.prepare(life)
        except FOREIGN_ERRORS as error:
            raise self._broken(what, error) from error
        return connection

    def ask(
        self, what: str, method: str, path: str, *, service: str = IMAGE, **more: Any
    ) -> requests.Response:
        """One request; whatever the service answers. `more` is for requests."""
        connection = self.connection(what)
        answer = self._ask_once(what, connection, method, path, service, more)
        if answer.status_code == 401 and connection.login.replace(_token(answer)):
            answer = self._ask_once(what, self.connection(what), method, path, service, more)
        return answer

    def put(
        self,
        what: str,
        path: str,
        body: Body,
        *,
        timeout: float,
        service: str = IMAGE,
        headers: Mapping[str, str],
    ) -> requests.Response:
        """Send bytes in one PUT; whatever the service answers. What the body raises is raised as it is.

        `timeout`: seconds without a byte moving, or waiting for the answer.
        """
        connection = self.connection(what, life=TOKEN_LIFE)
        shared = connection.login.session
        stream = Stream(body)
        # A connection of its own: a kept-alive one may be closed by the server just as it is
        # used, and what is sent is never sent again.
        with mount(requests.Session()) as http:
            session = Session(
                auth=shared.auth,
                session=http,
                verify=shared.verify,
                cert=shared.cert,
                app_name=shared.app_name,
            )
            try:
                return self._exchange(
                    what,
                    session,
                    connection.endpoint(service) + path,
                    "PUT",
                    headers={"Content-Type": "application/octet-stream", "Accept": "*/*", **headers},
                    data=stream,
                    timeout=(timeout, timeout),
                )
            except ConfigError as error:
                raise self.failures.of_config(what, error) from error
            except FOREIGN_ERRORS as error:
                if stream.error is not None:
                    raise stream.error from None
                raise self._broken(what, error) from error

    def accept(self, what: str, answer: requests.Response) -> requests.Response:
        """The answer, when the service did it; raises what it said otherwise."""
        if 200 <= answer.status_code < 300:
            return answer
        if answer.status_code == 401:
            self._forget(login=True)
        raise self.failures.of_answer(what, answer)

    def document(self, what: str, answer: requests.Response) -> dict[str, Any]:
        """The JSON object in an answer; CloudError when there is none."""
        try:
            document = answer.json()
        except (ValueError, RecursionError):  # the latter where there are brackets in brackets in brackets
            document = None
        if not isinstance(document, dict):
            raise self.failures.strange(what, "an answer that is no JSON object")
        return document

    def _ask_once(
        self,
        what: str,
        connection: Connection,
        method: str,
        path: str,
        service: str,
        more: Mapping[str, Any],
    ) -> requests.Response:
        headers = {"Accept": "application/json", **more.get("headers", {})}
        try:
            return self._exchange(
                what,
                connection.login.session,
                connection.endpoint(service) + path,
                method,
                timeout=(self._answer_timeout, self._answer_timeout),
                **{**more, "headers": headers},
            )
        except ConfigError as error:
            raise self.failures.of_config(what, error) from error
        except FOREIGN_ERRORS as error:
            raise self._broken(what, error) from error

    def _exchange(self, what: str, session: Session, url: str, method: str, **more: Any) -> requests.Response:
        """Send, and read the answer within limits of size and time; FOREIGN_ERRORS, CloudError."""
        self._pace.wait()
        answer: requests.Response = session.request(url, method, **_ONCE, **more)
        LOG.debug("provider %s: %s: answer %d", self._provider.name, what, answer.status_code)
        try:
            body = read(answer, time.monotonic() + 2 * self._answer_timeout)
        except TooLongError:
            raise self.failures.strange(what, f"an answer of more than {ANSWER_LIMIT} bytes") from None
        # From here on `text` and `json` find it in memory.
        answer.raw = io.BytesIO(body)
        return answer

    def _broken(self, what: str, error: Exception) -> Exception:
        """What an error means. After one that trying again can't mend, all is asked for anew."""
        failure = self.failures.of_error(what, error)
        if isinstance(failure, CloudError):
            self._forget(login=failure.failure_class is FailureClass.AUTH)
        return failure

    def _forget(self, *, login: bool) -> None:
        """Read clouds.yaml again at the next request; with `login`, all regions of the cloud log in anew."""
        with self._lock:
            connection, self._connection = self._connection, None
        if login and connection is not None:
            connection.login.over = True


def _token(answer: requests.Response) -> str | None:
    token = answer.request.headers.get("X-Auth-Token")
    return token.decode() if isinstance(token, bytes) else token

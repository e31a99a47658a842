"""What the errors of the libraries and the refusals of the services mean for us."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

import openstack.exceptions
import requests
from keystoneauth1 import exceptions as keystone_errors

from builder.config.model import MASK, Provider, credentials_in
from builder.errors import CloudError, CloudUnavailableError, ConfigError
from builder.model import FailureClass

#: Characters of what a service said that go into a message.
SAID_LIMIT: Final = 300
#: Characters of it that are looked at for that: an answer may have megabytes.
LOOKED_AT: Final = 64 * 1024

#: All that the libraries below raise when a request can't be made or is not answered.
FOREIGN_ERRORS: Final = (
    keystone_errors.ClientException,
    openstack.exceptions.SDKException,
    requests.RequestException,
    OSError,
)

Failed = CloudError | CloudUnavailableError

_TIMEOUTS: Final = (TimeoutError, requests.Timeout, keystone_errors.ConnectTimeout)
_BROKEN: Final = (keystone_errors.ConnectionError, ConnectionError)
_QUOTA: Final = re.compile(r"quota|over.?limit|limit exceeded|exceeds.{0,40}limit|storage.{0,20}full", re.I)
#: Each part ends somewhere even where the markup is broken, or it would be searched for from every place
#: where it begins, while no other thread of ours runs.
_TAGS: Final = re.compile(r"<head>.*?(?:</head>|\Z)|<[^<>]*>", re.S | re.I)


class Failures:
    """Makes the errors of one provider: who wanted what, what came of it, what to do about it."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def of_config(self, what: str, error: ConfigError) -> CloudError:
        """clouds.yaml does not lead anywhere, now."""
        return CloudError(
            self._message(what, error.message), failure_class=FailureClass.CONFIG, hint=error.hint
        )

    def of_error(self, what: str, error: Exception) -> Failed:
        """One of FOREIGN_ERRORS came instead of an answer."""
        chain = tuple(_chain(error))
        http = next((e for e in chain if isinstance(e, keystone_errors.HttpError)), None)
        if http is not None:
            # Only a login raises these: the other answers are looked at as they are.
            return self.of_refusal(what, http.http_status, short(str(http.message)))
        if any(isinstance(e, _TIMEOUTS) for e in chain):
            return CloudUnavailableError(
                self._message(what, f"no answer in time{_where(error)}"), failure_class=FailureClass.TIMEOUT
            )
        if any(isinstance(e, _BROKEN) for e in chain):
            # The last in the chain is the system's own word, such as "Connection refused".
            words = next((e.strerror or str(e) for e in reversed(chain) if isinstance(e, OSError)), "")
            return CloudUnavailableError(
                self._message(what, f"{short(words or str(error))}{_where(error)}"),
                failure_class=FailureClass.NETWORK,
            )
        refused = isinstance(error, keystone_errors.AuthorizationFailure)
        return CloudError(
            self._message(what, short(str(error))),
            failure_class=FailureClass.AUTH if refused else FailureClass.CONFIG,
            hint=f"Check cloud {self._provider.cloud!r} in clouds.yaml.",
        )

    def of_answer(self, what: str, answer: requests.Response) -> Failed:
        """A service said no."""
        return self.of_refusal(what, answer.status_code, _said(answer))

    def of_refusal(self, what: str, status: int, said: str) -> Failed:
        """The same, of its status and words."""
        message = self._message(what, f"the answer was {status}: {said}")
        failure_class = _class_of(status, said)
        if status >= 500 or status in (408, 429):
            return CloudUnavailableError(message, failure_class=failure_class)
        deleting = what.startswith("delete image")
        return CloudError(
            message,
            failure_class=failure_class,
            hint=self._hint(deleting, status),
            in_use=deleting and status == 409,
        )

    def strange(self, what: str, said: str) -> CloudError:
        """A service answered what can't be understood."""
        return CloudError(self._message(what, f"the cloud sent {said}"), failure_class=FailureClass.CLOUD)

    def wrong(self, what: str, why: str) -> CloudError:
        """We were asked for what must not be sent."""
        return CloudError(self._message(what, why), failure_class=FailureClass.CLOUD)

    def _message(self, what: str, why: str) -> str:
        return f"provider {self._provider.name}: could not {what}: {why}"

    def _hint(self, deleting: bool, status: int) -> str:
        if deleting and status == 409:
            return "It is in use: delete the servers and volumes made from it first."
        if deleting and status == 403:
            return "If it is protected, unprotect it: openstack image set --unprotected IMAGE"
        if status in (401, 403):
            return f"Check the credentials and roles of cloud {self._provider.cloud!r} in clouds.yaml."
        return ""


def short(text: str) -> str:
    """One line of limited length without credentials."""
    line = _masked(" ".join(text[:LOOKED_AT].split()))
    return line if len(line) <= SAID_LIMIT else line[: SAID_LIMIT - 1] + "…"


def _class_of(status: int, said: str) -> FailureClass:
    if status == 413 or _QUOTA.search(said):
        return FailureClass.QUOTA
    if status in (401, 403):
        return FailureClass.AUTH
    if status in (408, 504):
        return FailureClass.TIMEOUT
    return FailureClass.CLOUD


def _said(answer: requests.Response) -> str:
    """What the service said, as text for people; never a token."""
    text = (_message_of(answer) or answer.text)[:LOOKED_AT]
    token = answer.request.headers.get("X-Auth-Token") if answer.request is not None else None
    if token:
        text = text.replace(token if isinstance(token, str) else token.decode(), MASK)
    return short(html.unescape(_TAGS.sub(" ", text))) or answer.reason or "nothing more"


def _message_of(answer: requests.Response) -> str:
    """What is said in a document of JSON, as Glance answers who asks for JSON."""
    try:
        document = answer.json()
    except (ValueError, RecursionError):  # the latter where there are brackets in brackets in brackets
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else ""


def _masked(text: str) -> str:
    """The text without the credentials of its URLs, which may be repeated elsewhere in it."""
    for each in credentials_in(text):
        text = text.replace(each, MASK)
    return text


def _where(error: Exception) -> str:
    """The address a library's message names, as " (host:port)"."""
    address = re.search(r"https?://(?:[^/@\s]*@)?([^/\s]+)", _masked(str(error)))
    return f" ({address[1].rstrip(':')})" if address else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it: keystoneauth and requests wrap the one that tells."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        waiting += [e for e in linked if isinstance(e, BaseException)]

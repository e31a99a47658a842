"""Tells an event to a web server by POST; it was told when the answer is of the 200s.

What is sent is signed as Standard Webhooks has it
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md), so that
receivers find a library for it. Nothing that the server says is passed on: it may repeat what is secret.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, urlsplit

#: Before a secret that is base64, by Standard Webhooks.
_PREFIX: Final = "whsec_"
_PORTS: Final = {"http": 80, "https": 443}


def signing_key(secret: str) -> bytes:
    """The key that a secret as written stands for; ValueError when it can't be one."""
    text = secret.strip()
    if not text:
        raise ValueError("it is empty")
    if not text.startswith(_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {_PREFIX} is no base64") from None


def headers_for(event: str, body: bytes, key: bytes | None, now: datetime) -> dict[str, str]:
    """The headers that an event has at this try; `key` None leaves it unsigned."""
    stamp = str(int(now.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "imagepool",
        "Connection": "close",
        "webhook-id": event,
        "webhook-timestamp": stamp,
    }
    if key is not None:
        digest = hmac.digest(key, f"{event}.{stamp}.".encode() + body, "sha256")
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def send(url: str, body: str, *, event: str, key: bytes | None, timeout: float, now: datetime) -> str | None:
    """POST an event within `timeout` seconds; why it was not told, None when it was.

    That certificates are good is checked; SSL_CERT_FILE names other authorities than the system's. No
    redirect is followed, and no proxy is asked.
    """
    data = body.encode()
    try:
        status = _post(urlsplit(url), data, headers_for(event, data, key, now), timeout)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not good: {error.verify_message}"
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except OSError as error:
        return f"it can't be reached: {error.strerror or type(error).__name__}"
    except UnicodeError:
        return "its name is no name of a host"
    except http.client.HTTPException as error:
        return f"it does not speak HTTP: {type(error).__name__}"
    return _judged(status)


def _judged(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    try:
        text = f"it answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        text = f"it answered {status}"
    return f"{text}, and redirects are not followed" if 300 <= status < 400 else text


def _post(url: SplitResult, body: bytes, headers: Mapping[str, str], timeout: float) -> int:
    """The status of the answer; TimeoutError, OSError and HTTPException."""
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((host, port), timeout))
        stack.enter_context(_deadline(plain, timeout))
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
            connection.sock = stack.enter_context(context.wrap_socket(plain, server_hostname=host))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
            connection.sock = plain
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, body, dict(headers))
        with connection.getresponse() as answer:
            return answer.status


@contextlib.contextmanager
def _deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Cut a connection off after so many seconds, as TimeoutError: a socket's own timeout begins anew with
    each byte, and who sends one now and then would hold us for ever."""
    passed = threading.Event()
    # A descriptor of its own: the connection's belongs to TLS soon.
    with connection.dup() as handle:

        def cut() -> None:
            passed.set()
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if passed.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
        if passed.is_set():
            # The end of a connection ends the headers of an answer, too, wherever it comes.
            raise TimeoutError

"""Webhooks, to a real server on loopback: what it gets, what counts as told, and what never comes out."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builder.notify import webhook
from tests.fakes import receiver as fake
from tests.fakes.receiver import Receiver, receiving

NOW = datetime(2026, 11, 21, 12, 0, 0, 500_000, tzinfo=UTC)
BODY = '{"text": "img is ready"}'
LIMIT = 20.0
DOCS = (Path(__file__).parents[2] / "docs" / "notify.md").read_text()


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def send(url: str, *, key: bytes | None = None, timeout: float = LIMIT, now: datetime = NOW) -> str | None:
    return webhook.send(url, BODY, event="e1.ready", key=key, timeout=timeout, now=now)


# -- what arrives ---------------------------------------------------------------------------------


def test_an_event_is_posted_as_it_is(server: Receiver) -> None:
    assert send(f"{server.url}/hooks/ci?room=images") is None
    (delivery,) = server.got
    assert (delivery.path, delivery.body) == ("/hooks/ci?room=images", BODY.encode())
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["webhook-id"] == "e1.ready"
    assert delivery.headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert delivery.headers["webhook-signature"] is None
    assert delivery.headers["host"] == server.url.removeprefix("http://")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example that the specification's own libraries are tested with."""
    key = webhook.signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook.headers_for(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        key,
        datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def documented_check() -> Any:
    """The function that docs/notify.md gives to receivers."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    return names["genuine"]


@pytest.mark.parametrize("secret", ["a plain secret\n", f"whsec_{base64.b64encode(b'0123456789').decode()}"])
def test_receivers_can_check_it_as_the_docs_say(server: Receiver, secret: str) -> None:
    key = webhook.signing_key(secret)
    assert send(server.url, key=key, now=datetime.now(UTC)) is None
    (delivery,) = server.got
    genuine = documented_check()
    headers: Mapping[str, str] = dict(delivery.headers.items())
    assert genuine(headers, delivery.body, key)
    assert not genuine(headers, delivery.body + b" ", key)
    assert not genuine(headers, delivery.body, b"another")
    assert not genuine({**headers, "webhook-id": "e2.ready"}, delivery.body, key)
    later = {**headers, "webhook-timestamp": str(int(time.time()) + 1)}
    assert not genuine(later, delivery.body, key)


def test_an_old_message_is_not_genuine_any_more(server: Receiver) -> None:
    assert send(server.url, key=b"key", now=datetime.fromtimestamp(time.time() - 3600, UTC)) is None
    (delivery,) = server.got
    assert not documented_check()(dict(delivery.headers.items()), delivery.body, b"key")


@pytest.mark.parametrize("secret", ["", " \n", "whsec_?"])
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"empty|base64"):
        webhook.signing_key(secret)


# -- what counts as told --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_success_will_do(server: Receiver, status: int) -> None:
    server.answers = [status]
    assert send(server.url) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [(500, "500 Internal Server Error"), (404, "404 Not Found"), (410, "410 Gone"), (599, "answered 599")],
)
def test_anything_else_is_none(server: Receiver, status: int, words: str) -> None:
    server.answers = [status]
    assert words in (send(server.url) or "")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_nor_told(server: Receiver, status: int) -> None:
    server.answers = [status]
    why = send(server.url)
    assert why is not None and "redirects are not followed" in why and "hush" not in why
    assert len(server.got) == 1


def test_a_server_that_hangs_is_left_after_the_timeout(server: Receiver) -> None:
    server.answers = [fake.hang]
    begun = time.monotonic()
    assert send(server.url, timeout=0.3) == "no answer within 0.3 s"
    assert time.monotonic() - begun < LIMIT / 2


def test_one_that_says_a_byte_now_and_then_gets_no_more_time(server: Receiver) -> None:
    server.answers = [fake.drip]
    begun = time.monotonic()
    assert send(server.url, timeout=0.5) == "no answer within 0.5 s"
    assert time.monotonic() - begun < LIMIT / 2


@pytest.mark.parametrize("answer", [fake.cut, fake.babble])
def test_what_is_no_answer_is_none_and_not_repeated(server: Receiver, answer: Any) -> None:
    server.answers = [answer]
    why = send(server.url)
    assert why is not None and "hush" not in why


def test_a_refused_connection_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/T0K3N") == "it can't be reached: Connection refused"


def test_no_thread_is_left_behind(server: Receiver) -> None:
    before = threading.active_count()
    server.answers = [500, fake.drip]
    for _ in range(3):
        send(server.url, timeout=0.2)
    server.released.set()
    deadline = time.monotonic() + LIMIT
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody has signed but itself, for 127.0.0.1, with its key."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    key = file.with_name("key.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 2"
    argv = ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*argv, "-keyout", str(key), "-out", str(file)], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + key.read_bytes())
    return file


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(certificate: Path) -> None:
    with receiving(certificate) as server:
        why = send(server.url)
        assert why is not None and why.startswith("its certificate is not good: self-signed")
        assert server.got == []


def test_authorities_can_be_named(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with receiving(certificate) as server:
        assert send(server.url, key=b"key") is None
        assert server.got[0].body == BODY.encode()


def test_a_certificate_for_another_name_is_not_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with receiving(certificate) as server:
        why = send(server.url.replace("127.0.0.1", "localhost"))
        assert why is not None and "certificate" in why and server.got == []


def test_a_server_that_never_ends_its_handshake_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begun = time.monotonic()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert send(url, timeout=0.3) == "no answer within 0.3 s"
        assert time.monotonic() - begun < LIMIT / 2

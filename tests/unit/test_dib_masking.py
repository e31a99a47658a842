"""What must not be told: a secret, in whatever way it comes out."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import pytest

from builder.config.model import MASK
from builder.dib.logs.masking import Masker

SECRETS = [
    "it's $ecret",
    "'",
    "a,b~c#d",
    "#~x",
    'say "hi" \\ `now`!',
    "two\nlines",
    "t\tb\x1b\a\v\x01",
    "pässwörd€",
    "\x85x",
]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize(
    "how",
    [
        'set -x; : $TOKEN_IS TOKEN="$TOKEN"',
        'printf %q "$TOKEN"',
        'printf %q "TOKEN=$TOKEN"',
        "declare -p TOKEN",
        'echo "${TOKEN@Q}"',
        "set | grep ^TOKEN=",
        "export TOKEN; $PYTHON -c 'import os; print(repr(os.environ[\"TOKEN\"]))'",
        "export TOKEN; $PYTHON -c 'import json, os; print(json.dumps(os.environ[\"TOKEN\"]))'",
    ],
)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_masked_in_each_way_programs_write_it(secret: str, how: str, locale: str) -> None:
    def told(value: str) -> str:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHON": sys.executable, "TOKEN": value}
        done = subprocess.run(["bash", "-c", how], check=True, capture_output=True, env=environment)
        return (done.stdout + done.stderr).decode(errors="surrogateescape")

    # Quotes around it may differ with what is in it; of the secret itself nothing may be left.
    masked = Masker([secret])(told(secret))
    assert MASK in masked
    assert set(masked) - set("'\"$\n") <= set(told("") + MASK)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize(
    "secret",
    [
        "it's\tnewpass99word",
        "first'lineSECRET\nsecond'lineSECRET",
        "''quoted''\x01SECRETxyz'",
        "back\\slash'\tSECRETabc",
        "dollar$xyz`who`\"said\"'SECRET'",
        "bell\a'escape\x1b'delete\x7f'SECRET\r'",
        "päss'wörd\vSECRET",
    ],
)
def test_nothing_readable_is_left_of_a_secret_that_is_quoted_and_then_traced(
    secret: str, locale: str
) -> None:
    # As dib does with its environment (lib/disk-image-create, cleanup.d/01-copy-manifests-dir).
    done = subprocess.run(
        ["bash", "-c", 'ALL=$(declare -p TOKEN); WORD=$(printf %q "$TOKEN"); set -x; : "$ALL"; : "$WORD"'],
        env={"PATH": os.environ["PATH"], "LC_ALL": locale, "TOKEN": secret},
        check=True,
        capture_output=True,
    )
    told = done.stderr.decode(errors="surrogateescape")
    masked = "\n".join(map(Masker([secret]), told.splitlines()))
    words = re.findall("[A-Za-z0-9]{3,}", secret)
    assert any(word in told for word in words)
    assert [word for word in words if word in masked] == []


def test_a_secret_is_masked_as_dib_quotes_it_for_a_shell() -> None:
    assert Masker(["it's"])("+ TOKEN=" + shlex.quote("it's")) == f"+ TOKEN='{MASK}'"


def test_each_line_of_a_secret_is_secret() -> None:
    mask = Masker(["-----BEGIN-----\nabcdef\n-----END-----", "", "abc"])
    assert "abcdef" not in mask("key: abcdef")
    assert mask("nothing here") == "nothing here"


@pytest.mark.parametrize("secret", ["p@ss/w0rd & more", "pässwörd€", "a+b=c?d%e", "plain-token"])
@pytest.mark.parametrize("case", [str, lambda text: re.sub("%..", lambda found: found[0].lower(), text)])
@pytest.mark.parametrize("how", [quote, quote_plus, lambda text: quote(text, safe="")])
def test_a_secret_in_an_address_is_masked(
    secret: str, how: Callable[[str], str], case: Callable[[str], str]
) -> None:
    assert Masker([secret])(f"https://me:{case(how(secret))}@git.test/") == f"https://me:{MASK}@git.test/"


def test_a_secret_in_a_form_is_masked() -> None:
    assert Masker(["two words & more"])(urlencode({"key": "two words & more"})) == f"key={MASK}"


@pytest.mark.parametrize("before", ["", "u:", "user:", "a-user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_in_base64_is_masked_with_and_without_a_name_before_it(
    before: str, encode: Callable[[bytes], bytes]
) -> None:
    secret = "s3cr3t>>?p\u00e4ss"
    encoded = encode(f"{before}{secret}".encode()).decode()
    masked = Masker([secret])(f"Authorization: Basic {encoded}")
    assert MASK in masked
    # Bits of the neighbours are in the characters at both ends; nothing of the middle may stay.
    left = masked.replace("Authorization: Basic ", "").split(MASK)
    assert sum(map(len, left)) <= len(encode(before.encode())) + 4


def test_a_key_in_lines_of_base64_is_masked_line_by_line() -> None:
    key = "".join(chr(33 + n % 90) for n in range(200))
    text = base64.encodebytes(key.encode()).decode()
    masked = Masker([key])(text)
    assert max(map(len, masked.replace(MASK, "").splitlines())) < 8


def test_what_is_short_is_masked_as_a_word_and_leaves_the_rest_readable() -> None:
    mask = Masker(["a", "42"])
    assert mask("TOKEN=a PIN='42'") == f"TOKEN={MASK} PIN='{MASK}'"
    assert mask("a cat made 1423 marks") == f"{MASK} cat made 1423 marks"


def test_a_secret_in_windows_lines_is_masked() -> None:
    mask = Masker(["first line\r\nsecond line\r\n"])
    assert mask("x first line") == f"x {MASK}"
    assert mask("second line\r") == f"{MASK}\r"
    assert "second" not in mask("echo first line second line")


def test_braces_of_a_secret_document_are_no_secret() -> None:
    assert Masker(['{\n"password": "sesame"\n}'])("{ x }") == "{ x }"


@pytest.mark.parametrize("at", range(40))
def test_a_secret_cut_in_two_is_masked(at: int) -> None:
    mask, text = Masker(["open sesame", "other"]), f"{'x' * 14}open sesame{'y' * 14}"
    shown, waiting = mask.begin(text[:at])
    assert shown + mask(waiting + text[at:]) == f"{'x' * 14}{MASK}{'y' * 14}"

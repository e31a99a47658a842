"""Checks public SSH keys: from KEY_TEXT and KEY_FILE in the environment to authorized_keys on stdout.

Ends with 1 and names the line when something is not a key. What stands there is never repeated: it may be
a private key.
"""

import base64
import binascii
import os
import re
import sys
from pathlib import Path

TEXT, FILE = "DIB_CI_SSH_KEY", "DIB_CI_SSH_KEY_FILE"
KINDS = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
#: Parts of the data behind its name: curve and point, exponent and modulus, and so on.
PARTS = {"ssh-ed25519": 1, "sk-ecdsa-sha2-nistp256@openssh.com": 3}
#: Options as sshd(8) has them: names, some with a quoted value, which may have quotes after backslashes.
OPTION = r'[A-Za-z0-9-]+(?:="(?:[^"\\]|\\.)*")?'
KEY = rf"({'|'.join(map(re.escape, KINDS))})[ \t]+([A-Za-z0-9+/]+={{0,2}})"
LINE = re.compile(rf"(?:{OPTION}(?:,{OPTION})*[ \t]+)?{KEY}(?:[ \t].*)?")
SHORTEST_RSA = 2048


class KeysError(Exception):
    """What is given is not a list of public keys."""


def checked(text, source):
    """The keys of a text, one a line; empty lines and comments are left out."""
    keys = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r")
        if line and not line.startswith("#"):
            try:
                check(line)
            except KeysError as error:
                raise KeysError(f"line {number} of {source} is not a public SSH key: {error}") from None
            keys.append(line)
    return keys


def check(line):
    """Raise unless a line is one of authorized_keys."""
    if not line.replace("\t", " ").isprintable():
        raise KeysError("it has control characters")
    if "PRIVATE KEY" in line:
        raise KeysError("it belongs to a private key; give the public one (.pub)")
    found = LINE.fullmatch(line)
    if found is None:
        raise KeysError(f"expected [options] KIND BASE64 [comment], KIND one of {', '.join(KINDS)}")
    kind, data = found.groups()
    try:
        parts = list(split(base64.b64decode(data, validate=True)))
    except (binascii.Error, ValueError):
        raise KeysError("its data is cut off or damaged") from None
    if parts[0] != kind.encode() or len(parts) - 1 != PARTS.get(kind, 2):
        raise KeysError(f"its data is not of the kind {kind}")
    if kind == "ssh-ed25519" and len(parts[1]) != 32:
        raise KeysError("its data has not the length of a key")
    if kind == "ssh-rsa" and int.from_bytes(parts[2], "big").bit_length() < SHORTEST_RSA:
        raise KeysError(f"it is an RSA key of less than {SHORTEST_RSA} bits, which sshd may refuse")


def split(data):
    """The parts of a key's data, each of which begins with its length in four bytes (RFC 4253, 6.6)."""
    while data:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            raise ValueError("cut off")
        yield data[4 : 4 + length]
        data = data[4 + length :]


def file_text(path):
    """What is in the file with the keys."""
    file = Path(path)
    if not file.is_absolute():
        raise KeysError(f"{FILE} is no absolute path: {path}")
    # Whoever reads a pipe or a device may wait for ever.
    if file.exists() and not file.is_file():
        raise KeysError(f"{FILE} is no file: {path}")
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise KeysError(f"{FILE} can't be read: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeysError(f"{FILE} is no text: {path}") from None


def main():
    """From the environment to standard output."""
    text, path = os.environ.get(TEXT, ""), os.environ.get(FILE, "")
    try:
        keys = checked(text, TEXT)
        if path:
            keys += checked(file_text(path), path)
        if (text.strip() or path) and not keys:
            raise KeysError(f"there is no key in {TEXT} or {FILE}, although one of them is set")
    except KeysError as error:
        sys.stderr.write(f"ci-base: error: {error}\n")
        return 1
    sys.stdout.write("".join(f"{key}\n" for key in dict.fromkeys(keys)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

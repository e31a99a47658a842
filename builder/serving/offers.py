"""Knows which files are offered, and under which unguessable tokens.

A file is opened when it is offered and read through that very descriptor: nothing a client says is ever
looked up in the file system, and what takes the file's place there later, link or not, is never served.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.errors import NotFoundError

#: Bytes of chance in a token.
_CHANCE: Final = 32
# Without O_NONBLOCK, a pipe in the file's place would make us wait for a writer.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Offer:
    """One file on offer, open until it is withdrawn and the last transfer of it ended."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.status = os.fstat(descriptor)
        self._descriptor = descriptor
        self._holders = 1
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """Opens the very file, whatever became of its name; only for a holder."""
        return f"/proc/self/fd/{self._descriptor}"

    def hold(self) -> None:
        """Keep the file open; only for whoever knows that somebody else holds it."""
        with self._lock:
            self._holders += 1

    def drop(self) -> None:
        """Hold the file no longer."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            os.close(self._descriptor)


@dataclass(frozen=True, kw_only=True)
class Token:
    """What a client has to know of an offer: it is a secret."""

    text: str

    @property
    def key(self) -> bytes:
        """What it is looked up by. A digest, so that no lookup takes longer the more of it was guessed."""
        return hashlib.sha256(self.text.encode()).digest()


class Offers:
    """All files on offer, for use by many threads."""

    def __init__(self) -> None:
        self._offers: dict[bytes, Offer] = {}
        self._lock = threading.Lock()

    def add(self, path: Path) -> Token:
        """Offer a file; NotFoundError when there is none, or something else than a plain file."""
        offer = Offer(path.name, _opened(path))
        token = Token(text=secrets.token_urlsafe(_CHANCE))
        with self._lock:
            self._offers[token.key] = offer
        return token

    def held(self, token: Token, name: str) -> Offer | None:
        """The offer of that token and file name, held for the caller, who has to drop it."""
        key = token.key
        with self._lock:
            offer = self._offers.get(key)
            if offer is None or offer.name != name:
                return None
            offer.hold()
            return offer

    def remove(self, token: Token) -> Offer | None:
        """End an offer and return it, still held; None when there was none."""
        with self._lock:
            return self._offers.pop(token.key, None)

    def clear(self) -> None:
        """End all offers."""
        with self._lock:
            ended, self._offers = self._offers, {}
        for offer in ended.values():
            offer.drop()


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise NotFoundError(f"{path} can't be offered to clouds: {error.strerror}") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotFoundError(f"{path} can't be offered to clouds: it is no plain file")

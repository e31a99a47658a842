"""Reads lists of files to download, as lines or YAML, and finds everything that is wrong with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cache_stage import lists
from cache_stage.addresses import masked

_COMPONENT = re.compile(r"[A-Za-z0-9_+@~][A-Za-z0-9._+@~-]{0,199}|\.[A-Za-z0-9_][A-Za-z0-9._+@~-]{0,198}")
_ALGORITHMS = ("sha256", "sha512")
_KEYS = frozenset({"url", "path", "mode", *_ALGORITHMS})


class EntryError(Exception):
    """An entry is not a file to download; says why."""


@dataclass(frozen=True)
class File:
    """A file to download."""

    url: str = field(repr=False)  #: may have a password in it
    algorithm: str
    checksum: str
    path: str  #: below the directory of the image
    mode: int = 0o644

    @property
    def shown(self) -> str:
        """The address, fit for a log."""
        return masked(self.url)

    @property
    def kept(self) -> str:
        """Its name in the cache, which says what must be in it."""
        return f"{self.algorithm}-{self.checksum}"


def read(text: str) -> tuple[list[File], list[str]]:
    """The files of a list in the order given, and what is wrong with the other entries.

    Raises ListError for YAML that is not a list.
    """
    files: dict[str, File] = {}
    wrong = []
    for number, entry in enumerate(map(_fields, lists.entries(text)), 1):
        try:
            file = _file(entry)
            if files.setdefault(file.path, file) != file:
                raise EntryError(f"another one goes to {file.path}")
        except EntryError as error:
            shown = entry.get("url", entry) if isinstance(entry, dict) else entry
            wrong.append(f"entry {number}, {masked(ascii(shown))[:200]}: {error}")
    names = {path for path in files for other in files if other.startswith(f"{path}/")}
    return list(files.values()), [
        *wrong,
        *(f"{name} would be a file and a directory" for name in sorted(names)),
    ]


def _fields(entry: Any) -> Any:
    """A line, URL ALGORITHM:CHECKSUM PATH [MODE], as a mapping; anything else as it is."""
    words = entry.split() if isinstance(entry, str) else []
    if not 3 <= len(words) <= 4:
        return entry
    algorithm, _, checksum = words[1].partition(":")
    fields = {"url": words[0], algorithm: checksum, "path": words[2]}
    return {**fields, "mode": words[3]} if len(words) == 4 else fields


def _file(entry: Any) -> File:
    if not isinstance(entry, dict):
        raise EntryError("it is not a mapping, nor a line URL ALGORITHM:CHECKSUM PATH [MODE]")
    strange = sorted(str(key) for key in entry if key not in _KEYS)
    if strange:
        raise EntryError(f"it has {', '.join(map(ascii, strange))}; {', '.join(sorted(_KEYS))} are known")
    url, path = entry.get("url"), entry.get("path")
    if not isinstance(url, str) or not _is_address(url):
        raise EntryError("its url is not an address that begins with http:// or https://")
    if path is None:
        path = urlsplit(url).path.rpartition("/")[2]
    if not isinstance(path, str) or not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        raise EntryError(f"its path {path!r} is not one of plain names below the directory")
    algorithm, checksum = _checksum(entry)
    return File(url, algorithm, checksum, path, _mode(entry.get("mode", "644")))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(' "\\')
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _checksum(entry: Mapping[str, Any]) -> tuple[str, str]:
    given = [(algorithm, entry[algorithm]) for algorithm in _ALGORITHMS if algorithm in entry]
    if not given:
        raise EntryError(f"it has no checksum ({' or '.join(_ALGORITHMS)})")
    # The strongest of them.
    algorithm, checksum = given[-1]
    length = hashlib.new(algorithm).digest_size * 2
    if not isinstance(checksum, str) or not re.fullmatch(f"[0-9a-fA-F]{{{length}}}", checksum):
        raise EntryError(f"its {algorithm} is not {length} hexadecimal digits")
    return algorithm, checksum.lower()


def _mode(given: Any) -> int:
    # YAML would take 0644 for 420, and 644 for itself.
    if not isinstance(given, str) or not re.fullmatch("0?[0-7]{3}", given):
        raise EntryError(f"its mode {given!r} is not a text of three octal digits")
    return int(given, 8)

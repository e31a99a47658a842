"""Take secrets out of text, in each way that shells and programs may write them.

What can't be found is told here, so that nobody relies on it: a secret that is printed in pieces, one
that went through a cipher or a compressor, and one of up to three characters inside a longer word.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

from builder.config.model import MASK, masked_credentials

#: Shorter ones are masked as whole words only: every "a" replaced would leave nothing to read.
_SHORT: Final = 4
#: A line of a secret that has several, such as "}", says nothing below this.
_SHORTEST_LINE: Final = 3
#: Fewer characters of base64 would be found in what is no secret.
_LEAST_BASE64: Final = 8
#: Columns at which base64 and openssl break their lines.
_BASE64_LINES: Final = (64, 76)

#: What $'...' of bash has a letter for, and neither JSON nor Python.
_ANSI_C: Final = {"\a": r"\a", "\v": r"\v", "\x1b": r"\E"}
_QUOTED_ONCE: Final = ("'", "\\'", "'\\''", "'\"'\"'")
#: A single quote. What a shell has quoted ("declare -p", "printf %q"), its trace quotes once more.
_QUOTES: Final = sorted(
    {*_QUOTED_ONCE, *(form.replace("'", "'\\''") for form in _QUOTED_ONCE)}, key=len, reverse=True
)


class Masker:
    """Replaces secret values in text: as they are, quoted for a shell, JSON or Python, percent-encoded
    for a URL, in base64 (alone or with a user's name before it), and each line of those with several.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        written = {pattern for secret in secrets for pattern in _patterns(secret)}
        longest_first = sorted(written, key=lambda pattern: (-len(pattern), pattern))
        self._pattern = re.compile("|".join(longest_first)) if longest_first else None
        #: A pattern is longer than what it finds, so this many characters hold any half of a secret.
        self._reach = max(map(len, written), default=0)

    def __call__(self, text: str) -> str:
        """`text` with every secret value replaced by stars."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def begin(self, text: str) -> tuple[str, str]:
        """Mask the beginning of a text that goes on: what can be shown, and what has to wait.

        The second part, unmasked, belongs before the text to come; a secret may end there.
        """
        cut = max(len(text) - self._reach, 0)
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() < cut < match.end():
                cut = match.start()
        return self(text[:cut]), text[cut:]


def _patterns(secret: str) -> Iterator[str]:
    lines = [line for line in secret.splitlines() if len(line.strip()) >= _SHORTEST_LINE]
    for part in {secret, secret.strip(), " ".join(secret.split()), *lines}:
        if not part.strip():
            continue
        yield _bounded(part, "".join(map(_written, part)))
        if len(part) >= _SHORT:
            yield from map(re.escape, {*_for_urls(part), *_in_base64(part)})


def _bounded(part: str, pattern: str) -> str:
    """The pattern, as a whole word if it is short."""
    if len(part) >= _SHORT:
        return pattern
    before = r"(?<![0-9A-Za-z])" if part[0].isalnum() else ""
    after = r"(?![0-9A-Za-z])" if part[-1].isalnum() else ""
    return f"{before}{pattern}{after}"


def _written(character: str) -> str:
    """A pattern for a character as shells, JSON and Python write it between quotes of theirs."""
    forms = [rf"\\?{re.escape(character)}"]
    if character == "'":
        forms = [re.escape(form) for form in _QUOTES]
    elif not (character.isascii() and character.isprintable()):
        octal = "".join(f"\\{byte:03o}" for byte in character.encode(errors="surrogateescape"))
        escapes = {octal, json.dumps(character)[1:-1], repr(character)[1:-1], _ANSI_C.get(character, octal)}
        forms += [re.escape(form) for form in sorted(escapes)]
    return f"(?:{'|'.join(forms)})"


def _for_urls(part: str) -> Iterator[str]:
    raw = part.encode(errors="surrogateescape")
    for quoted in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), quoted)


def _in_base64(part: str) -> Iterator[str]:
    """What stays the same of a text in base64 whatever stands before and after it."""
    raw = part.encode(errors="surrogateescape")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        # Of the first and last characters, some bits belong to the neighbours.
        core = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        pieces = [core, *(core[n : n + width] for width in _BASE64_LINES for n in range(0, len(core), width))]
        for piece in pieces:
            if len(piece) >= _LEAST_BASE64:
                yield piece
                yield piece.translate(str.maketrans("+/", "-_"))


def masked(text: str, mask: Masker) -> str:
    """Text without secrets: those that are known, and what stands in a URL, which no variable may hold."""
    return masked_credentials(mask(text))


def mask_files(tree: Path, mask: Masker) -> None:
    """Take secrets out of dib's manifests: one of them is the environment of the build. Raises OSError."""
    for file in sorted(tree.rglob("*")):
        if file.is_file() and not file.is_symlink():
            text = file.read_text(encoding="utf-8", errors="surrogateescape")
            clean = masked(text, mask)
            if clean != text:
                file.write_text(clean, encoding="utf-8", errors="surrogateescape")

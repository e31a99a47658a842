"""Write what strangers said, and numbers, so that people can read them and no terminal obeys them."""

from __future__ import annotations

import re
from typing import Final

#: What a terminal obeys as a whole (ECMA-48): control sequences, titles and the like, and single words.
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[()][A-Z0-9]|\x1b[=>cM78]"
)
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")


def visible(text: str) -> str:
    """The text with every character that could act on a terminal written as an escape (`\\x1b`):
    controls, bidirectional overrides, line separators, and what Unicode doesn't know.

    Foreign tools (dpkg, a cloud's error page) put what they like into reasons and logs, and an image into
    the names of its files.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def plain(line: str) -> str:
    """A line as it reads on a terminal, without colours and whatever else that obeys."""
    text = _SEQUENCE.sub("", line)
    return text if text.isprintable() else "".join(c for c in text if c.isprintable() or c == "\t")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def size(count: int) -> str:
    """Bytes in decimal units with one digit: `352.0 MB`; below a thousand as they are: `12 B`."""
    amount, unit = float(count), _UNITS[0]
    for larger in _UNITS[1:]:
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def progress(done: int, total: int) -> str:
    """How much of a number of bytes is done: `45 %, 0.8 of 1.8 GB`."""
    done = max(0, done)
    percent = min(100, done * 100 // total) if total > 0 else 0
    whole, unit = size(total).split()
    amount = str(done) if unit == "B" else f"{done / 1000 ** _UNITS.index(unit):.1f}"
    return f"{percent} %, {amount} of {whole} {unit}"

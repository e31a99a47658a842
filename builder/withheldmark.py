"""How the property of a cloud image tells that its build is withheld, so that this outlives the records.

    2026-11-22T08:00:00+00:00 everywhere: no SSH server
    2026-11-22T08:00:00+00:00 here: no SSH server

Who said it stays on record: everybody who may use the image reads its properties.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from builder.model import Withholding

#: Characters that every Glance and database takes for a value.
LIMIT: Final = 255
#: Who is on record for what a property alone tells.
BY: Final = "imagepool recover"
_EVERYWHERE, _HERE = "everywhere", "here"
#: Older than anything: of what does not tell its time.
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: MySQL's "utf8" has no characters above it.
_HIGHEST: Final = 0xFFFF


def to_text(withholding: Withholding) -> str:
    """What the property says; the reason is cut to what fits, in one line."""
    where = _EVERYWHERE if withholding.provider is None else _HERE
    why = "".join(c if c.isprintable() and ord(c) <= _HIGHEST else " " for c in withholding.why)
    text = f"{withholding.time.isoformat()} {where}"
    if why := " ".join(why.split()):
        text += f": {why}"
    return text[:LIMIT].rstrip()


def from_text(text: str, provider: str) -> Withholding | None:
    """What a property says of an image in a provider; None when it is empty.

    Whoever may change images can write anything there. That the image is not to serve is believed all the
    same: it can be taken back, and a bad image that goes out again can't.
    """
    if not text.strip():
        return None
    words = text.split(maxsplit=2)
    time = _time(words[0])
    where = words[1].removesuffix(":") if len(words) > 1 else ""
    if time is None or where not in (_EVERYWHERE, _HERE):
        return Withholding(provider=provider, by=BY, time=time or _LONG_AGO, why=_shown(text))
    return Withholding(
        provider=None if where == _EVERYWHERE else provider,
        by=BY,
        time=time,
        why=_shown(words[2]) if len(words) > 2 else "",
    )


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return None if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:LIMIT])

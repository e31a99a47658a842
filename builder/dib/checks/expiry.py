"""Tell whether the index of a release is past the day its archive vouches for it until, as apt does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

#: Bytes of an index that are looked at; the field stands before the lists of files.
HEAD: Final = 4096
_UNTIL = re.compile(rb"^Valid-Until:[ \t]*(\S[^\r\n]*)", re.MULTILINE)
#: apt.conf(5); words for no as apt takes them.
_UNCHECKED = re.compile(
    r"Acquire::Check-Valid-Until\s+\"?(?:false|no|0|off|without|disable)\b", re.IGNORECASE
)
_OPTION: Final = "--aptopt="


def expired(head: bytes, now: datetime | None = None) -> datetime | None:
    """Since when an index that begins with these bytes is not to be trusted; None: it still is, or says
    nothing of that."""
    found = _UNTIL.search(head)
    if found is None:
        return None
    try:
        until = parsedate_to_datetime(found[1].decode("ascii", "replace"))
    except ValueError:
        return None  # apt itself will say that this is no date
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return until if until < (now or datetime.now(UTC)) else None


def is_unchecked(environment: Mapping[str, str]) -> bool:
    """Whether a build's apt is told not to mind: by --aptopt of DIB_MMDEBSTRAP_EXTRA_ARGS, which names
    settings or a file of them."""
    try:
        words = shlex.split(environment.get("DIB_MMDEBSTRAP_EXTRA_ARGS", ""))
    except ValueError:
        return False
    settings = [word.removeprefix(_OPTION) for word in words if word.startswith(_OPTION)]
    return any(_UNCHECKED.search(_text(setting)) for setting in settings)


def _text(setting: str) -> str:
    try:
        return Path(setting).read_text(errors="replace")
    except (OSError, ValueError):
        return setting

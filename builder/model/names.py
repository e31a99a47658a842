"""What may be a name or an id, and what records say that say nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

NAME_LIMIT: Final = 128
#: Clocks of machines differ, but by less than this. A time on record that is further ahead is of a broken
#: clock, and counts for nothing: otherwise what it stands for would stand still until then.
CLOCKS_DIFFER: Final = timedelta(days=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_BUILD_ID = re.compile(r"[0-9a-f]{32}\Z|[0-9]{10}\Z")
_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
#: No times of the schedule.
NO_TICKS: Final[Mapping[str, datetime]] = _EMPTY


def empty() -> Mapping[str, Any]:
    """The default of fields that are mappings."""
    # dataclasses take no unhashable default, which a mappingproxy is before Python 3.12.
    return _EMPTY


def name_problem(name: str) -> str | None:
    """Why `name` can't name an image, platform or provider; None when it can.

    Names become znodes, file names and parts of cloud image names, so only letters, digits,
    ".", "_", "+" and "-" are taken, starting with a letter or digit, at most NAME_LIMIT long.
    """
    if not name:
        return "a name must not be empty"
    if len(name) > NAME_LIMIT:
        return f"a name has at most {NAME_LIMIT} characters, this one has {len(name)}"
    if not _NAME.match(name):
        return (
            f"{name!r} is no valid name: use letters, digits, '.', '_', '+' and '-',"
            " and start with a letter or digit"
        )
    return None


def is_build_id(text: str) -> bool:
    """Whether `text` has the form of a build id: 32 hex digits, or nodepool 8's 10 digits."""
    return bool(_BUILD_ID.match(text))

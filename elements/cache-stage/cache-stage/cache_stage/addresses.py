"""Makes addresses fit for a log."""

from __future__ import annotations

import re

#: A password that should have been quoted may have a slash in it; what looks like a port is none.
_USERINFO = re.compile(r"://(?:[^/\s:]*:(?!\d*(?:/|\s|$))\S*|[^/\s]*)@")


def masked(text: str, *secrets: str) -> str:
    """The text without what may be a user or a password in an address, and without `secrets`."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _USERINFO.sub("://***@", text)

"""Says what of our environment an operator's program may see: nothing that could be a secret."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from builder.config.model import credentials_in

#: What programs need to run and to reach others; the rest may hold secrets of ours.
_PASSED: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    }
)


def passed(environ: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """The variables that are passed on: those every program needs, the locale and those named in `more`;
    never one with credentials in its value."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _PASSED or name in more or name.startswith("LC_")) and not credentials_in(value)
    }

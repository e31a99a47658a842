"""Send log messages to stderr, as much of them as was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Final, TextIO

from builder.cli import text
from builder.config.model import masked_credentials

#: Libraries that report each request; they are heard from -vv on.
CHATTY: Final = ("kazoo", "keystoneauth", "openstack", "urllib3", "stevedore", "watchdog")

#: Reports each try to reach a server. A command says in the end itself that none answered; the daemon
#: goes on trying, and its log tells how. Below INFO it would write credentials.
CONNECTION: Final = "builder.store.session.kazoo"
#: Say of what a command does itself what it says better in the end; keystoneauth's is of a login that failed.
TOLD_BETTER: Final = (CONNECTION, "keystoneauth.identity")

_FOR_COMMANDS: Final = "%(levelname)s: %(message)s"
_FOR_THE_DAEMON: Final = "%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s"


class _Formatter(logging.Formatter):
    """Nothing in a message acts on a terminal or looks like a line of its own: records and clouds put
    into it what they like. Tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        own = copy(record)
        # Where another handler has left the text of the traceback for us.
        own.exc_text = None
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = masked_credentials(text.visible(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        lines = masked_credentials(super().formatException(ei)).split("\n")
        return "\n".join(map(text.visible, lines))


class _Console(logging.StreamHandler[TextIO]):
    """Our handler, told from those of others."""


@contextmanager
def to_stderr(stream: TextIO, *, verbose: int, quiet: bool) -> Iterator[None]:
    """Log to `stream` while the block runs: warnings, with -v information, with -vv everything."""
    handler = _Console(stream)
    handler.setFormatter(_Formatter(_FOR_COMMANDS))
    root = logging.getLogger()
    before = root.level
    levels = {name: logging.getLogger(name).level for name in (*CHATTY, *TOLD_BETTER)}
    _set_levels(handler, _level(verbose, quiet), verbose)
    for name in TOLD_BETTER:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def for_the_daemon(*, verbose: int, quiet: bool) -> None:
    """Log as a daemon does: information by default, each line with time and thread."""
    for handler in (h for h in logging.getLogger().handlers if isinstance(h, _Console)):
        handler.setFormatter(_Formatter(_FOR_THE_DAEMON))
        _set_levels(handler, _level(verbose + 1, quiet), verbose)
        logging.getLogger(CONNECTION).setLevel(logging.INFO)


def _level(verbose: int, quiet: bool) -> int:
    if quiet:
        return logging.ERROR
    return (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]


def _set_levels(handler: logging.Handler, level: int, verbose: int) -> None:
    logging.getLogger().setLevel(level)
    # A logger with a level of its own passes by that of the root.
    handler.setLevel(level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose > 1 else logging.WARNING)

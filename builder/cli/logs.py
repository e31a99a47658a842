"""Send log messages to stderr, as much of them as was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

#: Libraries that report each request; they are heard from -vv on.
CHATTY: Final = ("kazoo", "keystoneauth", "openstack", "urllib3", "stevedore", "watchdog")

_FOR_COMMANDS: Final = "%(levelname)s: %(message)s"
_FOR_THE_DAEMON: Final = "%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s"


class _Console(logging.StreamHandler[TextIO]):
    """Our handler, told from those of others."""


@contextmanager
def to_stderr(stream: TextIO, *, verbose: int, quiet: bool) -> Iterator[None]:
    """Log to `stream` while the block runs: warnings, with -v information, with -vv everything."""
    handler = _Console(stream)
    handler.setFormatter(logging.Formatter(_FOR_COMMANDS))
    root = logging.getLogger()
    before = root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    _set_levels(handler, _level(verbose, quiet), verbose)
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
        handler.setFormatter(logging.Formatter(_FOR_THE_DAEMON))
        _set_levels(handler, _level(verbose + 1, quiet), verbose)


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

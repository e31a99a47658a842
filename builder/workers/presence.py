"""What a daemon shows of itself in ZooKeeper: who it is, what it can do, and whether it takes work now."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

from builder.errors import StoreUnavailableError
from builder.model import Daemon
from builder.store.base import Store

LOG = logging.getLogger(__name__)


class Presence:
    """The record of this daemon, changed by whichever worker learns of something. Thread-safe."""

    def __init__(self, store: Store, daemon: Daemon) -> None:
        """Nothing is shown before the first `show`."""
        self._store = store
        self._daemon = daemon
        self._shown: Daemon | None = None
        self._lock = threading.Lock()

    @property
    def daemon(self) -> Daemon:
        """What is shown, or about to be."""
        return self._daemon

    def show(self, **changes: Any) -> None:
        """Show the record with these fields of `Daemon` changed; nothing is written when all is shown.

        What the store can't take now is shown with the next call: the planning of others is the worse for
        it, but nothing breaks.
        """
        with self._lock:
            self._daemon = replace(self._daemon, **changes)
            if self._daemon == self._shown or not self._store.connected:
                return
            try:
                self._store.register(self._daemon)
            except StoreUnavailableError as error:
                LOG.info("this daemon's record stays as it was for now: %s", error.message)
            else:
                self._shown = self._daemon

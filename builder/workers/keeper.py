"""The keeper watches over the daemon itself: that the tree is the right one, and that it is shown as it is.

It works on any tree, and without one. What it finds it says, for somebody has to mend it:
    ZooKeeper gives no answer for long      what runs goes on, nothing is begun
    it holds another installation, or none  nothing is done there, and nothing is deleted, until ours is back
    the daemon was declared gone for good   that is taken back: it is here
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Config
from builder.model import Snapshot
from builder.workers.adopter import delete_gone
from builder.workers.base import Pass, Worker, World

LOG = logging.getLogger(__name__)

#: For so long ZooKeeper may be silent before it is said; an election, or a restart, takes seconds.
SILENCE: Final = timedelta(seconds=30)
#: Between two times that the same trouble is told.
REMINDER: Final = timedelta(minutes=10)


class Keeper(Worker):
    """Keeps this daemon's record true, and tells what keeps it from working."""

    def __init__(self, world: World, name: str, *, where: str) -> None:
        """`where`: which ZooKeeper it is, and what to look at when it is silent."""
        super().__init__(world, name)
        self._where = where
        self._silent_since: datetime | None = None
        self._told: datetime | None = None  #: when the trouble there is now was told last

    def step(self) -> Pass:
        """One pass, on whatever tree there is."""
        return self.act(self.world.config(), self.world.store.snapshot(), self.world.clock())

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Look at the tree."""
        if self._silent_since is not None:
            if self._told is not None:
                LOG.info("ZooKeeper answers again (%s)", self._where)
            self._silent_since = self._told = None
        if not self.world.at_home(snapshot):
            return Pass(due=self._tell_foreign(snapshot, now))
        if self._told is not None:
            LOG.info("ZooKeeper holds our installation again, the work goes on")
            self._told = None
        self._come_back(config, snapshot)
        self.world.presence.show()
        return Pass()

    def cut_off(self, now: datetime) -> datetime | None:
        """ZooKeeper is away: say so when it is for long; when to look again."""
        self._silent_since = self._silent_since or now
        if now < self._silent_since + SILENCE:
            return self._silent_since + SILENCE
        if self._told is None or self._told + REMINDER <= now:
            self._told = now
            seconds = (now - self._silent_since).total_seconds()
            LOG.error(
                "ZooKeeper gives no answer since %d s: what runs goes on, nothing is begun (%s)",
                seconds,
                self._where,
            )
        return self._told + REMINDER

    def _tell_foreign(self, snapshot: Snapshot, now: datetime) -> datetime:
        if self._told is None or self._told + REMINDER <= now:
            self._told = now
            LOG.error(
                "this daemon belongs to the installation %s, but ZooKeeper holds %s now: another server, or"
                " one that lost its data. Nothing is done and nothing is deleted until the right one is back."
                " If the old records are gone for good, stop this daemon and run `imagepool recover` (%s)",
                self.world.identity.installation_id,
                f"the installation {snapshot.installation}" if snapshot.installation else "none",
                self._where,
            )
        return self._told + REMINDER

    def _come_back(self, config: Config, snapshot: Snapshot) -> None:
        """Take back that this builder is gone for good."""
        here = self.world.identity.builder_id
        word = snapshot.forgotten.get(here)
        if word is not None:
            self.world.store.recall_builder(here)
            LOG.warning(
                "%s had declared this builder gone for good%s; it is here, and that is taken back",
                word.by,
                f" ({word.why})" if word.why else "",
            )
            delete_gone(self.world, config)

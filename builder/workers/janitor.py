"""The janitor cleans up: abandoned work, superseded images, and what somebody asked to go.

It plans on the whole tree and works in lanes: each provider has one of its own, so a cloud that hangs
delays nobody else's clean-up. What each action does is cleaning.py's business.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from builder.config.model import Config
from builder.model import Snapshot
from builder.planning.actions import CleanupAction, Verdict
from builder.planning.planner import Planner
from builder.workers.base import Pass, Worker, World, earliest
from builder.workers.cleaning import Cleaner, key
from builder.workers.lanes import Job, Lanes, PacedLanes

LOCAL = "this machine"


class Janitor(Worker):
    """Plans the clean-up of everything, and does what this machine can do."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._planner = Planner()
        self._cleaner = Cleaner(world)
        self._lanes = PacedLanes(
            Lanes(name, world.store.wake),
            clock=world.clock,
            ending=lambda: world.ending,
            on_failure=self.count_failure,
        )

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start every action that is due in the lane of its provider; returns without waiting for them."""
        actions = self._planner.cleanup(
            config,
            snapshot,
            now,
            builder_id=self.world.identity.builder_id,
            active=self.world.active.names(),
        )
        jobs = [self._job(config, action) for action in actions if action.verdict is Verdict.NOW]
        again = self._lanes.start(jobs, now)
        later = [action.due for action in actions if action.verdict is Verdict.LATER]
        return Pass(due=earliest([*later, again]))

    def busy(self) -> frozenset[str]:
        """The lanes that are at work: providers, and LOCAL."""
        return self._lanes.busy()

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any of them did anything since the last drain."""
        return self._lanes.drain()

    def _job(self, config: Config, action: CleanupAction) -> Job:
        return Job(
            lane=action.upload.provider if action.upload else LOCAL,
            key=key(action),
            reason=action.reason,
            do=partial(self._cleaner.act, config, action),
        )

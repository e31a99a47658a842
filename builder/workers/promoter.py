"""The promoter lets the newest good images serve, region by region, has them checked where that is asked for,
and tells images of withheld builds so.

What serves a provider is one fact in three places: in the record, in the cloud (a stable name, a tag) and in
nodepool's own sense. What is to serve is planning's to say; how it moves is promoting.py's business.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from builder.config.model import Config
from builder.model import Snapshot, Upload
from builder.planning.actions import Promotion, Verdict
from builder.planning.canary import Clearing
from builder.planning.checking import Checking
from builder.planning.planner import Planner
from builder.planning.promotion import plan_promotions
from builder.workers.base import Pass, Worker, World, earliest
from builder.workers.canaries import check, let_out
from builder.workers.hook import GRACE
from builder.workers.lanes import Job, Lanes, PacedLanes
from builder.workers.marking import mark
from builder.workers.promoting import Promoting
from builder.workers.reading import fresh_records

#: Checks that one daemon runs at once: each is a program, and a server in some cloud.
_AT_ONCE: Final = 10
#: Seconds for checks to end when the daemon stops. Whatever ignores TERM and has the output of a check is
#: waited for twice before it is killed (`Child.stop`); left alone, it would outlive us.
_LET_GO: Final = GRACE + 12.0


class Promoter(Worker):
    """Carries out the promotions that are due, each provider's in a lane of its own."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._planner = Planner()
        self._lanes = self._paced(name)
        # The promotion of other images there must not wait for a check that hangs.
        self._checks = self._paced(f"{name}-checks", at_once=_AT_ONCE)

    def _paced(self, name: str, at_once: int | None = None) -> PacedLanes:
        world = self.world
        return PacedLanes(
            Lanes(name, world.store.wake),
            clock=world.clock,
            ending=lambda: world.ending,
            on_failure=self.count_failure,
            at_once=at_once,
        )

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start all that is due; returns without waiting for it."""
        plan = self._planner.promotions(config, snapshot, now)
        # In each lane first what changes who serves: somebody may wait for that.
        jobs = [*self._promotions(config, plan), *self._markings(config, snapshot, now)]
        steps = self._planner.canaries(config, snapshot, now)
        jobs += self._clearings(config, steps)
        again = [self._lanes.start(jobs, now), self._checks.start(self._checkings(config, steps), now)]
        dues = (each.due for each in (*plan, *steps) if each.verdict is Verdict.LATER)
        return Pass(due=earliest([*again, *dues]))

    def run(self) -> None:
        """Pass after pass until the daemon is about to stop, and no check runs any more."""
        super().run()
        deadline = time.monotonic() + _LET_GO
        while self._checks.busy() and time.monotonic() < deadline:
            self._checks.wait_one(deadline - time.monotonic())

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any of them did anything since the last drain."""
        did = [self._lanes.drain(), self._checks.drain()]
        return any(did)

    def _promotions(self, config: Config, plan: tuple[Promotion, ...]) -> Iterator[Job]:
        for promotion in plan:
            if promotion.verdict is Verdict.NOW and promotion.upload is not None:
                yield Job(
                    lane=promotion.provider,
                    key=f"promotion of {promotion.upload.name}",
                    reason=promotion.reason,
                    do=partial(self._do, config, promotion.upload),
                )

    def _clearings(self, config: Config, steps: Iterable[Clearing | Checking]) -> Iterator[Job]:
        for step in steps:
            if isinstance(step, Clearing) and step.verdict is Verdict.NOW:
                yield Job(
                    lane=f"canaries of {step.image}",
                    key=f"letting out of {step.build.id}",
                    reason=step.reason,
                    do=partial(let_out, self.world, config, step),
                )

    def _checkings(self, config: Config, steps: Iterable[Clearing | Checking]) -> Iterator[Job]:
        for step in steps:
            if isinstance(step, Checking) and step.verdict is Verdict.NOW:
                yield Job(
                    lane=f"{step.upload.image} in {step.upload.provider}",
                    key=f"check of {step.upload.name}",
                    reason=step.reason,
                    do=partial(check, self.world, config, step),
                )

    def _markings(self, config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Job]:
        for marking in self._planner.markings(config, snapshot, now):
            yield Job(
                lane=marking.upload.provider,
                key=f"mark of {marking.upload.name}",
                reason=marking.reason,
                do=partial(mark, self.world, config, marking),
            )

    # -- one promotion ------------------------------------------------------------------------

    def _do(self, config: Config, heir: Upload) -> bool:
        # Nobody else promotes it meanwhile, and no janitor takes it away.
        claim = self.world.store.claim_upload(heir)
        if claim is None:
            return False  # when they let go, the tree changes and wakes us
        with claim:
            planned = self._plan_again(config, heir)
            if planned is None or planned.upload is None:
                return False
            return Promoting(self.world, config, planned, planned.upload).promote()

    def _plan_again(self, config: Config, heir: Upload) -> Promotion | None:
        """Its promotion as it is planned on what is true under the claim; None when it no longer is."""
        seen = self.world.store.snapshot()
        fresh = fresh_records(self.world.store, config, heir.image)
        plan = plan_promotions(config, replace(seen, images={heir.image: fresh}), self.world.clock())
        for again in plan:
            same = again.upload is not None and again.upload.name == heir.name
            if same and again.verdict is Verdict.NOW:
                return again
        return None

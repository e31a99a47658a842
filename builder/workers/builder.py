"""The builder takes a request under the image's claim, and builds unless the same would come out again.

Which crash leaves what, step by step:
    after the claim                      nothing: the lock dies with the session
    after the record, before the end     `building` without a lock: the janitor fails it as
                                         interrupted, the request is still there and is taken again
    after the files, before the end      the same, until its own daemon is back: that finds them whole,
                                         and gives the build its last word (adopter.py)
    after the last word on the record    the request, which the record answers: it is withdrawn
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from builder.config.model import Config, DiskImage
from builder.dib import engine, tools
from builder.dib.contents.unchanged import Comparison
from builder.errors import ConflictError, NotFoundError
from builder.model import Build, BuildState, Failure, ImageRecords, Request, Snapshot
from builder.planning.actions import Verdict
from builder.planning.assignment import look_again, takeable
from builder.planning.builds import decide_build, next_try
from builder.planning.planner import Planner
from builder.planning.records import newest_good
from builder.store.base import Claim, builds_newest_first
from builder.workers.base import PROMPT_REST, Pass, Worker, World, earliest
from builder.workers.building import Task, build, delete_files, job_for
from builder.workers.fitness import FRESH
from builder.workers.settle import Settler
from builder.workers.staying import make_room
from builder.workers.stopping import abandoned, interrupted

LOG = logging.getLogger(__name__)


class Builder(Worker):
    """Builds one requested image per pass."""

    longest_rest = PROMPT_REST

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._planner = Planner()
        self._settler = Settler(world.store, world.stopping, at_home=world.at_home)

    def run(self) -> None:
        """Pass after pass until the daemon is about to stop."""
        # They are remembered: whoever waits for a build is not to wait for them.
        tools.versions()
        super().run()

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Take the first request that is for this machine and that nobody else has."""
        decisions = self._planner.builds(config, snapshot, now)
        asked = [d for d in decisions if snapshot.image(d.image).request]
        if any(d.verdict is Verdict.NOW for d in asked):
            before, unfit = self.world.presence.daemon.unfit, self._fitness(config)
            if unfit is not None:
                # What stays to be looked at must not be what keeps this machine from building.
                make_room(self.world, config, snapshot)
                return Pass(due=now + timedelta(seconds=FRESH))
            if before is not None:
                return Pass(did=True)  # what is for this machine follows from what it shows
        mine = self.world.identity.builder_id
        for decision in takeable(config, snapshot, now, decisions, mine):
            if self.world.ending:
                break
            # A thread of ours may build it still, although its claim was lost with a session.
            with self.world.active.hold(f"image {decision.image}") as free:
                # Or a build of it is done, and waits for its last word.
                waits = decision.image in self.world.unsettled.images()
                if free and not waits and self._claim(config, config.diskimages[decision.image]):
                    return Pass(did=True)
        # The scheduler's clock may be ahead of ours: what it asked for is due here a moment later.
        later = [d.due for d in asked if d.verdict is Verdict.LATER]
        return Pass(due=earliest([*later, look_again(config, snapshot, now, decisions, mine)]))

    def _fitness(self, config: Config) -> str | None:
        """Why this machine can't build, None when it can; all others are told."""
        unfit = self.world.fitness.unfit(config)
        if unfit != self.world.presence.daemon.unfit:
            self.world.presence.show(unfit=unfit)
            if unfit is None:
                LOG.info("this machine takes builds again")
            else:
                LOG.error("this machine takes no builds: %s", unfit)
        return unfit

    def _claim(self, config: Config, image: DiskImage) -> bool:
        claim = self.world.store.claim_image(image.name)
        if claim is None:
            return False
        with claim:
            return self._take(config, image, claim)

    def _take(self, config: Config, image: DiskImage, claim: Claim) -> bool:
        """Decide again on what is true under the claim, then build; whether there was anything to do."""
        store, now = self.world.store, self.world.clock()
        request = store.get_request(image.name)
        if request is None:
            return False
        snapshot = store.snapshot()
        records = self._records(config, image, request, snapshot, now)
        decision = decide_build(image, snapshot.with_image(records), config, now)
        if decision.verdict is not Verdict.NOW:
            return False
        task = Task(config=config, image=image, request=request, records=records, claim=claim)
        last = newest_good(records)
        if decision.skippable and last is not None:
            found = self._compare(task, last)
            if self.world.ending or not claim.valid:
                return False  # it took a while: nothing is begun, and the request is there for whoever comes
            if found.same and self._checked(task, last, now):
                return True
            task = replace(task, changes=(*found.changes, *filter(None, [found.unknown])))
        if not claim.valid:
            return False
        make_room(self.world, config, snapshot.with_image(records), image)
        LOG.info("%s: building: %s", image.name, decision.reason)
        self._count(build(self.world, self._settler, task))
        return True

    def _count(self, ended: Build) -> None:
        if ended.state is BuildState.READY:
            self.done += 1
        else:
            self.failures += 1

    def _compare(self, task: Task, last: Build) -> Comparison:
        """Whether a build made now would be the last one over again; unknown, when comparing breaks."""
        here = last.builder_id == self.world.identity.builder_id
        job = job_for(self.world, task, last.id)
        try:
            return engine.compare(job, last, here=here, stop=self._hurry)
        except Exception as error:
            # A bug: the image must be built all the same, and if need be fail with a reason of its own.
            LOG.exception("comparing with build %s of %s broke", last.id, last.image)
            return Comparison(same=False, unknown=f"comparing broke: {type(error).__name__}")

    def _hurry(self) -> Failure | None:
        """Why what is only a look ahead of a build stops."""
        return interrupted() if self.world.ending else None

    def _checked(self, task: Task, last: Build, at: datetime) -> bool:
        """Put on record that the last build is what a new one would have been `at` that time, which
        answers the request; False when that build went its way meanwhile."""
        store = self.world.store
        try:
            current = store.get_build(last.image, last.id)
            if current.state is not BuildState.READY or current.quarantine is not None:
                return False
            store.update_build(replace(current, checked=at))
        except (ConflictError, NotFoundError):
            return False
        LOG.info("%s: build %s is unchanged, nothing is built", task.image.name, last.id)
        store.withdraw_request(task.request)
        return True

    def _records(
        self, config: Config, image: DiskImage, request: Request, snapshot: Snapshot, now: datetime
    ) -> ImageRecords:
        """What is true under the claim: nobody else can be building, whoever wrote `building` is gone."""
        known = replace(snapshot.image(image.name), request=request, build_claimed=False)
        known = replace(known, builds=self.world.store.list_builds(image.name))
        for each in known.builds:
            if each.state is BuildState.BUILDING:
                delete_files(self.world, config, each)
                gone = abandoned(each, now, known.cancellation)
                at_that = snapshot.with_image(known)
                gone = replace(gone, next_try=next_try(image, at_that, gone, config, now))
                gone = self.world.store.update_build(gone)
                others = tuple(other for other in known.builds if other.id != gone.id)
                known = replace(known, builds=builds_newest_first((gone, *others)))
        return known

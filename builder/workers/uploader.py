"""The uploader brings builds to the providers that list them, many at a time and none behind another.

One thread decides and claims; each upload then has a thread of its own. How many there are at a time
is places.py's business, what one does is uploading.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from builder.config.model import Config
from builder.errors import ImagepoolError
from builder.model import Build, Snapshot, UploadState
from builder.planning.actions import Breaker, BreakerState, UploadDecision, Verdict
from builder.planning.planner import Planner
from builder.planning.uploads import decide_upload
from builder.store.base import uploads_newest_first
from builder.workers.base import PROMPT_REST, Pass, Worker, World, earliest
from builder.workers.files import CheckedFiles
from builder.workers.lanes import Backoff, Lanes
from builder.workers.places import Places
from builder.workers.settle import Settler
from builder.workers.uploading import Task, upload

LOG = logging.getLogger(__name__)

#: How long until another look at a provider whose shares other daemons have. A share that becomes free
#: is no change of the tree we watch; the end of the upload that had it is, but that may be lost.
SHARE_PAUSE: Final = timedelta(seconds=5)


class Uploader(Worker):
    """Starts every due upload that has a place, a share of its provider, and nobody else at it."""

    longest_rest = PROMPT_REST

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._settler = Settler(world.store, world.stopping, at_home=world.at_home)
        self._lanes = Lanes(name, world.store.wake)
        self._places = Places()
        self._backoff = Backoff()
        self._files = CheckedFiles()
        self._planner = Planner()
        self._taken: set[str] = set()  #: providers whose shares others were found to have in this pass
        self._left_alone: frozenset[str] = frozenset()

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start what is due; returns without waiting for it."""
        known = self.world.known_capabilities(config.providers.values())
        plan = self._planner.upload_plan(config, snapshot, now, known)
        self._tell_breakers(plan.breakers)
        looks = [plan.due]
        self._taken.clear()
        is_full = partial(self._is_full, config)
        for decision in plan.claimable(self.world.identity.builder_id, is_full):
            if self.world.ending:
                break
            if self._places.full(config.upload_workers, now):
                looks.append(self._places.next_look(now))
                break  # however many wait
            looks.append(self._try(config, decision, snapshot, now))
        return Pass(due=earliest(looks))

    def _is_full(self, config: Config, provider: str) -> bool:
        """Whether a provider has as many uploads as it takes, from here or from all daemons together."""
        return provider in self._taken or (
            self._places.sharing(provider) >= config.providers[provider].max_uploads
        )

    def run(self) -> None:
        """Pass after pass until the daemon stops, and then until the uploads have ended."""
        super().run()
        self._lanes.drain()

    def drain(self) -> bool:
        """Wait until no upload runs and none is due; whether there was any since the last drain."""
        while True:
            due = self.step().due
            if not self._lanes.busy():
                break
            self._lanes.wait_one(None if due is None else (due - self.world.clock()).total_seconds())
        return self._lanes.drain()

    def _tell_breakers(self, known: Mapping[str, Breaker]) -> None:
        """Log which providers are left alone from now on, and which no longer are."""
        left_alone = frozenset(n for n, breaker in known.items() if breaker.state is not BreakerState.CLOSED)
        for name in sorted(left_alone - self._left_alone):
            LOG.warning("%s is left alone: %s", name, known[name].reason)
        for name in sorted((self._left_alone - left_alone) & known.keys()):
            LOG.warning("%s gets uploads again: %s", name, known[name].reason)
        self._left_alone = left_alone

    # -- one decision -------------------------------------------------------------------------

    def _try(
        self, config: Config, decision: UploadDecision, snapshot: Snapshot, now: datetime
    ) -> datetime | None:
        """Start an upload if nothing stands in its way; when to look again unless the tree changes."""
        provider, lane = config.providers[decision.provider], f"{decision.image}-{decision.provider}"
        # A thread of ours may upload it still, although its claim was lost with a session.
        if self._lanes.is_busy(lane):
            return None  # its end wakes us
        again = self._backoff.until(lane)
        if again is not None and again > now:
            return again
        if not self._places.is_free(provider.name, config.upload_workers, now):
            return self._places.next_look(now)
        with ExitStack() as held:
            share = self.world.store.claim_share(provider.name, provider.max_uploads)
            if share is None:
                self._taken.add(provider.name)
                return now + SHARE_PAUSE
            held.enter_context(share)
            task = self._claim(config, decision, snapshot, held)
            if task is not None:
                # Given back before the claim of the pair: the end of that wakes everybody, and finds it free.
                held.enter_context(share)
                self._places.enter(lane, provider.name, now)
                self._lanes.start(lane, partial(self._upload, task, lane, held.pop_all()))
        return None

    def _claim(
        self, config: Config, decision: UploadDecision, snapshot: Snapshot, held: ExitStack
    ) -> Task | None:
        """Claim the pair and decide again under it; None when it is not due, or somebody else's."""
        build = decision.build
        assert build is not None  # `claimable` only lets decisions through that name their build
        claim = self.world.store.claim_uploads(decision.image, build.id, decision.provider)
        if claim is None:
            return None
        held.enter_context(claim)
        again = self._decide_again(config, decision, build, snapshot)
        if again.verdict is not Verdict.NOW or again.build is None or again.build.id != build.id:
            return None
        provider = config.providers[decision.provider]
        files = again.build.files(provider.image_format)
        if not files:
            return None
        return Task(
            config=config,
            provider=provider,
            build=again.build,
            artifact=files[0],
            parts=files[1:],
            claim=claim,
            files=self._files,
        )

    def _decide_again(
        self, config: Config, decision: UploadDecision, build: Build, snapshot: Snapshot
    ) -> UploadDecision:
        """The decision on what is true under the claim."""
        store, pair = self.world.store, (build.id, decision.provider)
        provider = config.providers[decision.provider]
        records = snapshot.image(decision.image)
        others = [u for u in records.uploads if (u.build_id, u.provider) != pair]
        fresh = replace(
            records,
            builds=store.list_builds(decision.image),
            uploads=uploads_newest_first([*store.list_uploads(decision.image, *pair), *others]),
            uploads_claimed=records.uploads_claimed - {pair},
        )
        # A pass over many providers takes its time, and a word to stop is to be heard in it.
        now, latest = self.world.clock(), self.world.recent.snapshot(store)
        seen = snapshot.with_image(fresh)
        return decide_upload(
            config.diskimages[decision.image],
            provider,
            fresh,
            config,
            now,
            breaker=self._planner.breakers(config, seen, now)[decision.provider],
            capabilities=self.world.known_capabilities([provider]).get(provider.name),
            frozen=latest.frozen,
            pause=latest.paused_providers.get(provider.name),
            forgotten=latest.forgotten,
        )

    # -- in a thread of its own ---------------------------------------------------------------

    def _upload(self, task: Task, lane: str, held: ExitStack) -> bool:
        clock = self.world.clock
        try:
            with held:
                ended = upload(self.world, self._settler, task, lambda: self._places.moved(lane, clock()))
        except ImagepoolError as error:
            # Before there was a record that could tell it.
            pause = self._backoff.failed(lane, clock())
            LOG.warning(
                "%s can't be uploaded, next try in %d s: %s", lane, pause.total_seconds(), error.message
            )
            return False
        finally:
            self._places.leave(lane)
        if ended.state is UploadState.READY:
            self.count_done()
        else:
            self.count_failure()
        return True

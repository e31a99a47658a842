"""The scheduler files a request for every build that is due, and takes back those that no longer are.

Of all schedulers one leads and acts, the others stand by. That saves work and nothing else: a request and
the marks of the times it is for are written in one step, a request that exists is not filed twice, and
the builder decides again under its claim.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from builder.config.model import Config
from builder.errors import ConflictError, RefusedError
from builder.model import ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Verdict
from builder.planning.builds import served
from builder.planning.planner import Planner
from builder.store.base import Claim
from builder.workers.base import PROMPT_REST, Pass, Worker, World, earliest

LOG = logging.getLogger(__name__)

#: How long a request stands that we would not have filed. Another scheduler's clock may be ahead, or
#: its configuration newer: without a pause, the two would write and delete it in turns.
DOUBT = timedelta(minutes=1)


class Scheduler(Worker):
    """Turns decisions about builds into requests, as long as it leads."""

    longest_rest = PROMPT_REST

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._planner = Planner()
        self._lead: Claim | None = None
        self._follows: str | None = None

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """File what is due, withdraw what is not; nothing while another one leads."""
        if not self._leads(snapshot):
            return Pass()  # the end of whoever leads wakes us
        decisions = self._planner.builds(config, snapshot, now)
        did = False
        for decision in decisions:
            did |= self._guarded_apply(decision, snapshot.image(decision.image), now)
        later = [d.due for d in decisions if d.verdict is Verdict.LATER]
        later += [d.valid_until for d in decisions if d.valid_until is not None and d.valid_until > now]
        requests = [r for d in decisions if (r := snapshot.image(d.image).request) and not r.manual]
        doubts = [r.time + DOUBT for r in requests]
        return Pass(did=did, due=earliest([*later, *(t for t in doubts if t > now)]))

    def run(self) -> None:
        """Pass after pass until the daemon is about to stop; then the lead is anybody's."""
        try:
            super().run()
        finally:
            if self._lead is not None:
                self._lead.release()
                LOG.info("this scheduler leads no longer: the daemon stops")
            self.world.store.stand_down()

    # -- the lead -----------------------------------------------------------------------------

    def _leads(self, snapshot: Snapshot) -> bool:
        """Whether it leads; takes the lead when nobody has it."""
        if self._lead is not None and self._lead.valid:
            return True
        here = self.world.identity.hostname
        if self._lead is not None:
            LOG.warning("this scheduler leads no longer: the session with ZooKeeper was lost")
            # After a long silence the session may live on, and its old claim would keep everybody out.
            self._lead.release()
            self._lead = None
        elif snapshot.leader not in (None, here):
            self._stand_by(snapshot.leader)
            return False
        # Another daemon of this machine may have it, which looks like our own of a session before.
        self._lead = self.world.store.claim_lead(here)
        if self._lead is None:
            self._stand_by(snapshot.leader)
            return False
        LOG.info("this scheduler leads: it asks for the builds that are due")
        self._follows = None
        return True

    def _stand_by(self, leader: str | None) -> None:
        if leader is not None and leader != self._follows:
            LOG.info("this scheduler stands by: the one on %s leads", leader)
            self._follows = leader

    # -- requests -----------------------------------------------------------------------------

    def _guarded_apply(self, decision: BuildDecision, records: ImageRecords, now: datetime) -> bool:
        """Apply one; what can't be written of one image keeps no other waiting."""
        try:
            return self._apply(decision, records, now)
        except (ConflictError, RefusedError) as error:
            LOG.error("%s: its requests can't be kept as they should: %s", decision.image, error.message)
            self.count_failure()
            return False

    def _apply(self, decision: BuildDecision, records: ImageRecords, now: datetime) -> bool:
        request = records.request
        if request is None:
            return decision.verdict is Verdict.NOW and self._file(decision, now)
        if served(records, request):
            # Its builder died between the last word on the build and taking the request away, or
            # each builder that took it.
            return self.world.store.withdraw_request(request)
        if decision.ticks:
            return self._file(decision, now)  # the one that is open is for these times as well
        no = decision.verdict in (Verdict.LATER, Verdict.NO) and not decision.held
        needless = no and not request.manual
        if needless and request.time + DOUBT <= now:
            LOG.info("%s: the request is withdrawn: %s", decision.image, decision.reason)
            return self.world.store.withdraw_request(request)
        return False

    def _file(self, decision: BuildDecision, now: datetime) -> bool:
        wish = Request(
            image=decision.image,
            by=f"scheduler on {self.world.identity.hostname}",
            why=decision.reason,
            time=now,
            manual=False,
            tick=decision.tick,
        )
        # Our snapshot may be older than our own last write, or somebody else's: then it is there.
        if self.world.store.request_build(wish, ticks=decision.ticks) != wish:
            return False
        LOG.info("%s: a build is due: %s", decision.image, decision.reason)
        return True

"""The scheduler files a request for every build that is due, and takes back those that no longer are.

It writes nothing but request nodes, so any number of schedulers may run beside each other: a
request that exists is not filed twice, and the builder decides again under its claim.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from builder.config.model import Config
from builder.model import ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Verdict
from builder.planning.builds import decide_builds, served
from builder.workers.base import Pass, Worker, earliest

LOG = logging.getLogger(__name__)

#: How long a request stands that we would not have filed. Another scheduler's clock may be ahead, or
#: its configuration newer: without a pause, the two would write and delete it in turns.
DOUBT = timedelta(minutes=1)


class Scheduler(Worker):
    """Turns decisions about builds into requests."""

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """File what is due, withdraw what is not."""
        decisions = decide_builds(config, snapshot, now)
        did = False
        for decision in decisions:
            did |= self._apply(decision, snapshot.image(decision.image), now)
        later = [d.due for d in decisions if d.verdict is Verdict.LATER]
        requests = [r for d in decisions if (r := snapshot.image(d.image).request) and not r.manual]
        doubts = [r.time + DOUBT for r in requests]
        return Pass(did=did, due=earliest([*later, *(t for t in doubts if t > now)]))

    def _apply(self, decision: BuildDecision, records: ImageRecords, now: datetime) -> bool:
        request = records.request
        if request is None:
            return decision.verdict is Verdict.NOW and self._file(decision, now)
        if served(records, request):
            # Its builder died between the last word on the build and taking the request away, or
            # each builder that took it.
            return self.world.store.withdraw_request(request)
        needless = not request.manual and decision.verdict in (Verdict.LATER, Verdict.NO)
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
        )
        # Our snapshot may be older than our own last write, or somebody else's: then it is there.
        if self.world.store.request_build(wish) != wish:
            return False
        LOG.info("%s: a build is due: %s", decision.image, decision.reason)
        return True

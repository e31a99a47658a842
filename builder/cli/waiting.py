"""Tell what open requests wait for, and who is to take them; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from builder.config.model import Config
from builder.model import ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision
from builder.planning.assignment import Assignment, assign, why_nobody
from builder.planning.builds import decide_builds


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """One open request, what is decided on its image, and which builder is to build it."""

    request: Request
    decision: BuildDecision | None  #: None when the configuration doesn't list the image
    assignment: Assignment | None  #: None when no build is due now
    stuck: bool  #: a build is due, and no builder that is alive can take it, however long it waits

    @property
    def held(self) -> bool:
        """Whether a pause or a freeze keeps it waiting."""
        return self.decision is not None and self.decision.held

    @property
    def reason(self) -> str:
        """What it waits for, in full sentences."""
        if self.decision is None:
            return "The configuration doesn't list this image."
        if self.assignment is None:
            return self.decision.reason
        return self.assignment.reason


def of_all(config: Config, snapshot: Snapshot, now: datetime) -> tuple[Waiting, ...]:
    """Every open request, in the order in which they are served; those that can't be come last."""
    decisions = {decision.image: decision for decision in decide_builds(config, snapshot, now)}
    assignments = assign(config, snapshot, now, decisions.values())
    names = dict.fromkeys((*decisions, *sorted(snapshot.images)))
    return tuple(
        Waiting(
            request=request,
            decision=decisions.get(name),
            assignment=assignments.get(name),
            stuck=name in assignments and why_nobody(config.diskimages[name], snapshot) is not None,
        )
        for name in names
        if (request := snapshot.image(name).request) is not None
    )


def with_request(records: ImageRecords, request: Request) -> ImageRecords:
    """The records once a request was filed that they don't show yet."""
    return replace(records, request=request)

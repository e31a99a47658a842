"""Tell what open requests wait for, and who is to take them; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from builder.config.model import Config
from builder.model import Build, BuildState, ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Verdict
from builder.planning.assignment import Assignment, assign, why_nobody
from builder.planning.builds import decide_builds


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """One open request, what is decided on its image, and which builder is to build it."""

    request: Request
    decision: BuildDecision | None  #: None when the configuration doesn't list the image
    assignment: Assignment | None  #: None when no build is due now
    stuck: bool  #: a build is due, and no builder that is alive can take it, however long it waits
    follows: bool  #: a build runs that began before it was asked for, and another one is to follow

    @property
    def held(self) -> bool:
        """Whether a pause or a freeze keeps it waiting."""
        return self.decision is not None and self.decision.held

    @property
    def verdict(self) -> Verdict | None:
        """Whether it is being served, or can be now; None when the configuration doesn't list the image."""
        if self.decision is not None and (self.stuck or self.follows):
            return Verdict.NO
        return self.decision.verdict if self.decision is not None else None

    @property
    def reason(self) -> str:
        """What it waits for, in full sentences."""
        if self.decision is None:
            return "The configuration doesn't list this image."
        if self.follows:
            return f"{self.decision.reason} It is not the one that was asked for, which follows."
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
            follows=_runs(name, decisions) and build_for(snapshot.image(name)) is None,
        )
        for name in names
        if (request := snapshot.image(name).request) is not None
    )


def build_for(records: ImageRecords) -> Build | None:
    """The build that runs for the open request, None when none does."""
    if records.request is None or not records.build_claimed:
        return None
    return next((b for b in records.builds if _serves(b, records.request)), None)


def _serves(build: Build, request: Request) -> bool:
    return build.state is BuildState.BUILDING and build.request == request


def _runs(name: str, decisions: Mapping[str, BuildDecision]) -> bool:
    return name in decisions and decisions[name].verdict is Verdict.RUNNING

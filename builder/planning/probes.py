"""Pick the single upload by which a provider is tried whose breaker is half-open.

It is the one that was tried there longest ago, so that one image that fails again and again, such
as the only one too large for a quota, keeps none of the others from showing that the provider
takes uploads; of several, the one that is missing or oldest there.

Only the machine that has a file can send it, and it may be switched off. So machines take turns:
each has the first wait of the breaker to begin its upload, then the next one's is the single one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from builder.config.model import BreakerPolicy
from builder.planning.actions import Breaker, UploadDecision, Verdict
from builder.planning.records import NEVER
from builder.planning.words import short


def one_probe_each(
    decisions: Iterable[UploadDecision],
    breakers: Mapping[str, Breaker],
    policy: BreakerPolicy,
    now: datetime,
) -> tuple[UploadDecision, ...]:
    """The same decisions in the same order, of which at most one for each provider is a probe that is NOW."""
    every = tuple(decisions)
    probes: dict[str, list[UploadDecision]] = {}
    for decision in every:
        if decision.probe and decision.verdict is Verdict.NOW:
            probes.setdefault(decision.provider, []).append(decision)
    instead: dict[int, UploadDecision] = {}
    for provider, rivals in probes.items():
        instead.update(_settle(rivals, breakers[provider], policy.first, now))
    return tuple(instead.get(id(decision), decision) for decision in every)


def _settle(
    rivals: list[UploadDecision], breaker: Breaker, turn: timedelta, now: datetime
) -> dict[int, UploadDecision]:
    """What each of the rivals comes to, by identity."""
    rivals = sorted(rivals, key=_urgency)
    of_machine: dict[str | None, UploadDecision] = {}
    for decision in rivals:
        of_machine.setdefault(_machine(decision), decision)
    first = list(of_machine.values())
    turns = int((now - (breaker.until or now)) / turn)
    chosen = first[turns % len(first)]
    settled: dict[int, UploadDecision] = {id(chosen): chosen}
    for position, decision in enumerate(first):
        if decision is not chosen:
            ahead = (position - turns) % len(first)
            settled[id(decision)] = _waits(decision, chosen, breaker, now, (turns + ahead) * turn)
    for decision in rivals:
        if id(decision) not in settled:
            settled[id(decision)] = _waits(decision, chosen, breaker, now)
    return settled


def _waits(
    decision: UploadDecision,
    chosen: UploadDecision,
    breaker: Breaker,
    now: datetime,
    after: timedelta | None = None,
) -> UploadDecision:
    build = f" of build {short(chosen.build.id)}" if chosen.build else ""
    reason = f"{breaker.reason} That is {chosen.image}{build}; this upload waits for what becomes of it."
    if after is None:
        return replace(decision, verdict=Verdict.NO, due=None, probe=False, reason=reason)
    due = (breaker.until or now) + after
    return replace(decision, verdict=Verdict.LATER, due=due, probe=False, reason=reason)


def _urgency(decision: UploadDecision) -> tuple[datetime, datetime]:
    return decision.tried or NEVER, decision.in_service or NEVER


def _machine(decision: UploadDecision) -> str | None:
    return decision.build.builder_id if decision.build else None

"""Decide when a build that is due is begun, which failures put off, and how often they may.

Failures in a row begin anew with each tick of the schedule: a new day is a new try.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise, takewhile

from builder.model import Build, BuildState
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.due import Cause
from builder.planning.records import NEVER
from builder.planning.retry import INTERRUPTIONS, counts, curable, delay_after
from builder.planning.ticks import Case, Tick, TickState, made_since, next_due, tick_of
from builder.planning.words import at, counted, failure


def attempt(case: Case, cause: Cause, ticks: tuple[Tick, ...]) -> BuildDecision:
    """When a build that is due is tried, or tried again."""
    row = tuple(_row(case, ticks))
    interrupted = tuple(takewhile(lambda build: not counts(build), row))
    streak = tuple(filter(counts, row))
    if len(interrupted) >= INTERRUPTIONS:
        return _given_up(case, interrupted)
    if not streak:
        return _now(case, cause, ticks, cause.since or case.now)
    return _after_failures(case, cause, ticks, streak)


def _row(case: Case, ticks: tuple[Tick, ...]) -> Iterator[Build]:
    """The failed builds in a row, newest first.

    They begin anew with a ready build, with one that was checked, with each tick of the schedule,
    and with a build that somebody asked for, which is itself the first of the new row.
    """
    newest = max((tick.time for tick in ticks), default=NEVER)
    past = (build for build in case.records.builds if case.sane(build.fresh) and case.sane(build.state_time))
    newest_first = sorted(past, key=lambda b: (b.fresh, b.id), reverse=True)
    for build, before in pairwise([*newest_first, None]):
        if build is None or build.state is BuildState.READY or not made_since(build, newest, case):
            return
        if build.state is BuildState.FAILED:
            yield build
        # One wish may take several builds, when their daemons go away.
        if build.request and build.request.manual and (before is None or before.request != build.request):
            return


def _after_failures(
    case: Case, cause: Cause, ticks: tuple[Tick, ...], streak: tuple[Build, ...]
) -> BuildDecision:
    last = streak[0]
    wait = delay_after(case.config.build_retry, streak)
    if wait is None:
        return _given_up(case, streak)
    again = last.state_time + wait
    if again <= case.now:
        return _now(case, cause, ticks, max(again, cause.since or again), _failed(streak))
    tick = _tick_after(case, last)
    # The tick clears the row, so it is never slower than the retry.
    due = min(again, tick) if tick else again
    return BuildDecision(
        image=case.image.name,
        verdict=Verdict.LATER,
        trigger=cause.trigger,
        due=due,
        reason=f"{cause.why} {_failed(streak)} The next try is at {at(due)}.",
    )


def _given_up(case: Case, streak: tuple[Build, ...]) -> BuildDecision:
    name, tick = case.image.name, _tick_after(case, streak[0])
    if curable(streak[0]):
        text = f"{_failed(streak)} That is the limit;"
    else:
        text = f"{_failed(streak)} Another try by itself would not help;"
    by_hand = f"`imagepool image build {name}`"
    if tick is None:
        reason = f"{text} there is no next try before somebody asks for it with {by_hand}."
        return BuildDecision(image=name, verdict=Verdict.NO, reason=reason)
    reason = f"{text} the next try is at {at(tick)}, or with {by_hand}."
    return BuildDecision(image=name, verdict=Verdict.LATER, trigger=Trigger.SCHEDULE, due=tick, reason=reason)


def _tick_after(case: Case, last: Build) -> datetime | None:
    # A failure of a builder whose clock is ahead is newer than a tick that is still to come here.
    found = next_due(case, beyond=tick_of(last) or last.began)
    return found[0] if found else None


def _now(
    case: Case, cause: Cause, ticks: tuple[Tick, ...], due: datetime, further: str = ""
) -> BuildDecision:
    unless = " It is made unless nothing that goes into it has changed." if cause.skippable else ""
    # With the newest all that were missed are settled, those that are left out too.
    settled = [tick for tick in ticks if tick.state in (TickState.FRESH, TickState.LEFT_OUT)]
    wanted = (tick.time for tick in ticks if tick.state in (TickState.FRESH, TickState.OPEN))
    return BuildDecision(
        image=case.image.name,
        verdict=Verdict.NOW,
        trigger=cause.trigger,
        due=due,
        reason=f"{cause.why} {further}".strip() + unless,
        skippable=cause.skippable,
        ticks={tick.entry.text: tick.time for tick in settled},
        tick=max(wanted, default=None),
    )


def _failed(streak: tuple[Build, ...]) -> str:
    if len(streak) == 1:
        return f"The last build failed, {failure(streak[0])}."
    return f"{counted(len(streak), 'build')} in a row failed, last: {failure(streak[0])}."

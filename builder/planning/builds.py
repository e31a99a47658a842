"""Decide which diskimages are built, and when, and say why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from builder.config.model import Config, DiskImage
from builder.model import Build, BuildState, ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.assignment import why_nobody
from builder.planning.attempts import attempt
from builder.planning.due import ages, cause_of, passed_over
from builder.planning.records import NEVER, newest_ready
from builder.planning.retry import INTERRUPTIONS, counts
from builder.planning.schedule import delays as spread_delays
from builder.planning.ticks import Case, Tick, changes, next_due, ticks_of
from builder.planning.words import at, by_whom, cancelled, frozen, listed, short, wish


def decide_builds(config: Config, snapshot: Snapshot, now: datetime) -> tuple[BuildDecision, ...]:
    """A decision for every diskimage, in the order they should be worked on (`in_order`)."""
    delays = spread_delays(config)
    decisions = (
        decide_build(image, snapshot, config, now, delays=delays) for image in config.diskimages.values()
    )
    return in_order(decisions, snapshot)


def in_order(decisions: Iterable[BuildDecision], snapshot: Snapshot) -> tuple[BuildDecision, ...]:
    """Decisions in the order they should be worked on.

    What is due comes first: what somebody wants at once, then what people wait for, then the rest; of each
    the images that are oldest or missing. All else stays in its order.
    """

    def urgency(decision: BuildDecision) -> tuple[bool, bool, bool, datetime]:
        if decision.verdict is not Verdict.NOW:
            return True, True, True, NEVER
        records = snapshot.image(decision.image)
        manual = decision.trigger is Trigger.MANUAL
        urgent = manual and records.request is not None and records.request.urgent
        ready = newest_ready(records)
        return False, not urgent, not manual, NEVER if ready is None else ready.state_time

    return tuple(sorted(decisions, key=urgency))


def decide_build(
    image: DiskImage,
    snapshot: Snapshot,
    config: Config,
    now: datetime,
    *,
    delays: Mapping[tuple[str, str], timedelta] | None = None,
) -> BuildDecision:
    """Whether and when a diskimage is built.

    Besides the records of the image itself, it depends on whether everything is frozen, on the providers
    that are paused, the builders that are alive or gone for good, and the builds of images that it follows.
    `delays`: as `schedule.delays` has them, for who decides on many images and asks for them once.

    Whoever holds the image's claim and decides again under it passes a snapshot whose records of it
    have `build_claimed` False: a claim of one's own makes no build of somebody else's alive.
    """
    records = snapshot.image(image.name)
    case = Case(
        image=image,
        records=records,
        snapshot=snapshot,
        config=config,
        now=now,
        delays=spread_delays(config) if delays is None else delays,
        request=records.request if records.request and not served(records, records.request) else None,
    )
    for rule in (_needless, _running, _frozen, _paused_by_file, _asked, _paused_by_hand):
        if decision := rule(case):
            return decision
    ticks = ticks_of(case)
    cause = cause_of(case, ticks)
    decision = _not_due(case, ticks) if cause is None else attempt(case, cause, ticks)
    return replace(_told_who(decision, case), valid_until=_valid_until(case, decision))


def answers(build: Build, request: Request) -> bool:
    """Whether a build has ended and was made for that very request, which may go then.

    A build whose builder died answers nothing: the request is still to be served.
    """
    ended = build.state is not BuildState.BUILDING and counts(build)
    return ended and build.request == request


def served(records: ImageRecords, request: Request) -> bool:
    """Whether a request may go: a build answers it, or too many for it were interrupted to go on trying."""
    for_it = [build for build in records.builds if build.request == request]
    interrupted = [b for b in for_it if b.state is BuildState.FAILED and not counts(b)]
    return any(answers(build, request) for build in for_it) or len(interrupted) >= INTERRUPTIONS


def next_try(
    image: DiskImage, snapshot: Snapshot, failed: Build, config: Config, now: datetime
) -> datetime | None:
    """When an image is built next after `failed`, which may not be among the records yet; never before `now`.

    None: not by itself. The image's claim may still be held: `failed` has ended, so nothing runs.
    """
    records = snapshot.image(image.name)
    builds = (failed, *(build for build in records.builds if build.id != failed.id))
    ended = replace(records, builds=builds, build_claimed=False)
    decision = decide_build(image, snapshot.with_image(ended), config, now)
    return None if decision.due is None else max(now, decision.due)


# -- what settles it, whatever is due -------------------------------------------------------------


def _needless(case: Case) -> BuildDecision | None:
    if case.image.formats:
        return None
    return _no(case, f"No provider lists it and it names no formats.{_waiting(case)}")


def _running(case: Case) -> BuildDecision | None:
    # The lock is the image's, so of several `building` records only the newest can be alive.
    running = [b for b in case.records.builds if b.state is BuildState.BUILDING]
    if not running or not case.records.build_claimed:
        return None
    build = max(running, key=lambda b: (b.began, b.id))
    phase = f", phase {build.phase}" if build.phase else ""
    reason = f"Build {short(build.id)} runs on {build.builder or 'a builder'} since {at(build.began)}{phase}."
    wish = case.records.cancellation
    if wish is not None and wish.build_id == build.id:
        reason += f" It was {cancelled(wish)}, and is about to end."
    return BuildDecision(image=case.image.name, verdict=Verdict.RUNNING, reason=reason)


def _frozen(case: Case) -> BuildDecision | None:
    if case.snapshot.frozen is None or _forced(case):
        return None
    return _no(case, f"{frozen(case.snapshot.frozen)}{_waiting(case)}", held=True)


def _paused_by_file(case: Case) -> BuildDecision | None:
    if not case.image.pause or _forced(case):
        return None
    return _no(case, f"It is paused in the configuration (`pause: true`).{_waiting(case)}", held=True)


def _asked(case: Case) -> BuildDecision | None:
    request = case.request
    if request is None or not request.manual:
        return None
    decision = BuildDecision(
        image=case.image.name,
        verdict=Verdict.NOW,
        trigger=Trigger.MANUAL,
        due=min(request.time, case.now),  # the requester's clock may be ahead of ours
        reason=f"A build was {wish(request)}.",
    )
    return _told_who(decision, case)


def _paused_by_hand(case: Case) -> BuildDecision | None:
    pause = case.records.pause
    if pause is None:
        return None
    again = f"`imagepool image unpause {case.image.name}` lets it go on"
    return _no(case, f"It is paused by hand, {by_whom(pause)}; {again}.", held=True)


def _forced(case: Case) -> bool:
    return case.request is not None and case.request.force


def _waiting(case: Case) -> str:
    request = case.request
    return f" The build {wish(request)}, waits." if request and request.manual else ""


# -- decisions ------------------------------------------------------------------------------------


def _not_due(case: Case, ticks: tuple[Tick, ...]) -> BuildDecision:
    ready = case.ready
    if ready is None:  # then one is due
        raise ValueError(f"{case.image.name} has no ready build")
    times = list(ages(case, ready))
    if found := next_due(case):
        tick, entry = found
        times.append((tick, Trigger.SCHEDULE, f"by the schedule `{entry.text}`"))
    have = f"The newest build {short(ready.id)} is ready since {at(ready.state_time)}"
    if ready.checked:
        have += f", and checked, unchanged at {at(ready.checked)}"
    if ready.quarantine is not None:
        how = "held" if ready.hold is not None else "in quarantine"
        have += f", but {how} {by_whom(ready.quarantine)}"
    follows = [entry.after for entry in case.image.schedule if entry.after is not None]
    after = f"when a build of {listed(follows)} becomes ready" if follows else ""
    more = f"{_failed_since(case, ready)}{passed_over(case, ticks)}"
    if not times and not follows:
        clock = "it has neither a schedule nor a rebuild-age, so it is built when asked"
        return _no(case, f"{have}; {clock}.{more}")
    if not times:
        return _no(case, f"{have}; the next is due {after}.{more}")
    due, trigger, how = min(times)
    how += f", or {after}" if after else ""
    return BuildDecision(
        image=case.image.name,
        verdict=Verdict.LATER,
        trigger=trigger,
        due=due,
        reason=f"{have}; the next is due at {at(due)} {how}.{more}",
    )


def _failed_since(case: Case, ready: Build) -> str:
    """That a build was asked for and failed, or was cancelled: nothing that is due waits for another try."""
    failed = [b for b in case.records.builds if b.state is BuildState.FAILED and b.began > ready.began]
    if not failed:
        return ""
    newest = max(failed, key=lambda build: (build.began, build.id))
    return f" Build {short(newest.id)} failed since, and is not tried again by itself."


def _told_who(decision: BuildDecision, case: Case) -> BuildDecision:
    """With the reason why nobody takes it, although it is due."""
    nobody = why_nobody(case.image, case.snapshot) if decision.verdict is Verdict.NOW else None
    return decision if nobody is None else replace(decision, reason=f"{decision.reason} {nobody}")


def _valid_until(case: Case, decision: BuildDecision) -> datetime | None:
    times = [*changes(case), *((decision.due,) if decision.due is not None else ())]
    if case.ready is not None:
        times += [time for time, _, _ in ages(case, case.ready)]
    return min((time for time in times if time > case.now), default=None)


def _no(case: Case, reason: str, *, held: bool = False) -> BuildDecision:
    return BuildDecision(image=case.image.name, verdict=Verdict.NO, reason=reason, held=held)

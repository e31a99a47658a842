"""Decide which diskimages are built, and when, and say why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from typing import Final

from builder.config.model import Config, DiskImage
from builder.model import Build, BuildState, ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.records import is_there, newest_ready, unwanted, was_ready
from builder.planning.retry import INTERRUPTIONS, counts, curable, delay
from builder.planning.schedule import last_tick, next_tick
from builder.planning.words import at, cancelled, counted, failure, listed, short, wish

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def decide_builds(config: Config, snapshot: Snapshot, now: datetime) -> tuple[BuildDecision, ...]:
    """A decision for every diskimage, in the order they should be worked on.

    What is due comes first: what people wait for, then the images that are oldest or missing;
    all else in the order of the configuration.
    """
    decisions = [
        decide_build(image, snapshot.image(image.name), config, now) for image in config.diskimages.values()
    ]

    def urgency(decision: BuildDecision) -> tuple[bool, bool, datetime]:
        if decision.verdict is not Verdict.NOW:
            return True, True, _NEVER
        ready = newest_ready(snapshot.image(decision.image))
        manual = decision.trigger is Trigger.MANUAL
        return False, not manual, _NEVER if manual or ready is None else ready.state_time

    return tuple(sorted(decisions, key=urgency))


def decide_build(image: DiskImage, records: ImageRecords, config: Config, now: datetime) -> BuildDecision:
    """Whether and when a diskimage is built.

    Whoever holds the image's claim and decides again under it passes records whose
    `build_claimed` is False: a claim of one's own makes no build of somebody else's alive.
    """
    for rule in (_needless, _running, _paused_by_file, _asked, _paused_by_hand):
        if decision := rule(image, records, now):
            return decision
    ready = newest_ready(records)
    if ready is None:
        return _due(
            image, _Cause(trigger=Trigger.MISSING, why="There is no ready build."), records, config, now
        )
    cause = _cause(image, ready, records, config, now)
    if cause is None:
        return _not_due(image, ready, records, now)
    return _due(image, cause, records, config, now)


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
    image: DiskImage, records: ImageRecords, failed: Build, config: Config, now: datetime
) -> datetime | None:
    """When an image is built next after `failed`, which may not be among the records yet; never before `now`.

    None: not by itself. The image's claim may still be held: `failed` has ended, so nothing runs.
    """
    builds = (failed, *(build for build in records.builds if build.id != failed.id))
    decision = decide_build(image, replace(records, builds=builds, build_claimed=False), config, now)
    return None if decision.due is None else max(now, decision.due)


# -- what settles it, whatever is due -------------------------------------------------------------


def _needless(image: DiskImage, records: ImageRecords, now: datetime) -> BuildDecision | None:
    if image.formats:
        return None
    return _no(image, f"No provider lists it and it names no formats.{_waiting(records)}")


def _running(image: DiskImage, records: ImageRecords, now: datetime) -> BuildDecision | None:
    # The lock is the image's, so of several `building` records only the newest can be alive.
    running = [b for b in records.builds if b.state is BuildState.BUILDING]
    if not running or not records.build_claimed:
        return None
    build = max(running, key=lambda b: (b.began, b.id))
    phase = f", phase {build.phase}" if build.phase else ""
    reason = f"Build {short(build.id)} runs on {build.builder or 'a builder'} since {at(build.began)}{phase}."
    if records.cancellation is not None and records.cancellation.build_id == build.id:
        reason += f" It was {cancelled(records.cancellation)}, and is about to end."
    return BuildDecision(image=image.name, verdict=Verdict.RUNNING, reason=reason)


def _paused_by_file(image: DiskImage, records: ImageRecords, now: datetime) -> BuildDecision | None:
    if not image.pause:
        return None
    return _no(image, f"It is paused in the configuration (`pause: true`).{_waiting(records)}")


def _asked(image: DiskImage, records: ImageRecords, now: datetime) -> BuildDecision | None:
    request = _open_wish(records)
    if request is None:
        return None
    return BuildDecision(
        image=image.name,
        verdict=Verdict.NOW,
        trigger=Trigger.MANUAL,
        due=min(request.time, now),  # the requester's clock may be ahead of ours
        reason=f"A build was {wish(request)}.",
    )


def _paused_by_hand(image: DiskImage, records: ImageRecords, now: datetime) -> BuildDecision | None:
    if not records.paused:
        return None
    return _no(image, f"It is paused by hand; `imagepool image unpause {image.name}` lets it go on.")


def _open_wish(records: ImageRecords) -> Request | None:
    """A person's request that no build has answered yet."""
    request = records.request
    if request is None or not request.manual:
        return None
    return None if served(records, request) else request


def _waiting(records: ImageRecords) -> str:
    request = _open_wish(records)
    return f" The build {wish(request)}, waits." if request else ""


# -- what makes it due ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cause:
    """What makes a build due, since when (None: nobody knows), and the sentence that says so."""

    trigger: Trigger
    why: str
    since: datetime | None = None
    skippable: bool = False


def _cause(
    image: DiskImage, ready: Build, records: ImageRecords, config: Config, now: datetime
) -> _Cause | None:
    return (
        _format_missing(image, ready)
        or _file_gone(image, ready, records, config)
        or _over_max_age(image, ready, now)
        or _too_old(image, ready, now)
        or _ticked(image, ready, records, now)
    )


def _format_missing(image: DiskImage, ready: Build) -> _Cause | None:
    missing = [str(f) for f in image.formats if f not in ready.formats]
    if not missing:
        return None
    why = f"The newest ready build {short(ready.id)} has no {listed(missing)}, which is needed now."
    return _Cause(trigger=Trigger.FORMAT, why=why)


def _file_gone(image: DiskImage, ready: Build, records: ImageRecords, config: Config) -> _Cause | None:
    """A provider that came after the file went needs it once more."""
    waiting = [
        provider
        for provider in config.providers_of(image.name)
        if not provider.images[image.name].pause
        and provider.image_format in ready.pruned
        and not is_there(records, ready, provider.name)
        and unwanted(records, ready, provider.name) is None
    ]
    if not waiting:
        return None
    formats = listed(sorted({str(provider.image_format) for provider in waiting}))
    why = (
        f"The {formats} of the newest ready build {short(ready.id)} was deleted after its uploads,"
        f" and is needed now for {listed(provider.name for provider in waiting)}."
    )
    return _Cause(trigger=Trigger.FORMAT, why=why)


def _over_max_age(image: DiskImage, ready: Build, now: datetime) -> _Cause | None:
    if image.max_age is None or (over := ready.state_time + image.max_age) > now:
        return None
    why = (
        f"The newest ready build {short(ready.id)} of {at(ready.state_time)}"
        f" is older than the max-age since {at(over)}."
    )
    return _Cause(trigger=Trigger.AGE, why=why, since=over)


def _too_old(image: DiskImage, ready: Build, now: datetime) -> _Cause | None:
    if image.rebuild_age is None or (over := _known_good(ready) + image.rebuild_age) > now:
        return None
    checked = f", checked at {at(ready.checked)}," if ready.checked else ""
    why = (
        f"The newest ready build {short(ready.id)} of {at(ready.state_time)}{checked}"
        f" is older than the rebuild-age since {at(over)}."
    )
    return _Cause(trigger=Trigger.AGE, why=why, since=over, skippable=_comparable(image, ready))


def _ticked(image: DiskImage, ready: Build, records: ImageRecords, now: datetime) -> _Cause | None:
    if image.schedule is None:
        return None
    tick = last_tick(image.schedule, now)
    # One that was told to go since counts too: deleting today's bad image must not build it again.
    if any(was_ready(build) and build.fresh >= tick for build in records.builds):
        return None
    why = f"The schedule `{image.schedule}` ticked at {at(tick)} and no ready build began since."
    return _Cause(trigger=Trigger.SCHEDULE, why=why, since=tick, skippable=_comparable(image, ready))


def _known_good(ready: Build) -> datetime:
    """When a ready build was last known to be what a new one would be; its rebuild-age counts from there."""
    return max(ready.state_time, ready.checked) if ready.checked else ready.state_time


def _comparable(image: DiskImage, ready: Build) -> bool:
    """Whether it is worth to look for what changed; a build made by nodepool has nothing to compare with."""
    return image.skip_unchanged and bool(ready.inputs)


# -- what failures make of it ---------------------------------------------------------------------


def _row(image: DiskImage, records: ImageRecords, now: datetime) -> Iterator[Build]:
    """The failed builds in a row, newest first.

    They begin anew with a ready build, with one that was checked, with each tick of the schedule,
    and with a build that somebody asked for, which is itself the first of the new row.
    """
    tick = last_tick(image.schedule, now) if image.schedule else _NEVER
    newest_first = sorted(records.builds, key=lambda b: (b.fresh, b.id), reverse=True)
    for build, before in pairwise([*newest_first, None]):
        if build is None or build.state is BuildState.READY or build.began < tick:
            return
        if build.state is BuildState.FAILED:
            yield build
        # One wish may take several builds, when their daemons go away.
        if build.request and build.request.manual and (before is None or before.request != build.request):
            return


def _due(
    image: DiskImage, cause: _Cause, records: ImageRecords, config: Config, now: datetime
) -> BuildDecision:
    row = tuple(_row(image, records, now))
    interrupted = tuple(takewhile(lambda build: not counts(build), row))
    streak = tuple(filter(counts, row))
    if len(interrupted) >= INTERRUPTIONS:
        return _given_up(image, interrupted, _tick_after(image, interrupted[0], now))
    if not streak:
        return _now(image, cause, cause.since or now)
    return _after_failures(image, cause, streak, config, now)


def _tick_after(image: DiskImage, last: Build, now: datetime) -> datetime | None:
    # A failure of a builder whose clock is ahead is newer than a tick that is still to come here.
    return next_tick(image.schedule, max(now, last.began)) if image.schedule else None


def _after_failures(
    image: DiskImage, cause: _Cause, streak: tuple[Build, ...], config: Config, now: datetime
) -> BuildDecision:
    last = streak[0]
    wait = delay(config.build_retry, len(streak), last.id) if curable(last) else None
    tick = _tick_after(image, last, now)
    if wait is None:
        return _given_up(image, streak, tick)
    again = last.state_time + wait
    if again <= now:
        return _now(image, cause, max(again, cause.since or again), _failed(streak))
    # The tick clears the row, so it is never slower than the retry.
    due = min(again, tick) if tick else again
    return _later(image, due, f"{cause.why} {_failed(streak)} The next try is at {at(due)}.", cause.trigger)


def _given_up(image: DiskImage, streak: tuple[Build, ...], tick: datetime | None) -> BuildDecision:
    if curable(streak[0]):
        text = f"{_failed(streak)} That is the limit;"
    else:
        text = f"{_failed(streak)} Another try by itself would not help;"
    by_hand = f"`imagepool image build {image.name}`"
    if tick is None:
        return _no(image, f"{text} there is no next try before somebody asks for it with {by_hand}.")
    return _later(image, tick, f"{text} the next try is at {at(tick)}, or with {by_hand}.", Trigger.SCHEDULE)


def _failed(streak: tuple[Build, ...]) -> str:
    if len(streak) == 1:
        return f"The last build failed, {failure(streak[0])}."
    return f"{counted(len(streak), 'build')} in a row failed, last: {failure(streak[0])}."


# -- decisions ------------------------------------------------------------------------------------


def _not_due(image: DiskImage, ready: Build, records: ImageRecords, now: datetime) -> BuildDecision:
    times: list[tuple[datetime, Trigger, str]] = []
    if image.schedule:
        # A builder whose clock is ahead may have served a tick that is still to come here.
        newest = max([now, *(build.fresh for build in records.builds if was_ready(build))])
        tick = next_tick(image.schedule, newest)
        times.append((tick, Trigger.SCHEDULE, f"by the schedule `{image.schedule}`"))
    if image.rebuild_age:
        times.append((_known_good(ready) + image.rebuild_age, Trigger.AGE, "when the rebuild-age is over"))
    if image.max_age:
        times.append((ready.state_time + image.max_age, Trigger.AGE, "when the max-age is over"))
    have = f"The newest build {short(ready.id)} is ready since {at(ready.state_time)}"
    if ready.checked:
        have += f", and checked, unchanged at {at(ready.checked)}"
    if not times:
        return _no(image, f"{have}; it has neither a schedule nor a rebuild-age, so it is built when asked.")
    due, trigger, how = min(times)
    return _later(image, due, f"{have}; the next is due at {at(due)} {how}.", trigger)


def _now(image: DiskImage, cause: _Cause, due: datetime, further: str = "") -> BuildDecision:
    unless = " It is made unless nothing that goes into it has changed." if cause.skippable else ""
    return BuildDecision(
        image=image.name,
        verdict=Verdict.NOW,
        trigger=cause.trigger,
        due=due,
        reason=f"{cause.why} {further}".strip() + unless,
        skippable=cause.skippable,
    )


def _later(image: DiskImage, due: datetime, reason: str, trigger: Trigger) -> BuildDecision:
    return BuildDecision(image=image.name, verdict=Verdict.LATER, trigger=trigger, due=due, reason=reason)


def _no(image: DiskImage, reason: str) -> BuildDecision:
    return BuildDecision(image=image.name, verdict=Verdict.NO, reason=reason)

"""Tell what makes a build due, and since when: a format or a file that is missing, an age, the schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from builder.config.model import Config, Provider
from builder.model import Build, Pause, Snapshot
from builder.planning.actions import Trigger
from builder.planning.records import is_there, may_go_out, newest_ready, unwanted
from builder.planning.ticks import Case, Tick, TickState
from builder.planning.words import at, gone_for_good, lasting, listed, short


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What makes a build due, since when (None: nobody knows), and the sentence that says so."""

    trigger: Trigger
    why: str
    since: datetime | None = None
    skippable: bool = False


def cause_of(case: Case, ticks: tuple[Tick, ...]) -> Cause | None:
    """What makes the next build of a diskimage due now, None when nothing does."""
    ready = case.ready
    if ready is None:
        return Cause(trigger=Trigger.MISSING, why=_nothing_ready(case))
    return (
        _format_missing(case, ready)
        or _files_lost(case, ready)
        or _file_gone(case, ready)
        or _over_max_age(case, ready)
        or _too_old(case, ready)
        or _ticked(case, ready, ticks)
    )


def ages(case: Case, ready: Build) -> Iterator[tuple[datetime, Trigger, str]]:
    """When the newest ready build is too old, and by what: "when the rebuild-age is over"."""
    image = case.image
    if image.rebuild_age:
        yield known_current(case, ready) + image.rebuild_age, Trigger.AGE, "when the rebuild-age is over"
    if image.max_age:
        yield ready.state_time + image.max_age, Trigger.AGE, "when the max-age is over"


def known_current(case: Case, ready: Build) -> datetime:
    """When a build was last made, or found to be what a new one would be: from there on the rebuild-age
    counts."""
    checked = (build.checked for build in (ready, case.good) if build is not None)
    return max([ready.state_time, *filter(None, checked)])


def passed_over(case: Case, ticks: tuple[Tick, ...]) -> str:
    """What of the schedule came to nothing, as sentences with a space before each; "" when nothing did."""
    said = ""
    for tick in ticks:
        if tick.state is TickState.LEFT_OUT:
            late = f"was missed by more than the catch-up of {lasting(case.image.catch_up)}, and is left out"
            said += f" {_tick(tick)} {late}."
        elif tick.state is TickState.DROPPED:
            said += f" {_tick(tick)} was served: what was asked for then was called off or deleted since."
    return said


def _nothing_ready(case: Case) -> str:
    future = newest_ready(case.records)
    if future is None:
        return "There is no ready build."
    when = at(future.state_time)
    return f"The ready build {short(future.id)} says it is of {when}, by a clock that was wrong."


def _format_missing(case: Case, ready: Build) -> Cause | None:
    missing = [str(f) for f in case.image.formats if f not in ready.formats]
    if not missing:
        return None
    why = f"The newest ready build {short(ready.id)} has no {listed(missing)}, which is needed now."
    return Cause(trigger=Trigger.FORMAT, why=why)


def _files_lost(case: Case, ready: Build) -> Cause | None:
    """A provider needs the files of a build whose builder won't come back."""
    word: Pause | None = case.snapshot.forgotten.get(ready.builder_id or "")
    waiting = awaiting(case.config, case.snapshot, ready) if word is not None else ()
    if word is None or not waiting:
        return None
    where = listed(provider.name for provider in waiting)
    why = f"It is needed now for {where}, but {gone_for_good(ready, word)}."
    return Cause(trigger=Trigger.FORMAT, why=why)


def _file_gone(case: Case, ready: Build) -> Cause | None:
    """A provider that came after the file went needs it once more."""
    gone = awaiting(case.config, case.snapshot, ready) if ready.pruned else ()
    waiting = [provider for provider in gone if provider.image_format in ready.pruned]
    if not waiting:
        return None
    formats = listed(sorted({str(provider.image_format) for provider in waiting}))
    why = (
        f"The {formats} of the newest ready build {short(ready.id)} was deleted after its uploads,"
        f" and is needed now for {listed(provider.name for provider in waiting)}."
    )
    return Cause(trigger=Trigger.FORMAT, why=why)


def awaiting(config: Config, snapshot: Snapshot, ready: Build) -> tuple[Provider, ...]:
    """The providers that are to get the newest ready build of its image, and have it not."""
    records = snapshot.image(ready.image)
    return tuple(
        provider
        for provider in config.providers_of(ready.image)
        if not provider.images[ready.image].pause
        and provider.name not in snapshot.paused_providers
        and not is_there(records, ready, provider.name)
        and unwanted(records, ready, provider.name) is None
        and may_go_out(ready, provider.name)
    )


def _over_max_age(case: Case, ready: Build) -> Cause | None:
    limit = case.image.max_age
    if limit is None or (over := ready.state_time + limit) > case.now:
        return None
    why = (
        f"The newest ready build {short(ready.id)} of {at(ready.state_time)}"
        f" is older than the max-age since {at(over)}."
    )
    return Cause(trigger=Trigger.AGE, why=why, since=over)


def _too_old(case: Case, ready: Build) -> Cause | None:
    limit = case.image.rebuild_age
    if limit is None or (over := known_current(case, ready) + limit) > case.now:
        return None
    checked = f", checked at {at(ready.checked)}," if ready.checked else ""
    why = (
        f"The newest ready build {short(ready.id)} of {at(ready.state_time)}{checked}"
        f" is older than the rebuild-age since {at(over)}."
    )
    return Cause(trigger=Trigger.AGE, why=why, since=over, skippable=_comparable(case))


def _ticked(case: Case, ready: Build, ticks: tuple[Tick, ...]) -> Cause | None:
    waiting = [tick for tick in ticks if tick.state in (TickState.FRESH, TickState.OPEN)]
    if not waiting:
        return None
    newest = max(waiting, key=lambda tick: tick.time)
    return Cause(
        trigger=Trigger.SCHEDULE,
        why=f"{_event(newest)} and no ready build began since.",
        since=newest.due,
        skippable=_comparable(case),
    )


def _comparable(case: Case) -> bool:
    """Whether it is worth to look for what changed; a build made by nodepool has nothing to compare with, and
    one in quarantine is nothing to keep to."""
    return case.image.skip_unchanged and case.good is not None and bool(case.good.inputs)


def _event(tick: Tick) -> str:
    if tick.followed is not None:
        what = f"Build {short(tick.followed.id)} of {tick.entry.after} became ready at {at(tick.time)}"
        return f"{what}, which the schedule `{tick.entry.text}` follows,"
    put_off = f", was put off until {at(tick.due)} by `spread`," if tick.due > tick.time else ""
    return f"The schedule `{tick.entry.text}` ticked at {at(tick.time)}{put_off}"


def _tick(tick: Tick) -> str:
    return f"The tick of {at(tick.time)} by `{tick.entry.text}`"

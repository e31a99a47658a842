"""Tell what became of the times of a schedule: still to be fired, asked for, served, or missed for too long.

A tick is fired when a build was asked for because of it, which its mark in the store says, or a build that
was made for it; so it fires once, whoever is the leader and whatever the clocks do. It is served when a
ready build began or was checked since, or was made for it. A fired one that is not served is open as long as
somebody has it on the list: a request that waits, or a failed build that is to be tried again.

Which tick a build was made for is on its request: the clock of the builder, which may be wrong, says so only
where that does not. Marks and builds that are more than a day ahead are a broken clock's, and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from builder.config.model import Config, DiskImage, ScheduleEntry
from builder.model import CLOCKS_DIFFER, Build, BuildState, ImageRecords, Request, Snapshot
from builder.planning.records import NEVER, good_builds, ready_builds, was_ready
from builder.planning.schedule import last_tick, next_tick

#: Nobody acts at the very moment: until then a tick is not missed, however short `catch-up` is.
PUNCTUAL: Final = timedelta(minutes=1)
_ZERO: Final = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A diskimage, and what a decision on its next build is made of."""

    image: DiskImage
    records: ImageRecords
    snapshot: Snapshot
    config: Config
    now: datetime
    delays: Mapping[tuple[str, str], timedelta]  #: by `spread`, as `schedule.delays` has them
    request: Request | None  #: that is open: no build has answered it yet

    def sane(self, time: datetime) -> bool:
        """Whether a time of the past may have been told by a clock that is about right."""
        return time <= self.now + CLOCKS_DIFFER

    @property
    def ready(self) -> Build | None:
        """The newest ready build, which decides whether a new one is due; None without one. It does so in
        quarantine too, for what went wrong would only be built again."""
        return next((b for b in ready_builds(self.records) if self.sane(b.state_time)), None)

    @property
    def good(self) -> Build | None:
        """The newest ready build that is not in quarantine, with which a new one is compared."""
        return next((b for b in good_builds(self.records) if self.sane(b.state_time)), None)

    def delay(self, entry: ScheduleEntry) -> timedelta:
        """By how much the ticks of an entry are delayed for this diskimage."""
        return self.delays.get((self.image.name, entry.text), _ZERO)


class TickState(StrEnum):
    """What became of a tick."""

    FRESH = "fresh"  #: a build is to be asked for
    OPEN = "open"  #: it was asked for, and is still wanted
    SERVED = "served"  #: a ready build began since
    DROPPED = "dropped"  #: it was asked for, and the request or the build was taken away since
    LEFT_OUT = "left-out"  #: nobody asked for a build, and it is older than `catch-up`


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A time of the schedule that has come. `time` is its name, `due` when it was this diskimage's turn."""

    entry: ScheduleEntry
    time: datetime
    due: datetime
    state: TickState
    followed: Build | None = None  #: of an entry that follows an image: the build that it is about


def ticks_of(case: Case) -> tuple[Tick, ...]:
    """The newest tick of each entry of the schedule that has any yet, in the order of the schedule."""
    return tuple(_ticks(case))


def next_due(case: Case, *, beyond: datetime = NEVER) -> tuple[datetime, ScheduleEntry] | None:
    """When a tick later than `beyond` is due next, and by which entry; None when the clock alone brings none.

    What was fired or served ahead of time, by clocks that were ahead, does not come again.
    """
    served = max((_serves_until(b, case) for b in case.records.builds if was_ready(b)), default=NEVER)
    found = []
    for entry in case.image.schedule:
        if entry.cron is None:
            continue
        delay, mark = case.delay(entry), _mark(case, entry)
        since = max(case.now - delay, served, beyond)
        # A request that waits for a tick to come is due when the tick is.
        if mark is not None and case.request is None:
            since = max(since, mark)
        found.append((next_tick(entry, since) + delay, entry))
    return min(found, key=lambda each: each[0], default=None)


def changes(case: Case) -> Iterator[datetime]:
    """The times after now at which `ticks_of` comes to something else by the clock alone, or may."""
    late = max(case.image.catch_up, PUNCTUAL) + timedelta.resolution
    for tick in ticks_of(case):
        if tick.state is TickState.FRESH:
            yield tick.due + late
    followed = {entry.after for entry in case.image.schedule if entry.after is not None}
    known = [case.records, *(case.snapshot.image(name) for name in followed)]
    times = [
        time for records in known for build in records.builds for time in (build.fresh, build.state_time)
    ]
    times += case.records.ticks.values()
    yield from (time - CLOCKS_DIFFER for time in times if not case.sane(time))
    for entry in case.image.schedule:
        if entry.cron is not None:
            yield next_tick(entry, case.now - case.delay(entry)) + case.delay(entry)


def made_since(build: Build, tick: datetime, case: Case) -> bool:
    """Whether a build was made for a tick, or a later one; where nobody says so, whether it began since."""
    for_tick = tick_of(build)
    time = build.began if for_tick is None else for_tick
    return case.sane(time) and time >= tick


def tick_of(build: Build) -> datetime | None:
    """The tick that a build was made for, None when it was for none or that is not on record."""
    return build.request.tick if build.request else None


def _ticks(case: Case) -> Iterator[Tick]:
    for entry in case.image.schedule:
        if entry.cron is not None:
            delay = case.delay(entry)
            time = last_tick(entry, case.now - delay)
            yield _tick(case, entry, time, time + delay)
        elif (build := _followed(case, entry)) is not None:
            yield _tick(case, entry, build.state_time, min(build.state_time, case.now), build)


def _followed(case: Case, entry: ScheduleEntry) -> Build | None:
    # What was built from one that was put in quarantine since was built all the same.
    builds = good_builds(case.snapshot.image(entry.after)) if entry.after is not None else ()
    return next((build for build in builds if case.sane(build.state_time)), None)


def _tick(
    case: Case, entry: ScheduleEntry, time: datetime, due: datetime, followed: Build | None = None
) -> Tick:
    mark = _mark(case, entry)
    return Tick(
        entry=entry,
        time=time,
        due=due,
        state=_state(case, time, due, marked=mark is not None and mark >= time),
        followed=followed,
    )


def _mark(case: Case, entry: ScheduleEntry) -> datetime | None:
    mark = case.records.ticks.get(entry.text)
    return mark if mark is not None and case.sane(mark) else None


def _state(case: Case, time: datetime, due: datetime, *, marked: bool) -> TickState:
    builds = case.records.builds
    if any(_serves(build, time, case) for build in builds):
        return TickState.SERVED
    # One that says it is being built has lost its builder, or nobody would ask.
    tries = [build for build in builds if build.state in (BuildState.FAILED, BuildState.BUILDING)]
    if marked or any(made_since(build, time, case) for build in tries):
        # A request of an earlier tick may have been built since this one.
        tried = any(made_since(b, time, case) or (case.sane(b.began) and b.began >= time) for b in tries)
        return TickState.OPEN if case.request is not None or tried else TickState.DROPPED
    late = case.now - due
    return TickState.LEFT_OUT if late > max(case.image.catch_up, PUNCTUAL) else TickState.FRESH


def _serves(build: Build, tick: datetime, case: Case) -> bool:
    # One that was told to go since counts too: deleting today's bad image must not build it again.
    return was_ready(build) and _serves_until(build, case) >= tick


def _serves_until(build: Build, case: Case) -> datetime:
    """The last moment whose ticks a build serves that came out well."""
    return max((time for time in (tick_of(build), build.fresh) if time and case.sane(time)), default=NEVER)

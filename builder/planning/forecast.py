"""Foresee what will be built, when and by whom, by letting time pass in the mind with the code that decides.

A build is expected to come out well, and to take as long as the image's builds do; where nothing is known of
that, as long as those of others. Builders are expected to stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from types import MappingProxyType
from typing import Final

from builder.config.model import Config, DiskImage
from builder.model import Build, BuildState, ImageRecords, Request, Snapshot
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.assignment import Assignment, assign
from builder.planning.builds import decide_build, in_order
from builder.planning.estimate import estimate, expected_duration
from builder.planning.records import runs
from builder.planning.schedule import delays as spread_delays

#: Builds that are foreseen at most, and moments that are looked at: a schedule that ticks each minute would
#: take for ever.
LIMIT: Final = 2000
_MOMENTS: Final = 10_000
#: Seconds a build is taken to last where no build of any image says how long it took.
_UNKNOWN: Final = 1800.0
#: Who files the requests that are foreseen.
_SCHEDULER: Final = "scheduler"


@dataclass(frozen=True, kw_only=True)
class PlannedBuild:
    """A build that will be made if all goes as expected, or one that runs (`running`)."""

    image: str
    start: datetime
    end: datetime
    hostname: str | None  #: of the builder; None when the record of a build that runs does not say
    builder_id: str | None
    trigger: Trigger | None  #: None of one that runs
    reason: str  #: why it is made, and then
    expected: float | None  #: seconds from start to end; None when nothing tells, and `end` is a guess
    providers: tuple[str, ...] = ()  #: where it will go then
    running: bool = False
    tick: datetime | None = None  #: the time of the schedule that it is for


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What will be built until a moment, by start, and what will not, each with the reason."""

    until: datetime  #: nothing is said of what is later; earlier than asked for where there is too much
    builds: tuple[PlannedBuild, ...]
    #: Of each diskimage that gets no build until then, what is decided at last.
    others: tuple[BuildDecision, ...]


def foresee(config: Config, snapshot: Snapshot, now: datetime, until: datetime) -> Outlook:
    """What runs, what will be built until a moment, and what will not."""
    return _Simulation(config, snapshot, now).run(until)


class _Simulation:
    """The records as they will be, and the time that passes."""

    def __init__(self, config: Config, snapshot: Snapshot, now: datetime) -> None:
        self._config = config
        self._before = snapshot.images
        self._images: dict[str, ImageRecords] = dict(snapshot.images)
        # A view on what changes, so that a step costs as much as what it changes.
        self._snapshot = replace(snapshot, images=MappingProxyType(self._images))
        self._delays = spread_delays(config)
        self._now = now
        self._decisions: dict[str, BuildDecision] = {}
        self._outdated = set(config.diskimages)
        self._ends: dict[str, datetime] = {}  # of the builds that run, by image
        self._planned: list[PlannedBuild] = []
        expected = {name: expected_duration(snapshot.image(name)) for name in config.diskimages}
        self._expected: Mapping[str, float | None] = expected
        known = [seconds for seconds in expected.values() if seconds is not None]
        self._usual = median(known) if known else _UNKNOWN
        self._followers = _followers(config)

    def run(self, until: datetime) -> Outlook:
        """Let time pass until that moment."""
        self._see_what_runs()
        for _ in range(_MOMENTS):
            self._end()
            self._decide()
            self._begin()
            following = min(self._times(), default=None)
            if following is None or following > until:
                break
            if len(self._planned) >= LIMIT:
                until = self._now
                break
            self._now = following
        else:
            until = self._now
        planned = {build.image for build in self._planned}
        others = (self._decisions[name] for name in self._config.diskimages if name not in planned)
        in_time = sorted(self._planned, key=lambda build: build.start)
        return Outlook(until=until, builds=tuple(in_time), others=tuple(others))

    def _times(self) -> Iterator[datetime]:
        """When something is next to happen, or to be decided anew."""
        yield from self._ends.values()
        for decision in self._decisions.values():
            if decision.valid_until is not None:
                yield decision.valid_until

    def _see_what_runs(self) -> None:
        for name, records in self._images.items():
            build = next((b for b in records.builds if runs(b, records)), None)
            if build is not None:
                self._planned.append(self._running(build, records))
                self._ends[name] = self._planned[-1].end

    def _running(self, build: Build, records: ImageRecords) -> PlannedBuild:
        known = estimate(build, records, self._now)
        left = known.known_left if known is not None else None
        # Of one that takes longer than it should, nobody knows; it is not over yet.
        seconds = left if left is not None else self._usual / 2
        return PlannedBuild(
            image=records.name,
            start=build.began,
            end=self._now + timedelta(seconds=seconds),
            hostname=build.builder,
            builder_id=build.builder_id,
            trigger=None,
            reason="It runs.",
            expected=known.total if known is not None and left is not None else None,
            providers=self._goes_to(records.name),
            running=True,
            tick=build.request.tick if build.request else None,
        )

    def _end(self) -> None:
        for name in [name for name, end in self._ends.items() if end <= self._now]:
            del self._ends[name]
            records = self._images[name]
            ended = (self._ended(build, name) for build in records.builds if runs(build, records))
            # A newer ready build settles whatever was foreseen before it.
            known = self._before[name].builds if name in self._before else ()
            builds = (*ended, *(build for build in known if build.state is not BuildState.BUILDING))
            self._change(replace(records, builds=builds, build_claimed=False, request=None))
            self._outdated |= self._followers.get(name, set()) & self._config.diskimages.keys()

    def _ended(self, build: Build, name: str) -> Build:
        image = self._config.diskimages.get(name)
        formats = tuple(str(each) for each in image.formats) if image is not None else build.formats
        return replace(build, state=BuildState.READY, state_time=self._now, ended=self._now, formats=formats)

    def _decide(self) -> None:
        """What is decided now, with the requests that follow from it."""
        for name, decision in self._decisions.items():
            if decision.valid_until is not None and decision.valid_until <= self._now:
                self._outdated.add(name)
        for name in sorted(self._outdated & self._config.diskimages.keys()):
            image = self._config.diskimages[name]
            decision = self._decide_one(image)
            if decision.verdict is Verdict.NOW and (decision.ticks or self._records(name).request is None):
                self._file(decision)
                filed = self._decide_one(image)
                decision = replace(decision, valid_until=filed.valid_until)
            self._decisions[name] = decision
        self._outdated = set()

    def _decide_one(self, image: DiskImage) -> BuildDecision:
        return decide_build(image, self._snapshot, self._config, self._now, delays=self._delays)

    def _file(self, decision: BuildDecision) -> None:
        records = self._records(decision.image)
        request = records.request or Request(
            image=decision.image,
            by=_SCHEDULER,
            why=decision.reason,
            time=self._now,
            manual=False,
            tick=decision.tick,
        )
        marks = {**records.ticks, **decision.ticks}
        self._images[decision.image] = replace(records, request=request, ticks=MappingProxyType(marks))

    def _begin(self) -> None:
        due = (decision for decision in self._decisions.values() if decision.verdict is Verdict.NOW)
        decisions = in_order(due, self._snapshot)
        to_whom = assign(self._config, self._snapshot, self._now, decisions)
        for decision in decisions:
            if to_whom[decision.image].builder_id is not None:
                self._start(decision, to_whom[decision.image])

    def _start(self, decision: BuildDecision, assigned: Assignment) -> None:
        name = decision.image
        known = self._expected[name]
        end = self._now + timedelta(seconds=known if known is not None else self._usual)
        records = self._records(name)
        build = Build(
            id=f"plan{len(self._planned):04}",  # nothing that anybody could take for one on record
            image=name,
            state=BuildState.BUILDING,
            state_time=self._now,
            started=self._now,
            builder=assigned.hostname,
            builder_id=assigned.builder_id,
            request=records.request,
        )
        self._planned.append(
            PlannedBuild(
                image=name,
                start=self._now,
                end=end,
                hostname=assigned.hostname,
                builder_id=assigned.builder_id,
                trigger=decision.trigger,
                reason=decision.reason,
                expected=known,
                providers=self._goes_to(name),
                tick=decision.tick,
            )
        )
        self._ends[name] = end
        self._change(replace(records, builds=(build, *records.builds), build_claimed=True))
        image = self._config.diskimages[name]
        self._decisions[name] = self._decide_one(image)

    def _change(self, records: ImageRecords) -> None:
        self._images[records.name] = records
        self._outdated.add(records.name)

    def _records(self, name: str) -> ImageRecords:
        return self._snapshot.image(name)

    def _goes_to(self, name: str) -> tuple[str, ...]:
        return tuple(
            provider.name
            for provider in self._config.providers_of(name)
            if not provider.images[name].pause and provider.name not in self._snapshot.paused_providers
        )


def _followers(config: Config) -> Mapping[str, set[str]]:
    """Which diskimages follow each image."""
    followers: dict[str, set[str]] = {}
    for image in config.diskimages.values():
        for entry in image.schedule:
            if entry.after is not None:
                followers.setdefault(entry.after, set()).add(image.name)
    return followers

"""Decides as the rest of `planning` does, at a cost that grows with what changes and not with what exists.

A Planner gives the very answers of `decide_builds`, `decide_uploads`, `breakers`, `plan_cleanup`,
`plan_promotions`, `steps_of` the canaries and `plan_markings`, and asks anew only for what may come out
another way: an image whose records are others, a provider whose breaker, capabilities or pause are, and
whatever falls due meanwhile. Another configuration, a freeze, a forgotten builder and a clock that was set
back begin all of it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from builder.config.model import Canary, Config, DiskImage
from builder.model import ImageRecords, Snapshot, UploadState
from builder.planning import builds, cleanup
from builder.planning.actions import (
    Breaker,
    BuildDecision,
    CleanupAction,
    Promotion,
    Verdict,
)
from builder.planning.canary import Clearing, steps_of
from builder.planning.checking import Checking
from builder.planning.marking import Marking, markings_of
from builder.planning.promotion import promotions_of
from builder.planning.remembered import Circumstances, RememberedBreakers, RememberedUploads, UploadPlan
from builder.planning.schedule import delays
from builder.ways import Capabilities

_UNKNOWN: Final[Mapping[str, Capabilities]] = MappingProxyType({})
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
#: For so long a clean-up plan of an image is good, if nothing says that it is for less.
_GOOD_FOR: Final = timedelta(minutes=10)

Answer = TypeVar("Answer")


class Planner:
    """The memory of one worker; for its thread alone.

    Records that are the same object are taken for unchanged, so it wants the snapshots of one store.
    """

    def __init__(self) -> None:
        self._breakers = RememberedBreakers()
        self._uploads = RememberedUploads()
        self._builds: _ByImage[BuildDecision] = _ByImage()
        self._cleanups: _ByImage[tuple[CleanupAction, ...]] = _ByImage()
        self._promotions: _ByImage[tuple[Promotion, ...]] = _ByImage()
        self._canaries: _ByImage[tuple[Clearing | Checking, ...]] = _ByImage()
        self._markings: _ByImage[tuple[Marking, ...]] = _ByImage()
        self._delays: tuple[Config, Mapping[tuple[str, str], timedelta]] | None = None

    # -- builds -------------------------------------------------------------------------------

    def builds(self, config: Config, snapshot: Snapshot, now: datetime) -> tuple[BuildDecision, ...]:
        """What `builds.decide_builds` says."""
        if self._delays is None or self._delays[0] is not config:
            self._delays = config, delays(config)
        spread = self._delays[1]
        around = (snapshot.frozen, snapshot.forgotten, snapshot.paused_providers, snapshot.daemons)
        self._builds.begin(config, around, now)
        decisions = []
        for name, image in config.diskimages.items():
            records = snapshot.images.get(name)
            decision = self._builds.known(name, records) if records and not _follows(image) else None
            if decision is None:
                made_of = _read_for(image, snapshot)
                decision = self._builds.known_of(name, records, made_of)
            if decision is None:
                decision = builds.decide_build(image, snapshot, config, now, delays=spread)
                self._builds.keep(name, records, decision, _build_until(decision, now), made_of)
            decisions.append(decision)
        return builds.in_order(decisions, snapshot)

    # -- uploads ------------------------------------------------------------------------------

    def breakers(self, config: Config, snapshot: Snapshot, now: datetime) -> Mapping[str, Breaker]:
        """The breaker of each configured provider, as `breakers.breakers` says."""
        return self._breakers.known(config, snapshot, now)

    def upload_plan(
        self,
        config: Config,
        snapshot: Snapshot,
        now: datetime,
        capabilities: Mapping[str, Capabilities] = _UNKNOWN,
    ) -> UploadPlan:
        """The decisions of `uploads.decide_uploads`, who may begin, and when the next one may."""
        known = self.breakers(config, snapshot, now)
        circumstances = {
            name: Circumstances(
                breaker=known[name],
                capabilities=capabilities.get(name),
                pause=snapshot.paused_providers.get(name),
            )
            for name in config.providers
        }
        self._uploads.refresh(config, snapshot, now, circumstances)
        return UploadPlan.make(self._uploads, known, config.upload_breaker, now)

    # -- what follows -------------------------------------------------------------------------

    def cleanup(
        self, config: Config, snapshot: Snapshot, now: datetime, *, builder_id: str, active: frozenset[str]
    ) -> tuple[CleanupAction, ...]:
        """What `cleanup.plan_cleanup` says."""
        self._cleanups.begin(config, (builder_id, snapshot.forgotten), now)
        actions: list[CleanupAction] = []
        for name, records in sorted(snapshot.images.items()):
            plan = self._cleanups.known(name, records)
            if plan is None:
                plan = tuple(cleanup.plan_image(config, records, now, builder_id, snapshot.forgotten))
                self._cleanups.keep(name, records, plan, min(_first_due(plan, now), now + _GOOD_FOR))
            actions += plan
        return cleanup.in_order(actions, snapshot.frozen, active)

    def promotions(self, config: Config, snapshot: Snapshot, now: datetime) -> tuple[Promotion, ...]:
        """What `promotion.plan_promotions` says."""
        self._promotions.begin(config, (snapshot.frozen,), now)
        promotions: list[Promotion] = []
        for name, image in config.diskimages.items():
            records = snapshot.images.get(name)
            plan = self._promotions.known(name, records)
            if plan is None:
                made_of = _there_of(snapshot.image(name))
                plan = self._promotions.known_of(name, records, made_of)
            if plan is None:
                plan = tuple(promotions_of(image, config, snapshot, now))
                self._promotions.keep(name, records, plan, _first_due(plan, now), made_of)
            promotions += plan
        return tuple(promotions)

    def canaries(self, config: Config, snapshot: Snapshot, now: datetime) -> tuple[Clearing | Checking, ...]:
        """What `canary.steps_of` says of every diskimage that has canaries."""
        self._canaries.begin(config, (snapshot.frozen, snapshot.paused_providers), now)
        steps: list[Clearing | Checking] = []
        for name, image in config.diskimages.items():
            if not isinstance(image.promote, Canary):
                continue
            records = snapshot.images.get(name)
            plan = self._canaries.known(name, records)
            if plan is None:
                plan = tuple(steps_of(image, config, snapshot, now))
                self._canaries.keep(name, records, plan, _first_due(plan, now))
            steps += plan
        return tuple(steps)

    def markings(self, config: Config, snapshot: Snapshot, now: datetime) -> tuple[Marking, ...]:
        """What `marking.plan_markings` says."""
        self._markings.begin(config, (), now)
        markings: list[Marking] = []
        for name, records in sorted(snapshot.images.items()):
            plan = self._markings.known(name, records)
            if plan is None:
                plan = tuple(markings_of(config, records))
                self._markings.keep(name, records, plan, _FOREVER)
            markings += plan
        return tuple(markings)


@dataclass(frozen=True, kw_only=True)
class _Known(Generic[Answer]):
    """An answer, what it was made of, and until when it holds if that stays the same."""

    records: ImageRecords | None
    made_of: object
    until: datetime
    answer: Answer


class _ByImage(Generic[Answer]):
    """The answers of one question, by image, with the records they were made of and until when they hold."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._around: tuple[object, ...] = ()
        self._now = _FOREVER
        self._known: dict[str, _Known[Answer]] = {}

    def begin(self, config: Config, around: tuple[object, ...], now: datetime) -> None:
        """A pass at that time begins; `around`: what all answers are made of besides records."""
        if config is not self._config or around != self._around or now < self._now:
            self._known.clear()
        self._config, self._around, self._now = config, around, now

    def known(self, image: str, records: ImageRecords | None) -> Answer | None:
        """The answer that was made of these very records, if it still holds."""
        known = self._known.get(image)
        holds = known is not None and known.records is records and self._now < known.until
        return known.answer if known is not None and holds else None

    def known_of(self, image: str, records: ImageRecords | None, made_of: object) -> Answer | None:
        """The answer that was made of the same facts, whatever else is in these other records."""
        known = self._known.get(image)
        if known is None or known.made_of != made_of or self._now >= known.until:
            return None
        self._known[image] = replace(known, records=records)
        return known.answer

    def keep(
        self,
        image: str,
        records: ImageRecords | None,
        answer: Answer,
        until: datetime,
        made_of: object = None,
    ) -> None:
        """Remember an answer until then; `made_of`: what of the records it was made of."""
        self._known[image] = _Known(records=records, made_of=made_of, until=until, answer=answer)


def _read_for(image: DiskImage, snapshot: Snapshot) -> tuple[object, ...]:
    """What of all records a decision on the next build of a diskimage is made of.

    Its uploads are not, and they change most often, unless some of its files are gone.
    """
    records = snapshot.image(image.name)
    request = records.request
    # How a request is to be served is no part of what tells it from others.
    served_by = (request.force, request.urgent, request.tick) if request is not None else None
    gone = any(build.pruned or build.builder_id in snapshot.forgotten for build in records.builds)
    return (
        records.builds,
        records.build_claimed,
        records.cancellation,
        records.pause,
        records.ticks,
        request,
        served_by,
        records.uploads if gone else None,
        _followed(image, snapshot),
    )


def _there_of(records: ImageRecords) -> tuple[object, ...]:
    """What of the records of a diskimage a decision on what serves is made of; uploads that are under way,
    whose records change most often, are no more than that."""
    states = (UploadState.READY, UploadState.DELETING)
    return records.builds, tuple(u if u.state in states else (u.name, u.state) for u in records.uploads)


def _follows(image: DiskImage) -> bool:
    return any(entry.after is not None for entry in image.schedule)


def _followed(image: DiskImage, snapshot: Snapshot) -> tuple[object, ...]:
    return tuple(snapshot.image(entry.after).builds for entry in image.schedule if entry.after is not None)


def _build_until(decision: BuildDecision, now: datetime) -> datetime:
    # What is due since this very moment may have been made so of a time that is still to come.
    if decision.due is not None and decision.verdict is Verdict.NOW and decision.due >= now:
        return now
    return decision.valid_until or _FOREVER


def _first_due(plan: Iterable[CleanupAction | Promotion | Clearing | Checking], now: datetime) -> datetime:
    return min((each.due for each in plan if each.due is not None and each.due > now), default=_FOREVER)

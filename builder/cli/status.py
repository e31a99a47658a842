"""What an image comes to, all in all: from configuration, snapshot and decisions to one state; pure.

    building   a build of it is running
    failed     the newest build that ended failed
    ready      the newest build that ended is ready, or was checked since and is unchanged
    unused     it has no ready build, and nobody wants one: no provider lists it, and it names no formats
    paused     it has no ready build, and builds are paused
    missing    it has no ready build; one is due or soon will be

The first that fits is the state. A paused image that has a ready build is `ready`: what is there
can be used; the column `paused` says that nothing newer will come by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from builder.cli import guard, text, withheld
from builder.config.model import Canary, Config, DiskImage, Provider
from builder.model import Build, BuildState, ImageRecords, Snapshot, Upload, UploadState
from builder.planning import words
from builder.planning.actions import BuildDecision, UploadDecision, Verdict
from builder.planning.assignment import Assignment, assign, why_nobody
from builder.planning.builds import decide_builds
from builder.planning.canary import clearing_of
from builder.planning.promotion import promotions_of
from builder.planning.records import (
    in_service,
    is_there,
    newest_good,
    newest_ready,
    undecided,
    unwanted,
)
from builder.planning.uploads import decide_uploads


class ImageState(StrEnum):
    """What `image list` says of an image; see the top of this module."""

    BUILDING = "building"
    FAILED = "failed"
    READY = "ready"
    UNUSED = "unused"
    PAUSED = "paused"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Place:
    """An image in a provider: the newest upload there, the one that serves, and what comes next."""

    provider: str
    region: str | None
    newest: Upload | None
    ready: Upload | None  #: which serves
    misfit: str | None  #: that this build is withheld, on whose word, and why it serves all the same
    current: bool  #: the build that is wanted here is ready here
    decision: UploadDecision | None  #: None when the configuration doesn't list the image here


@dataclass(frozen=True, kw_only=True)
class ImageStatus:
    """One image at one moment. `diskimage` and `decision` are None when it is not configured."""

    name: str
    state: ImageState
    diskimage: DiskImage | None
    records: ImageRecords
    newest_ready: Build | None  #: of those in quarantine only when there is no other
    decision: BuildDecision | None
    assignment: Assignment | None  #: who is to build it; None when no build is due now
    places: tuple[Place, ...]
    reason: str | None  #: why it is not as it should be, None when it is

    @property
    def paused(self) -> bool:
        """Whether no build starts by itself, because of the configuration or by hand."""
        return self.records.paused or (self.diskimage is not None and self.diskimage.pause)

    @property
    def newest_ended(self) -> Build | None:
        """The newest build that is ready or failed; see `newest_ended`."""
        return newest_ended(self.records)

    @property
    def next_build(self) -> datetime | None:
        """When the next build is due by itself; in the past when it is due now."""
        if self.decision is None or self.decision.verdict not in (Verdict.NOW, Verdict.LATER):
            return None
        return self.decision.due

    @property
    def waits(self) -> str | None:
        """Why a build that is due doesn't begin; None when none is, or a builder is to take it."""
        if self.assignment is None or self.assignment.builder_id is not None:
            return None
        return self.assignment.reason

    @property
    def withheld(self) -> tuple[Build, ...]:
        """The ready builds that somebody keeps out of service, somewhere or everywhere."""
        return tuple(build for build in self.records.ready_builds if build.withheld)

    @property
    def uploads_ready(self) -> int:
        """In how many providers the build is ready that is wanted there."""
        return sum(place.current for place in self.places)


@dataclass(frozen=True, kw_only=True)
class _Plans:
    """What is decided on all images: whose turn it is depends on every one of them."""

    builds: Mapping[str, BuildDecision]
    assignments: Mapping[str, Assignment]
    uploads: tuple[UploadDecision, ...]
    now: datetime

    @classmethod
    def of(cls, config: Config, snapshot: Snapshot, now: datetime) -> _Plans:
        builds = decide_builds(config, snapshot, now)
        return cls(
            builds={decision.image: decision for decision in builds},
            assignments=assign(config, snapshot, now, builds),
            uploads=decide_uploads(config, snapshot, now),
            now=now,
        )


def of_all(config: Config, snapshot: Snapshot, now: datetime) -> tuple[ImageStatus, ...]:
    """Every image that is configured or has records, by name."""
    names = sorted({*config.diskimages, *snapshot.images})
    plans = _Plans.of(config, snapshot, now)
    uploads: dict[str, dict[str, UploadDecision]] = {}
    for decision in plans.uploads:
        uploads.setdefault(decision.image, {})[decision.provider] = decision
    return tuple(_status(config, snapshot, name, plans, uploads.get(name, {})) for name in names)


def of_image(config: Config, snapshot: Snapshot, now: datetime, name: str) -> ImageStatus:
    """One image, by its full name."""
    plans = _Plans.of(config, snapshot, now)
    uploads = {d.provider: d for d in plans.uploads if d.image == name}
    return _status(config, snapshot, name, plans, uploads)


def _status(
    config: Config, snapshot: Snapshot, name: str, plans: _Plans, uploads: Mapping[str, UploadDecision]
) -> ImageStatus:
    records = snapshot.image(name)
    diskimage = config.diskimages.get(name)
    places = _places(config, records, uploads)
    state = _state(records, diskimage)
    return ImageStatus(
        name=name,
        state=state,
        diskimage=diskimage,
        records=records,
        newest_ready=newest_good(records) or newest_ready(records),
        decision=plans.builds.get(name),
        assignment=plans.assignments.get(name),
        places=places,
        reason=_reason(state, snapshot, records, places)
        or _stuck(snapshot, diskimage, plans.builds.get(name))
        or _waiting(config, snapshot, diskimage, plans.now),
    )


def _state(records: ImageRecords, diskimage: DiskImage | None) -> ImageState:
    newest = newest_ended(records)
    if any(b.state is BuildState.BUILDING for b in records.builds):
        return ImageState.BUILDING
    if newest is not None and newest.state is BuildState.FAILED:
        return ImageState.FAILED
    if newest is not None:
        return ImageState.READY
    if diskimage is not None and not diskimage.formats:
        return ImageState.UNUSED
    paused = records.paused or (diskimage is not None and diskimage.pause)
    return ImageState.PAUSED if paused else ImageState.MISSING


def newest_ended(records: ImageRecords) -> Build | None:
    """The newest build that is ready or failed; one that is being deleted doesn't count.

    A ready build that was checked, and found to be what a new one would be, is as new as that.
    """
    ended = [b for b in records.builds if b.state in (BuildState.READY, BuildState.FAILED)]
    return max(ended, key=lambda build: build.fresh, default=None)


def _reason(
    state: ImageState, snapshot: Snapshot, records: ImageRecords, places: tuple[Place, ...]
) -> str | None:
    # What a newer build would mend, or somebody is to decide on, is so while one runs or has failed.
    if said := "; ".join(filter(None, [_of_the_newest(state, records), _out_of_service(records, places)])):
        return said
    if state in (ImageState.BUILDING, ImageState.FAILED):
        return None
    behind = [(place, why) for place in places if (why := _why_behind(snapshot, records, place))]
    where = ", ".join(place.provider for place, _ in behind)
    return f"{where}: {behind[0][1]}" if behind else None


def _of_the_newest(state: ImageState, records: ImageRecords) -> str | None:
    failed = newest_ended(records)
    if state is ImageState.BUILDING:
        return _nobody_works(records)
    if state is ImageState.FAILED and failed is not None:
        return text.summary(failed.reason) or "the build failed; its record doesn't say why"
    return None


def _out_of_service(records: ImageRecords, places: tuple[Place, ...]) -> str | None:
    """That regions serve what is withheld, or that a newer build is held; None when neither is."""
    if bad := [place for place in places if place.misfit is not None]:
        return f"{', '.join(place.provider for place in bad)}: {bad[0].misfit}"
    held = undecided(records)
    return withheld.waits(held) if held is not None else None


def _stuck(snapshot: Snapshot, image: DiskImage | None, decision: BuildDecision | None) -> str | None:
    """Why no builder that is alive can take a build that is due; None when one can, or none is due."""
    if image is None or decision is None or decision.verdict is not Verdict.NOW:
        return None
    return why_nobody(image, snapshot)


def _waiting(config: Config, snapshot: Snapshot, image: DiskImage | None, now: datetime) -> str | None:
    """What a build that is ready waits for before it serves: somebody's word, the canaries, the check."""
    if image is None or not (image.promote == "manual" or isinstance(image.promote, Canary)):
        return None
    clearing = clearing_of(image, config, snapshot, now)
    if clearing is not None and clearing.verdict is not Verdict.NOW:
        return clearing.reason
    promotions = promotions_of(image, config, snapshot, now)
    return next((f"{p.provider}: {p.waits}" for p in promotions if p.waits is not None), None)


def _why_behind(snapshot: Snapshot, records: ImageRecords, place: Place) -> str | None:
    """Why a provider doesn't get the build that is wanted there for now; None when it has it, or is to get
    it."""
    build = newest_good(records, place.provider)
    if place.current or build is None or place.decision is None:
        return None
    if (wish := unwanted(records, build, place.provider)) is not None:
        return f"build {words.short(build.id)} is kept away {words.by_whom(wish)}"
    if (pause := snapshot.paused_providers.get(place.provider)) is not None:
        return f"uploads are paused {words.by_whom(pause)}"
    if place.newest is None or place.newest.state is not UploadState.FAILED:
        return None
    return text.summary(place.newest.reason) or "the upload failed"


def _nobody_works(records: ImageRecords) -> str | None:
    """Why none of the builds that say they run will be ready; None when one of them is alive."""
    running = [b for b in records.builds if b.state is BuildState.BUILDING]
    stale = [guard.nobody_works(records, build) for build in running]
    return f"build {running[0].id}: {stale[0]}" if all(stale) else None


def _places(
    config: Config,
    records: ImageRecords,
    decisions: Mapping[str, UploadDecision],
) -> tuple[Place, ...]:
    """The providers that list the image, for which there is a decision each, then others that have it."""
    others = sorted({u.provider for u in records.uploads} - decisions.keys())
    places = [
        _place(records, name, provider=config.providers[name], decision=decision)
        for name, decision in decisions.items()
    ]
    return (*places, *(_place(records, name) for name in others))


def _place(
    records: ImageRecords,
    name: str,
    *,
    provider: Provider | None = None,
    decision: UploadDecision | None = None,
) -> Place:
    # What serves has its time of state renewed, so that says nothing of which of them is the newest.
    newest = max(records.uploads_to(name), key=lambda u: (u.since, u.build_id, u.id), default=None)
    ready, wanted = in_service(records, name), newest_good(records, name)
    return Place(
        provider=name,
        region=provider.region if provider is not None else newest.region if newest is not None else None,
        newest=newest,
        ready=ready,
        misfit=withheld.misfit(records, name),
        current=wanted is not None and is_there(records, wanted, name),
        decision=decision,
    )

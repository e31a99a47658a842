"""Decide which builds are uploaded to which providers, and when, and say why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from builder.config.model import Config, DiskImage, Provider
from builder.model import NO_TICKS, Build, BuildState, ImageRecords, Pause, Snapshot, Upload, UploadState
from builder.planning.actions import Breaker, BreakerState, UploadDecision, Verdict
from builder.planning.breakers import breakers, trips
from builder.planning.probes import one_probe_each
from builder.planning.records import (
    NEVER,
    may_go_out,
    moving,
    newest_first,
    newest_good,
    newest_ready,
    ready_uploads,
    runs,
    unwanted,
)
from builder.planning.retry import backoff, counts, curable, delay
from builder.planning.ways import unfit_format
from builder.planning.words import at, by_whom, counted, failure, frozen, gone_for_good, short, withheld
from builder.ways import Capabilities

_UNKNOWN: Final[Mapping[str, Capabilities]] = MappingProxyType({})
_NOBODY: Final[Mapping[str, Pause]] = MappingProxyType({})
_NONE_CLAIMED: Final[frozenset[tuple[str, str]]] = frozenset()


def decide_uploads(
    config: Config,
    snapshot: Snapshot,
    now: datetime,
    *,
    capabilities: Mapping[str, Capabilities] = _UNKNOWN,
) -> tuple[UploadDecision, ...]:
    """A decision for every diskimage and every provider that lists it, in the order of the configuration.

    `capabilities`: what is known of providers by now, by their names. Of the uploads that an open
    breaker lets through, at most one for each provider is NOW.
    """
    known = breakers(config, snapshot, now)
    decisions = [
        decide_upload(
            image,
            provider,
            with_uploads(none, there.get(provider.name)),
            config,
            now,
            breaker=known[provider.name],
            capabilities=capabilities.get(provider.name),
            frozen=snapshot.frozen,
            pause=snapshot.paused_providers.get(provider.name),
            forgotten=snapshot.forgotten,
        )
        for image in config.diskimages.values()
        for none, there in [by_provider(snapshot.image(image.name))]
        for provider in config.providers_of(image.name)
    ]
    return one_probe_each(decisions, known, config.upload_breaker, now)


@dataclass(frozen=True)
class There:
    """What the records of an image say of one provider alone."""

    uploads: tuple[Upload, ...] = ()
    claimed: frozenset[tuple[str, str]] = frozenset()


def by_provider(records: ImageRecords) -> tuple[ImageRecords, dict[str, There]]:
    """The records of an image as decisions on single providers need them: those without any upload, and what
    each provider that has uploads adds to them (`with_uploads`).

    What plays no part in such decisions is left out, so those that are equal lead to equal ones.
    """
    uploads: defaultdict[str, list[Upload]] = defaultdict(list)
    for upload in records.uploads:
        uploads[upload.provider].append(upload)
    claimed: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for pair in records.uploads_claimed:
        claimed[pair[1]].add(pair)
    none = replace(
        records,
        pause=None,
        request=None,
        ticks=NO_TICKS,
        upload_cancellations=(),
        uploads=(),
        uploads_claimed=frozenset(),
    )
    there = {
        name: There(tuple(theirs), frozenset(claimed[name]) if name in claimed else _NONE_CLAIMED)
        for name, theirs in uploads.items()
    }
    return none, there


def with_uploads(none: ImageRecords, there: There | None) -> ImageRecords:
    """Records without uploads, and then with those to one provider; None: it has none."""
    return none if there is None else replace(none, uploads=there.uploads, uploads_claimed=there.claimed)


def decide_upload(
    image: DiskImage,
    provider: Provider,
    records: ImageRecords,
    config: Config,
    now: datetime,
    *,
    breaker: Breaker,
    capabilities: Capabilities | None = None,
    frozen: Pause | None = None,
    pause: Pause | None = None,
    forgotten: Mapping[str, Pause] = _NOBODY,
) -> UploadDecision:
    """Whether and when the newest build of a diskimage goes to a provider that lists it.

    That is the newest ready build which nobody withholds from there, or the one that is being built, as soon
    as it has the file that the provider takes. `breaker` is the provider's; where it is half-open, every
    upload that may be the single one is NOW, with `probe`: `decide_uploads` picks one of them.

    `frozen`, `forgotten`: as in the Snapshot; `pause`: that somebody paused the provider by hand.

    Whoever holds the claim of the pair and decides again under it passes records whose
    `uploads_claimed` lacks it, and a breaker made of those: a claim of one's own makes no upload of
    somebody else's alive.
    """
    case = _Case(
        image=image,
        provider=provider,
        records=records,
        build=_candidate(records, provider),
        breaker=breaker,
        capabilities=capabilities,
        frozen=frozen,
        pause=pause,
        forgotten=forgotten,
    )
    if case.build is None:
        return case.decide(Verdict.NO, "There is no ready build to upload.")
    uploads = newest_first(records.uploads_of(case.build.id, provider.name))
    obstacle = (
        _there(case, case.build, uploads)
        or _running(case, case.build)
        or _unwanted(case, case.build)
        or _paused(case)
        or _unfit(case, case.build)
    )
    if obstacle:
        return obstacle
    tries = _tries(case, case.build, uploads)
    if not tries:
        return _due(case, case.build, min(case.build.state_time, now), now)
    return _after_failures(case, case.build, tries, config, now)


def age(decision: UploadDecision) -> datetime:
    """Since when the image in service there is: the older, the sooner it is somebody's turn."""
    return decision.in_service or NEVER


def _candidate(records: ImageRecords, provider: Provider) -> Build | None:
    """The build that the provider should get."""
    good = newest_good(records, provider.name)
    being_built = next((build for build in records.builds if runs(build, records)), None)
    if being_built is None or not being_built.files(provider.image_format):
        return good
    wish = records.cancellation
    about_to_end = wish is not None and wish.build_id == being_built.id
    return good if about_to_end or not may_go_out(being_built, provider.name) else being_built


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A diskimage and a provider, and what is known of both."""

    image: DiskImage
    provider: Provider
    records: ImageRecords
    build: Build | None
    breaker: Breaker
    capabilities: Capabilities | None
    frozen: Pause | None
    pause: Pause | None
    forgotten: Mapping[str, Pause]

    def decide(
        self, verdict: Verdict, reason: str, due: datetime | None = None, *, probe: bool = False
    ) -> UploadDecision:
        """The decision on this case."""
        there = self.records.uploads_to(self.provider.name)
        serving = ready_uploads(there)
        return UploadDecision(
            image=self.image.name,
            provider=self.provider.name,
            verdict=verdict,
            reason=f"{reason}{self._held_back()}",
            build=self.build,
            due=due,
            probe=probe,
            in_service=serving[0].since if serving else None,
            tried=max((u.since for u in there if u.state is UploadState.FAILED), default=None),
        )

    @property
    def next_build(self) -> str:
        """What brings a file that the build does not have."""
        newest = self.build is None or all(b.began <= self.build.began for b in self.records.ready_builds)
        return "a new build is due" if newest else "the next build brings one"

    def _held_back(self) -> str:
        """That a newer build is there and withheld, as a sentence with a space before it; "" without one."""
        newest = newest_ready(self.records)
        if newest is None or newest == self.build:
            return ""
        word = newest.withheld_from(self.provider.name)
        return f" The newest {withheld(newest.id, word)}." if word is not None else ""


# -- what settles it ------------------------------------------------------------------------------


def _there(case: _Case, build: Build, uploads: tuple[Upload, ...]) -> UploadDecision | None:
    ready = ready_uploads(uploads)
    if not ready:
        return None
    newest = "The newest build" if build == newest_ready(case.records) else "Build"
    since = at(min(upload.since for upload in ready))
    return case.decide(
        Verdict.NO, f"{newest} {short(build.id)} is ready in {case.provider.name} since {since}."
    )


def _running(case: _Case, build: Build) -> UploadDecision | None:
    pair = (build.id, case.provider.name)
    upload = next((u for u in moving(case.records) if (u.build_id, u.provider) == pair), None)
    if upload is None:
        return None
    phase = f", phase {upload.phase}" if upload.phase else ""
    return case.decide(
        Verdict.RUNNING,
        f"Build {short(build.id)} is being uploaded to {case.provider.name}"
        f" by {upload.uploader or 'an uploader'} since {at(upload.started or upload.state_time)}{phase}.",
    )


def _unwanted(case: _Case, build: Build) -> UploadDecision | None:
    wish = unwanted(case.records, build, case.provider.name)
    if wish is None:
        return None
    retry = f"`imagepool upload retry {case.image.name} --provider {case.provider.name}`"
    serving = ready_uploads(case.records.uploads_to(case.provider.name))
    stays = f" Build {short(serving[0].build_id)} stays in service there." if serving else ""
    return case.decide(
        Verdict.NO,
        f"Build {short(build.id)} is kept away from {case.provider.name} {by_whom(wish)};"
        f" {retry} lets it go there again.{stays}",
    )


def _paused(case: _Case) -> UploadDecision | None:
    name = case.provider.name
    if case.frozen is not None:
        reason = frozen(case.frozen)
    elif case.pause is not None:
        again = f"`imagepool provider unpause {name}`"
        reason = f"Uploads to {name} are paused {by_whom(case.pause)}; {again} lets them go on."
    elif case.provider.images[case.image.name].pause:
        reason = f"Uploads to {name} are paused in the configuration (`pause: true`)."
    else:
        return None
    return case.decide(Verdict.NO, reason)


def _unfit(case: _Case, build: Build) -> UploadDecision | None:
    """Why the build has nothing for this provider, None if it has."""
    wanted = case.provider.image_format
    reason = None
    if build.formats and not build.artifacts:
        reason = f"Build {short(build.id)} was made by nodepool-builder: its hashes are not on record."
    elif not build.files(wanted):
        reason = f"Build {short(build.id)} has no {wanted}; {case.next_build}."
    elif gone := case.forgotten.get(build.builder_id or ""):
        reason = f"Nothing can be sent: {gone_for_good(build, gone)}; {case.next_build}."
    elif wanted in build.pruned:
        reason = (
            f"The {wanted} file of build {short(build.id)} was deleted after its uploads; {case.next_build}."
        )
    elif case.capabilities is not None:
        reason = unfit_format(case.provider, case.capabilities, wanted)
    return case.decide(Verdict.NO, reason) if reason else None


# -- when it is due -------------------------------------------------------------------------------


def _tries(case: _Case, build: Build, uploads: tuple[Upload, ...]) -> tuple[Upload, ...]:
    """The failures that tell when the next try is, newest first: those since somebody last asked for it."""
    wish = build.wish(case.provider.name)
    since = wish.time if wish is not None and wish.wanted else NEVER
    return tuple(u for u in uploads if u.state is UploadState.FAILED and counts(u) and u.since > since)


def _after_failures(
    case: _Case, build: Build, failed: tuple[Upload, ...], config: Config, now: datetime
) -> UploadDecision:
    last, policy = failed[0], config.upload_retry
    if not trips(last):
        # What is the provider's trouble doesn't use up the tries of an image.
        counting = sum(not trips(upload) for upload in failed)
        # Upload ids are unique within build and provider only, and all three should spread out.
        wait = delay(policy, counting, last.name) if curable(last) else None
        if wait is None:
            return _given_up(case, failed)
        return _due(case, build, last.state_time + wait, now, _failed(failed))
    if case.breaker.state is not BreakerState.CLOSED:
        return _due(case, build, min(last.state_time, now), now)  # the breaker's reason names the failures
    wait = backoff(policy.first, policy.longest, len(failed), last.name)
    return _due(case, build, last.state_time + wait, now, _failed(failed))


def _given_up(case: _Case, failed: tuple[Upload, ...]) -> UploadDecision:
    retry = f"`imagepool upload retry {case.image.name} --provider {case.provider.name}`"
    return case.decide(
        Verdict.NO, f"{_failed(failed)} There is no next try before a new build, or before {retry}."
    )


def _failed(failed: tuple[Upload, ...]) -> str:
    last = failed[0]
    what = f"The upload of build {short(last.build_id)} to {last.provider}"
    if len(failed) == 1:
        return f"{what} failed, {failure(last)}."
    return f"{what} failed {counted(len(failed), 'time')}, last: {failure(last)}."


def _due(case: _Case, build: Build, due: datetime, now: datetime, further: str = "") -> UploadDecision:
    """It is due at that time, or when the provider's breaker lets it through."""
    breaker = case.breaker
    if breaker.state is BreakerState.OPEN and breaker.until is not None:
        own = f"The next try is at {at(due)}." if due > breaker.until else ""
        reason = " ".join(text for text in (further, breaker.reason, own) if text)
        return case.decide(Verdict.LATER, reason, max(due, breaker.until))
    if due > now:
        return case.decide(Verdict.LATER, f"{further} The next try is at {at(due)}.", due)
    what = f"{_missing(case, build)} {further}".strip()
    if breaker.state is not BreakerState.HALF_OPEN:
        return case.decide(Verdict.NOW, what, due)
    if breaker.probe is not None:
        return case.decide(Verdict.NO, f"{breaker.reason} This upload waits for what becomes of that.")
    since = due if breaker.until is None else max(due, breaker.until)
    return case.decide(Verdict.NOW, f"{what} {breaker.reason} This one is due to be it.", since, probe=True)


def _missing(case: _Case, build: Build) -> str:
    where = f"its files are on {build.builder or 'an unknown machine'}."
    if build.state is BuildState.BUILDING:
        return (
            f"Build {short(build.id)} is still being built, but its {case.provider.image_format} is there"
            f" and not in {case.provider.name} yet; it is ready there when the build is, and {where}"
        )
    return (
        f"Build {short(build.id)}, ready since {at(build.state_time)}, is not in {case.provider.name} yet;"
        f" {where}"
    )

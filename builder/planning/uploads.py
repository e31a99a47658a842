"""Decide which builds are uploaded to which providers, and when, and say why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from builder.config.model import Config, DiskImage, Provider
from builder.model import Build, ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import UploadDecision, Verdict
from builder.planning.records import newest_first, newest_ready, ready_uploads
from builder.planning.retry import counts, curable, delay
from builder.planning.words import at, counted, failure, short

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def decide_uploads(config: Config, snapshot: Snapshot, now: datetime) -> tuple[UploadDecision, ...]:
    """A decision for every diskimage and every provider that lists it, in the order of the configuration."""
    return tuple(
        decide_upload(image, provider, snapshot.image(image.name), config, now)
        for image in config.diskimages.values()
        for provider in config.providers_of(image.name)
    )


def decide_upload(
    image: DiskImage, provider: Provider, records: ImageRecords, config: Config, now: datetime
) -> UploadDecision:
    """Whether and when the newest ready build of a diskimage goes to a provider that lists it.

    Whoever holds the claim of the pair and decides again under it passes records whose
    `uploads_claimed` lacks it: a claim of one's own makes no upload of somebody else's alive.
    """
    case = _Case(image=image, provider=provider, records=records, build=newest_ready(records))
    if case.build is None:
        return case.decide(Verdict.NO, "There is no ready build to upload.")
    uploads = newest_first(records.uploads_of(case.build.id, provider.name))
    obstacle = (
        _there(case, case.build, uploads)
        or _running(case, case.build, uploads)
        or _paused(case)
        or _unfit(case, case.build)
    )
    if obstacle:
        return obstacle
    failed = tuple(u for u in uploads if u.state is UploadState.FAILED and counts(u))
    if failed:
        return _after_failures(case, case.build, failed, config, now)
    return _now(case, case.build, min(case.build.state_time, now))


def claimable(decisions: Iterable[UploadDecision], builder_id: str) -> tuple[UploadDecision, ...]:
    """What the machine that holds files under `builder_id` can upload now, in a fair order.

    Providers take turns, so that none waits for all images of another; each brings forward the
    image that is missing or oldest there, and so does each turn.
    """
    mine = [d for d in decisions if d.verdict is Verdict.NOW and d.build and d.build.builder_id == builder_id]
    mine.sort(key=_age)
    turns: dict[str, int] = defaultdict(int)
    ordered: list[tuple[int, UploadDecision]] = []
    for decision in mine:
        ordered.append((turns[decision.provider], decision))
        turns[decision.provider] += 1
    return tuple(decision for _, decision in sorted(ordered, key=lambda pair: pair[0]))


def _age(decision: UploadDecision) -> datetime:
    return decision.in_service or _NEVER


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A diskimage and a provider, and what is known of both."""

    image: DiskImage
    provider: Provider
    records: ImageRecords
    build: Build | None

    def decide(self, verdict: Verdict, reason: str, due: datetime | None = None) -> UploadDecision:
        """The decision on this case."""
        serving = ready_uploads(self.records.uploads_to(self.provider.name))
        return UploadDecision(
            image=self.image.name,
            provider=self.provider.name,
            verdict=verdict,
            reason=reason,
            build=self.build,
            due=due,
            in_service=serving[0].state_time if serving else None,
        )


# -- what settles it ------------------------------------------------------------------------------


def _there(case: _Case, build: Build, uploads: tuple[Upload, ...]) -> UploadDecision | None:
    ready = ready_uploads(uploads)
    if not ready:
        return None
    since = at(ready[0].state_time)
    return case.decide(
        Verdict.NO, f"The newest build {short(build.id)} is ready in {case.provider.name} since {since}."
    )


def _running(case: _Case, build: Build, uploads: tuple[Upload, ...]) -> UploadDecision | None:
    running = [u for u in uploads if u.state is UploadState.UPLOADING]
    if not running or (build.id, case.provider.name) not in case.records.uploads_claimed:
        return None
    upload = running[0]
    phase = f", phase {upload.phase}" if upload.phase else ""
    return case.decide(
        Verdict.RUNNING,
        f"Build {short(build.id)} is being uploaded to {case.provider.name}"
        f" by {upload.uploader or 'an uploader'} since {at(upload.started or upload.state_time)}{phase}.",
    )


def _paused(case: _Case) -> UploadDecision | None:
    if not case.provider.images[case.image.name].pause:
        return None
    return case.decide(
        Verdict.NO, f"Uploads to {case.provider.name} are paused in the configuration (`pause: true`)."
    )


def _unfit(case: _Case, build: Build) -> UploadDecision | None:
    """Why the build has nothing for this provider, None if it has."""
    wanted = case.provider.image_format
    if build.formats and not build.artifacts:
        reason = f"Build {short(build.id)} was made by nodepool-builder: its hashes are not on record."
    elif build.artifact(wanted) is None:
        reason = f"Build {short(build.id)} has no {wanted}; one is due."
    elif wanted in build.pruned:
        reason = (
            f"The {wanted} file of build {short(build.id)} was deleted after its uploads; a new build is due."
        )
    else:
        return None
    return case.decide(Verdict.NO, reason)


# -- when it is due -------------------------------------------------------------------------------


def _after_failures(
    case: _Case, build: Build, failed: tuple[Upload, ...], config: Config, now: datetime
) -> UploadDecision:
    last, policy = failed[0], config.upload_retry
    # Upload ids are unique within build and provider only, and all three should spread out.
    wait = delay(policy, len(failed), last.name) if curable(last) else None
    if wait is None:
        return case.decide(
            Verdict.NO,
            f"{_failed(failed)} There is no next try before a new build;"
            " delete the failed upload to try again (`imagepool upload delete`).",
        )
    again = last.state_time + wait
    if again <= now:
        return _now(case, build, again, _failed(failed))
    return case.decide(Verdict.LATER, f"{_failed(failed)} The next try is at {at(again)}.", again)


def _failed(failed: tuple[Upload, ...]) -> str:
    last = failed[0]
    what = f"The upload of build {short(last.build_id)} to {last.provider}"
    if len(failed) == 1:
        return f"{what} failed, {failure(last)}."
    return f"{what} failed {counted(len(failed), 'time')}, last: {failure(last)}."


def _now(case: _Case, build: Build, due: datetime, further: str = "") -> UploadDecision:
    reason = (
        f"Build {short(build.id)}, ready since {at(build.state_time)}, is not in {case.provider.name} yet;"
        f" its files are on {build.builder or 'an unknown machine'}."
    )
    return case.decide(Verdict.NOW, f"{reason} {further}".strip(), due)

"""Decide which builds and uploads are superseded and may go, so that the last good one never does.

Only images and providers of the configuration are judged: that one was taken out of it is no
reason to delete anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from builder.config.model import Config, DiskImage, Provider
from builder.model import Build, BuildState, ImageRecords, Upload, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.records import newest_first, ready_builds, ready_uploads
from builder.planning.words import at, counted, listed, short


def kept(image: DiskImage) -> int:
    """How many ready builds, and ready uploads per provider, stay: never fewer than one."""
    return max(1, image.keep)


def lasting_uploads(records: ImageRecords, provider: str) -> tuple[Upload, ...]:
    """The uploads to a provider that nobody asked to go, newest first.

    An upload whose build is to go goes with it, so it must not make another one look superseded.
    """
    doomed = {b.id for b in records.builds if b.state is BuildState.DELETING}
    return newest_first(u for u in records.uploads_to(provider) if u.build_id not in doomed)


def superseded_uploads(config: Config, records: ImageRecords, now: datetime) -> Iterator[CleanupAction]:
    """Ready uploads beyond those that are kept, and failed ones that nobody needs to see any more."""
    image = config.diskimages.get(records.name)
    if image is None:
        return
    for provider in config.providers_of(image.name):
        uploads = lasting_uploads(records, provider.name)
        ready = ready_uploads(uploads)
        for upload in ready[kept(image) :]:
            yield _old_upload(records, upload, kept(image))
        for upload in uploads:
            if upload.state is UploadState.FAILED and ready and ready[0].state_time > upload.state_time:
                yield _failed_upload(records, upload, provider, config.failed_retention, now)


def superseded_builds(config: Config, records: ImageRecords, now: datetime) -> Iterator[CleanupAction]:
    """Ready builds beyond those that are kept, once no cloud has them, and failed ones as above."""
    image = config.diskimages.get(records.name)
    if image is None:
        return
    ready = ready_builds(records)
    for build in ready[kept(image) :]:
        yield _old_build(records, build, kept(image))
    for build in records.builds:
        if build.state is not BuildState.FAILED or _in_a_cloud(records, build):
            continue
        if any(r.began > build.began for r in ready):
            yield _failed_build(build, config.failed_retention, now)


def _old_upload(records: ImageRecords, upload: Upload, keep: int) -> CleanupAction:
    newer = f"{counted(keep, 'newer upload')} of {upload.image} {'is' if keep == 1 else 'are'} ready there"
    return CleanupAction(
        kind=CleanupKind.RETIRE_UPLOAD,
        build=records.build(upload.build_id),
        upload=upload,
        verdict=Verdict.NOW,
        reason=f"The upload of build {short(upload.build_id)} to {upload.provider} is superseded: {newer}.",
    )


def _failed_upload(
    records: ImageRecords, upload: Upload, provider: Provider, retention: timedelta, now: datetime
) -> CleanupAction:
    due = upload.state_time + retention
    what = f"The failed upload of build {short(upload.build_id)} to {provider.name}"
    return CleanupAction(
        kind=CleanupKind.RETIRE_UPLOAD,
        build=records.build(upload.build_id),
        upload=upload,
        verdict=Verdict.NOW if due <= now else Verdict.LATER,
        due=due,
        reason=f"{what} has a ready successor and is kept until {at(due)} to be looked at.",
    )


def _old_build(records: ImageRecords, build: Build, keep: int) -> CleanupAction:
    newer = f"{counted(keep, 'newer build')} {'is' if keep == 1 else 'are'} ready"
    superseded = f"Build {short(build.id)} is superseded: {newer}"
    # A record with uploads below it can't go, and one that is ready may be a provider's last good image.
    pins = [u for u in records.uploads_of(build.id) if u.state in (UploadState.READY, UploadState.UPLOADING)]
    if pins:
        where = listed(sorted({f"{u.state} in {u.provider}" for u in pins}))
        verdict, reason = Verdict.NO, f"{superseded}; it stays as long as it is {where}."
    else:
        verdict, reason = Verdict.NOW, f"{superseded}."
    return CleanupAction(kind=CleanupKind.RETIRE_BUILD, build=build, verdict=verdict, reason=reason)


def _failed_build(build: Build, retention: timedelta, now: datetime) -> CleanupAction:
    due = build.state_time + retention
    return CleanupAction(
        kind=CleanupKind.RETIRE_BUILD,
        build=build,
        verdict=Verdict.NOW if due <= now else Verdict.LATER,
        due=due,
        reason=f"The failed build {short(build.id)} has a ready successor"
        f" and is kept until {at(due)} to be looked at.",
    )


def _in_a_cloud(records: ImageRecords, build: Build) -> bool:
    """Whether an upload of it is ready or under way: whatever its own record says, it stays."""
    alive = (UploadState.READY, UploadState.UPLOADING)
    return any(upload.state in alive for upload in records.uploads_of(build.id))

"""Plan what goes with diskimages and providers that the configuration has no more: `imagepool cleanup`.

Nothing of this ever happens by itself: a diskimage or a provider may be missing by a slip of the
hand, and what is planned here takes the last good images, too. A person reads the plan and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from builder.config.model import Config
from builder.model import Build, BuildState, ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.reach import whereabouts
from builder.planning.records import moving, runs
from builder.planning.words import at, listed, short


def plan_departed(
    config: Config, snapshot: Snapshot, now: datetime, *, reachable: Callable[[Upload], bool]
) -> tuple[CleanupAction, ...]:
    """What would be told to go, uploads before builds; with verdict NO what stays, and why.

    `reachable`: whether the cloud of an upload can be asked. What is told to go is removed by the
    janitors like all else.
    """
    plan = [
        action
        for name in sorted(snapshot.images)
        for action in _plan_image(config, snapshot.images[name], reachable)
    ]
    return tuple(sorted(plan, key=lambda action: action.upload is None))


def forgettable(config: Config, snapshot: Snapshot, provider: str) -> tuple[Upload, ...]:
    """The uploads to a provider whose records `imagepool cleanup --forget` may remove from the store.

    None while the configuration has the provider, for then its cloud can be asked; none that runs.
    """
    if provider in config.providers:
        return ()
    return tuple(
        upload
        for name in sorted(snapshot.images)
        for upload in snapshot.images[name].uploads_to(provider)
        if upload not in moving(snapshot.images[name])
    )


def why_departed(config: Config, upload: Upload) -> str | None:
    """Why the configuration has no place for an upload any more, in words; None when it has one."""
    provider = config.providers.get(upload.provider)
    if upload.image not in config.diskimages:
        return f"the diskimage {upload.image} is not in the configuration"
    if provider is None:
        return f"the provider {upload.provider} is not in the configuration"
    if upload.image not in provider.images:
        return f"{upload.provider} does not list {upload.image}"
    return None


def _plan_image(
    config: Config, records: ImageRecords, reachable: Callable[[Upload], bool]
) -> Iterator[CleanupAction]:
    for upload in records.uploads:
        why = why_departed(config, upload)
        if why is not None:
            yield from _upload(records, upload, why, reachable)
    if records.name not in config.diskimages:
        for build in records.builds:
            yield from _build(records, build, reachable)


def _upload(
    records: ImageRecords, upload: Upload, why: str, reachable: Callable[[Upload], bool]
) -> Iterator[CleanupAction]:
    what = f"The upload of build {short(upload.build_id)} to {upload.provider}"
    kind, verdict = CleanupKind.RETIRE_UPLOAD, Verdict.NO
    if upload.state is UploadState.UPLOADING:
        reason = f"{what} goes once it has ended: {why}"
        if upload not in moving(records):
            reason += "; its uploader is gone, and a janitor records that first"
    elif _in_cloud(upload) and not reachable(upload):
        kind = CleanupKind.REMOVE_UPLOAD if upload.state is UploadState.DELETING else kind
        reason = _left_behind(upload, what, why)
    elif upload.state is UploadState.DELETING:
        return  # it goes already
    else:
        verdict, reason = Verdict.NOW, f"{what} goes: {why}"
    yield CleanupAction(
        kind=kind, build=records.build(upload.build_id), upload=upload, verdict=verdict, reason=f"{reason}."
    )


def _left_behind(upload: Upload, what: str, why: str) -> str:
    image = upload.external_id or upload.external_name or "an image of ours"
    return (
        f"{what} stays, and with it {image} in {whereabouts(upload)}: {why}, and its cloud can't be asked;"
        " let its credentials resolve again, or forget it with"
        f" `imagepool cleanup --forget {upload.provider}`"
    )


def _in_cloud(upload: Upload) -> bool:
    """Whether there may be something in the cloud; a failed upload that left nothing has only its record."""
    return upload.state is not UploadState.FAILED or upload.may_linger


def _build(
    records: ImageRecords, build: Build, reachable: Callable[[Upload], bool]
) -> Iterator[CleanupAction]:
    if build.state is BuildState.DELETING:
        return
    what, why = f"Build {short(build.id)}", f"the diskimage {records.name} is not in the configuration"
    left = sorted({u.provider for u in records.uploads_of(build.id) if _in_cloud(u) and not reachable(u)})
    verdict = Verdict.NO
    if build.state is BuildState.BUILDING:
        reason = f"{what} goes once it has ended: {why}"
        if not runs(build, records):
            reason += "; its builder is gone, and a janitor records that first"
    elif left:
        reason = f"{what} stays as long as it is on record in {listed(left)}, which can't be asked: {why}"
    else:
        verdict, reason = Verdict.NOW, f"{what} of {at(build.state_time)} goes with its files: {why}"
    yield CleanupAction(kind=CleanupKind.RETIRE_BUILD, build=build, verdict=verdict, reason=f"{reason}.")

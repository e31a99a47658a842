"""Decide what is cleaned up: work whose worker is gone, and what somebody asked to go.

What is merely superseded is retention's to decide (retention.py); the plan holds both. An empty
tree plans nothing: every action follows from a record that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from builder.config.model import Config
from builder.model import Build, BuildState, ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.pruning import spent_files
from builder.planning.records import newest_first
from builder.planning.retention import superseded_builds, superseded_uploads
from builder.planning.words import at, cancelled, counted, short

#: Failures are recorded first, because the next try waits for it; then what frees room; then the rest.
_ORDER = (
    CleanupKind.FAIL_BUILD,
    CleanupKind.FAIL_UPLOAD,
    CleanupKind.WITHDRAW_CANCELLATION,
    CleanupKind.REMOVE_LEFTOVER,
    CleanupKind.REMOVE_UPLOAD,
    CleanupKind.REMOVE_BUILD,
    CleanupKind.PRUNE_BUILD,
    CleanupKind.RETIRE_UPLOAD,
    CleanupKind.RETIRE_BUILD,
)


def plan_cleanup(
    config: Config, snapshot: Snapshot, now: datetime, *, builder_id: str, active: frozenset[str]
) -> tuple[CleanupAction, ...]:
    """What to clean up now (NOW), later (LATER, at `due`), or when something changes (NO).

    `builder_id` is this machine's: only it can remove files of its builds. `active` has the build
    ids and upload names this process works on, whose claims may be lost: nothing touches them.
    """
    plan = [
        action
        for name in sorted(snapshot.images)
        for action in _plan_image(config, snapshot.images[name], now, builder_id)
        if not _busy(action, active)
    ]
    return tuple(sorted(plan, key=lambda action: _ORDER.index(action.kind)))


def _busy(action: CleanupAction, active: frozenset[str]) -> bool:
    if action.upload:
        return action.upload.name in active
    # An upload of it that runs here reads its files, even if the upload's record is lost; and a build
    # that runs here has to see that it was cancelled, even if its own record is lost.
    build = action.cancellation.build_id if action.cancellation else action.build and action.build.id
    return build is not None and any(name == build or name.startswith(f"{build}/") for name in active)


def _plan_image(
    config: Config, records: ImageRecords, now: datetime, builder_id: str
) -> Iterator[CleanupAction]:
    yield from _abandoned_builds(records)
    yield from _abandoned_uploads(config, records)
    yield from _stale_cancellation(records)
    yield from _leftovers(config, records)
    yield from _unwanted_uploads(config, records)
    yield from _unwanted_builds(records, builder_id)
    yield from spent_files(config, records, builder_id)
    yield from superseded_uploads(config, records, now)
    yield from superseded_builds(config, records, now)


# -- work whose worker is gone --------------------------------------------------------------------


def _abandoned_builds(records: ImageRecords) -> Iterator[CleanupAction]:
    building = sorted(
        (b for b in records.builds if b.state is BuildState.BUILDING),
        key=lambda b: (b.began, b.id),
        reverse=True,
    )
    # The lock is the image's, so of several records only the newest can be alive.
    for build in building[1:] if records.build_claimed else building:
        gone = f"Build {short(build.id)} has no builder any more"
        wish = records.cancellation
        if wish is not None and wish.build_id == build.id:
            gone += f" and was {cancelled(wish)}"
        wait = records.build_claimed
        yield CleanupAction(
            kind=CleanupKind.FAIL_BUILD,
            build=build,
            verdict=Verdict.NO if wait else Verdict.NOW,
            reason=f"{gone}; that is recorded when the build that runs has ended." if wait else f"{gone}.",
        )


def _abandoned_uploads(config: Config, records: ImageRecords) -> Iterator[CleanupAction]:
    alive: set[tuple[str, str]] = set()
    for upload in newest_first(u for u in records.uploads if u.state is UploadState.UPLOADING):
        pair = (upload.build_id, upload.provider)
        claimed = pair in records.uploads_claimed
        if claimed and pair not in alive:
            # The lock is the pair's, so of several records only the newest can be alive.
            alive.add(pair)
            continue
        yield _fail_upload(config, records, upload, wait=claimed)


def _fail_upload(config: Config, records: ImageRecords, upload: Upload, *, wait: bool) -> CleanupAction:
    gone = f"{_named(upload)} has no uploader any more"
    if upload.provider not in config.providers:
        verdict, reason = Verdict.NO, f"{gone}. {_out_of_reach(upload)}"
    elif wait:
        verdict, reason = Verdict.NO, f"{gone}; that is recorded when the upload that runs has ended."
    else:
        verdict, reason = Verdict.NOW, f"{gone}."
    return _on_upload(CleanupKind.FAIL_UPLOAD, records, upload, verdict, reason)


def _stale_cancellation(records: ImageRecords) -> Iterator[CleanupAction]:
    wish = records.cancellation
    if wish is None:
        return
    build = records.build(wish.build_id)
    if build is None or build.state is not BuildState.BUILDING:
        yield CleanupAction(
            kind=CleanupKind.WITHDRAW_CANCELLATION,
            build=build,
            cancellation=wish,
            verdict=Verdict.NOW,
            reason=f"Build {short(wish.build_id)}, {cancelled(wish)}, has ended.",
        )


def _leftovers(config: Config, records: ImageRecords) -> Iterator[CleanupAction]:
    for upload in records.uploads:
        if upload.may_linger:
            what = f"{_named(upload)} failed and left {upload.external_id or upload.external_name} behind"
            yield _in_cloud(config, CleanupKind.REMOVE_LEFTOVER, records, upload, f"{what}.")


# -- what somebody asked to go --------------------------------------------------------------------


def _unwanted_uploads(config: Config, records: ImageRecords) -> Iterator[CleanupAction]:
    for upload in records.uploads:
        if upload.state is UploadState.DELETING:
            reason = f"{_named(upload)} is to go since {at(upload.state_time)}."
            yield _in_cloud(config, CleanupKind.REMOVE_UPLOAD, records, upload, reason)


def _unwanted_builds(records: ImageRecords, builder_id: str) -> Iterator[CleanupAction]:
    for build in records.builds:
        if build.state is not BuildState.DELETING:
            continue
        uploads = records.uploads_of(build.id)
        for upload in uploads:
            if upload.state in (UploadState.READY, UploadState.FAILED):
                reason = f"Build {short(build.id)} is to go, and its upload to {upload.provider} with it."
                yield _on_upload(CleanupKind.RETIRE_UPLOAD, records, upload, Verdict.NOW, reason)
        yield _remove_build(build, len(uploads), builder_id)


def _remove_build(build: Build, uploads: int, builder_id: str) -> CleanupAction:
    reason = f"Build {short(build.id)} is to go since {at(build.state_time)}"
    has_files = bool(build.artifacts or build.formats)
    verdict = Verdict.NO
    if uploads:
        reason += f"; it waits until {counted(uploads, 'upload')} of it {_are(uploads)} gone."
    elif has_files and build.builder_id != builder_id:
        reason += f"; its files are on {build.builder or 'an unknown machine'}; that machine removes them."
    else:
        reason, verdict = f"{reason}.", Verdict.NOW
    return CleanupAction(kind=CleanupKind.REMOVE_BUILD, build=build, verdict=verdict, reason=reason)


# -- parts of them --------------------------------------------------------------------------------


def _in_cloud(
    config: Config, kind: CleanupKind, records: ImageRecords, upload: Upload, reason: str
) -> CleanupAction:
    """An action in a cloud, which waits while its provider is not configured."""
    if upload.provider in config.providers:
        return _on_upload(kind, records, upload, Verdict.NOW, reason)
    return _on_upload(kind, records, upload, Verdict.NO, f"{reason} {_out_of_reach(upload)}")


def _on_upload(
    kind: CleanupKind, records: ImageRecords, upload: Upload, verdict: Verdict, reason: str
) -> CleanupAction:
    build = records.build(upload.build_id)
    return CleanupAction(kind=kind, build=build, upload=upload, verdict=verdict, reason=reason)


def _named(upload: Upload) -> str:
    return f"The upload of build {short(upload.build_id)} to {upload.provider}"


def _out_of_reach(upload: Upload) -> str:
    return (
        f"The provider {upload.provider} is not in the configuration, so its cloud can't be asked;"
        " configure it again to let this be cleaned up."
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"

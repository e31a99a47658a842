"""Decide what is cleaned up: work whose worker is gone, and what somebody asked to go.

What is merely superseded is retention's to decide (retention.py); the plan holds both. An empty
tree plans nothing: every action follows from a record that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Config, DiskImage
from builder.model import (
    Build,
    BuildState,
    ImageRecords,
    Pause,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadState,
)
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.pruning import spent_files
from builder.planning.reach import provider_of, whereabouts
from builder.planning.records import moving, newest_first, runs
from builder.planning.retention import awaits_successor, marks_of, superseded_builds, superseded_uploads
from builder.planning.words import at, by_whom, cancelled, counted, frozen, gone_for_good, short

#: How long a cloud may take to make an image although the connection has broken: load balancers and
#: Glance itself give a request up after a minute or two.
UNSEEN_GRACE: Final = timedelta(minutes=5)

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
#: What only puts on record that something has ended, and takes nothing away.
_SETTLING = frozenset({CleanupKind.FAIL_BUILD, CleanupKind.WITHDRAW_CANCELLATION})


def plan_cleanup(
    config: Config, snapshot: Snapshot, now: datetime, *, builder_id: str, active: frozenset[str]
) -> tuple[CleanupAction, ...]:
    """What to clean up now (NOW), later (LATER, at `due`), or when something changes (NO).

    `builder_id` is this machine's: only it can remove files of its builds. `active` has the build
    ids and upload names this process works on, whose claims may be lost: nothing touches them.
    While everything is frozen, only what has ended is put on record. What a builder had that is gone for
    good (`Snapshot.forgotten`) any machine cleans up.
    """
    every = (
        action
        for name in sorted(snapshot.images)
        for action in plan_image(config, snapshot.images[name], now, builder_id, snapshot.forgotten)
    )
    return in_order(every, snapshot.frozen, active)


def in_order(
    actions: Iterable[CleanupAction], freeze: Pause | None, active: frozenset[str]
) -> tuple[CleanupAction, ...]:
    """Actions in the order they should be done, without those that concern what is `active`, and with those
    that a freeze stops."""
    plan = [_unless_frozen(action, freeze) for action in actions if not _busy(action, active)]
    return tuple(sorted(plan, key=lambda action: _ORDER.index(action.kind)))


def _busy(action: CleanupAction, active: frozenset[str]) -> bool:
    # What runs here has to see that it was cancelled, even if its own record is lost.
    wish = action.cancellation
    if isinstance(wish, UploadCancellation):
        return wish.upload in active
    if action.upload:
        return action.upload.name in active
    # An upload of it that runs here reads its files, even if the upload's record is lost.
    build = wish.build_id if wish else action.build and action.build.id
    return build is not None and any(name == build or name.startswith(f"{build}/") for name in active)


def _unless_frozen(action: CleanupAction, freeze: Pause | None) -> CleanupAction:
    if freeze is None or action.kind in _SETTLING or action.verdict is Verdict.NO:
        return action
    return replace(action, verdict=Verdict.NO, due=None, reason=f"{action.reason} {frozen(freeze)}")


def plan_image(
    config: Config, records: ImageRecords, now: datetime, builder_id: str, forgotten: Mapping[str, Pause]
) -> Iterator[CleanupAction]:
    """What to clean up of one image, whatever this process works on or a freeze stops."""
    yield from _abandoned_builds(records)
    yield from _abandoned_uploads(config, records)
    yield from _stale_cancellations(records)
    yield from _leftovers(config, records, now)
    yield from _unwanted_uploads(config, records)
    yield from _unwanted_builds(records, builder_id, forgotten)
    yield from spent_files(config, records, now, builder_id, forgotten)
    yield from superseded_uploads(config, records, now)
    yield from superseded_builds(config, records, now)


# -- work whose worker is gone --------------------------------------------------------------------


def _abandoned_builds(records: ImageRecords) -> Iterator[CleanupAction]:
    building = (b for b in records.builds if b.state is BuildState.BUILDING and not runs(b, records))
    for build in sorted(building, key=lambda b: (b.began, b.id), reverse=True):
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
    alive = moving(records)
    for upload in newest_first(u for u in records.uploads if u.state is UploadState.UPLOADING):
        if upload not in alive:
            claimed = (upload.build_id, upload.provider) in records.uploads_claimed
            yield _fail_upload(config, records, upload, wait=claimed)


def _fail_upload(config: Config, records: ImageRecords, upload: Upload, *, wait: bool) -> CleanupAction:
    gone = f"{_named(upload)} has no uploader any more"
    wish = next((w for w in records.upload_cancellations if w.upload == upload.name), None)
    if wish is not None:
        gone += f" and was {cancelled(wish)}"
    if wait:
        reason = f"{gone}; that is recorded when the upload that runs has ended."
        return _on_upload(CleanupKind.FAIL_UPLOAD, records, upload, Verdict.NO, reason)
    return _in_cloud(config, CleanupKind.FAIL_UPLOAD, records, upload, f"{gone}.")


def _stale_cancellations(records: ImageRecords) -> Iterator[CleanupAction]:
    wish = records.cancellation
    build = records.build(wish.build_id) if wish is not None else None
    if wish is not None and (build is None or build.state is not BuildState.BUILDING):
        yield CleanupAction(
            kind=CleanupKind.WITHDRAW_CANCELLATION,
            build=build,
            cancellation=wish,
            verdict=Verdict.NOW,
            reason=f"Build {short(wish.build_id)}, {cancelled(wish)}, has ended.",
        )
    running = {upload.name for upload in records.uploads if upload.state is UploadState.UPLOADING}
    for each in records.upload_cancellations:
        if each.upload not in running:
            # Without the upload: that needs nothing of its provider, and waits for none.
            yield CleanupAction(
                kind=CleanupKind.WITHDRAW_CANCELLATION,
                cancellation=each,
                verdict=Verdict.NOW,
                reason=f"The upload {each.upload}, {cancelled(each)}, has ended.",
            )


def _leftovers(config: Config, records: ImageRecords, now: datetime) -> Iterator[CleanupAction]:
    for upload in records.uploads:
        if upload.may_linger:
            what = f"{_named(upload)} failed and left {upload.external_id or upload.external_name} behind"
            action = _in_cloud(config, CleanupKind.REMOVE_LEFTOVER, records, upload, f"{what}.")
            yield _not_too_soon(action, upload, now)


def _not_too_soon(action: CleanupAction, upload: Upload, now: datetime) -> CleanupAction:
    """Later, when the cloud did not even tell an id, and may still be at it."""
    due = upload.state_time + UNSEEN_GRACE
    if action.verdict is not Verdict.NOW or upload.external_id is not None or now >= due:
        return action
    reason = (
        f"{_named(upload)} failed without an answer; its cloud may make {upload.external_name} yet,"
        f" which is looked for at {at(due)}."
    )
    return replace(action, verdict=Verdict.LATER, due=due, reason=reason)


# -- what somebody asked to go --------------------------------------------------------------------


def _unwanted_uploads(config: Config, records: ImageRecords) -> Iterator[CleanupAction]:
    for upload in records.uploads:
        if upload.state is UploadState.DELETING:
            yield _remove_upload(config, records, upload)


def _remove_upload(config: Config, records: ImageRecords, upload: Upload) -> CleanupAction:
    reason = f"{_named(upload)} is to go since {at(upload.state_time)}"
    if upload.deletion is not None:
        reason += f", asked {by_whom(upload.deletion)}"
    image = config.diskimages.get(records.name)
    listing = {provider.name for provider in config.providers_of(records.name)}
    if image is not None and upload.provider in listing and awaits_successor(image, records, upload):
        reason += f"; it waits until another one there {_takes_over(image)}."
        return _on_upload(CleanupKind.REMOVE_UPLOAD, records, upload, Verdict.NO, reason)
    if upload.hidden:
        reason += "; it is hidden meanwhile"
    return _in_cloud(config, CleanupKind.REMOVE_UPLOAD, records, upload, f"{reason}.")


def _takes_over(image: DiskImage) -> str:
    return f"has its {marks_of(image)}" if marks_of(image) else "is in service"


def _unwanted_builds(
    records: ImageRecords, builder_id: str, forgotten: Mapping[str, Pause]
) -> Iterator[CleanupAction]:
    for build in records.builds:
        if build.state is not BuildState.DELETING:
            continue
        uploads = records.uploads_of(build.id)
        for upload in uploads:
            if upload.state in (UploadState.READY, UploadState.FAILED):
                reason = f"Build {short(build.id)} is to go, and its upload to {upload.provider} with it."
                yield _on_upload(CleanupKind.RETIRE_UPLOAD, records, upload, Verdict.NOW, reason)
        yield _remove_build(build, len(uploads), builder_id, forgotten.get(build.builder_id or ""))


def _remove_build(build: Build, uploads: int, builder_id: str, forgotten: Pause | None) -> CleanupAction:
    reason = f"Build {short(build.id)} is to go since {at(build.state_time)}"
    # What failed over budget has no artifacts, and may have files that stay to be looked at.
    has_files = bool(build.artifacts or build.formats or build.kept)
    verdict = Verdict.NO
    if uploads:
        reason += f"; it waits until {counted(uploads, 'upload')} of it {_are(uploads)} gone."
    elif has_files and forgotten is not None:
        reason, verdict = f"{reason}, and {gone_for_good(build, forgotten)}.", Verdict.NOW
    elif has_files and build.builder_id != builder_id:
        reason += f"; its files are on {build.builder or 'an unknown machine'}; that machine removes them."
    else:
        reason, verdict = f"{reason}.", Verdict.NOW
    return CleanupAction(kind=CleanupKind.REMOVE_BUILD, build=build, verdict=verdict, reason=reason)


# -- parts of them --------------------------------------------------------------------------------


def _in_cloud(
    config: Config, kind: CleanupKind, records: ImageRecords, upload: Upload, reason: str
) -> CleanupAction:
    """An action in a cloud, which waits while nothing tells how to reach it."""
    if provider_of(config, upload) is None:
        return _on_upload(kind, records, upload, Verdict.NO, f"{reason} {_out_of_reach(upload)}")
    if upload.provider not in config.providers:
        reason += f" {upload.provider} is not in the configuration; it was {whereabouts(upload)}."
    return _on_upload(kind, records, upload, Verdict.NOW, reason)


def _on_upload(
    kind: CleanupKind, records: ImageRecords, upload: Upload, verdict: Verdict, reason: str
) -> CleanupAction:
    build = records.build(upload.build_id)
    return CleanupAction(kind=kind, build=build, upload=upload, verdict=verdict, reason=reason)


def _named(upload: Upload) -> str:
    return f"The upload of build {short(upload.build_id)} to {upload.provider}"


def _out_of_reach(upload: Upload) -> str:
    return (
        f"The provider {upload.provider} is not in the configuration and its cloud is not on record, so it"
        " can't be asked; configure it again to let this be cleaned up, or forget what it has with"
        f" `imagepool cleanup --forget {upload.provider}`."
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"

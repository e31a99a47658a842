"""Say what deleting a build or an upload would break, and what can be cancelled; pure.

Promise: nothing good is lost unless somebody insists. `against_...` return the reasons against it, an
empty tuple when there are none.
"""

from __future__ import annotations

from builder.cloudimage import (
    INSTALLATION,
    NODEPOOL_PROVIDER,
    CloudImage,
)
from builder.model import Build, BuildState, FailureClass, ImageRecords, Snapshot, Upload, UploadState
from builder.planning.records import may_go_out, moving, ready_uploads
from builder.planning.retention import lasting_uploads


def against_deleting_build(records: ImageRecords, build: Build) -> tuple[str, ...]:
    """Why this build of the image should stay: it, or an upload of it, is the last good one.

    For what may serve, others count that may; for what is withheld, all that are ready.
    """
    reasons = []
    if build.state is BuildState.READY and _is_last(records, build):
        reasons.append(f"it is the last ready build of {build.image}")
    reasons += [
        f"{upload.provider} has no other ready image of {build.image}"
        for upload in records.uploads_of(build.id)
        if upload.state is UploadState.READY and not _ready_elsewhere(records, upload)
    ]
    return tuple(dict.fromkeys(reasons))


def against_deleting_upload(records: ImageRecords, upload: Upload) -> tuple[str, ...]:
    """Why this upload of the image should stay: it is the last good one in its provider."""
    if upload.state is UploadState.READY and not _other_ready(records, upload):
        return (f"{upload.provider} has no other ready image of {upload.image}",)
    return ()


def why_no_leak(image: CloudImage, snapshot: Snapshot, *, installation_id: str, adopt_nodepool: bool) -> str:
    """Why a cloud image that planning.leaks doesn't take for a leak is none."""
    return (
        _not_ours(image, installation_id, adopt_nodepool)
        or _made_from_ours(image)
        or _owner(image, snapshot)
        or "it is going already, or a record may have it"
    )


def _not_ours(image: CloudImage, installation_id: str, adopt_nodepool: bool) -> str | None:
    whose = image.properties.get(INSTALLATION)
    if whose == installation_id:
        return None
    if whose is not None:
        return f"it belongs to another installation, {whose}"
    if NODEPOOL_PROVIDER not in image.properties:
        return "it has no mark of ours"
    if not adopt_nodepool:
        return "it is nodepool's, and adopt-nodepool is not set"
    return f"it belongs to nodepool's provider {image.properties[NODEPOOL_PROVIDER]!r}"


def _made_from_ours(image: CloudImage) -> str | None:
    # Nova and Cinder copy the properties of an image to what they make from it.
    mark = image.snapshot_mark
    return f"it is a snapshot of something made from ours: it has the property {mark}" if mark else None


def _owner(image: CloudImage, snapshot: Snapshot) -> str | None:
    """The record that knows the image, by its id or, when that is not on record yet, by its marks."""
    said = image.uploads_named
    for upload in snapshot.uploads():
        if image.id in upload.external_ids or (upload.build_id, upload.provider, upload.id) in said:
            return f"it is upload {upload.name}, which is {upload.state}"
    return None


def _is_last(records: ImageRecords, build: Build) -> bool:
    others = [b for b in records.ready_builds if b.id != build.id]
    return not any(build.quarantine is not None or other.quarantine is None for other in others)


def _ready_elsewhere(records: ImageRecords, upload: Upload) -> bool:
    """Whether the provider keeps a ready image when every upload of this build goes."""
    return any(u.build_id != upload.build_id for u in _as_good(records, upload))


def _other_ready(records: ImageRecords, upload: Upload) -> bool:
    return any(u.name != upload.name for u in _as_good(records, upload))


def _as_good(records: ImageRecords, upload: Upload) -> tuple[Upload, ...]:
    """The ready images in its provider, this one included, that could serve in its place."""
    # An upload whose build is on its way out doesn't count: it goes with it.
    ready = ready_uploads(lasting_uploads(records, upload.provider))
    if not may_go_out(records.build(upload.build_id), upload.provider):
        return ready
    return tuple(u for u in ready if may_go_out(records.build(u.build_id), u.provider))


def is_cancelled(record: Build | Upload) -> bool:
    """Whether a build or upload has ended because somebody cancelled it."""
    reason = record.reason if record.state in (BuildState.FAILED, UploadState.FAILED) else None
    return reason is not None and reason.failure_class is FailureClass.CANCELLED


def nobody_works(records: ImageRecords, build: Build) -> str | None:
    """Why a build that says it runs will never end by itself; None when it doesn't say so, or is alive."""
    if build.state is not BuildState.BUILDING or is_alive(records, build):
        return None
    return "no builder works on it any more; a janitor ends it"


def nobody_uploads(records: ImageRecords, upload: Upload) -> str | None:
    """Why an upload that says it runs will never end by itself; None when it doesn't say so, or is alive."""
    if upload.state is not UploadState.UPLOADING or is_moving(records, upload):
        return None
    return "no uploader works on it any more; a janitor ends it"


def is_moving(records: ImageRecords, upload: Upload) -> bool:
    """Whether somebody may work on an upload that says it runs."""
    return any(u.name == upload.name for u in moving(records))


def is_alive(records: ImageRecords, build: Build) -> bool:
    """Whether somebody may work on a build that says it runs.

    The claim is the image's, so of several such builds only the newest can be alive.
    """
    running = [b for b in records.builds if b.state is BuildState.BUILDING]
    return records.build_claimed and max(running, key=lambda b: (b.began, b.id), default=build).id == build.id

"""Which record is the newest: the one order that builds, uploads and clean-up agree on.

Ties are broken by id, so that every machine finds the same one.
"""

from __future__ import annotations

from collections.abc import Iterable

from builder.model import Build, BuildState, ImageRecords, Upload, UploadState


def ready_builds(records: ImageRecords) -> tuple[Build, ...]:
    """The ready builds, that which became ready last first."""
    return tuple(sorted(records.ready_builds, key=lambda b: (b.state_time, b.id), reverse=True))


def newest_ready(records: ImageRecords) -> Build | None:
    """The build that is uploaded and that decides whether a new one is due; None without one."""
    return next(iter(ready_builds(records)), None)


def newest_first(uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    """Uploads by the time of their state; of several ready ones nodepool-launcher takes the first."""
    return tuple(sorted(uploads, key=lambda u: (u.state_time, u.build_id, u.id), reverse=True))


def ready_uploads(uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    """The ready ones, newest first."""
    return newest_first(u for u in uploads if u.state is UploadState.READY)


def has_file(build: Build, image_format: str) -> bool:
    """Whether a build has a file of that format that was not pruned since."""
    return build.artifact(image_format) is not None and image_format not in build.pruned


def is_there(records: ImageRecords, build: Build, provider: str) -> bool:
    """Whether an upload of the build is ready in the provider."""
    return any(u.state is UploadState.READY for u in records.uploads_of(build.id, provider))


def was_ready(build: Build) -> bool:
    """Whether a build came out well, although it may have been told to go since."""
    if build.state is BuildState.DELETING:
        return bool(build.formats or build.artifacts)  # a failed build has neither
    return build.state is BuildState.READY

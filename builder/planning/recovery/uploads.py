"""Makes the record of an upload from its image."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from builder.model import Build, Failure, FailureClass, Upload, UploadState
from builder.planning.recovery.trove import Found


def ready_upload(found: Found, build: Build, ready: datetime, now: datetime) -> Upload:
    """The record of an upload that is ready, of a build that is since `ready`."""
    # None is ready before its build is. In this order the newest is the newest again, which is what counts.
    record = _base(found, max(found.evidence.started, ready))
    return replace(
        record,
        sent=record.size or 0,
        # Nobody knows since when: what soaks in the canaries does so anew.
        serving=now if found.evidence.serving else None,
        hidden=found.old,
        withheld=found.evidence.withheld.time if found.evidence.withheld is not None else None,
        username=build.username,
        python_path=build.python_path,
        shell_type=build.shell_type,
    )


def failed_upload(found: Found, now: datetime) -> Upload:
    """The record of an upload that never came to its end; the janitor takes the image away."""
    status = f"the image is {found.evidence.image.status}"
    left = "only parts of it are there" if found.is_lost else status
    record = _base(found, found.evidence.started)
    if found.is_lost:
        # By its marks all that there is of it is found.
        record = replace(record, external_id=None, format=None, parts={})
    message = f"the records were lost before it was done; {left}"
    return replace(
        record,
        state=UploadState.FAILED,
        ended=now,
        reason=Failure(failure_class=FailureClass.INTERRUPTED, message=message),
    )


def _base(found: Found, time: datetime) -> Upload:
    evidence, provider = found.evidence, found.provider
    sizes = [each.image.size for each in found.all]
    return Upload(
        id=evidence.upload_id,
        build_id=evidence.build_id,
        image=evidence.diskimage,
        provider=provider.name,
        state=UploadState.READY,
        state_time=time,
        external_id=evidence.image.id,
        external_name=evidence.name,
        format=str(evidence.format) if evidence.format else None,
        cloud=provider.cloud,
        region=provider.region,
        started=evidence.started,
        size=sum(size for size in sizes if size) if all(_is_size(size) for size in sizes) else None,
        parts={str(each.format): each.image.id for each in found.parts},
    )


def _is_size(size: int | None) -> bool:
    return size is not None and size >= 0

"""Tell which ready uploads have no image in their cloud any more, because somebody deleted it there.

A list that lacks an image proves little: it may have been made with other credentials, or in another
project, and then it has none of the provider's images at all. So a list counts only when it has
others, each image that it lacks is asked for by its id, and what is missing has to be missing again
at a look that is far enough from the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from builder.cloudimage import INSTALLATION, PROVIDER, CloudImage
from builder.config.model import Provider
from builder.model import Pause, Snapshot, Upload, UploadState


def expected(provider: Provider, snapshot: Snapshot) -> tuple[Upload, ...]:
    """The uploads whose images have to be in the provider's cloud, by image, newest first."""
    return tuple(upload for upload in snapshot.uploads() if is_expected(provider, upload))


def is_expected(provider: Provider, upload: Upload) -> bool:
    """Whether an upload says that its image is in the very cloud and region that the provider is now.

    Where the record does not name a cloud, nobody knows which one it would have to be missed in.
    """
    return (
        upload.state is UploadState.READY
        and upload.external_id is not None
        and upload.provider == provider.name
        and upload.cloud == provider.cloud
        and upload.region == provider.region
    )


def proves_something(provider: Provider, images: Iterable[CloudImage], installation_id: str) -> bool:
    """Whether a list was made where the provider's images are: it has one of them at least.

    Snapshots of servers don't count: somebody may have shared them with another project.
    """
    ours = {INSTALLATION: installation_id, PROVIDER: provider.name}
    return any(ours.items() <= image.properties.items() and image.snapshot_mark is None for image in images)


def unlisted(uploads: Iterable[Upload], images: Iterable[CloudImage]) -> tuple[Upload, ...]:
    """Those of the uploads of which a list lacks an image, in their order."""
    there = {image.id for image in images}
    return tuple(upload for upload in uploads if not there.issuperset(upload.external_ids))


def missed_since(
    missing: Iterable[Upload], before: Mapping[str, datetime], now: datetime
) -> dict[str, datetime]:
    """Since when each upload's image is missed, by the upload's name; `before` says so of the last look.

    What was there meanwhile is missed for the first time again.
    """
    return {upload.name: before.get(upload.name, now) for upload in missing}


def is_vanished(
    upload: Upload,
    since: Mapping[str, datetime],
    now: datetime,
    sweep: timedelta,
    frozen: Pause | None = None,
) -> bool:
    """Whether an upload is given up, whose image is missed at `now`, and was so at a look at least `sweep`
    earlier; while everything is frozen, nothing is."""
    first = since.get(upload.name)
    return frozen is None and first is not None and first + sweep <= now

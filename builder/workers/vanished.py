"""Gives up ready uploads whose images somebody else deleted in the cloud: `ready` has to mean ready.

Such a record becomes `deleting`; the janitor removes it, and the build is uploaded again if its files
are there. Since when an image is missed is kept in memory alone, so a restart begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from builder.cloud.base import Cloud
from builder.cloudimage import CloudImage
from builder.config.model import Config, Provider
from builder.errors import ImagepoolError
from builder.model import Deletion, Snapshot, Upload, UploadState
from builder.planning import vanished
from builder.planning.actions import IMAGEPOOL
from builder.workers.base import World

LOG = logging.getLogger(__name__)

WHY = "its image was deleted in the cloud by somebody else"


class Missing:
    """The images that were missed at the last look at each provider; each provider has one thread at most."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._since: dict[str, Mapping[str, datetime]] = {}

    def look(
        self,
        config: Config,
        provider: Provider,
        images: Sequence[CloudImage],
        snapshot: Snapshot,
        now: datetime,
    ) -> int:
        """Give up what is gone at this look too; how many that should go could not be given up.

        `images`: all that the provider's cloud has of this installation's; `snapshot`: the records, read
        after that. `now` is when the look was due. Raises what the cloud raises when it can't say whether
        an image is there; what was missed before still counts then.
        """
        uploads = vanished.expected(provider, snapshot)
        if uploads and not vanished.proves_something(provider, images, self._world.identity.installation_id):
            LOG.warning(
                "%s has none of our images, although %d on record should be there: that proves nothing,"
                " it may be another project. If they were deleted, delete their uploads"
                " (`imagepool upload delete`) and ask for new ones (`imagepool upload retry`).",
                provider.name,
                len(uploads),
            )
            uploads = ()
        cloud = self._world.cloud(provider)
        missing = [u for u in vanished.unlisted(uploads, images) if not _is_there(cloud, u)]
        since = vanished.missed_since(missing, self._since.get(provider.name, {}), now)
        self._since[provider.name] = since
        gone = [
            u
            for u in missing
            if vanished.is_vanished(u, since, now, config.leak_sweep, frozen=snapshot.frozen)
        ]
        return sum(not self._give_up(provider, cloud, upload) for upload in gone)

    def _give_up(self, provider: Provider, cloud: Cloud, upload: Upload) -> bool:
        """Let an upload go if its image is gone indeed; whether that could be found out and written."""
        store = self._world.store
        try:
            claim = store.claim_upload(upload)
            if claim is None:
                return True  # somebody is at it; the next look finds out what came of it
            with claim:
                current = store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
                same = current.external_ids == upload.external_ids
                if not (same and vanished.is_expected(provider, current)) or _is_there(cloud, current):
                    return True
                time = self._world.clock()
                deletion = Deletion(by=IMAGEPOOL, time=time, why=WHY)
                store.update_upload(current.become(UploadState.DELETING, time, deletion=deletion))
        except ImagepoolError as error:
            LOG.warning("upload %s, whose image is gone, stays on record: %s", upload.name, error.message)
            return False
        LOG.warning(
            "image %s of upload %s is no longer in %s: the upload is to go",
            upload.external_id,
            upload.name,
            provider.name,
        )
        return True


def _is_there(cloud: Cloud, upload: Upload) -> bool:
    """Whether nothing of it is gone: without its kernel an image is of no use."""
    return upload.external_id is not None and all(cloud.get(each) is not None for each in upload.external_ids)

"""Reads what is true of an image now, for whoever holds a claim and decides again before it acts."""

from __future__ import annotations

from dataclasses import replace

from builder.config.model import Config
from builder.model import ImageRecords
from builder.store.base import Store, uploads_newest_first


def fresh_records(store: Store, config: Config, image: str) -> ImageRecords:
    """The records of an image with its builds and uploads read anew; pauses, wishes and claims as last seen.

    Uploads are looked for in every provider of the configuration and in those known to have had some.
    """
    builds = store.list_builds(image)
    known = store.snapshot().image(image)
    pairs = {(build.id, provider) for build in builds for provider in config.providers}
    pairs |= {(upload.build_id, upload.provider) for upload in known.uploads}
    uploads = [
        u for build_id, provider in sorted(pairs) for u in store.list_uploads(image, build_id, provider)
    ]
    return replace(known, builds=builds, uploads=uploads_newest_first(uploads))

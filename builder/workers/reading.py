"""Reads what is true of an image now, for whoever holds a claim and decides again before it acts."""

from __future__ import annotations

from dataclasses import replace

from builder.config.model import Config
from builder.model import ImageRecords
from builder.store.base import Store, uploads_newest_first


def fresh_records(store: Store, config: Config, image: str, *, provider: str | None = None) -> ImageRecords:
    """The records of an image with its builds and uploads read anew; pauses, wishes and claims as last seen.

    Uploads are looked for in every provider of the configuration and in those known to have had some; or in
    one `provider` alone, when all others play no part: with a hundred of them that is a hundredth to read.
    """
    builds = store.list_builds(image)
    known = store.snapshot().image(image)
    pairs = {(build.id, name) for build in builds for name in config.providers}
    pairs |= {(upload.build_id, upload.provider) for upload in known.uploads}
    others = () if provider is None else tuple(u for u in known.uploads if u.provider != provider)
    uploads = [
        upload
        for build_id, name in sorted(pairs)
        if provider in (None, name)
        for upload in store.list_uploads(image, build_id, name)
    ]
    return replace(known, builds=builds, uploads=uploads_newest_first([*uploads, *others]))

"""Says what an upload creates in its cloud."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from builder.cloud import ownership
from builder.cloud.base import NewImage
from builder.config.model import DiskImage, Provider, Sharing
from builder.model import Artifact, Build, Upload

GIB: Final = 1024**3
_MIN_DISK: Final = "min_disk"


def new_image(
    diskimage: DiskImage,
    provider: Provider,
    upload: Upload,
    artifact: Artifact,
    *,
    build: Build,
    installation_id: str,
    now: datetime,
) -> NewImage:
    """What an upload of `artifact`, a file of `build`, creates in its cloud; ConfigError when the
    provider's name format is broken."""
    name = ownership.image_name(provider, upload, now)
    listed = provider.images.get(diskimage.name)
    sharing = listed.sharing if listed else Sharing()
    wished = {**diskimage.metadata, **(listed.metadata if listed else {})}
    return NewImage(
        name=name,
        disk_format=str(artifact.format),
        min_disk=max(_min_disk(artifact), _number(wished.pop(_MIN_DISK, ""))),
        properties=ownership.properties(
            wished=wished,
            upload=upload,
            build=build,
            artifact=artifact,
            name=name,
            installation_id=installation_id,
        ),
        visibility=sharing.visibility,
        tags=frozenset(sharing.tags),
        hidden=sharing.hidden,
    )


def new_part(
    whole: NewImage, part: Artifact, upload: Upload, *, build: Build, installation_id: str
) -> NewImage:
    """What an upload creates for a part of what becomes `whole`: visible to the same, and known by neither
    the tags nor the metadata by which people find what they can boot."""
    name = f"{whole.name}-{part.format}"
    return NewImage(
        name=name,
        disk_format=str(part.format),
        min_disk=0,
        properties=ownership.properties(
            wished={}, upload=upload, build=build, artifact=part, name=name, installation_id=installation_id
        ),
        visibility=whole.visibility,
        hidden=whole.hidden,
    )


def _min_disk(artifact: Artifact) -> int:
    """GiB that a server's disk must have at least, or Nova refuses to boot it from the image."""
    return math.ceil(artifact.virtual_size / GIB)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0

"""Says whose a cloud image is: what every image of ours carries, and the proof before a deletion.

Properties alone prove little: Nova and Cinder copy them into the snapshots that users make of
servers and volumes which run from our images. So an image counts as ours when its properties name
this very upload, nothing marks it as a snapshot, and it has either the id on the upload's record
or the name it was created with, which is among its properties and which no copy shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from builder.cloud.base import CloudImage
from builder.config.model import Provider
from builder.errors import ConfigError
from builder.model import Artifact, Upload

INSTALLATION: Final = "imagepool_installation"
IMAGE: Final = "imagepool_image"
BUILD_ID: Final = "imagepool_build_id"
UPLOAD_ID: Final = "imagepool_upload_id"
PROVIDER: Final = "imagepool_provider"

#: What nodepool-builder sets; nodepool's `alien-image-list` and others look for it.
NODEPOOL_BUILD_ID: Final = "nodepool_build_id"
NODEPOOL_UPLOAD_ID: Final = "nodepool_upload_id"
NODEPOOL_PROVIDER: Final = "nodepool_provider_name"

#: What openstacksdk sets, by which its users find an image they have already.
SDK_MD5: Final = "owner_specified.openstack.md5"
SDK_SHA256: Final = "owner_specified.openstack.sha256"
SDK_OBJECT: Final = "owner_specified.openstack.object"

#: Nova and Cinder put one of these on images that they make of servers and volumes.
_SNAPSHOT_MARKS: Final = ("base_image_ref", "instance_uuid", "image_type", "block_device_mapping")


def image_name(provider: Provider, upload: Upload, now: datetime) -> str:
    """The cloud image's name by the provider's `image-name-format`; ConfigError when that is broken.

    Its fields are nodepool's: image_name, upload_id, and timestamp in whole epoch seconds.
    """
    try:
        return provider.image_name_format.format(
            image_name=upload.image, upload_id=upload.id, timestamp=int(now.timestamp())
        )
    except (LookupError, ValueError, AttributeError) as error:
        raise ConfigError(
            [f"provider {provider.name}: image-name-format {provider.image_name_format!r}: {error!r}"],
            hint="It may use {image_name}, {upload_id} and {timestamp}.",
        ) from error


def marks(upload: Upload, installation_id: str) -> dict[str, str]:
    """The properties that name one upload of one installation, and that nothing else carries."""
    return {
        INSTALLATION: installation_id,
        IMAGE: upload.image,
        BUILD_ID: upload.build_id,
        UPLOAD_ID: upload.id,
        PROVIDER: upload.provider,
    }


def properties(
    *,
    metadata: Mapping[str, str],
    meta: Mapping[str, str],
    upload: Upload,
    artifact: Artifact,
    name: str,
    installation_id: str,
) -> dict[str, str]:
    """All Glance properties of an upload: the diskimage's `metadata`, the provider's `meta` over it,
    and ours over both. `name` is the cloud image's."""
    return {
        **{key: str(value) for key, value in {**metadata, **meta}.items()},
        **marks(upload, installation_id),
        **_nodepool_marks(upload),
        SDK_MD5: artifact.md5,
        SDK_SHA256: artifact.sha256,
        SDK_OBJECT: f"images/{name}",
    }


def why_not_ours(image: CloudImage, upload: Upload, installation_id: str) -> str | None:
    """Why a cloud image is not proven to be this upload's; None when it is.

    Images that nodepool-builder uploaded, before we took over its ZooKeeper tree, are proven by
    nodepool's properties, and only by the id that nodepool recorded.
    """
    known = image.id == upload.external_id
    ours = INSTALLATION in image.properties
    if not ours and not known:
        return f"it has no property {INSTALLATION}"
    wanted = marks(upload, installation_id) if ours else _nodepool_marks(upload)
    for name, value in wanted.items():
        if image.properties.get(name) != value:
            return f"its property {name} is {image.properties.get(name)!r}, not {value!r}"
    snapshot = [mark for mark in _SNAPSHOT_MARKS if image.properties.get(mark)]
    if snapshot:
        return f"it is a snapshot of something made from ours: it has the property {snapshot[0]}"
    original = image.properties.get(SDK_OBJECT, "").removeprefix("images/")
    if not known and image.name != original:
        return f"it is a copy of ours: its name is {image.name!r}, ours was {original!r}"
    return None


def _nodepool_marks(upload: Upload) -> dict[str, str]:
    return {
        NODEPOOL_BUILD_ID: upload.build_id,
        NODEPOOL_UPLOAD_ID: upload.id,
        NODEPOOL_PROVIDER: upload.provider,
    }

"""Says whose a cloud image is: what every image of ours carries, and the proof before a deletion.

Properties alone prove little: Nova and Cinder copy them into the snapshots that users make of
servers and volumes which run from our images. So an image counts as ours when its properties name
this very upload, nothing marks it as a snapshot, and one of these, which no copy shares, is true:

    it has the id on the upload's record
    it has the name it was created with, which is among its properties
    its property `imagepool_serving` is its own id: it was given a stable name since
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from builder.cloudimage import (
    BUILD_ID,
    BUILD_READY,
    BUILD_STARTED,
    FORMAT,
    IMAGE,
    INSTALLATION,
    NODEPOOL_BUILD_ID,
    NODEPOOL_PROVIDER,
    NODEPOOL_UPLOAD_ID,
    PROVIDER,
    PYTHON_PATH,
    RAW_SHA256,
    RAW_SIZE,
    SDK_MD5,
    SDK_OBJECT,
    SDK_SHA256,
    SHA512,
    SHELL_TYPE,
    SNAPSHOT_MARKS,
    UPLOAD_ID,
    UPLOAD_STARTED,
    USERNAME,
    VIRTUAL_SIZE,
    CloudImage,
)
from builder.config.model import Provider
from builder.errors import ConfigError
from builder.model import Artifact, Build, BuildState, Upload

#: Characters of a property's value that every Glance and database takes.
VALUE_LIMIT: Final = 255
#: Names of ours, of nodepool's, of openstacksdk's and of Glance's own: nobody's metadata sets these.
_PREFIXES: Final = ("imagepool_", "nodepool_", "os_glance", "owner_specified.openstack.")
#: Attributes of an image that are no properties (Glance's API reference, "Create image"), or that it
#: keeps to itself. `min_ram` and `protected` are missing: who names them in metadata means them.
_ATTRIBUTES: Final = frozenset(
    {"id", "name", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "owner"}
    | {"visibility", "tags", "created_at", "updated_at", "container_format", "disk_format", "min_disk"}
    | {"os_hidden", "self", "file", "schema", "direct_url", "locations", "location", "stores"}
    | {"deleted", "deleted_at"}
)


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


def is_reserved(name: str) -> bool:
    """Whether a property of that name can't be had by asking for it in `metadata` or `meta`.

    Without regard to case: some databases of Glance's compare so. The marks of snapshots are among
    them, since an image that has one could never be proven to be ours.
    """
    name = name.casefold()
    return name.startswith(_PREFIXES) or name in _ATTRIBUTES or name in SNAPSHOT_MARKS


def build_marks(upload: Upload, installation_id: str) -> dict[str, str]:
    """The properties that name one build of one installation."""
    return {INSTALLATION: installation_id, IMAGE: upload.image, BUILD_ID: upload.build_id}


def marks(upload: Upload, installation_id: str) -> dict[str, str]:
    """The properties that name one upload of one installation, and that nothing else carries."""
    return {
        **build_marks(upload, installation_id),
        UPLOAD_ID: upload.id,
        PROVIDER: upload.provider,
    }


def properties(
    *,
    wished: Mapping[str, str],
    upload: Upload,
    build: Build,
    artifact: Artifact,
    name: str,
    installation_id: str,
) -> dict[str, str]:
    """All Glance properties of an upload: what diskimage and provider wish, and ours over it.

    `name` is the cloud image's. What is `is_reserved` is not had by wishing.
    """
    return {
        **{key: str(value) for key, value in wished.items() if not is_reserved(key)},
        **marks(upload, installation_id),
        **_nodepool_marks(upload),
        SDK_MD5: artifact.md5,
        SDK_SHA256: artifact.sha256,
        SDK_OBJECT: f"images/{name}",
        **_short(
            {
                FORMAT: artifact.format,
                SHA512: artifact.sha512,
                VIRTUAL_SIZE: str(artifact.virtual_size),
                UPLOAD_STARTED: _time(upload.started),
                USERNAME: upload.username,
                PYTHON_PATH: upload.python_path,
                SHELL_TYPE: upload.shell_type,
            }
        ),
        **build_facts(build),
    }


def build_facts(build: Build) -> dict[str, str]:
    """What properties tell of a build, as far as it is known: less while the build still runs."""
    ready = build.ended or build.state_time if build.state is BuildState.READY else None
    return _short(
        {
            BUILD_STARTED: _time(build.began),
            BUILD_READY: _time(ready),
            RAW_SHA256: build.raw_sha256,
            RAW_SIZE: None if build.raw_size is None else str(build.raw_size),
        }
    )


def why_not_ours(image: CloudImage, upload: Upload, installation_id: str) -> str | None:
    """Why a cloud image is not proven to be this upload's; None when it is.

    Images that nodepool-builder uploaded, before we took over its ZooKeeper tree, are proven by
    nodepool's properties, and only by the id that nodepool recorded.
    """
    known = image.id in upload.external_ids
    ours = INSTALLATION in image.properties
    if not ours and not known:
        return f"it has no property {INSTALLATION}"
    wanted = marks(upload, installation_id) if ours else _nodepool_marks(upload)
    for name, value in wanted.items():
        if image.properties.get(name) != value:
            return f"its property {name} is {image.properties.get(name)!r}, not {value!r}"
    return _why_snapshot(image) or (None if known else _why_copy(image))


def task_name(upload: Upload, installation_id: str) -> str:
    """What the bytes of an upload are called in Swift, and at first the image that a task makes of them."""
    return f"imagepool-{installation_id}-{upload.build_id}-{upload.provider}-{upload.id}"


def why_not_of_task(image: CloudImage, upload: Upload, installation_id: str) -> str | None:
    """Why an image without properties is not proven to have come out of an upload's import task.

    The name proves it: it has two random ids in it, and is told to nobody but the cloud.
    """
    if INSTALLATION in image.properties or NODEPOOL_BUILD_ID in image.properties:
        return "its properties name another upload"
    wanted = task_name(upload, installation_id)
    if image.name != wanted:
        return f"its name is {image.name!r}, the import task's image was called {wanted!r}"
    return _why_snapshot(image)


def why_not_adoptable(image: CloudImage, upload: Upload) -> str | None:
    """Why an image with the `build_marks` of an upload can't become the upload's; None when it can."""
    provider = image.properties.get(PROVIDER)
    if provider not in (None, upload.provider):
        return f"it belongs to the provider {provider}"
    return _why_snapshot(image) or _why_copy(image)


def _why_snapshot(image: CloudImage) -> str | None:
    mark = image.snapshot_mark
    return f"it is a snapshot of something made from ours: it has the property {mark}" if mark else None


def _why_copy(image: CloudImage) -> str | None:
    if image.name == image.original_name or image.serving:
        return None
    return f"it is a copy of ours: its name is {image.name!r}, ours was {image.original_name!r}"


def _nodepool_marks(upload: Upload) -> dict[str, str]:
    return {
        NODEPOOL_BUILD_ID: upload.build_id,
        NODEPOOL_UPLOAD_ID: upload.id,
        NODEPOOL_PROVIDER: upload.provider,
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _short(values: Mapping[str, str | None]) -> dict[str, str]:
    """Those that are known and fit: half a path would be a wrong one."""
    return {name: str(value) for name, value in values.items() if value and len(value) <= VALUE_LIMIT}

"""The words for an image as its cloud describes it, and for the properties by which we know ours.

The doors to clouds make CloudImages; planning judges them. Neither may know the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

#: Properties of every image of ours, from its creation on.
INSTALLATION: Final = "imagepool_installation"
IMAGE: Final = "imagepool_image"
BUILD_ID: Final = "imagepool_build_id"
UPLOAD_ID: Final = "imagepool_upload_id"
PROVIDER: Final = "imagepool_provider"
#: Of the disk a guest sees: Glance's own hash is of the file, which a compute node may convert.
RAW_SHA256: Final = "imagepool_raw_sha256"
RAW_SIZE: Final = "imagepool_raw_size"
#: With these the records of a build and an upload can be made again from the image alone. Times are ISO
#: 8601 in UTC, sizes bytes. The file's MD5 and SHA-256 are openstacksdk's properties, below.
BUILD_STARTED: Final = "imagepool_build_started"
BUILD_READY: Final = "imagepool_build_ready"
UPLOAD_STARTED: Final = "imagepool_upload_started"
FORMAT: Final = "imagepool_format"
SHA512: Final = "imagepool_sha512"
VIRTUAL_SIZE: Final = "imagepool_virtual_size"
USERNAME: Final = "imagepool_username"
PYTHON_PATH: Final = "imagepool_python_path"
SHELL_TYPE: Final = "imagepool_shell_type"
#: The image's own id while it has its diskimage's stable name or tag, else "" or absent. A copy that
#: inherits it has another id.
SERVING: Final = "imagepool_serving"
#: When and why its build was withheld (withheldmark.py), else "" or absent.
WITHHELD: Final = "imagepool_withheld"

#: Of an image of a root file system: the ids of the images that Nova boots it with (its `kernel_id`).
KERNEL_ID: Final = "kernel_id"
RAMDISK_ID: Final = "ramdisk_id"
#: The property that names the image of each part of a format, by the part's own format.
PART_PROPERTIES: Final[Mapping[str, str]] = MappingProxyType({"aki": KERNEL_ID, "ari": RAMDISK_ID})

#: What nodepool-builder sets; nodepool's `alien-image-list` and others look for it.
NODEPOOL_BUILD_ID: Final = "nodepool_build_id"
NODEPOOL_UPLOAD_ID: Final = "nodepool_upload_id"
NODEPOOL_PROVIDER: Final = "nodepool_provider_name"

#: What openstacksdk sets, by which its users find an image they have already.
SDK_MD5: Final = "owner_specified.openstack.md5"
SDK_SHA256: Final = "owner_specified.openstack.sha256"
SDK_OBJECT: Final = "owner_specified.openstack.object"

#: Nova and Cinder put one of these on images that they make of servers and volumes.
SNAPSHOT_MARKS: Final = ("base_image_ref", "instance_uuid", "image_type", "block_device_mapping")


class GlanceStatus(StrEnum):
    """What Glance says of an image (its API reference, "Image statuses"); not our UploadState."""

    QUEUED = "queued"
    SAVING = "saving"
    UPLOADING = "uploading"
    IMPORTING = "importing"
    ACTIVE = "active"
    KILLED = "killed"
    DELETED = "deleted"
    PENDING_DELETE = "pending_delete"
    DEACTIVATED = "deactivated"
    OTHER = "other"  #: anything Glance may learn to say later

    @classmethod
    def _missing_(cls, value: object) -> GlanceStatus:
        return cls.OTHER

    @property
    def is_moving(self) -> bool:
        """Whether Glance may still get from here to `active` by itself."""
        return self in (self.QUEUED, self.SAVING, self.UPLOADING, self.IMPORTING)

    @property
    def is_going(self) -> bool:
        """Whether Glance has taken the image away already, although it may still tell of it."""
        return self in (self.DELETED, self.PENDING_DELETE)


@dataclass(frozen=True, kw_only=True)
class CloudImage:
    """An image as Glance describes it. `size` and the hash are None until Glance has them."""

    id: str
    name: str
    status: GlanceStatus
    size: int | None
    hash_algorithm: str | None  #: `os_hash_algo`, e.g. "sha512"
    hash_value: str | None  #: `os_hash_value`, hex
    checksum: str | None  #: MD5, may be null for ever (Glance spec "Secure hash algorithm support")
    visibility: str
    properties: Mapping[str, str]
    tags: frozenset[str] = frozenset()
    hidden: bool = False
    created: datetime | None = None
    disk_format: str | None = None
    min_disk: int | None = None  #: GiB

    @property
    def serving(self) -> bool:
        """Whether it has its diskimage's stable name or tag; a copy of such an image has not."""
        return self.properties.get(SERVING) == self.id

    @property
    def parts_named(self) -> frozenset[str]:
        """The ids of the images that its properties name as its parts; a snapshot has those of its origin."""
        named = (self.properties.get(name) for name in PART_PROPERTIES.values())
        return frozenset(each for each in named if each)

    @property
    def uploads_named(self) -> tuple[tuple[str | None, str | None, str | None], ...]:
        """The uploads that its properties name, ours and nodepool's, each as build, provider and number."""
        told = self.properties.get
        return (
            (told(BUILD_ID), told(PROVIDER), told(UPLOAD_ID)),
            (told(NODEPOOL_BUILD_ID), told(NODEPOOL_PROVIDER), told(NODEPOOL_UPLOAD_ID)),
        )

    @property
    def original_name(self) -> str:
        """The name that ours was created with; "" when it does not say. A copy says the same."""
        return self.properties.get(SDK_OBJECT, "").removeprefix("images/")

    @property
    def snapshot_mark(self) -> str | None:
        """The property by which it is a snapshot, which has all properties of what it was made from."""
        return next((mark for mark in SNAPSHOT_MARKS if self.properties.get(mark)), None)


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """That an image of ours was seen without a record, first and last."""

    provider: str
    external_id: str
    first: datetime
    last: datetime

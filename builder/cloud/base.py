"""The Cloud contract: what one provider's image service can be asked, and how it fails.

Two implementations pass the same tests (tests/contract/test_cloud.py): OpenStackCloud on a real
Glance, and the FakeCloud of the tests. The contract is small on purpose: each method is one
request to the image service, made once, never retried inside, so that whoever calls knows what
was sent (peers.md fact 1: openstacksdk re-sends a broken PUT from the end of the file, with zero
bytes, and calls it a success).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


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


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """What to create: name, format and properties, all of them from the first request on."""

    name: str
    disk_format: str  #: Glance's word, e.g. "qcow2", "raw", "vhd"
    size: int  #: bytes that will be sent
    min_disk: int  #: GiB, the virtual size rounded up, or Nova can't boot it (peers.md fact 24)
    properties: Mapping[str, str]
    visibility: str = "private"


@dataclass(frozen=True, kw_only=True)
class CloudImage:
    """An image as Glance describes it. `size` and the hash are None until Glance has them."""

    id: str
    name: str
    status: GlanceStatus
    size: int | None
    hash_algorithm: str | None  #: `os_hash_algo`, e.g. "sha512"
    hash_value: str | None  #: `os_hash_value`, hex
    checksum: str | None  #: MD5, may be null for ever (peers.md fact 23)
    visibility: str
    properties: Mapping[str, str]


class Body(Protocol):
    """What `send` reads: a file of known length that may refuse to go on by raising."""

    def read(self, amount: int = -1, /) -> bytes:
        """The next bytes, at most `amount`; b"" at the end."""

    def __len__(self) -> int:
        """All bytes there are."""


class Cloud(ABC):
    """The image service of one provider.

    Every method raises CloudUnavailableError when the service can't be reached, hangs or answers
    5xx, and CloudError when it refuses; both carry the class of failure (auth, quota, network,
    timeout, cloud) and what the service said. Safe to use from several threads.
    """

    @abstractmethod
    def create(self, image: NewImage) -> CloudImage:
        """Make an empty image record (status `queued`) that carries every property already."""

    @abstractmethod
    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        """Send the bytes in one PUT that is never repeated, redirected or re-authenticated.

        `timeout`: seconds without a byte moving, or waiting for the answer, before it is cut.
        A token with a fresh life is fetched before, not during. What `body.read` raises is
        raised as it is.
        """

    @abstractmethod
    def get(self, image_id: str) -> CloudImage | None:
        """The image as it is now, None when it doesn't exist."""

    @abstractmethod
    def find(self, properties: Mapping[str, str]) -> Iterator[CloudImage]:
        """Every image of ours that has all these properties, hidden ones included."""

    @abstractmethod
    def disk_formats(self) -> frozenset[str]:
        """The disk formats that the service takes, in Glance's words; empty when it does not say."""

    @abstractmethod
    def delete(self, image_id: str) -> None:
        """Delete the image; no error when it is gone already.

        CloudError with a hint when it is in use or protected (403, 409).
        """

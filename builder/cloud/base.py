"""The Cloud contract: what one provider's image service can be asked, and how it fails.

Two implementations pass the same tests (tests/contract/test_cloud.py): OpenStackCloud on a real
Glance, and the FakeCloud of the tests. The contract is small on purpose: what a method asks for is
sent once and never repeated inside, so that whoever calls knows what was sent (openstacksdk 4.22
sends a broken PUT again from the end of the file, with zero bytes, and calls it a success).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from builder.cloudimage import CloudImage
from builder.model import ImageFormat
from builder.ways import Capabilities, Quota, Way

#: Formats that Glance knows as disk and as container format.
_THREE_PARTS: Final = frozenset({ImageFormat.AMI, ImageFormat.AKI, ImageFormat.ARI})


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """What to create: name, format and properties, all of them from the first request on."""

    name: str
    disk_format: str  #: Glance's word, e.g. "qcow2", "raw", "vhd"
    min_disk: int  #: GiB, the virtual size rounded up, or Nova can't boot it
    properties: Mapping[str, str]
    visibility: str = "private"
    tags: frozenset[str] = frozenset()
    hidden: bool = False  #: `os_hidden`: not in Glance's default lists

    @property
    def container_format(self) -> str:
        """Glance's word for what the bytes are wrapped in. Those of the three-part format are named twice:
        old Glances demand it, and new ones look for a disk's format in whatever is "bare"."""
        return self.disk_format if self.disk_format in _THREE_PARTS else "bare"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What `update` changes of an image; what is None, or not named, stays as it is."""

    name: str | None = None
    visibility: str | None = None
    hidden: bool | None = None
    properties: Mapping[str, str] | None = None  #: these are added or replaced; none is removed
    add_tags: frozenset[str] = frozenset()
    remove_tags: frozenset[str] = frozenset()


class TaskState(StrEnum):
    """How far a task of the image service is (its API reference, "Task statuses")."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILURE = "failure"
    OTHER = "other"  #: anything Glance may learn to say later

    @classmethod
    def _missing_(cls, value: object) -> TaskState:
        return cls.OTHER

    @property
    def is_moving(self) -> bool:
        """Whether it may still come to something."""
        return self in (self.PENDING, self.PROCESSING)


@dataclass(frozen=True, kw_only=True)
class Task:
    """An import under way, or what became of it."""

    id: str
    state: TaskState
    message: str  #: what went wrong, "" otherwise
    image_id: str | None  #: of the tasks way: the image that came out of it, once it did


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
    def find(self, properties: Mapping[str, str], *, hidden: bool | None = None) -> Iterator[CloudImage]:
        """Every image of ours that has all these properties: the hidden ones, the others, or, with None,
        both, which Glance lists apart."""

    @abstractmethod
    def find_named(self, name: str) -> Iterator[CloudImage]:
        """Every image of ours that is called so, hidden ones included: some have no properties yet."""

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the service can do, asked anew each time.

        What it does not tell, because it is too old or does not let us, is left empty.
        """

    @abstractmethod
    def quotas(self) -> Mapping[str, Quota]:
        """The limits of our project and what is taken, by Glance's names; empty where it tells none."""

    @abstractmethod
    def stage(self, image_id: str, body: Body, *, timeout: float) -> None:
        """Send the bytes where `import_image` with GLANCE_DIRECT finds them; otherwise as `send`."""

    @abstractmethod
    def import_image(self, image_id: str, way: Way, *, url: str | None = None) -> None:
        """Let Glance import what was staged (GLANCE_DIRECT), or what it finds at `url` (WEB_DOWNLOAD).

        It only begins: `get` and `import_tasks` tell how it goes on.
        """

    @abstractmethod
    def import_tasks(self, image_id: str) -> tuple[Task, ...]:
        """The imports into an image, newest first; none where the service does not tell."""

    @abstractmethod
    def update(self, image_id: str, change: Change) -> CloudImage:
        """Change an image in one request (tags in one each); the image as it is then.

        NotFoundError when it does not exist.
        """

    @abstractmethod
    def share(self, image_id: str, project_id: str) -> None:
        """Offer a shared image to a project; no error when it was offered before."""

    # -- the tasks way (Rackspace): Swift beside Glance -------------------------------------------

    @abstractmethod
    def put_object(self, name: str, body: Body, *, timeout: float) -> None:
        """Send the bytes as an object that the cloud deletes by itself after a day; otherwise as `send`."""

    @abstractmethod
    def delete_object(self, name: str) -> None:
        """Delete an object sent by `put_object`; no error when it is gone already."""

    @abstractmethod
    def start_import_task(self, name: str, object_name: str) -> Task:
        """Let the image service make an image called `name` of an object; it has no properties yet."""

    @abstractmethod
    def get_task(self, task_id: str) -> Task | None:
        """The task as it is now, None when the service has forgotten it."""

    @abstractmethod
    def delete(self, image_id: str) -> None:
        """Delete the image; no error when it is gone already.

        CloudError with a hint when it is in use or protected (403, 409).
        """

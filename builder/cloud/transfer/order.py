"""Says what an upload is asked to do, whom it tells how it goes, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from builder.cloud.base import NewImage
from builder.cloud.transfer.bandwidth import Throttle
from builder.cloudimage import PART_PROPERTIES, CloudImage
from builder.errors import ActionFailedError
from builder.model import Artifact, Failure, ImageFormat, Upload, UploadPhase
from builder.ways import Choice, Way


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file that another one needs (`ImageFormat.parts`): it shall become an image of its own."""

    image: NewImage
    path: Path
    artifact: Artifact
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """One upload: the file at `path`, which is `artifact`, shall become `image`, after each of the `parts`
    has become one, whose id its properties then name."""

    image: NewImage
    path: Path
    artifact: Artifact
    parts: tuple[Part, ...] = ()
    upload: Upload  #: its record, whose name and marks the image gets
    installation_id: str
    choices: tuple[Choice, ...]  #: the ways, tried in this order; those that are not usable are left out
    url: str | None = None  #: where this cloud can fetch the file, for `Way.WEB_DOWNLOAD`
    members: tuple[str, ...] = ()  #: projects that the image is offered to, once it is verified
    #: Ids of images that records of ours own, and names of uploads that have records: never adopted.
    owned: frozenset[str] = frozenset()
    timeout: float  #: seconds for everything
    stall_timeout: float  #: seconds without a byte or an answer
    limiter: Throttle  #: `Limiter.of` the provider

    def of_part(self, part: Part) -> Order:
        """The order of a part alone."""
        return replace(self, image=part.image, path=part.path, artifact=part.artifact, url=part.url, parts=())

    def naming(self, images: Mapping[str, str]) -> Order:
        """The same, its parts being there: their images' ids by format."""
        named = {PART_PROPERTIES[each]: image_id for each, image_id in images.items()}
        image = replace(self.image, properties={**self.image.properties, **named})
        return replace(self, image=image, parts=())


class Listener(Protocol):
    """Whom an upload tells how it goes; all in the calling thread. What it raises ends the upload,
    which deletes what it made, and is raised."""

    def phase(self, phase: UploadPhase, /) -> None:
        """It begins; after a way has failed, and for each part, from `create` on once more."""

    def way(self, way: Way, fallbacks: tuple[str, ...], /) -> None:
        """This way is tried; each of those before failed, as "<way>: <why>". Comes before anything is
        made, so that whoever cleans up knows that there may be more than one image."""

    def created(self, image: CloudImage, /) -> None:
        """There is an image; before a byte moves, unless it is adopted or comes out of a task."""

    def part(self, image_format: ImageFormat, image: CloudImage, /) -> None:
        """There is an image of a part; as `created`, and before that."""

    def task(self, task_id: str, /) -> None:
        """An image will come out of this task, and have no properties at first."""

    def sent(self, count: int, /) -> None:
        """So many bytes have left by this way, those of parts that are there included."""


class TransferError(ActionFailedError):
    """An upload failed; `image_left` says whether an image of it may be left in the cloud."""

    def __init__(self, failure: Failure, *, image_left: bool) -> None:
        super().__init__(failure.message, failure)
        self.cause = failure
        self.image_left = image_left

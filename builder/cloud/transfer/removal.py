"""Takes out of a cloud what an upload has there, after proving that it is the upload's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from builder.cloud import ownership
from builder.cloud.base import Cloud
from builder.cloud.transfer.run import CLOUD_FAILURES
from builder.cloudimage import CloudImage
from builder.errors import CloudError, RefusedError
from builder.model import FailureClass, Upload, parts_of
from builder.ways import Way

LOG = logging.getLogger(__name__)

#: Tries of `discard`, and seconds between them.
TRIES: Final = 3
PAUSE: Final = 1.0


def remove(cloud: Cloud, upload: Upload, *, installation_id: str) -> str:
    """Delete what an upload has in its cloud; returns one sentence on what was done.

    Where there may be more than the image on record (a crash between create and record, several
    ways tried, parts), images that carry the upload's properties are looked for; an image goes before
    its parts. RefusedError when an image on record is not provably ours, and what the cloud raises:
    CloudError with `in_use` while servers or volumes use the image, or another image needs a part of it.
    """
    return _Removal(cloud, upload, installation_id).run()


def discard(
    cloud: Cloud, upload: Upload, installation_id: str, *, sleep: Callable[[float], object] = time.sleep
) -> str:
    """`remove` what an upload has that failed in the end, and try it several times.

    Returns "" when nothing stays behind, else what does and why, as a sentence; raises nothing of
    the cloud's: the upload has failed for another reason, which must not be lost. `sleep` is there
    for tests.
    """
    said = ""
    for attempt in range(TRIES):
        if attempt:
            sleep(PAUSE)
        try:
            LOG.info("%s: %s", upload.name, remove(cloud, upload, installation_id=installation_id))
        except RefusedError as error:
            return error.message
        except CLOUD_FAILURES as error:
            what = f"image {upload.external_id}" if upload.external_id else "what it made"
            said = f"{what} stays behind, it could not be deleted: {error.message}"
            # A cloud that hangs would make long waits of it.
            if error.failure_class is FailureClass.TIMEOUT:
                return said
        else:
            return ""
    return said


class _Removal:
    """One removal, and what was done so far."""

    def __init__(self, cloud: Cloud, upload: Upload, installation_id: str) -> None:
        self._cloud = cloud
        self._upload = upload
        self._installation_id = installation_id
        self._staying: list[CloudImage] = []  #: which have the upload's marks, and are not its own

    def run(self) -> str:
        done = [*self._recorded(), *self._of_task(), *self._found(), *self._object()]
        return "; ".join(done) or "it had no image in the cloud"

    def _recorded(self) -> Iterator[str]:
        upload = self._upload
        if upload.external_id is None:
            return
        image = existing(self._cloud, upload.external_id)
        if image is None:
            yield f"image {upload.external_id} was gone already"
            return
        prove(image, upload, self._installation_id)
        yield self._delete(image)

    def _of_task(self) -> Iterator[str]:
        """What came out of an import task without getting on record: its name alone tells whose it is."""
        upload = self._upload
        if upload.external_id is not None or (upload.task is None and upload.way != Way.TASKS):
            return
        self._check_task()
        for image in list(self._cloud.find_named(ownership.task_name(upload, self._installation_id))):
            doubt = ownership.why_not_of_task(image, upload, self._installation_id)
            if doubt:
                yield f"image {image.id} ({image.name}) is left alone: {doubt}"
            elif not image.status.is_going:
                yield self._delete(image)

    def _check_task(self) -> None:
        """CloudError while the task, where it is known, may still make an image."""
        task = self._cloud.get_task(self._upload.task) if self._upload.task is not None else None
        if task is not None and task.state.is_moving:
            raise CloudError(
                f"upload {self._upload.name}: task {task.id} is still {task.state},"
                " so that what it makes can't be deleted yet",
                failure_class=FailureClass.CLOUD,
            )

    def _found(self) -> Iterator[str]:
        """What carries the upload's marks, where its record does not tell of every image, or it has parts."""
        upload = self._upload
        if upload.external_id is not None and not upload.fallbacks and not parts_of(upload.format):
            return
        marked = self._marked()
        for image in marked:
            doubt = ownership.why_not_ours(image, upload, self._installation_id)
            if doubt and image.id in upload.parts.values():
                raise _unproven(image, upload, doubt)
            if doubt:
                yield f"image {image.id} ({image.name}) is left alone: {doubt}"
                self._staying.append(image)
            else:
                self._check_unneeded(image)
                yield self._delete(image)

    def _marked(self) -> list[CloudImage]:
        """Images that carry the upload's marks, and its parts on record whatever they carry: each before
        those that its properties name."""
        upload = self._upload
        found = self._cloud.find(ownership.marks(upload, self._installation_id))
        images = {image.id: image for image in found if image.id != upload.external_id}
        for image_id in upload.parts.values():
            image = None if image_id in images else existing(self._cloud, image_id)
            if image is not None:
                images[image_id] = image
        there = [image for image in images.values() if not image.status.is_going]
        named = frozenset().union(*(image.parts_named for image in there))
        return sorted(there, key=lambda image: image.id in named)

    def _check_unneeded(self, part: CloudImage) -> None:
        """CloudError as long as an image that stays, such as somebody's snapshot, boots with this one."""
        needing = next((image for image in self._staying if part.id in image.parts_named), None)
        if needing is not None:
            raise CloudError(
                f"image {part.id} ({part.name}) stays: image {needing.id} ({needing.name}) boots with it",
                failure_class=FailureClass.CLOUD,
                hint="It goes once that image is deleted.",
                in_use=True,
            )

    def _object(self) -> Iterator[str]:
        """The bytes in Swift; elsewhere there need not be a Swift."""
        upload = self._upload
        if upload.task is not None or upload.way == Way.TASKS:
            self._cloud.delete_object(ownership.task_name(upload, self._installation_id))
            yield "its object is deleted"

    def _delete(self, image: CloudImage) -> str:
        self._cloud.delete(image.id)
        return f"image {image.id} ({image.name}) is deleted"


def existing(cloud: Cloud, image_id: str) -> CloudImage | None:
    """The image of that id; None when there is none, or none any more."""
    image = cloud.get(image_id)
    return None if image is None or image.status.is_going else image


def prove(image: CloudImage, upload: Upload, installation_id: str) -> None:
    """RefusedError unless an image on record is provably the upload's."""
    doubt = ownership.why_not_ours(image, upload, installation_id)
    if doubt and upload.task is not None:
        # It came without properties.
        doubt = ownership.why_not_of_task(image, upload, installation_id)
    if doubt:
        raise _unproven(image, upload, doubt)


def _unproven(image: CloudImage, upload: Upload, doubt: str) -> RefusedError:
    return RefusedError(
        f"image {image.id} ({image.name}) in {upload.provider} is not provably of upload"
        f" {upload.name}: {doubt}",
        hint="Look at it; if it may go, delete it in the cloud by hand.",
    )

"""The way that sends nothing: an image of ours with these very bytes is there, and nobody's upload.

Such an image is left by an upload whose record was lost. It becomes this upload's by one PATCH of
our marks, and is then verified like any other.

What is adopted is deleted when the upload fails, so two kinds of images are left alone: those of an
upload that has a record, which whoever cleans up after it may be deleting just now; and one that has
its diskimage's stable name or tag, by which servers may be booted until there is another. So is one that
tells of a quarantine which is over: no record would say that it does, and a recovery would believe it. A part
is not adopted at all: the image that names it would lose it with the upload. What is adopted gets parts of
its own.
"""

from __future__ import annotations

import logging

from builder.cloud import ownership
from builder.cloud.transfer.discarding import cleaning, discard_unseen, discarding
from builder.cloud.transfer.finishing import describe, finish
from builder.cloud.transfer.run import CLOUD_FAILURES, Run
from builder.cloud.transfer.verification import wrong_content
from builder.cloud.transfer.waiting import wait_for_active
from builder.cloudimage import BUILD_ID, PROVIDER, UPLOAD_ID, WITHHELD, CloudImage, GlanceStatus
from builder.model import FailureClass, UploadPhase
from builder.ways import Way

LOG = logging.getLogger(__name__)


def adopt(run: Run) -> CloudImage | None:
    """The verified image that is this upload's now; None when there is none to adopt."""
    if run.order.artifact.format.is_part:
        return None
    found = next((image for image in _candidates(run) if _is_free(run, image)), None)
    if found is None:
        return None
    run.way(Way.ADOPT)
    run.enter(UploadPhase.CREATE)
    # Until the cloud has answered, it is not known whose the image is: its marks tell.
    with cleaning(run, lambda: discard_unseen(run)):
        image = describe(run, found, run.order.image)
    with discarding(run, image.id):
        run.created(image)
        run.enter(UploadPhase.WAIT)
        return finish(run, wait_for_active(run, image.id), run.order.image)


def _candidates(run: Run) -> list[CloudImage]:
    """Images of the same build, of whatever upload. Those that are hidden were on their way out, unless
    they were made so: it takes a request more to look for them."""
    order = run.order
    wanted = ownership.build_marks(order.upload, order.installation_id)
    hidden = None if order.image.hidden else False
    try:
        return run.ask(lambda: list(run.cloud.find(wanted, hidden=hidden)))
    except CLOUD_FAILURES as error:
        # It only saves work: what does not concern other requests must not end the upload.
        if error.failure_class is not FailureClass.CLOUD:
            raise
        LOG.info("%s: no image is looked for that could be adopted: %s", order.upload.name, error.message)
        return []


def _is_free(run: Run, image: CloudImage) -> bool:
    return (
        run.order.owned.isdisjoint((image.id, _maker(image)))
        and not image.serving
        and not image.properties.get(WITHHELD)
        and image.status is GlanceStatus.ACTIVE
        and ownership.why_not_adoptable(image, run.order.upload) is None
        and next(wrong_content(run, image), None) is None
    )


def _maker(image: CloudImage) -> str:
    """The name of the upload (`Upload.name`) that made an image, as its marks tell."""
    return "/".join(image.properties.get(mark, "") for mark in (BUILD_ID, PROVIDER, UPLOAD_ID))

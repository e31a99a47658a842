"""The last steps of every way: the image is described as ordered, verified, and offered to others."""

from __future__ import annotations

from functools import partial

from builder.cloud.base import Change, NewImage
from builder.cloud.transfer.run import Run
from builder.cloud.transfer.verification import verify
from builder.cloudimage import CloudImage
from builder.errors import NotFoundError
from builder.model import FailureClass, UploadPhase


def describe(run: Run, image: CloudImage, wanted: NewImage) -> CloudImage:
    """An image that is there already, described as `wanted`; TransferError when it is gone."""
    change = Change(
        name=wanted.name if image.name != wanted.name else None,
        visibility=wanted.visibility if image.visibility != wanted.visibility else None,
        # Old Glances don't know the flag: it is only named when it has to be turned.
        hidden=wanted.hidden if image.hidden != wanted.hidden else None,
        properties=wanted.properties,
        add_tags=wanted.tags - image.tags,
    )
    try:
        return run.ask(lambda: run.cloud.update(image.id, change))
    except NotFoundError as error:
        raise run.failure(FailureClass.CLOUD, "the image is gone: somebody deleted it") from error


def finish(run: Run, image: CloudImage, wanted: NewImage) -> CloudImage:
    """The active image, once it is proven to be what was ordered, and offered to the members."""
    run.enter(UploadPhase.VERIFY)
    verify(run, image, wanted)
    for project in run.order.members:
        run.ask(partial(run.cloud.share, image.id, project))
    return image

"""Deletes what an upload under way has made in its cloud, when it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Final

from builder.cloud import ownership
from builder.cloud.base import Cloud
from builder.cloud.transfer.order import TransferError
from builder.cloud.transfer.run import CLOUD_FAILURES, Run
from builder.cloudimage import FORMAT
from builder.model import FailureClass

LOG = logging.getLogger(__name__)

#: Tries to delete what a failed upload left, and seconds before the second of them.
TRIES: Final = 3
PAUSE: Final = 1.0


@contextmanager
def cleaning(run: Run, clean: Callable[[], str]) -> Iterator[None]:
    """Call `clean` when the block fails, and report failures of the cloud as the upload's.

    `clean` returns what it could not do, as text to append.
    """
    try:
        yield
    except TransferError as error:
        raise _with(run, error, clean()) from error
    except CLOUD_FAILURES as error:
        failed = run.failure(error.failure_class, error.message)
        raise _with(run, failed, clean()) from error
    except BaseException:
        left = clean()
        if left:
            LOG.error("an upload was broken off%s", left)
        raise


def discarding(run: Run, image_id: str) -> AbstractContextManager[None]:
    """Delete the image when the block fails, and report failures of the cloud as the upload's."""
    return cleaning(run, lambda: discard(run, image_id))


def _with(run: Run, error: TransferError, text: str) -> TransferError:
    return TransferError(replace(error.cause, message=error.cause.message + text), image_left=run.image_left)


def discard(run: Run, image_id: str) -> str:
    """Delete an image of ours that failed; what could not be done, as text to append."""
    pause = PAUSE
    for attempt in range(1, TRIES + 1):
        try:
            run.tidy(lambda: run.cloud.delete(image_id))
        except CLOUD_FAILURES as error:
            # A cloud that hangs would make three long waits of it.
            if attempt == TRIES or error.failure_class is FailureClass.TIMEOUT or run.stop():
                run.leave()
                return f"; image {image_id} stays behind, it could not be deleted: {error.message}"
            run.sleep(pause)
            pause *= 2
        else:
            break
    return ""


def discard_unseen(run: Run, *, unanswered: bool = False) -> str:
    """Delete what a request may have made whose result is unknown; what could not be done, as text.

    When it was `unanswered` and nothing is there, something may come yet: the cloud may still be at the
    request although its connection broke.
    """
    wanted = ownership.marks(run.order.upload, run.order.installation_id)
    # An upload may have parts, which are others' to delete.
    if made_of := run.order.image.properties.get(FORMAT):
        wanted[FORMAT] = made_of
    try:
        found = run.tidy(lambda: list(run.cloud.find(wanted)))
    except CLOUD_FAILURES as error:
        run.leave()
        return f"; whether an image stays behind can't be said: {error.message}"
    upload, installation_id = run.order.upload, run.order.installation_id
    ours = [i for i in found if ownership.why_not_ours(i, upload, installation_id) is None]
    run.image_left |= unanswered and not ours
    return "".join(discard(run, image.id) for image in ours)


def delete_late(cloud: Cloud, image_id: str) -> None:
    """Delete what a request made whose upload has ended meanwhile, in the thread that made it."""
    try:
        cloud.delete(image_id)
    except CLOUD_FAILURES as error:
        LOG.warning("image %s of an upload that was stopped is not deleted: %s", image_id, error.message)

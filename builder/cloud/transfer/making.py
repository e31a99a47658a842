"""The ways that make an image and fill it: by a PUT, by staged bytes, by a URL that Glance fetches."""

from __future__ import annotations

import threading

from builder.cloud.base import Body
from builder.cloud.transfer.discarding import delete_late, discard_unseen, discarding
from builder.cloud.transfer.finishing import finish
from builder.cloud.transfer.order import TransferError
from builder.cloud.transfer.run import Run
from builder.cloud.transfer.sending import send
from builder.cloud.transfer.waiting import wait_for_active
from builder.cloudimage import CloudImage
from builder.errors import CloudUnavailableError
from builder.model import UploadPhase
from builder.ways import Way


def put(run: Run) -> CloudImage:
    """The verified image, its bytes sent into it."""
    image_id = _create(run)
    with discarding(run, image_id):
        run.enter(UploadPhase.SEND)
        send(run, lambda body, timeout: run.cloud.send(image_id, body, timeout=timeout))
        return _finish(run, image_id, imported=False)


def stage_and_import(run: Run) -> CloudImage:
    """The verified image, its bytes staged and then imported."""
    image_id = _create(run)

    def stage(body: Body, timeout: float) -> None:
        run.cloud.stage(image_id, body, timeout=timeout)

    with discarding(run, image_id):
        run.enter(UploadPhase.SEND)
        send(run, stage)
        run.enter(UploadPhase.WAIT)
        run.ask(lambda: run.cloud.import_image(image_id, Way.GLANCE_DIRECT))
        return _finish(run, image_id, imported=True)


def let_download(run: Run) -> CloudImage:
    """The verified image, its bytes fetched by Glance from the order's URL."""
    image_id = _create(run)
    with discarding(run, image_id):
        run.enter(UploadPhase.WAIT)
        run.ask(lambda: run.cloud.import_image(image_id, Way.WEB_DOWNLOAD, url=run.order.url))
        return _finish(run, image_id, imported=True)


def _finish(run: Run, image_id: str, *, imported: bool) -> CloudImage:
    if run.phase is not UploadPhase.WAIT:
        run.enter(UploadPhase.WAIT)
    return finish(run, wait_for_active(run, image_id, imported=imported), run.order.image)


def _create(run: Run) -> str:
    """The id of a new, empty image that is on record."""
    run.enter(UploadPhase.CREATE)
    unwanted = threading.Event()

    def create() -> CloudImage:
        image = run.cloud.create(run.order.image)
        if unwanted.is_set():
            delete_late(run.cloud, image.id)
        return image

    try:
        image = run.ask(create)
    except TransferError as error:
        # The answer is not waited for: the thread that gets it deletes what it names, if it lives so long.
        unwanted.set()
        run.leave()
        text = "; whether an image stays behind can't be said: its creation was not answered yet"
        raise run.failure(error.cause.failure_class, error.cause.message + text) from error
    except CloudUnavailableError as error:
        # It may have been made all the same: only the answer is missing.
        left = discard_unseen(run, unanswered=True)
        raise run.failure(error.failure_class, error.message + left) from error
    with discarding(run, image.id):
        run.created(image)
    return image.id

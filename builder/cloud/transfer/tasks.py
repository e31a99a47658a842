"""The tasks way (Rackspace): the bytes go to Swift, and a task of the image service imports them.

The image comes out of the task without properties. Until it has ours, a name that nothing else has
proves whose it is, and the task on the upload's record tells when there is one to be looked for.
"""

from __future__ import annotations

import logging
from typing import Final

from builder.cloud.base import Body, Task, TaskState
from builder.cloud.ownership import task_name, why_not_of_task
from builder.cloud.transfer.discarding import cleaning, discard, discarding
from builder.cloud.transfer.finishing import describe, finish
from builder.cloud.transfer.order import TransferError
from builder.cloud.transfer.run import CLOUD_FAILURES, Run
from builder.cloud.transfer.sending import send
from builder.cloud.transfer.waiting import Silence, patiently, wait_for_active
from builder.cloudimage import CloudImage
from builder.errors import CloudUnavailableError
from builder.model import FailureClass, UploadPhase

LOG = logging.getLogger(__name__)

#: Seconds that a task whose upload has failed is given to end, and between two looks at it.
TAKE_BACK: Final = 30.0
LOOK: Final = 1.0


def send_and_import(run: Run) -> CloudImage:
    """The verified image that an import task made."""
    name = task_name(run.order.upload, run.order.installation_id)

    def put_object(body: Body, timeout: float) -> None:
        run.cloud.put_object(name, body, timeout=timeout)

    try:
        run.enter(UploadPhase.SEND)
        send(run, put_object)
        run.enter(UploadPhase.WAIT)
        image = _proven(run, _import(run, name))
        with discarding(run, image.id):
            return _make_ours(run, image)
    finally:
        _delete_object(run, name)


def _import(run: Run, name: str) -> str:
    """The id of the image that comes out of the task."""
    try:
        task = run.ask(lambda: run.cloud.start_import_task(name, name))
    except (TransferError, CloudUnavailableError) as error:
        # Nobody learns the id of the task, if there is one: what it makes is found by its name, later.
        run.image_left = True
        text = "; whether an image stays behind can't be said: the import was not answered"
        failure_class = error.cause.failure_class if isinstance(error, TransferError) else error.failure_class
        raise run.failure(failure_class, error.message + text) from error
    with cleaning(run, lambda: _take_back(run, task.id, name)):
        run.listener.task(task.id)
        return _wait_for_image(run, task.id)


def _wait_for_image(run: Run, task_id: str) -> str:
    silence = Silence(run)

    def poll() -> str | None:
        task = run.ask(lambda: run.cloud.get_task(task_id))
        if task is None:
            raise run.failure(FailureClass.CLOUD, f"the cloud has forgotten the import task {task_id}")
        if task.state is TaskState.SUCCESS:
            return _image_of(run, task)
        if task.state is TaskState.FAILURE:
            said = task.message or "it does not say why"
            raise run.failure(FailureClass.CLOUD, f"the import task {task_id} failed: {said}")
        silence.hear((task.state, task.message), f"the import task {task_id} is {task.state}")
        return None

    return patiently(run, poll)


def _image_of(run: Run, task: Task) -> str:
    if task.image_id is None:
        raise run.failure(FailureClass.CLOUD, f"the import task {task.id} succeeded, but names no image")
    return task.image_id


def _proven(run: Run, image_id: str) -> CloudImage:
    """The image that a task names, when it is what this upload's task has made. What a cloud says in error
    must not let us describe, or delete, somebody else's image."""
    run.image_left = True  # as long as it is not known, whoever cleans up looks for it by its name
    image = run.ask(lambda: run.cloud.get(image_id))
    if doubt := _doubt(run, image):
        raise run.failure(FailureClass.CLOUD, f"the task names the image {image_id}, but {doubt}")
    run.image_left = False
    if image is None:
        raise run.failure(FailureClass.CLOUD, "the image is gone: somebody deleted it")
    return image


def _doubt(run: Run, image: CloudImage | None) -> str | None:
    """Why an image that is there is not proven to come out of this upload's task; None when it is."""
    return None if image is None else why_not_of_task(image, run.order.upload, run.order.installation_id)


def _make_ours(run: Run, image: CloudImage) -> CloudImage:
    """The image with all its properties, verified."""
    run.created(image)
    describe(run, image, run.order.image)
    return finish(run, wait_for_active(run, image.id), run.order.image)


def _take_back(run: Run, task_id: str, object_name: str) -> str:
    """Delete what a task makes whose upload failed; what could not be done, as text to append."""
    _delete_object(run, object_name)
    until = run.clock() + TAKE_BACK
    try:
        while True:
            task = run.tidy(lambda: run.cloud.get_task(task_id))
            if task is None or not task.state.is_moving:
                return _discard_proven(run, task.image_id) if task and task.image_id else ""
            if run.stop() or run.clock() >= until:
                said = "it goes on"
                break
            run.sleep(LOOK)
    except CLOUD_FAILURES as error:
        said = error.message
    run.image_left = True
    return f"; what task {task_id} makes may stay behind: {said}"


def _discard_proven(run: Run, image_id: str) -> str:
    image = run.tidy(lambda: run.cloud.get(image_id))
    if doubt := _doubt(run, image):
        run.image_left = True
        return f"; image {image_id}, which the task names, is left alone: {doubt}"
    return discard(run, image_id)


def _delete_object(run: Run, name: str) -> None:
    """The cloud would do it by itself after a day, so that a failure is not the upload's."""
    try:
        run.tidy(lambda: run.cloud.delete_object(name))
    except CLOUD_FAILURES as error:
        LOG.warning("object %s stays for a day: %s", name, error.message)

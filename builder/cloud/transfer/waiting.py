"""Waits for what a cloud does by itself, and notices when it never will."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from builder.cloud.base import Task, TaskState
from builder.cloud.transfer.run import Run
from builder.cloudimage import CloudImage, GlanceStatus
from builder.errors import CloudUnavailableError
from builder.model import FailureClass

#: Seconds between two questions whether the image is active: the first, and the longest.
POLL_FIRST: Final = 0.1
POLL_LONGEST: Final = 15.0
#: Seconds an image may still be called `queued` after its bytes were taken or its import was begun (a
#: replica that lags, a queue of imports that says nothing).
QUEUED_GRACE: Final = 10.0
#: Seconds without news of an image that is not active yet, and bytes per second besides that Glance
#: is trusted to manage meanwhile: it may tell nothing at all while it copies.
SILENCE: Final = 600.0
SLOWEST: Final = 2 << 20
#: Where Glance tells of an import, as properties of the image (its "Interoperable image import" guide).
IMPORTING_TO: Final = "os_glance_importing_to_stores"
FAILED_IN: Final = "os_glance_failed_import"

Result = TypeVar("Result")


def patiently(run: Run, poll: Callable[[], Result | None]) -> Result:
    """What `poll` returns once that is not None; it is called at once, then more and more seldom.

    Raises what it raises, but CloudUnavailableError only when there was no answer for the stall
    timeout.
    """
    answered = run.clock()
    pause = POLL_FIRST
    while True:
        try:
            result = poll()
            answered = run.clock()
        except CloudUnavailableError:
            if run.clock() - answered >= run.order.stall_timeout:
                raise
        else:
            if result is not None:
                return result
        run.rest(pause)
        pause = min(pause * 2, POLL_LONGEST)


class Silence:
    """Notices when there was no news for too long."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._heard = run.clock()
        self._news: object = None

    def hear(self, news: object, state: str) -> None:
        """What is known now; TransferError when it has been the same for too long. `state`: for people."""
        now = self._run.clock()
        if news != self._news:
            self._news, self._heard = news, now
        limit = SILENCE + self._run.order.artifact.size / SLOWEST
        if now - self._heard >= limit:
            raise self._run.failure(
                FailureClass.TIMEOUT, f"the cloud says {state}, and has said nothing else for {limit:.0f} s"
            )


def wait_for_active(run: Run, image_id: str, *, imported: bool = False) -> CloudImage:
    """The image once it is active. `imported`: it gets there by an import, whose tasks tell more.

    TransferError when it can't become active any more, or nothing was heard of it for too long;
    CloudUnavailableError when the cloud gave no answer for the stall timeout.
    """
    return patiently(run, _Wait(run, image_id, imported).poll)


class _Wait:
    """What was heard of one image, and when."""

    def __init__(self, run: Run, image_id: str, imported: bool) -> None:
        self._run = run
        self._image_id = image_id
        self._imported = imported
        self._began = run.clock()
        self._silence = Silence(run)
        self._was_importing = False

    def poll(self) -> CloudImage | None:
        """The image when it is active, None when it may become so; raises when it can't."""
        run = self._run
        image = run.ask(lambda: run.cloud.get(self._image_id))
        if image is None:
            raise run.failure(FailureClass.CLOUD, "the image is gone: somebody deleted it")
        if image.status is GlanceStatus.ACTIVE:
            return image
        if not image.status.is_moving:
            raise run.failure(FailureClass.CLOUD, f"the cloud says the image is {image.status}, not active")
        tasks = run.ask(lambda: run.cloud.import_tasks(self._image_id)) if self._imported else ()
        self._check_import(image, tasks)
        self._check_queued(image, tasks)
        stores = image.properties.get(IMPORTING_TO)
        state = f"the image is {image.status}" + (f", importing to {stores}" if stores else "")
        self._silence.hear((image.status, image.size, stores, tasks), state)
        return None

    def _check_import(self, image: CloudImage, tasks: tuple[Task, ...]) -> None:
        failed_in = image.properties.get(FAILED_IN)
        failed = tasks[0] if tasks and tasks[0].state is TaskState.FAILURE else None
        if failed is None and not failed_in:
            return
        said = [f"it failed in {failed_in}"] if failed_in else []
        if failed is not None:
            said.append(f"task {failed.id} failed: {failed.message or 'it does not say why'}")
        raise self._run.failure(
            FailureClass.CLOUD,
            f"the cloud could not import the image, which is {image.status}: {'; '.join(said)}",
        )

    def _check_queued(self, image: CloudImage, tasks: tuple[Task, ...]) -> None:
        """A failed import goes back to `queued`, and what stored nothing never left it."""
        self._was_importing |= image.status is GlanceStatus.IMPORTING
        if image.status is not GlanceStatus.QUEUED or any(task.state.is_moving for task in tasks):
            return
        if self._was_importing:
            said = "the cloud gave the import up"
        elif self._run.clock() - self._began < QUEUED_GRACE:
            return
        elif self._imported:
            said = "the cloud did not begin the import"
        else:
            said = "the cloud took the bytes, but stored nothing"
        raise self._run.failure(FailureClass.CLOUD, f"{said}: the image is still queued")

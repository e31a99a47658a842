"""Sends the file in one request, watched: bytes are told, and a request that stalls is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from builder.cloud.base import Body
from builder.cloud.transfer.body import FileBody
from builder.cloud.transfer.order import TransferError
from builder.cloud.transfer.run import CLOUD_FAILURES, Run
from builder.model import FailureClass

#: Seconds more than the stall timeout that a request gets before it ends by itself: we want to be the
#: ones who notice, since we know how many bytes were sent.
CUT_GRACE: Final = 5.0


def send(run: Run, request: Callable[[Body, float], None]) -> None:
    """Let `request` send the whole file; it gets the body, and the seconds after which it is to end by
    itself when nothing moves. TransferError for what is wrong with the file, or a stall."""
    run.sent = 0
    body = _open(run)
    watch = _Watch(run, body)

    def call() -> None:
        with body.closed_after():
            request(body, run.order.stall_timeout + CUT_GRACE)

    try:
        run.ask(call, watch.look)
    except (OSError, EOFError) as error:
        raise _unreadable(run, error) from error
    except CLOUD_FAILURES as error:
        watch.tell()
        raise run.failure(error.failure_class, f"{error.message}; {run.progress}") from error
    finally:
        body.stop()
    watch.tell()
    if body.sent != len(body):
        # Whoever answers before it has all of it can't have stored it.
        raise run.failure(
            FailureClass.CLOUD,
            f"the cloud took {body.sent} bytes for the whole image, {len(body)} are on record",
        )


def _open(run: Run) -> FileBody:
    try:
        return FileBody(run.order.path, run.order.artifact.size, run.order.limiter)
    except OSError as error:
        raise _unreadable(run, error) from error


def _unreadable(run: Run, error: OSError | EOFError) -> TransferError:
    reason = getattr(error, "strerror", None) or error
    return run.failure(FailureClass.DISK, f"{run.order.path}: {reason}")


class _Watch:
    """Tells how many bytes have left, and notices when no more do."""

    def __init__(self, run: Run, body: FileBody) -> None:
        self._run = run
        self._body = body
        self._moved = run.clock()

    def look(self) -> None:
        """TransferError when nothing has moved for the stall timeout."""
        self.tell()
        limit = self._run.order.stall_timeout
        if self._run.clock() - self._moved >= limit:
            raise self._run.failure(
                FailureClass.TIMEOUT,
                f"it stalled: the cloud took no byte and gave no answer for {limit:.0f} s;"
                f" {self._run.progress}",
            )

    def tell(self) -> None:
        """Tell of what has left since the last time."""
        run, sent = self._run, self._body.sent
        if sent != run.sent or self._body.waiting:
            self._moved = run.clock()
        if sent != run.sent:
            run.moved(sent)

"""One upload under way: its time, the wish that it stops, and its requests, which may hang.

Each request is made in a thread of its own. A cloud that does not answer is left there: the
request ends by its own timeout, and nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar, cast

from builder.bounded import at_once
from builder.cloud.base import Cloud
from builder.cloud.transfer.order import Listener, Order, TransferError
from builder.cloudimage import CloudImage
from builder.errors import CloudError, CloudUnavailableError
from builder.model import Artifact, Failure, FailureClass, UploadPhase
from builder.ways import Way

#: What clouds raise (Cloud).
CLOUD_FAILURES: Final = (CloudError, CloudUnavailableError)
#: Seconds between two looks at the deadline and the wish to stop.
TICK: Final = 0.2
#: Seconds that tidying up may take, and once the upload was told to stop.
TIDY_LIMIT: Final = 60.0
TIDY_LIMIT_STOPPED: Final = 5.0

Result = TypeVar("Result")


class _LeftError(Exception):
    """There is no more time for what was tidied up."""


@dataclass(kw_only=True)
class Run:
    """The arguments of `upload`, and how far it has come."""

    cloud: Cloud
    order: Order
    listener: Listener
    stop: Callable[[], Failure | None]
    clock: Callable[[], float]  #: seconds
    sleep: Callable[[float], object]

    phase: UploadPhase = UploadPhase.PREFLIGHT
    sent: int = 0  #: bytes that have left by the present way
    sent_before: int = 0  #: those of the parts that are there by now
    fallbacks: tuple[str, ...] = ()  #: the ways that came to nothing so far, as "<way>: <why>"
    coming: tuple[Artifact, ...] = ()  #: what is still to be brought in, what is at it now included
    image_left: bool = False  #: something could not be deleted, or not be looked for
    whole_left: bool = False  #: of that, it is what needs the parts, or may be
    is_over: bool = False  #: it was stopped, or has no time left: no other way is tried
    deadline: float = field(init=False)  #: by `clock`
    tidy_until: float | None = field(init=False, default=None)  #: by `clock`, once it was stopped

    def __post_init__(self) -> None:
        self.deadline = self.clock() + self.order.timeout
        self.coming = (*(part.artifact for part in self.order.parts), self.order.artifact)

    def turn_to(self, order: Order) -> None:
        """This order is next, within the same time: of a part, or of what has to wait for its parts."""
        self.coming = self.coming[self.coming.index(order.artifact) :]
        self.sent_before += self.sent
        self.order, self.sent = order, 0

    def leave(self) -> None:
        """An image of the present order could not be deleted, or not be looked for."""
        self.image_left = True
        self.whole_left |= not self.order.artifact.format.is_part

    def way(self, way: Way) -> None:
        """This way is tried."""
        self.listener.way(way, self.fallbacks)
        if self.sent_before:
            self.listener.sent(self.sent_before)

    def created(self, image: CloudImage) -> None:
        """There is an image of the present order."""
        image_format = self.order.artifact.format
        if image_format.is_part:
            self.listener.part(image_format, image)
        else:
            self.listener.created(image)

    def moved(self, sent: int) -> None:
        """So many bytes have left by the present way."""
        self.sent = sent
        self.listener.sent(self.sent_before + sent)

    def enter(self, phase: UploadPhase) -> None:
        """The phase begins."""
        self.phase = phase
        self.listener.phase(phase)
        self.check()

    def check(self) -> None:
        """Raise when there is no time left, or somebody wants us to stop."""
        failure = self._over()
        if failure is not None:
            self.is_over = True
            raise TransferError(
                replace(failure, phase=failure.phase or str(self.phase)), image_left=self.image_left
            )

    def _over(self) -> Failure | None:
        wish = self.stop()
        if wish is not None:
            return wish
        if self.clock() < self.deadline:
            return None
        return Failure(
            failure_class=FailureClass.TIMEOUT,
            message=f"it was not done after {self.order.timeout:.0f} s; {self.progress}",
        )

    @property
    def progress(self) -> str:
        """How many bytes have left, as text."""
        return f"{self.sent} of {self.order.artifact.size} bytes were sent"

    def failure(self, failure_class: FailureClass, message: str) -> TransferError:
        """An error in the present phase, to be raised."""
        failure = Failure(failure_class=failure_class, message=message, phase=str(self.phase))
        return TransferError(failure, image_left=self.image_left)

    def rest(self, seconds: float) -> None:
        """Wait, and look meanwhile whether to go on."""
        until = self.clock() + seconds
        while True:
            self.check()
            left = min(until, self.deadline) - self.clock()
            if left <= 0:
                return
            self.sleep(min(TICK, left))

    def ask(self, call: Callable[[], Result], look: Callable[[], None] = lambda: None) -> Result:
        """What a request returns; what it raises. TransferError, and the request is left behind, when
        there is no time left, or somebody wants us to stop. `look` comes several times a second."""

        def on_look() -> None:
            look()
            self.check()

        # Without a limit of time there is always a result.
        return cast(Result, at_once([call], seconds=math.inf, on_look=on_look)[0])

    def tidy(self, call: Callable[[], Result]) -> Result:
        """`ask` for what has to be done when all is over, within limits of its own."""
        begun = self.clock()

        def on_look() -> None:
            now = self.clock()
            if self.tidy_until is None and self.stop() is not None:
                self.tidy_until = now + TIDY_LIMIT_STOPPED
            if now >= min(begun + TIDY_LIMIT, self.tidy_until or math.inf):
                raise _LeftError

        try:
            return cast(Result, at_once([call], seconds=math.inf, on_look=on_look)[0])
        except _LeftError:
            raise CloudUnavailableError(
                "the cloud gave no answer in time", failure_class=FailureClass.TIMEOUT
            ) from None

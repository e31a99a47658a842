"""How long a build may go on: until its deadline, or until somebody says stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass
from builder.process.child import Child

#: Seconds between two looks at whether to go on, while a child process runs.
LOOK = 0.2

#: Why the work shall end before it is done, None to go on. Asked often, from any thread.
Stop = Callable[[], Failure | None]


def go_on() -> Failure | None:
    """Never tells a reason to end."""
    return None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Ends work of this process and its children in time; the default never ends anything."""

    stop: Stop = go_on
    allowed: float = float("inf")  #: seconds in all
    began: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise ActionFailedError, with the Failure that `stop` tells or one of class timeout, when
        it is time to end."""
        failure = self.stop()
        if failure is None and time.monotonic() - self.began > self.allowed:
            message = f"the build took longer than its {self.allowed:.0f} s"
            failure = Failure(failure_class=FailureClass.TIMEOUT, message=message)
        if failure is not None:
            raise ActionFailedError(failure.message, failure)

    def watch(self, child: Child, *, grace: float, on_look: Callable[[], None] = lambda: None) -> int:
        """Wait for a child's end and return its exit code (negative: the signal).

        `on_look` is called every LOOK seconds meanwhile. The child is stopped, with `grace` seconds
        between TERM and KILL, when the limits are reached (ActionFailedError as `check` raises it)
        or `on_look` raises.
        """
        code: int | None = None
        try:
            while (code := child.wait(LOOK)) is None:
                on_look()
                self.check()
            return code
        finally:
            if code is None:
                child.stop(grace)

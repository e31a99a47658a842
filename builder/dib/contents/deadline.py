"""Ask several questions of the outside world at once, and stop waiting in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from builder.bounded import at_once
from builder.dib.limits import Stop, go_on
from builder.errors import ImagepoolError

LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class CannotTellError(Exception):
    """Something can't be found out; the text says what and why, fit for a record: no secret is in it."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """Until when it is worth asking: for `seconds` from now, and until `stop` tells a reason to end."""

    seconds: float
    stop: Stop = go_on
    _began: float = field(init=False, default_factory=time.monotonic)

    @property
    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._began + self.seconds - time.monotonic())

    def check(self) -> None:
        """Raise CannotTellError when there is no time left, or `stop` says so."""
        self.check_stop()
        if not self.remaining:
            raise self.passed()

    def check_stop(self) -> None:
        """Raise CannotTellError when `stop` says so."""
        if (failure := self.stop()) is not None:
            raise CannotTellError(f"stopped: {failure.message}")

    def passed(self) -> CannotTellError:
        """What to say of whoever did not answer in time."""
        return CannotTellError(f"no answer within {self.seconds:g} s")


def together(
    questions: Sequence[Callable[[], Answer]], deadline: Deadline
) -> tuple[Answer | CannotTellError, ...]:
    """Ask all at the same time; for each, in order, its answer (never None) or why there is none.

    Whatever a question raises is why it has no answer. Raises CannotTellError when `deadline.stop` says
    so.
    """
    answers = at_once(
        [partial(_answer, question) for question in questions],
        seconds=deadline.remaining,
        on_look=deadline.check_stop,
    )
    return tuple(deadline.passed() if answer is None else answer for answer in answers)


def _answer(question: Callable[[], Answer]) -> Answer | CannotTellError:
    try:
        return question()
    except CannotTellError as error:
        return error
    except ImagepoolError as error:
        return CannotTellError(error.message)
    except OSError as error:
        return CannotTellError(str(error))
    except Exception as error:
        # What a server says may be odder than anybody thought of; then nothing is known, and that is all.
        LOG.exception("a question about a build's inputs broke")
        return CannotTellError(f"{type(error).__name__}: {error}")

"""Runs several calls at the same time, and stops waiting for them after a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Final, TypeVar

#: Seconds between two looks at whether to go on waiting.
_LOOK: Final = 0.2

Result = TypeVar("Result")


def at_once(
    calls: Sequence[Callable[[], Result]], *, seconds: float, on_look: Callable[[], None] = lambda: None
) -> list[Result | None]:
    """What each call returns, in their order; None for those that did not return within `seconds`.

    `on_look` is called several times a second meanwhile. Raises what it raises, or what a call
    raises. Calls that are still running then are left behind, on threads that hold nobody up.
    """
    futures: list[Future[Result]] = [Future() for _ in calls]
    for call, future in zip(calls, futures, strict=True):
        # No pool: its threads are waited for when the interpreter ends.
        threading.Thread(target=_run, args=(call, future), daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        on_look()
        left = deadline - time.monotonic()
        done, running = wait(futures, max(0.0, min(_LOOK, left)), FIRST_EXCEPTION)
        for future in done:
            future.result()
        if not running or left <= 0:
            return [future.result() if future in done else None for future in futures]


def _run(call: Callable[[], Result], future: Future[Result]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the result
        future.set_exception(error)

"""Hears SIGTERM, SIGINT and SIGHUP in a thread of its own.

The kernel may hand a signal to any thread, such as one that is just starting a tool. Python runs
handlers in the main thread only and wakes it for none, so a waiting main thread would hear of it
hours later. The wake-up descriptor (signal.set_wakeup_fd) is written to in whichever thread it was.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heard(*, on_stop: Callable[[], None], on_reload: Callable[[], None]) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT call `on_stop`, SIGHUP calls `on_reload`.

    Enter it in the main thread; the calls come in another. What was set before is put back.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    actions = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: on_reload}
    wake_up = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _noted) for number in actions}

    def listen() -> None:
        while numbers := reader.recv(64):
            for number in numbers:
                if number in actions:
                    actions[signal.Signals(number)]()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wake_up)
        writer.close()
        listener.join()
        reader.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _noted(number: int, frame: FrameType | None) -> None:
    """A signal's handler; what is to be done, the wake-up descriptor's reader does."""

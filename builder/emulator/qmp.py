"""Talks QMP to a running QEMU: commands with their answers, and events (QEMU, docs/interop/qmp-spec)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any, Final

from builder.errors import UnavailableError

#: Seconds that QEMU may take to answer; it does so at once, on a machine that is not overloaded.
ANSWER: Final = 60.0


class QmpError(UnavailableError):
    """QEMU refused a command, or is gone."""


class Qmp:
    """One connection to the monitor of a QEMU; commands are for one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Greet a QEMU that has just been connected to; raises QmpError."""
        self._connection = connection
        self._changed = threading.Condition()
        self._answers: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._over = False
        self._reader = threading.Thread(target=self._read, name="qmp", daemon=True)
        self._reader.start()
        try:
            self.execute("qmp_capabilities")
        except QmpError:
            self.close()
            raise

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns for a command; raises QmpError."""
        with self._changed:
            self._answers.clear()
        try:
            self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        except OSError as error:
            raise QmpError(f"QEMU is gone: {error.strerror}") from error
        with self._changed:
            self._changed.wait_for(lambda: self._answers or self._over, ANSWER)
            if not self._answers:
                raise QmpError(f"QEMU did not answer to {command}")
            answer = self._answers.pop()
        if "error" in answer:
            raise QmpError(f"QEMU refused {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def seen(self) -> int:
        """How many events came so far; where `wait` begins to look."""
        with self._changed:
            return len(self._events)

    def happened(self, event: str, since: int, **data: Any) -> bool:
        """Whether an event with these data came after the first `since`."""
        with self._changed:
            return any(
                each["event"] == event and data.items() <= each.get("data", {}).items()
                for each in self._events[since:]
            )

    def close(self) -> None:
        """Hang up."""
        # A thread that waits in recv() does not hear that the socket was closed.
        with contextlib.suppress(OSError):  # QEMU was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self._take(json.loads(line))
            except OSError:
                pass  # QEMU is gone
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "event" in message:
                self._events.append(message)
            elif "QMP" not in message:
                self._answers.append(message)
            self._changed.notify_all()

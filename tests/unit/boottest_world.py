"""Guests that say what tests have them say, where the emulator would boot machines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.bootorder import CONSOLE, Order
from builder.boottest import measures, proofs
from builder.boottest.run import LARGER
from builder.emulator.guest import Seconds
from builder.emulator.machine import Machine
from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass
from builder.process.child import Completed

SIZE = 3 << 30
GOOD_CONSOLE = ("Linux version 6.1.0", "systemd[1]: Reached target", "boot-test-host login: ")
MARK = re.compile(r"@@@[0-9a-f]{16}")
#: What a good machine answers; the numbers are of a small Debian.
GOOD: Mapping[str, str] = {
    "hostname": "boot-test-host",
    "resolv.conf": "search example\nnameserver 192.0.2.3",
    "resolvers": "",
    "state": "running",
    "jobs": "",
    "failed units": "",
    "words of failed units": "",
    "root": f"/dev/vda1 {SIZE + LARGER - (100 << 20)} 900000000 1 20% /",
    "root device": "/dev/vda1 ext4",
    "memory": "MemTotal:        1000000 kB\nMemFree: 1 kB\nMemAvailable:     900000 kB",
    "services": "12",
    "packages": "201",
    "sockets": (
        "tcp\n  sl  local_address rem_address   st\n"
        "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000\n"
        "   1: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000\n"
        "   2: 0A0200C0:0016 0102000A:C001 01 00000000:00000000 00:00000000\n"
        "tcp6\n  sl  local_address\n"
        "   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0\n"
        "   1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 0:0\n"
        "udp\n  sl\n 100: 00000000:0044 00000000:0000 07 0:0\nudp6"
    ),
    "setuid": "/usr/bin/sudo\n/usr/bin/passwd",
}


NORMAL = Seconds(kernel=2.0, userspace=5.0, ssh=20.0)


def _done(code: int, output: str = "", error: str = "") -> Completed:
    return Completed(("ssh",), code, output, error if code else "")


def order(place: Path, **changes: object) -> Order:
    """A test of an image of 3 GiB, for an hour."""
    fields: dict[str, object] = {
        "disk": "/images/debian.qcow2",
        "format": "qcow2",
        "size": SIZE,
        "architecture": "amd64",
        "firmware": "bios",
        "memory": 1 << 30,
        "cpus": 2,
        "user": "zuul",
        "timeout": 3600.0,
        "place": str(place),
        **changes,
    }
    return Order(**fields)  # type: ignore[arg-type]


def trouble(
    message: str, kind: FailureClass = FailureClass.TIMEOUT, *lines: str, code: int | None = None
) -> ActionFailedError:
    """What the emulator raises."""
    failure = Failure(failure_class=kind, message=message, lines=lines, exit_code=code)
    return ActionFailedError(message, failure)


@dataclass
class FakeGuest:
    """A machine that was booted; `starts` counts its boots, and nothing takes any time."""

    number: int
    machine: Machine
    look: Callable[[], None]
    said: dict[str, str] = field(default_factory=dict)  #: answers that are not those of a good one
    said_later: dict[str, str] = field(default_factory=dict)  #: ... after a restart
    codes: dict[str, int] = field(default_factory=dict)  #: exit codes of answers that are not 0
    console: tuple[str, ...] = GOOD_CONSOLE
    seconds: Seconds = NORMAL
    not_up: ActionFailedError | None = None
    not_up_again: ActionFailedError | None = None
    not_in: ActionFailedError | None = None
    no_restart: ActionFailedError | None = None
    has_sudo: bool = True
    mute: bool = False  #: does not answer
    checks: dict[str, tuple[int, str]] = field(default_factory=dict)  #: exit code and output by path
    accelerator: str = "tcg"
    disk_claimed: int = 50 << 20
    starts: int = 1
    running: bool = False
    port: int = 2222
    commands: list[str] = field(default_factory=list)

    def copy_key(self, target: Path) -> None:
        target.touch(mode=0o600)
        target.write_text("a key")

    def console_tail(self, lines: int = 25) -> tuple[str, ...]:
        return self.console[-lines:]

    def wait_for_ssh(self, limit: float) -> float:
        self.look()
        error = self.not_up if self.starts == 1 else self.not_up_again
        if error is not None:
            raise error
        return 20.0

    def wait_for_login(self, limit: float, *, user: str = "root") -> None:
        if self.not_in is not None:
            raise self.not_in

    def reboot(self, *, user: str = "root") -> None:
        if self.no_restart is not None:
            raise self.no_restart
        self.starts += 1

    def ssh(
        self, command: str, *, user: str = "root", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        self.commands.append(command)
        if "sudo -n id" in command:
            return _done(0 if self.has_sudo else 1, "", "sudo: a password is required")
        mark = MARK.search(command)
        if mark is not None:
            if self.mute:
                raise TimeoutError("ssh did not end")
            return _done(0, self._answers(command, mark[0]))
        for path, (code, output) in self.checks.items():
            if f"exec {path}" in command:
                if code < 0:
                    raise TimeoutError("ssh did not end")
                return _done(code, output)
        return _done(0)

    def _answers(self, command: str, mark: str) -> str:
        own = {
            "boot id": f"boot {self.number} {self.starts}",
            "machine id": f"{self.number:032x}",
            "host keys": f"ssh-ed25519 AAAA{self.number}\nssh-rsa AAAA{self.number}",
            "sync": "",
        }
        later = self.said_later if self.starts > 1 else {}
        answers = {**GOOD, **own, **self.said, **later}
        asked = [name for name in answers if f"{mark} {name}" in command]
        return "".join(f"{mark} {n}\n{answers[n]}\n\n{mark} {self.codes.get(n, 0)}\n" for n in asked)


class Emulator:
    """Boots fake guests; `changes` makes the n-th one (from 1 on) another than a good one."""

    def __init__(self, *changes: Mapping[str, object]) -> None:
        self._changes = changes
        self.guests: list[FakeGuest] = []
        self.running = 0
        self.error: Exception | None = None  #: raised instead of booting

    @contextmanager
    def boot(
        self, machine: Machine, directory: Path, *, check: Callable[[], None] = lambda: None
    ) -> Iterator[FakeGuest]:
        if self.error is not None:
            raise self.error
        number = len(self.guests) + 1
        changes = self._changes[number - 1] if number <= len(self._changes) else {}
        guest = FakeGuest(number, machine, check, **changes)  # type: ignore[arg-type]
        self.guests.append(guest)
        (directory / CONSOLE).write_text("\n".join(guest.console))
        self.running += 1
        try:
            yield guest
        finally:
            self.running -= 1


def all_questions() -> set[str]:
    return {*proofs.QUESTIONS, *measures.QUESTIONS}

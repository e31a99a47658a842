"""Waits until a machine lets its user in, or shows on its console why it never will."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

from builder.boottest import proofs, signs
from builder.emulator.guest import Seconds
from builder.errors import ActionFailedError
from builder.model import FailureClass
from builder.process.child import Completed

#: Seconds for a user's key to be where the server looks for it, once that answers.
LOGIN: Final = 180.0
#: Seconds for an SSH server to answer, once the console asks who wants to log in: an emulated machine on a
#: busy host may be making its host keys.
SSH_AFTER_CONSOLE: Final = 180.0
#: Seconds between two looks at what the console says.
_LOOK: Final = 2.0
_TAIL: Final = 60


class Guest(Protocol):
    """What is needed of a machine that runs; see emulator.guest."""

    accelerator: str

    @property
    def seconds(self) -> Seconds: ...
    @property
    def disk_claimed(self) -> int: ...
    def console_tail(self, lines: int = ...) -> tuple[str, ...]: ...
    def wait_for_ssh(self, limit: float) -> float: ...
    def wait_for_login(self, limit: float, *, user: str = ...) -> None: ...
    def ssh(self, command: str, *, user: str = ..., timeout: float = ..., check: bool = ...) -> Completed: ...
    def reboot(self, *, user: str = ...) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why nobody can be asked: how far a machine came, what happened there, and what shows it."""

    stage: str  #: the proof that fails by it: proofs.BOOT, SSH or LOGIN
    sentence: str
    lines: tuple[str, ...]


class NoUseError(Exception):
    """The console says that waiting for SSH is of no use."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.sentence)
        self.trouble = trouble


def up(guest: Guest, watch: Watch, *, user: str, ssh: float, login: float) -> Trouble | None:
    """Wait until `user` can log in, `ssh` seconds for a server to answer and `login` more to be let in; what
    went wrong instead.

    Raises ActionFailedError for what says nothing of the image.
    """
    watch.begin()
    try:
        guest.wait_for_ssh(ssh)
    except NoUseError as error:
        return error.trouble
    except ActionFailedError as error:
        pass_on(error)
        return _not_up(guest, ssh, _is_off(error))
    watch.end()
    try:
        guest.wait_for_login(login, user=user)
    except ActionFailedError as error:
        pass_on(error)
        what = f"{user} could not log in with the key of the config drive"
        return Trouble(stage=proofs.LOGIN, sentence=what, lines=lines_of(error))
    return None


class Watch:
    """Looks at the console while SSH is waited for, and ends the waiting when that is of no use."""

    def __init__(self) -> None:
        self.guest: Guest | None = None
        self._on = False
        self._next = 0.0
        self._asked: float | None = None

    def begin(self) -> None:
        """The machine starts."""
        self._on, self._asked = True, None

    def end(self) -> None:
        """It is up: what it says from now on is not about that."""
        self._on = False

    def look(self) -> None:
        """Raise NoUseError when the console says that no SSH server will answer."""
        now = time.monotonic()
        if not self._on or self.guest is None or now < self._next:
            return
        self._next = now + _LOOK
        console = self.guest.console_tail(_TAIL)
        sign = signs.fatal(console)
        if sign is not None:
            raise NoUseError(Trouble(stage=proofs.BOOT, sentence=sign.meaning, lines=sign.lines))
        if self._asked is None and signs.asks_for_login(console):
            self._asked = now
        if self._asked is not None and now - self._asked > SSH_AFTER_CONSOLE:
            what = (
                "the system is up, its console asks for a login, and no SSH server answered"
                f" in the {SSH_AFTER_CONSOLE:.0f} s since"
            )
            raise NoUseError(Trouble(stage=proofs.SSH, sentence=what, lines=console))


def _not_up(guest: Guest, limit: float, is_off: bool) -> Trouble:
    """What kept SSH from answering, by how far the console says the machine came."""
    console, seconds = guest.console_tail(_TAIL), guest.seconds
    sign = signs.fatal(console)
    ended = "then the machine switched itself off" if is_off else f"nothing else within {limit:.0f} s"
    if sign is not None:
        return Trouble(stage=proofs.BOOT, sentence=sign.meaning, lines=sign.lines)
    if seconds.userspace is not None:
        what = f"userspace came up, no SSH server answered, {ended}"
        return Trouble(stage=proofs.SSH, sentence=what, lines=console)
    if seconds.kernel is not None:
        what = f"the kernel was loaded, userspace did not come up, {ended}"
    elif console:
        what = f"the console shows no kernel, no SSH server answered, {ended}"
    else:
        what = f"nothing was seen on the serial console, no SSH server answered, {ended}"
    return Trouble(stage=proofs.BOOT, sentence=what, lines=console)


def _is_off(error: ActionFailedError) -> bool:
    """Whether the emulator ended as it does when its machine is switched off."""
    failure = error.failure
    return failure is not None and failure.failure_class is FailureClass.TOOL and failure.exit_code == 0


def pass_on(error: ActionFailedError) -> None:
    """Raise what says nothing of the image: the emulator itself failed."""
    failure = error.failure
    if failure is None or (failure.failure_class is not FailureClass.TIMEOUT and not _is_off(error)):
        raise error


def lines_of(error: Exception) -> tuple[str, ...]:
    failure = error.failure if isinstance(error, ActionFailedError) else None
    return () if failure is None else failure.lines

"""Boots an image three times, asks of it what it must do, and says what came of it.

    the first machine    comes up, lets the user in, answers all questions, runs the checks, restarts
    the other machine    is made from the same image, comes up, and tells what it has of its own

What nothing can follow on ends the test at once (no SSH server, nobody gets in); all else is asked for, so
that one test tells everything that is wrong.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Final, Protocol

from builder.bootorder import CONSOLE, Answer, Check, Order, Proof
from builder.boottest import checks, measures, proofs
from builder.boottest.asking import Said, answers, as_root, script
from builder.boottest.comingup import LOGIN, Guest, Trouble, Watch, lines_of, pass_on, up
from builder.emulator.guest import Seconds
from builder.emulator.machine import (
    Architecture,
    ConfigDrive,
    Disk,
    Firmware,
    Machine,
    Network,
    ThreePart,
)
from builder.errors import ActionFailedError, ImagepoolError
from builder.model import BootVerdict, ImageFormat
from builder.process.child import Completed

#: Bytes by which the disk is larger than the image, as a flavor's is; that of a large image by a quarter: a
#: file system needs a part for itself, diskimage-builder's ext4 with an inode for every 4 KiB a fifteenth.
LARGER: Final = 2 << 30
HOST_NAME: Final = "boot-test-host"
#: A network whose addresses and name server the config drive tells; nothing beyond the emulator is in it.
NETWORK: Final = Network(ipv4=IPv4Interface("192.0.2.10/24"), ipv6=IPv6Interface("2001:db8:1::10/64"))
#: Seconds that whatever is tried may take, even when time is up.
_LEAST: Final = 1.0
#: Of the time for all boots, what the first may take until SSH answers; the rest is for what comes after.
_FIRST: Final = 0.6
#: Seconds for all units to have started, or failed, and for all answers; `find` reads the whole disk.
_SETTLE: Final = 300.0
_ANSWERS: Final = 300.0


class Boot(Protocol):
    """What starts a machine for a block; see emulator.guest.boot."""

    def __call__(
        self, machine: Machine, directory: Path, *, check: Callable[[], None] = ...
    ) -> AbstractContextManager[Guest]: ...


class _EndedError(Exception):
    """A proof failed without which nothing else can be asked."""


def disk_size(order: Order) -> int:
    """Bytes of the disk that the machine sees."""
    return order.size + max(LARGER, order.size // 4)


def machine(order: Order, *, lifetime: float) -> Machine:
    """The machine that an order's image is booted on; raises UsageError and ValueError."""
    disk = Disk(path=Path(order.disk), format=ImageFormat(order.format))
    image: Disk | ThreePart = disk
    if order.kernel:
        image = ThreePart(kernel=Path(order.kernel), ramdisk=Path(order.ramdisk), root=disk)
    return Machine(
        image=image,
        architecture=Architecture(order.architecture),
        firmware=Firmware(order.firmware),
        memory=order.memory >> 20,
        cpus=order.cpus,
        size=disk_size(order),
        networks=(NETWORK,),
        config_drive=ConfigDrive(host_name=HOST_NAME),
        lifetime=lifetime,
    )


def carry_out(order: Order, *, boot: Boot, say: Callable[[str], None]) -> Answer:
    """Do what an order asks for. `say` is told how it goes, a line at a time.

    Never raises for what is wrong with the image, nor for what keeps a machine from being booted here: the
    answer says it. Raises OSError when `order.place` can't be used.
    """
    run = _Run(order, boot, say)
    try:
        run.first_machine()
        run.other_machine()
    except _EndedError:
        pass
    except (ImagepoolError, TimeoutError) as error:
        return run.answer(problem=_why(error), lines=lines_of(error))
    finally:
        run.join_consoles()
    return run.answer()


class _Run:
    """One test, as far as it has come."""

    def __init__(self, order: Order, boot: Boot, say: Callable[[str], None]) -> None:
        self._order = order
        self._boot = boot
        self._say = say
        self._began = time.monotonic()
        self._proofs: list[Proof] = []
        self._measured = measures.Measured(values={}, ports=(), setuid=())
        self._accelerator: str | None = None
        self._first: Mapping[str, Said] = {}
        self._facts = proofs.Facts(
            user=order.user,
            host_name=HOST_NAME,
            name_server=NETWORK.ipv4_name_server,
            image=order.size,
            disk=disk_size(order),
            allowed_failed_units=order.allowed_failed_units,
        )

    # -- the two machines ------------------------------------------------------------------------

    def first_machine(self) -> None:
        """Boot the image, have all proven and measured that one machine can show, and restart it."""
        with self._machine("first") as (guest, watch):
            self._accelerator = guest.accelerator
            self._say(f"booting under {guest.accelerator}")
            self._come_up(guest, watch)
            seconds = guest.seconds
            is_root = self._prove_sudo(guest)
            self._settle(guest)
            self._ask(guest, {"sync": "sync"}, is_root=is_root)
            claimed = guest.disk_claimed
            said = self._ask(guest, {**proofs.QUESTIONS, **measures.QUESTIONS}, is_root=is_root)
            self._first = said
            self._measured = measures.read(said, _known(seconds, claimed))
            for proof in proofs.in_guest(said, self._facts):
                self._note(proof)
            if is_root:
                self._run_checks(guest)
            self._restart(guest, watch, is_root=is_root)

    def other_machine(self) -> None:
        """Boot the image once more, as another machine, and compare what must not be the same."""
        if self._is_over:
            what = self._over("no second machine was made from the image")
            self._note(proofs.proof(proofs.MACHINE_ID, False, what))
            return
        with self._machine("other") as (guest, watch):
            self._say("booting another machine from the same image")
            trouble = self._up(guest, watch, self._left())
            if trouble is not None:
                what = f"a second machine made from the image did not come up: {trouble.sentence}"
                self._note(proofs.proof(proofs.MACHINE_ID, False, what, trouble.lines))
                return
            is_root = self._may_be_root(guest).code == 0
            for proof in proofs.fresh(self._first, self._ask(guest, proofs.QUESTIONS, is_root=is_root)):
                self._note(proof)

    @contextmanager
    def _machine(self, name: str) -> Iterator[tuple[Guest, Watch]]:
        directory = Path(self._order.place) / name
        directory.mkdir()
        watch = Watch()
        described = machine(self._order, lifetime=self._order.timeout + 60.0)
        with self._boot(described, directory, check=watch.look) as guest:
            watch.guest = guest
            yield guest, watch

    # -- coming up -------------------------------------------------------------------------------

    def _come_up(self, guest: Guest, watch: Watch) -> None:
        """Prove that it comes up and lets the user in; raises _EndedError when it does not."""
        trouble = self._up(guest, watch, self._left() * _FIRST)
        seconds = guest.seconds
        came = {
            proofs.BOOT: f"kernel and userspace came up{_after(seconds.userspace)}",
            proofs.SSH: f"an SSH server answered{_after(seconds.ssh)}",
            proofs.LOGIN: f"{self._order.user} can log in with the key of the config drive",
        }
        for name, sentence in came.items():
            if trouble is not None and trouble.stage == name:
                self._note(proofs.proof(name, False, trouble.sentence, trouble.lines))
                raise _EndedError
            self._note(proofs.proof(name, True, sentence))

    def _up(self, guest: Guest, watch: Watch, limit: float) -> Trouble | None:
        """Wait until the user can log in; what went wrong instead."""
        login = min(LOGIN, self._left())
        trouble = up(guest, watch, user=self._order.user, ssh=limit, login=login)
        if trouble is not None and self._is_over:
            trouble = replace(trouble, sentence=self._over(trouble.sentence))
        return trouble

    def _restart(self, guest: Guest, watch: Watch, *, is_root: bool) -> None:
        """Prove that a restarted machine comes up as it was."""
        self._say("restarting the machine")
        if not is_root:
            what = f"it could not be restarted: {self._order.user} has no root by sudo"
            self._note(proofs.proof(proofs.SECOND_BOOT, False, what))
            return
        if self._is_over:
            self._note(proofs.proof(proofs.SECOND_BOOT, False, self._over("it was not restarted")))
            return
        try:
            guest.reboot(user=self._order.user)
        except ActionFailedError as error:
            pass_on(error)
            self._note(proofs.proof(proofs.SECOND_BOOT, False, "it did not restart", lines_of(error)))
            return
        trouble = self._up(guest, watch, self._left())
        if trouble is not None:
            what = f"it did not come up again after a restart: {trouble.sentence}"
            self._note(proofs.proof(proofs.SECOND_BOOT, False, what, trouble.lines))
            return
        self._settle(guest)
        said = self._ask(guest, proofs.QUESTIONS, is_root=True)
        self._note(proofs.second_boot(self._first, said, self._facts))

    # -- asking ----------------------------------------------------------------------------------

    def _may_be_root(self, guest: Guest) -> Completed:
        command = 'test "$(sudo -n id -u)" = 0'
        try:
            return guest.ssh(command, user=self._order.user, timeout=self._left(_ANSWERS), check=False)
        except TimeoutError as error:
            return Completed((), 255, "", str(error))

    def _prove_sudo(self, guest: Guest) -> bool:
        done = self._may_be_root(guest)
        user = self._order.user
        if done.code == 0:
            self._note(proofs.proof(proofs.SUDO, True, f"{user} has root by sudo, without a password"))
            return True
        lines = (*done.stdout.splitlines(), *done.stderr.splitlines())
        self._note(proofs.proof(proofs.SUDO, False, f"{user} has no root by sudo without a password", lines))
        return False

    def _settle(self, guest: Guest) -> None:
        """Wait until all that starts has started, or failed to; what still starts then is told as such."""
        try:
            words = "systemctl is-system-running --wait"
            guest.ssh(words, user=self._order.user, timeout=self._left(_SETTLE), check=False)
        except TimeoutError:
            self._say("not all units have started by now")

    def _ask(self, guest: Guest, questions: Mapping[str, str], *, is_root: bool) -> Mapping[str, Said]:
        """The answers, as root if that can be had; none when there were none in time."""
        mark = f"@@@{secrets.token_hex(8)}"
        words = script(questions, mark)
        command = as_root(words) if is_root else words
        try:
            done = guest.ssh(command, user=self._order.user, timeout=self._left(_ANSWERS), check=False)
        except TimeoutError:
            self._say("the guest did not answer in time")
            return {}
        return answers(done.stdout, mark)

    def _run_checks(self, guest: Guest) -> None:
        for number, check in enumerate(self._order.checks, 1):
            self._note(self._run_check(guest, check, number))

    def _run_check(self, guest: Guest, check: Check, number: int) -> Proof:
        if self._is_over:
            return proofs.proof(checks.name_of(check), False, self._over("it was not run"))
        user, limit = self._order.user, self._left(checks.LIMIT)
        try:
            for command in checks.copying(check, number):
                done = guest.ssh(as_root(command), user=user, timeout=limit, check=False)
                if done.code:
                    return checks.not_copied(check, (done.stderr or done.stdout).strip())
            done = guest.ssh(as_root(checks.running(number)), user=user, timeout=limit, check=False)
        except TimeoutError:
            return checks.not_in_time(check, limit)
        except OSError as error:
            return checks.not_copied(check, error.strerror or str(error))
        return checks.judge(check, done.code, done.stdout or done.stderr)

    # -- what came of it -------------------------------------------------------------------------

    def answer(self, *, problem: str = "", lines: Sequence[str] = ()) -> Answer:
        """All that is known by now; with a `problem`, the test came to nothing for it."""
        verdict = BootVerdict.PASSED
        if any(not proof.passed for proof in self._proofs):
            verdict = BootVerdict.FAILED
        elif problem:
            verdict = BootVerdict.BROKEN
        return Answer(
            verdict=verdict,
            proofs=tuple(self._proofs),
            measures=self._measured.values,
            ports=self._measured.ports,
            setuid=self._measured.setuid,
            seconds=time.monotonic() - self._began,
            accelerator=self._accelerator,
            problem=problem,
            lines=proofs.kept(lines),
        )

    def join_consoles(self) -> None:
        """Put what the machines said on their consoles into one file."""
        place = Path(self._order.place)
        with (place / CONSOLE).open("wb") as whole:
            for name in ("first", "other"):
                part = place / name / CONSOLE
                if part.is_file():
                    whole.write(f"==== the {name} machine ====\n".encode())
                    with part.open("rb") as reading:
                        shutil.copyfileobj(reading, whole)
                    whole.write(b"\n")

    def _note(self, proof: Proof) -> None:
        self._proofs.append(proof)
        self._say(f"{'ok' if proof.passed else 'NOT OK'}: {proof.name}: {proof.sentence}")
        if not proof.passed:
            for line in proof.lines:
                self._say(f"  | {line}")

    @property
    def _is_over(self) -> bool:
        """Whether there is no time for anything more."""
        return self._left() <= _LEAST

    def _over(self, what: str) -> str:
        return f"{what}; the {self._order.timeout:.0f} s of the whole test are over"

    def _left(self, most: float = float("inf")) -> float:
        """Seconds that are left, but never none, so that what is tried has a chance to say why it fails."""
        return max(_LEAST, min(most, self._began + self._order.timeout - time.monotonic()))


def _why(error: Exception) -> str:
    """What went wrong, in a sentence: the lines that show it are kept beside it."""
    failure = error.failure if isinstance(error, ActionFailedError) else None
    return str(error) if failure is None else failure.message


def _known(seconds: Seconds, claimed: int) -> Mapping[str, float | None]:
    return {
        "kernel_seconds": seconds.kernel,
        "userspace_seconds": seconds.userspace,
        "ssh_seconds": seconds.ssh,
        "disk_claimed": claimed,
    }


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f" after {seconds:.0f} s"

"""Boots a machine and holds it: waits, logs in, plugs things in, restarts, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from builder.emulator import accelerator, command, configdrive, firmware, overlay, ssh
from builder.emulator.accelerator import Accelerator
from builder.emulator.console import Console
from builder.emulator.machine import Machine, Network, ThreePart
from builder.emulator.qmp import Qmp, QmpError
from builder.emulator.ssh import Login
from builder.errors import ActionFailedError, NotFoundError
from builder.model import Failure, FailureClass
from builder.process.child import Child, Completed, wait_for

LOG = logging.getLogger(__name__)

#: What a guest said last, so many lines are kept in a failure.
LINES: Final = 25
#: Seconds between two looks at whether something we wait for is there.
LOOK: Final = 0.2
#: ... and whether an SSH server answers, as long as nothing tells that the guest uses its network.
RARELY: Final = 10.0
#: Seconds between two tries to log in. OpenSSH shuts out, for a while, who fails more often (sshd_config(5),
#: PerSourcePenalties).
TRIES: Final = 5.0
#: What QEMU tells when a guest's driver starts an interface.
_STARTED: Final = "NIC_RX_FILTER_CHANGED"
#: Seconds for QEMU to be ready to start the machine.
_START: Final = 60.0
#: Seconds for a guest to let go of a device, and to begin to restart.
_LET_GO: Final = 60.0
#: Seconds for a QEMU that does not answer any more to end.
_END: Final = 5.0
#: In a machine's own directory: who may log in.
_KEY: Final = "key"
_FORWARDED: Final = re.compile(r"TCP\[HOST_FORWARD\]\s+\S+\s+127\.0\.0\.1\s+(\d+)")


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Seconds from power-on, or from the last restart, to what was seen first of each; None: not yet.

    `kernel` and `userspace` are what the serial console tells (console.MARKERS), None where it says nothing.
    """

    kernel: float | None
    userspace: float | None
    ssh: float | None


class Guest:
    """A machine that runs."""

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        *,
        process: Child,
        accelerator: Accelerator,
        said: deque[str],
        check: Callable[[], None],
    ) -> None:
        """Take over a QEMU whose machine waits to be started; `directory` has its sockets and its key."""
        self.machine = machine
        self.accelerator = accelerator.name
        self._directory = directory
        self._process = process
        self._said = said
        self._check = check
        self._logins: dict[str, Login] = {}
        self._began = time.monotonic()
        self._ssh: float | None = None
        self._plugged = 0
        self._since = 0  # of QEMU's events, those before belong to an earlier start of the machine
        self._qmp: Qmp
        self._console: Console
        self.port = 0  #: of loopback; leads to the guest's SSH server

    def start(self, console: Path) -> None:
        """Connect to QEMU and start the machine; raises ActionFailedError."""
        try:
            self._qmp = Qmp(self._connect(command.MONITOR))
            self._console = Console(self._connect(command.CONSOLE), console)
            if self.machine.networks:
                usernet = self._qmp.execute("human-monitor-command", **{"command-line": "info usernet"})
                forwarded = _FORWARDED.search(usernet)
                self.port = int(forwarded[1]) if forwarded else 0
            self._began = time.monotonic()
            self._qmp.execute("cont")
        except QmpError as error:
            # One that ends at once may have been connected to all the same: its code tells that.
            raise self._failed(FailureClass.TOOL, error.message, self._process.wait(_END)) from error

    # -- what is seen -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the machine still runs; one that powers itself off does not."""
        return self._process.running

    @property
    def seconds(self) -> Seconds:
        """How long it took to come so far."""
        seen = {name: when - self._began for name, when in self._console.seen().items()}
        return Seconds(kernel=seen.get("kernel"), userspace=seen.get("userspace"), ssh=self._ssh)

    @property
    def cpu_seconds(self) -> float:
        """Seconds of CPU that the machine has taken so far, however busy the host is with other things."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0  # it has ended
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def disk_claimed(self) -> int:
        """Bytes that the machine has written to its disk so far, and not given back."""
        return overlay.claimed(self._directory)

    def copy_key(self, target: Path) -> None:
        """Copy the key that logs in to the new file `target`, for its owner alone; raises OSError."""
        target.touch(mode=0o600, exist_ok=False)
        target.write_bytes((self._directory / _KEY).read_bytes())

    def console_tail(self, lines: int = LINES) -> tuple[str, ...]:
        """The last lines of the serial console."""
        return self._console.tail(lines)

    # -- waiting and logging in ---------------------------------------------------------------

    def wait_for_ssh(self, limit: float) -> float:
        """Wait until the guest's SSH server answers; the seconds that took from the start on.

        Raises ActionFailedError, with the console's last lines, after `limit` seconds of waiting and
        when the machine is gone.
        """

        next_look = time.monotonic() + RARELY

        def answered() -> bool:
            nonlocal next_look
            # A driver that does not tell is asked now and then all the same.
            if not self._has_link() and time.monotonic() < next_look:
                return False
            next_look = time.monotonic() + RARELY
            return greeting.heard().startswith("SSH-")

        with closing(ssh.Greeting(self.port)) as greeting:
            self._wait(answered, limit, "no SSH server answered")
        self._ssh = time.monotonic() - self._began
        return self._ssh

    def wait_for_login(self, limit: float, *, user: str = "root") -> None:
        """Wait until `user` can log in with the guest's key; raises ActionFailedError as above.

        A server may answer before the keys of the config drive are where it looks for them.
        """
        last = ""

        def let_in() -> bool:
            nonlocal last
            try:
                done = self._login(user).run("true", timeout=limit)
            except TimeoutError:
                return False
            last = done.stderr.strip()
            return done.code == 0

        try:
            self._wait(let_in, limit, f"{user} could not log in", interval=TRIES)
        except ActionFailedError as error:
            if error.failure is None or not last:
                raise
            failure = replace(error.failure, lines=(*error.failure.lines, *last.splitlines()))
            raise ActionFailedError(f"{error.message}: {last}", failure) from error

    def ssh(
        self, command: str, *, user: str = "root", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        """Run a shell command as `user` in the guest.

        Raises TimeoutError, and with `check` ActionFailedError unless it ends with 0.
        """
        done = self._login(user).run(command, timeout=timeout)
        if check and done.code:
            lines = (*done.stdout.splitlines(), *done.stderr.splitlines())[-LINES:]
            failure = Failure(
                failure_class=FailureClass.UNKNOWN,
                message=f"in the guest, as {user}: {command}",
                exit_code=done.code,
                lines=lines,
            )
            raise ActionFailedError("\n".join((failure.summary, *lines)), failure)
        return done

    def ssh_words(self, user: str = "root") -> str:
        """A command for a shell that logs in by hand."""
        return shlex.join(self._login(user).words)

    # -- changing the machine -----------------------------------------------------------------

    def plug_network(self, network: Network) -> str:
        """Plug in one more interface; its name, for `unplug`."""
        number = len(self.machine.networks) + self._plugged
        port = self._port()
        self._qmp.execute("netdev_add", **command.netdev(network, number))
        return self._plug(driver="virtio-net-pci", netdev=f"net{number}", mac=network.mac, **port)

    def plug_volume(self, size: int, *, serial: str) -> str:
        """Plug in an empty volume of `size` bytes, which the guest knows by `serial` as it knows a
        volume of Cinder by the beginning of its id; its name, for `unplug`."""
        port = self._port()
        node, file = f"volume{self._plugged}", self._directory / f"volume-{self._plugged}"
        file.touch()
        os.truncate(file, size)
        below = {"driver": "file", "filename": str(file.absolute())}
        self._qmp.execute("blockdev-add", **{"driver": "raw", "node-name": node, "file": below})
        return self._plug(driver="virtio-blk-pci", drive=node, serial=serial[:20], **port)

    def unplug(self, name: str) -> None:
        """Ask the guest to let go of what was plugged in, and wait until it has; ActionFailedError."""
        since = self._qmp.seen()
        self._qmp.execute("device_del", id=name)
        self._wait(
            lambda: self._qmp.happened("DEVICE_DELETED", since, device=name),
            _LET_GO,
            f"the guest did not let go of {name}",
        )

    def reboot(self, *, user: str = "root") -> None:
        """Restart by the guest's own means and wait until it begins anew; `seconds` then counts from there.

        `user` must be root or may use sudo without a password. Raises ActionFailedError.
        """
        try:
            # It is told once, and again when somebody asked in between.
            self._qmp.execute("query-rx-filter")
        except QmpError:
            if not wait_for(lambda: not self._process.running, timeout=_END):
                raise
            # A machine that switched itself off before is no fault of QEMU's, as its exit code tells.
            what = "the guest did not restart: the emulator ended"
            raise self._failed(FailureClass.TOOL, what, self._process.wait()) from None
        since = self._qmp.seen()
        how = "systemctl reboot" if user == "root" else "sudo -n systemctl reboot"
        # The connection may break before the answer is here.
        with contextlib.suppress(TimeoutError):
            self._login(user).run(how, timeout=_LET_GO)
        self._wait(lambda: self._qmp.happened("RESET", since), _LET_GO, "the guest did not restart")
        self._began, self._since = time.monotonic(), self._qmp.seen()
        self._console.forget()
        self._ssh = None
        self._log_out()

    def close(self) -> None:
        """End it at once."""
        self._log_out()
        self._process.stop(0.0)
        for part in ("_qmp", "_console"):
            # It may not have come so far.
            if hasattr(self, part):
                getattr(self, part).close()

    # -- how ----------------------------------------------------------------------------------

    def _connect(self, name: str) -> socket.socket:
        """Connect to a socket of QEMU's as soon as it is there."""
        connection = socket.socket(socket.AF_UNIX)
        # Where the directory is may be too long a path for a socket's address.
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._wait(lambda: _connected(connection, f"/proc/self/fd/{directory}/{name}"), _START, "no QEMU")
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(directory)
        return connection

    def _wait(self, condition: Callable[[], bool], limit: float, what: str, interval: float = LOOK) -> None:
        def over() -> bool:
            self._check()
            return condition() or not self._process.running

        came = wait_for(over, timeout=limit, interval=interval)
        if not self._process.running:
            code = self._process.wait()
            raise self._failed(FailureClass.TOOL, f"{what}: the emulator ended", code)
        if not came:
            raise self._failed(FailureClass.TIMEOUT, f"{what} within {limit:.0f} s")

    def _failed(
        self, failure_class: FailureClass, message: str, code: int | None = None
    ) -> ActionFailedError:
        seen = self._console.tail(LINES) if hasattr(self, "_console") else ()
        lines = (*seen, *self._said)[-LINES:]
        failure = Failure(failure_class=failure_class, message=message, exit_code=code, lines=lines)
        return ActionFailedError("\n".join((failure.summary, *lines)), failure)

    def _has_link(self) -> bool:
        """Whether the guest has started the interface that leads to its SSH server."""
        return self._qmp.happened(_STARTED, self._since, name=command.nic(0))

    def _login(self, user: str) -> Login:
        if user not in self._logins:
            key = self._directory / _KEY
            self._logins[user] = Login(user, self.port, key=key, directory=self._directory)
        return self._logins[user]

    def _log_out(self) -> None:
        for login in self._logins.values():
            login.close()

    def _port(self) -> dict[str, Any]:
        """Where the next device goes; NotFoundError when there is no place left."""
        if not command.has_ports(self.machine):
            return {}
        if self._plugged >= command.SPARE_PORTS:
            raise NotFoundError(
                f"this machine has no more than {command.SPARE_PORTS} places to plug things in"
            )
        return {"bus": f"port{self._plugged}"}

    def _plug(self, **device: Any) -> str:
        name = f"plugged{self._plugged}"
        self._plugged += 1
        self._qmp.execute("device_add", id=name, **device)
        return name


@contextmanager
def boot(machine: Machine, directory: Path, *, check: Callable[[], None] = lambda: None) -> Iterator[Guest]:
    """Start a machine for a block; its serial console goes to `directory`/console.log.

    The image is not changed: what the machine writes is below `directory` and goes when the block ends.
    The machine dies with this process, or with the thread that entered, and after its lifetime. `check`
    is called every moment while something is waited for; what it raises passes through.

    Raises NotFoundError without the image, ToolMissingError without a program or a firmware, and
    ActionFailedError when QEMU can't start the machine.
    """
    _require(machine)
    chosen = accelerator.choose(machine.architecture)
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="guest-", dir=directory)).absolute()
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        public_key = ssh.make_key(place / _KEY)
        argv = command.arguments(machine, _prepare(machine, chosen, place, public_key))
        said: deque[str] = deque(maxlen=LINES)
        process = Child(argv, env=_environment(), cwd=place, on_line=said.append)
        guest = Guest(machine, place, process=process, accelerator=chosen, said=said, check=check)
        stack.callback(guest.close)
        timer = threading.Timer(machine.lifetime, _expire, (process, machine.lifetime))
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)
        guest.start(directory / "console.log")
        yield guest


def _require(machine: Machine) -> None:
    files = [machine.disk.path]
    if isinstance(machine.image, ThreePart):
        files += [machine.image.kernel, machine.image.ramdisk]
    for file in files:
        if not file.is_file():
            raise NotFoundError(f"there is no image {file} to boot")


def _prepare(machine: Machine, chosen: Accelerator, place: Path, public_key: str) -> command.Parts:
    """Make the files that the machine alone has."""
    drive, variables, uefi = None, None, None
    written = overlay.make(machine, place)
    if machine.config_drive is not None:
        drive = place / "config.iso"
        keys = {**machine.config_drive.public_keys, "imagepool": public_key}
        configdrive.write(drive, replace(machine.config_drive, public_keys=keys), machine.networks)
    if machine.has_uefi:
        uefi = firmware.find(machine.architecture)
        variables = place / "variables.fd"
        shutil.copyfile(uefi.variables, variables)
    return command.Parts(
        program=accelerator.emulator(machine.architecture),
        accelerator=chosen,
        overlay=written,
        config_drive=drive,
        uefi=uefi,
        variables=variables,
    )


def _environment() -> Mapping[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def _expire(process: Child, lifetime: float) -> None:
    LOG.warning("the guest is ended after the %.0f s that it may live", lifetime)
    process.stop(0.0)


def _connected(connection: socket.socket, path: str) -> bool:
    try:
        connection.connect(path)
    except OSError:
        return False  # not yet
    return True

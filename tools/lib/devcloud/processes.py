"""Server processes: start one, know it again, stop exactly it; run a command to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from devcloud.errors import DevCloudError
from devcloud.place import Running

_TAIL = 25  #: lines of a log that a failure shows


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: nothing of the caller's but PATH (no proxies, no OS_* variables)."""
    fixed = {"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    return {"PATH": os.environ.get("PATH", os.defpath), **fixed, **extra}


def caller_environment() -> dict[str, str]:
    """The caller's environment, for pip: its configuration, proxies and certificates count."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    }


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path) -> Running:
    """Start a server in a session of its own, its output appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=clean_environment(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives this command on purpose, so nobody will wait for it; without this Python warns.
    process.returncode = 0
    return Running(pid=process.pid, started=_start_tick(process.pid) or 0)


def is_alive(process: Running) -> bool:
    """Whether it is still this process that has the id, and not a zombie."""
    return _start_tick(process.pid) == process.started


def uptime(process: Running) -> float:
    """For how many seconds a process runs."""
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return since_boot - process.started / os.sysconf("SC_CLK_TCK")


def stop(processes: Iterable[Running], timeout: float = 20) -> None:
    """TERM, after `timeout` seconds KILL, workers included; returns when all are gone."""
    left = [process for process in processes if is_alive(process)]
    for process in left:
        _signal(process, signal.SIGTERM)
    left = _wait_for_end(left, timeout)
    for process in left:
        # The session is the server's own, so its group holds the master and its workers only.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    left = _wait_for_end(left, 5)
    if left:
        raise DevCloudError(f"process {left[0].pid} doesn't end, not even by KILL")


def run(
    command: Sequence[str], *, what: str, log: Path, environment: Mapping[str, str], timeout: float
) -> None:
    """Run a command to its end, output appended to `log`; DevCloudError with the log's last lines."""
    with log.open("ab") as output:
        try:
            code = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise DevCloudError(f"{what} took longer than {timeout:.0f} s\n{tail(log)}") from None
        except OSError as error:
            raise DevCloudError(f"{what} can't be run: {error}") from error
    if code:
        raise DevCloudError(f"{what} failed with exit code {code}\n{tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log, with its path, for a person."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join([f"--- the end of {log}", *lines, "---"])


def _wait_for_end(processes: Sequence[Running], timeout: float) -> list[Running]:
    deadline = time.monotonic() + timeout
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if is_alive(process)]
        if left:
            time.sleep(0.05)
    return left


def _signal(process: Running, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _start_tick(pid: int) -> int | None:
    """When the process started, in ticks since boot; None when there is none (a zombie counts as none)."""
    with contextlib.suppress(OSError):
        # The command's name may hold blanks and brackets; after the last bracket come plain fields.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None

"""Looks at ZooKeeper: whether it answers, whether the records can be read, whether they are ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from builder.config.model import Config, ZooKeeper
from builder.doctor import coordination, withheld
from builder.errors import ImagepoolError
from builder.findings import Finding, fine, problem, warning
from builder.model import Build, Snapshot
from builder.store import embedded
from builder.store.probe import probe
from builder.store.zookeeper import ZooKeeperStore

NAME: Final = "ZooKeeper"
#: Seconds to reach a server.
CONNECT_TIMEOUT: Final = 8.0
#: Seconds for a round trip, from which on work gets slow.
_SLOW: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Records:
    """What was found out about the records, and the records."""

    findings: tuple[Finding, ...]
    snapshot: Snapshot | None = None


def look(config: Config, environ: Mapping[str, str], now: datetime) -> Records:
    """Ask ZooKeeper, without leaving a trace in it; read the records if there are any."""
    try:
        where = embedded.resolve(config, environ)
        if where is None:
            return Records(findings=tuple(_private_server(config)))
        return _ask(where, config, now)
    except ImagepoolError as error:
        return Records(findings=(problem(NAME, error.message, hint=error.hint),))


def _private_server(config: Config) -> Iterator[Finding]:
    """Whether `imagepool run` could start a server of its own."""
    try:
        embedded.check_installed()
    except ImagepoolError as error:
        yield problem(NAME, f"no zookeeper-servers are configured, and {error.message}", hint=error.hint)
        return
    yield fine(NAME, f"`imagepool run` will start a private server, with its data below {config.state_dir}")


def _ask(where: ZooKeeper, config: Config, now: datetime) -> Records:
    answer = probe(where, CONNECT_TIMEOUT)
    place = f"{where.hosts}{where.chroot}"
    how = f"{place} answers in {answer.latency * 1000:.0f} ms{' by TLS' if where.tls else ''}"
    if not answer.has_records:
        text = f"{how}, but has no records yet"
        hint = "Right for a new installation. Otherwise it is another server or chroot than it should be."
        return Records(findings=(warning(NAME, text, hint=hint),), snapshot=Snapshot())
    found = [_speed(how, answer.latency), *_installation(config, answer.installation)]
    store = ZooKeeperStore(where, watch=False)
    try:
        store.start(CONNECT_TIMEOUT)
        snapshot = store.snapshot()
    finally:
        store.close()
    together = coordination.look(config, snapshot, now)
    service = withheld.look(config, snapshot, now)
    return Records(findings=(*found, clock(snapshot, now), *together, *service), snapshot=snapshot)


def _speed(how: str, latency: float) -> Finding:
    if latency > _SLOW:
        return warning(NAME, how, hint="That is slow: look at the network, and at the servers' disks.")
    return fine(NAME, how)


def _installation(config: Config, tree: str | None) -> Iterator[Finding]:
    """Whether this machine has always worked on this tree; the daemon would refuse another."""
    file = config.state_dir / "installation"
    try:
        known = file.read_text().strip()
    except FileNotFoundError:
        return
    except OSError as error:
        yield warning("installation", f"{file} can't be read: {error.strerror}", hint="Run this as root.")
        return
    if known == tree:
        yield fine("installation", f"this machine and these records belong together ({known[:8]})")
    else:
        yield problem(
            "installation",
            f"this machine belongs to the installation {known}, these records to {tree or 'none'}",
            hint="Mend zookeeper-servers; or, if the old records are gone for good, `imagepool recover` makes"
            f" them again. If this machine shall start anew instead, remove {file}.",
        )


def clock(snapshot: Snapshot, now: datetime) -> Finding:
    """Whether our clock agrees with those of the machines that wrote the records."""
    last = max((_written(build) for build in snapshot.builds()), default=now)
    ahead = last - now
    if ahead > coordination.SKEW:
        return problem(
            "clock",
            f"a record was written {ahead.total_seconds():.0f} s from now, by our clock",
            hint="Set the clocks of all machines with NTP: ages and schedules go by them.",
        )
    return fine("clock", "no record is from the future")


def _written(build: Build) -> datetime:
    return max(build.state_time, build.began)

"""Looks at how the daemons work together: who leads and who builds, clocks, what waits, what stands still."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Config
from builder.findings import Finding, fine, problem, warning
from builder.model import Build, BuildState, Daemon, ImageRecords, Pause, Request, Snapshot
from builder.planning.actions import Verdict
from builder.planning.assignment import assign, why_nobody
from builder.planning.builds import decide_builds
from builder.planning.words import at, by_whom, counted, line, short

#: Clocks may differ by so much before anybody notices.
SKEW: Final = timedelta(seconds=60)
#: A request that nobody takes is worth a word after so long, one for which all are too busy after that.
_LONG: Final = timedelta(minutes=10)
_VERY_LONG: Final = timedelta(days=1)
#: How many of a kind are named.
_NAMED: Final = 5


def look(config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Everything that the records tell of the daemons as a whole."""
    yield from clocks(snapshot, now)
    yield from _daemons(snapshot)
    yield from _builders(snapshot)
    yield from _gone(snapshot)
    yield from _frozen(snapshot)
    yield from _paused(snapshot)
    yield from _requests(config, snapshot, now)


# -- clocks ---------------------------------------------------------------------------------------


def clocks(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Whether daemons' clocks agree: what follows from something can't be earlier than that."""
    apart = dict.fromkeys((*_ahead_of_ours(snapshot, now), *_behind_others(snapshot)))
    if not apart:
        return
    more = f" and {len(apart) - _NAMED} more" if len(apart) > _NAMED else ""
    yield warning(
        "clocks",
        f"clocks of machines differ: {'; '.join(list(apart)[:_NAMED])}{more}",
        hint="Set the clocks of all machines with NTP: ages, retries and schedules go by them.",
    )


def _ahead_of_ours(snapshot: Snapshot, now: datetime) -> Iterator[str]:
    for daemon in snapshot.daemons:
        if daemon.started - now > SKEW:
            yield f"{daemon.hostname} started {_seconds(daemon.started - now)} from now, by our clock"
    for records in snapshot.images.values():
        request = records.request
        if request is not None and request.time - now > SKEW:
            late = _seconds(request.time - now)
            yield f"{line(request.by)} asked for {request.image} {late} from now, by our clock"


def _behind_others(snapshot: Snapshot) -> Iterator[str]:
    for records in snapshot.images.values():
        for build in records.builds:
            yield from _before_its_request(build)
        yield from _before_their_builds(records)


def _before_its_request(build: Build) -> Iterator[str]:
    if build.request is not None and build.started and build.request.time - build.started > SKEW:
        early = _seconds(build.request.time - build.started)
        host = build.builder or "a builder"
        yield f"{host} began a build {early} before {line(build.request.by)} asked for it"


def _before_their_builds(records: ImageRecords) -> Iterator[str]:
    for upload in records.uploads:
        build = records.build(upload.build_id)
        if build is None or build.started is None or upload.started is None:
            continue
        if build.started - upload.started > SKEW:
            early = _seconds(build.started - upload.started)
            here, there = upload.uploader or "an uploader", build.builder or "a builder"
            yield f"{here} began an upload {early} before {there} began the build"


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():.0f} s"


# -- daemons --------------------------------------------------------------------------------------


def _daemons(snapshot: Snapshot) -> Iterator[Finding]:
    """Who runs, and who leads."""
    if not snapshot.daemons:
        yield warning(
            "daemons",
            "no daemon runs anywhere",
            hint="Nothing is built, uploaded or deleted before one does.",
        )
        return
    schedulers = [daemon for daemon in snapshot.daemons if "scheduler" in daemon.roles]
    running = f"{counted(len(snapshot.daemons), 'daemon')}: {_hosts(snapshot.daemons)}"
    if not schedulers:
        yield problem(
            "scheduler",
            f"none of {running} has the role scheduler",
            hint="Nothing is built by schedule. Start one with `imagepool run --roles scheduler`.",
        )
    elif snapshot.leader is None:
        yield warning(
            "scheduler",
            f"no scheduler leads, of {_hosts(schedulers)}",
            hint="Right while one takes over; otherwise see the log of these daemons.",
        )
    else:
        yield fine("scheduler", f"{snapshot.leader} leads; {running}")


def _builders(snapshot: Snapshot) -> Iterator[Finding]:
    """Builders that take no builds, although they run."""
    builders = [daemon for daemon in snapshot.daemons if "builder" in daemon.roles]
    if snapshot.daemons and not builders:
        yield problem(
            "builders",
            "no daemon that runs has the role builder",
            hint="Nothing is built. Start one with `imagepool run --roles builder`.",
        )
    unfit = [daemon for daemon in builders if daemon.unfit is not None]
    for daemon in unfit:
        finding = problem if len(unfit) == len(builders) else warning
        yield finding(
            "builders",
            f"{daemon.hostname} takes no builds: {line(daemon.unfit or '')}",
            hint="It begins again by itself when that is mended; `imagepool doctor` there says more.",
        )
    for daemon in builders:
        if daemon.draining:
            yield warning(
                "builders",
                f"{daemon.hostname} is stopping and begins nothing new",
                hint="Others take over what waits; it goes on when it is started again.",
            )


def _gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Builders of which no daemon runs, and who have files that somebody counts on or waits for."""
    here = {*snapshot.forgotten, *(daemon.builder_id for daemon in snapshot.daemons)}
    if not snapshot.daemons or None in here:
        return  # said already; nobody knows whose files an older version has
    held: dict[str, list[Build]] = {}
    for records in snapshot.images.values():
        for build in records.builds:
            if build.state is BuildState.READY and build.builder_id and build.builder_id not in here:
                held.setdefault(build.builder_id, []).append(build)
    for builder_id, builds in sorted(held.items()):
        yield warning(
            "builders",
            f"no daemon runs on {line(builds[0].builder or '') or builder_id}, which has the files of"
            f" {counted(len(builds), 'ready build')}",
            hint="Start it: nobody else can upload or delete these. If it won't come back, `imagepool builder"
            f" forget {short(builder_id)}`.",
        )


def _hosts(daemons: Iterable[Daemon]) -> str:
    return ", ".join(sorted({daemon.hostname for daemon in daemons}))


# -- what stands still, and what waits ------------------------------------------------------------


def _frozen(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.frozen is not None:
        yield warning(
            "frozen",
            f"nothing begins by itself: frozen {by_whom(snapshot.frozen)}",
            hint="`imagepool unfreeze` lets it go on.",
        )


def _paused(snapshot: Snapshot) -> Iterator[Finding]:
    """What is paused by hand: easily forgotten."""
    images = {name: r.pause for name, r in sorted(snapshot.images.items()) if r.pause is not None}
    for kind, pauses in (("image", images), ("provider", dict(sorted(snapshot.paused_providers.items())))):
        if pauses:
            yield warning(
                "paused",
                f"paused by hand: {'; '.join(_pauses(pauses))}",
                hint=f"`imagepool {kind} unpause {kind.upper()}` lets it go on.",
            )


def _pauses(pauses: dict[str, Pause]) -> Iterator[str]:
    for name, pause in list(pauses.items())[:_NAMED]:
        yield f"{name} {by_whom(pause)}"
    if len(pauses) > _NAMED:
        yield f"{len(pauses) - _NAMED} more"


def _requests(config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Requests that nobody takes: no builder can, or the one that is to does not."""
    if snapshot.frozen is not None or not snapshot.daemons:
        return  # said already
    decisions = decide_builds(config, snapshot, now)
    assignments = assign(config, snapshot, now, decisions)
    for decision in decisions:
        request = snapshot.image(decision.image).request
        if request is None or decision.verdict is not Verdict.NOW:
            continue
        assignment = assignments[decision.image]
        nobody = why_nobody(config.diskimages[decision.image], snapshot)
        patience = _LONG if nobody is not None or assignment.builder_id is not None else _VERY_LONG
        if now - request.time > patience:
            yield _waits(request, assignment.reason)


def _waits(request: Request, why: str) -> Finding:
    return warning(
        "requests",
        f"the build of {request.image} that {line(request.by) or 'somebody'} asked for at {at(request.time)}"
        f" has not begun: {line(why)}",
        hint="`imagepool request list` shows what waits for what, `imagepool builder list` who could do it.",
    )

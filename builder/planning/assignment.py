"""Decide which builder takes which of the builds that are due, so that the machines share them fairly.

Of the builders that may take a build, and have a worker free, the one with most free workers gets it; between
equals a hash of both names decides, so that every machine comes to the same answer from the same records.
Nothing depends on that answer but fairness, for a build is claimed under a lock; so what somebody should
have taken and did not, anybody may take a few seconds later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import BOOT_TEST_LABEL, Config, DiskImage
from builder.model import Daemon, Snapshot
from builder.planning.actions import BuildDecision, Verdict
from builder.planning.records import runs
from builder.planning.words import by_whom, counted, line, listed

#: How long a request is left to the builder that should take it.
HANDOVER: Final = timedelta(seconds=3)
#: The role of those that build.
BUILDER: Final = "builder"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Who should take a build that is due, or why nobody does; after `open_from` whoever can may take it."""

    image: str
    builder_id: str | None
    hostname: str | None
    reason: str
    open_from: datetime


def why_not(image: DiskImage, daemon: Daemon) -> str | None:
    """What keeps a daemon from ever taking a build of the diskimage as it is now, such as "it lacks the label
    arm64"; None when nothing does. Whether it has a worker free is another matter."""
    if BUILDER not in daemon.roles:
        return "it builds nothing (`--roles`)"
    if daemon.draining:
        return "it is about to stop"
    if daemon.unfit is not None:
        return f"it takes no builds now: {line(daemon.unfit)}"
    lacking = sorted(image.needs - daemon.labels)
    # Daemons of earlier versions don't show their labels, and take whatever they get.
    if daemon.builder_id is None:
        return None
    if lacking == [BOOT_TEST_LABEL]:
        return "it can't boot images, and this one has a `boot-test` (`imagepool doctor` there says why)"
    if lacking:
        return f"it lacks the label{'' if len(lacking) == 1 else 's'} {listed(lacking)}"
    return None


def why_nobody(image: DiskImage, snapshot: Snapshot) -> str | None:
    """Why no builder that is alive can take a build of the diskimage, as a sentence; None when one can."""
    builders = [daemon for daemon in snapshot.daemons if BUILDER in daemon.roles]
    if not builders:
        return "No builder is alive."
    reasons = [(d.hostname, why_not(image, d) or _gone(snapshot, d)) for d in builders]
    if any(reason is None for _, reason in reasons):
        return None
    return f"No builder can take it: {'; '.join(f'{name}: {reason}' for name, reason in reasons)}."


def assign(
    config: Config, snapshot: Snapshot, now: datetime, decisions: Iterable[BuildDecision]
) -> Mapping[str, Assignment]:
    """Who takes each build that is NOW, by image; those that come first in `decisions` get the free workers.

    Pass the decisions in their order (`decide_builds`). No builder gets more than it has workers free.
    """
    load = _Load(snapshot)
    return {
        decision.image: _assign(config.diskimages[decision.image], snapshot, load, now)
        for decision in decisions
        if decision.verdict is Verdict.NOW
    }


def takeable(
    config: Config, snapshot: Snapshot, now: datetime, decisions: Iterable[BuildDecision], builder_id: str
) -> tuple[BuildDecision, ...]:
    """The builds that this builder should try to claim now, its own first, then those that nobody took.

    Only what is asked for by a request is claimed. A builder that does not show itself among the daemons,
    or shows that it takes none, has nothing to claim. A daemon of an earlier version keeps to no assignment,
    so beside one everybody takes what there is at once.
    """
    me = next((daemon for daemon in snapshot.daemons if daemon.builder_id == builder_id), None)
    if me is None:
        return ()
    every = tuple(decisions)
    to_whom = assign(config, snapshot, now, every)
    mine = [d for d in every if d.image in to_whom and to_whom[d.image].builder_id == builder_id]
    others = [
        d
        for d in every
        if d.image in to_whom
        and d not in mine
        and (_anybody(snapshot) or to_whom[d.image].open_from <= now)
        and why_not(config.diskimages[d.image], me) is None
    ]
    return tuple(d for d in (*mine, *others) if snapshot.image(d.image).request is not None)


def look_again(
    config: Config, snapshot: Snapshot, now: datetime, decisions: Iterable[BuildDecision], builder_id: str
) -> datetime | None:
    """When `takeable` has more to offer by the clock alone; None when only a change can bring more."""
    me = next((daemon for daemon in snapshot.daemons if daemon.builder_id == builder_id), None)
    if me is None:
        return None
    return min(
        (
            assigned.open_from
            for assigned in assign(config, snapshot, now, decisions).values()
            if assigned.open_from > now
            and snapshot.image(assigned.image).request is not None
            and why_not(config.diskimages[assigned.image], me) is None
        ),
        default=None,
    )


class _Load:
    """How many workers of each builder are free, as builds are given to them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.builders = {
            daemon.builder_id: daemon
            for daemon in snapshot.daemons
            if daemon.builder_id is not None and BUILDER in daemon.roles
        }
        self._taken = running(snapshot)

    def free(self, builder_id: str) -> int:
        """How many more builds a builder can take."""
        return self.builders[builder_id].build_workers - self._taken[builder_id]

    def take(self, builder_id: str) -> None:
        """Note one that it gets."""
        self._taken[builder_id] += 1


def running(snapshot: Snapshot) -> Counter[str]:
    """How many builds each builder runs, by its id."""
    return Counter(
        build.builder_id
        for records in snapshot.images.values()
        if records.build_claimed
        for build in records.builds
        if build.builder_id is not None and runs(build, records)
    )


def _assign(image: DiskImage, snapshot: Snapshot, load: _Load, now: datetime) -> Assignment:
    request = snapshot.image(image.name).request
    # The requester's clock may be ahead of ours.
    since = now if request is None else min(request.time, now)

    def assignment(builder_id: str | None, hostname: str | None, reason: str) -> Assignment:
        return Assignment(
            image=image.name,
            builder_id=builder_id,
            hostname=hostname,
            reason=reason,
            open_from=since + HANDOVER,
        )

    able = {
        builder_id: daemon
        for builder_id, daemon in load.builders.items()
        if why_not(image, daemon) is None and _gone(snapshot, daemon) is None
    }
    if not able:
        nobody = why_nobody(image, snapshot)
        return assignment(None, None, nobody or "A builder of an earlier version may take it.")
    chosen = max(able, key=lambda each: (load.free(each), _lot(image.name, each)))
    free, host = load.free(chosen), able[chosen].hostname
    if free <= 0:
        hosts = listed(sorted(daemon.hostname for daemon in able.values()))
        return assignment(None, None, f"It waits for a free worker on {hosts}.")
    load.take(chosen)
    others = "the only builder that can take it" if len(able) == 1 else "as many as any other or more"
    return assignment(chosen, host, f"{host} takes it: it has {counted(free, 'worker')} free, {others}.")


def _anybody(snapshot: Snapshot) -> bool:
    return any(BUILDER in daemon.roles and daemon.builder_id is None for daemon in snapshot.daemons)


def _gone(snapshot: Snapshot, daemon: Daemon) -> str | None:
    word = snapshot.forgotten.get(daemon.builder_id or "")
    return f"it was declared gone for good {by_whom(word)}" if word is not None else None


def _lot(image: str, builder_id: str) -> bytes:
    """Which of two equals gets an image: another one for each image, and the same on every machine."""
    return hashlib.sha256(f"{image} {builder_id}".encode()).digest()

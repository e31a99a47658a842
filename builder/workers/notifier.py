"""The notifier tells those whom `notify` names how this machine's builds end, and which a check refused.

What has ended follows from the records, whoever wrote the last word and whatever died meanwhile: builds that
were adopted, and those that others found abandoned, are told as well. An event is put into the outbox first
(notify/outbox.py), and sent from there, to each target in a lane of its own: one that hangs delays no other,
and none delays a build. ZooKeeper may be away while it is sent.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from builder.config.model import Config, NotifyTarget
from builder.dib.output import artifacts
from builder.errors import RefusedError
from builder.model import Build, BuildState, ImageRecords, Snapshot, Withholding
from builder.notify import delivery, event, outbox, pacing
from builder.notify.outbox import Notice, Outbox
from builder.planning.checking import is_refusal
from builder.planning.retry import backoff
from builder.workers.base import Pass, Worker, World, earliest
from builder.workers.lanes import Lanes

LOG = logging.getLogger(__name__)

#: How a build differs from the one before it, in its directory.
CHANGES: Final = "changes.json"
#: Bytes of it that are passed on.
_MOST_CHANGES: Final = 1 << 20
#: After trouble with our own disk.
_AFTER_TROUBLE: Final = timedelta(minutes=1)
_OVER: Final = frozenset({BuildState.READY, BuildState.FAILED})


@dataclass(frozen=True, kw_only=True)
class _News:
    """That a build has ended, or that a check refused it, if there is such a word."""

    id: str
    time: datetime
    build: Build
    word: Withholding | None = None


class Notifier(Worker):
    """Puts the ends of builds into the outbox, and sends what is in there."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._outbox = Outbox(outbox.home(world.config().state_dir))
        self._loaded = False
        self._lanes = Lanes(name, world.store.wake)
        self._seen: dict[str, ImageRecords] = {}

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start what can be sent now; returns without waiting for it."""
        try:
            self._file(config, snapshot, now)
        except OSError as error:
            LOG.warning("how builds ended can't be told now: %s", error)
            self._seen = {}
            return Pass(due=now + _AFTER_TROUBLE)
        return Pass(due=self._send(config, now))

    def cut_off(self, now: datetime) -> datetime | None:
        """ZooKeeper is away: what is in the outbox does not need it."""
        return self._send(self.world.config(), now)

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any of them told anything since the last drain."""
        return self._lanes.drain()

    # -- what is to be told -------------------------------------------------------------------

    def _file(self, config: Config, snapshot: Snapshot, now: datetime) -> None:
        """Put what has ended since the last look into the outbox, and take out what is for nobody."""
        if not self._loaded:
            self._outbox.load()
            self._loaded = True
        if not config.notify:
            self._outbox.clear()
            self._seen = {}
            return
        self._outbox.retain(config.notify)
        self._outbox.expire(now)
        told = self._outbox.told
        found = {each.id: each for each in self._news(snapshot) if _is_news(each.time, now)}
        news = sorted(found.keys() - (told or {}).keys(), key=lambda each: (found[each].time, each))
        if told is not None:
            # Who begins to listen is not told of what was before.
            for new in news:
                self._tell(config, found[new], now)
        if told is None or news:
            known = {**(told or {}), **{new: found[new].time for new in news}}
            self._outbox.remember({each: time for each, time in known.items() if _is_news(time, now)})

    def _news(self, snapshot: Snapshot) -> Iterator[_News]:
        """What has become of this machine's builds, of images whose records have changed."""
        for name, records in snapshot.images.items():
            if self._seen.get(name) is records:
                continue
            self._seen[name] = records
            for build in records.builds:
                if build.builder_id == self.world.identity.builder_id:
                    yield from _news_of(build)
        for gone in self._seen.keys() - snapshot.images.keys():
            del self._seen[gone]

    def _tell(self, config: Config, news: _News, now: datetime) -> None:
        build, word = news.build, news.word
        # Who wants to know what failed wants to know what is refused, and what waits for somebody's word.
        kinds = {build.state} if word is None else {BuildState.FAILED}
        if build.hold is not None:
            kinds.add(BuildState.FAILED)
        targets = sorted({target.name for kind in kinds for target in config.told_of(build.image, kind)})
        if not targets:
            return
        if word is None:
            body = event.body_of(build, _changes(config, build))
        else:
            body = event.body_of_refusal(build, word)
        self._outbox.file(news.id, build.image, body, targets, now)

    # -- telling it ---------------------------------------------------------------------------

    def _send(self, config: Config, now: datetime) -> datetime | None:
        """Start each free lane that has something to send; when the first of the others will have."""
        waiting = self._outbox.waiting()
        dues: list[datetime | None] = []
        for name in sorted((waiting.keys() & config.notify.keys()) - self._lanes.busy()):
            standing = self._outbox.standing(name)
            notice = pacing.choose(waiting[name], standing, now)
            if notice is None:
                dues.append(pacing.next_due(waiting[name], standing, now))
            else:
                self._lanes.start(name, partial(self._deliver, config.notify[name], notice))
        return earliest(dues)

    def _deliver(self, target: NotifyTarget, notice: Notice) -> bool:
        """Tell one event to its target; whether it was told. In that target's lane."""
        try:
            body = self._outbox.body(notice)
            if body is None:
                return False
            why = self._sent(target, notice, body)
            if why is None:
                self._outbox.arrived(notice, self.world.clock())
                LOG.info("%s is told to %s", notice.subject, target.name)
                return True
            self._put_off(target, notice, why)
        except OSError as error:
            LOG.warning(
                "what became of telling %s to %s can't be kept: %s", notice.subject, target.name, error
            )
        return False

    def _sent(self, target: NotifyTarget, notice: Notice, body: str) -> str | None:
        try:
            return delivery.deliver(target, notice.event, body, now=self.world.clock(), environ=os.environ)
        except Exception as error:
            # A bug: without a word on it, the same would be tried over and over.
            LOG.exception("telling %s to %s broke", notice.subject, target.name)
            return f"it broke: {type(error).__name__}"

    def _put_off(self, target: NotifyTarget, notice: Notice, why: str) -> None:
        now, failures = self.world.clock(), self._outbox.standing(target.name).failures + 1
        again = now + backoff(pacing.FIRST, pacing.LONGEST, notice.tries + 1, notice.file_name)
        rest = now + backoff(pacing.FIRST, pacing.LONGEST, failures, target.name)
        LOG.warning(
            "%s could not be told to %s (%s), next try in %d s: %s",
            notice.subject,
            target.name,
            delivery.address(target),
            (rest - now).total_seconds(),
            why,
        )
        self._outbox.put_off(notice, why, now, again=again, rest=rest)
        if notice.tries + 1 >= pacing.TRIES:
            self._outbox.give_up(notice, f"it failed {pacing.TRIES} times, at last because {why}")


def _news_of(build: Build) -> Iterator[_News]:
    if build.state in _OVER:
        yield _News(id=event.id_of(build), time=build.state_time, build=build)
    for word in filter(is_refusal, build.withheld):
        yield _News(id=event.id_of_refusal(build, word), time=word.time, build=build, word=word)


def _is_news(time: datetime, now: datetime) -> bool:
    return now - time <= outbox.OLDEST


def _changes(config: Config, build: Build) -> Mapping[str, Any] | None:
    """What a build's changes.json says, None when there is none that can be passed on."""
    if build.state is not BuildState.READY:
        return None
    try:
        file = artifacts.directory(config.images_dir, build.image, build.id) / CHANGES
        with file.open("rb") as stream:
            text = stream.read(_MOST_CHANGES + 1)
        changes = json.loads(text) if len(text) <= _MOST_CHANGES else None
    except FileNotFoundError:
        return None
    except (OSError, RefusedError, ValueError, RecursionError) as error:
        LOG.warning("the changes of build %s can't be told: %s", build.id, error)
        return None
    return changes if isinstance(changes, dict) else None

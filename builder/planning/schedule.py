"""When a schedule ticks: cron expressions, read on the clocks of a time zone, around a given moment.

Cron knows nothing of time zones, so it is asked in local time, as if every day had 24 hours, and what it
says is mapped to moments such that later local times never come earlier. A local time that the clocks skip
happens when they have skipped it, one that they show twice happens the first time. So several that are
skipped at once are one tick, and while the clocks show an hour for the second time there is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from croniter import croniter

from builder.config.model import Config, ScheduleEntry

_SECOND: Final = timedelta(seconds=1)
_ZERO: Final = timedelta(0)
#: Answers that are kept: all diskimages with the same entry ask the same, and once for each decision.
_REMEMBERED: Final = 4096


def last_tick(entry: ScheduleEntry, now: datetime) -> datetime:
    """The newest tick of an entry with a cron expression at or before `now`.

    ValueError when the expression never ticks or is none, or the zone is unknown.
    """
    # Ticks are whole minutes of local time, so whole seconds in every zone.
    return _last(_cron(entry), entry.zone, now.astimezone(UTC).replace(microsecond=0))


def next_tick(entry: ScheduleEntry, now: datetime) -> datetime:
    """The first tick of an entry with a cron expression after `now`; raises as `last_tick` does."""
    return _next(_cron(entry), entry.zone, now.astimezone(UTC).replace(microsecond=0))


def delays(config: Config) -> Mapping[tuple[str, str], timedelta]:
    """By how much each tick is delayed, by diskimage and entry (`ScheduleEntry.text`), which `spread` says.

    Diskimages that share an entry are spread evenly, by name; what has no delay is not in the answer.
    """
    if not config.spread:
        return {}
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(config.diskimages):
        for text in {entry.text for entry in config.diskimages[name].schedule if entry.cron}:
            sharing[text].append(name)
    return {
        (name, text): config.spread * rank / len(names)
        for text, names in sharing.items()
        for rank, name in enumerate(names)
        if rank
    }


def _cron(entry: ScheduleEntry) -> str:
    if entry.cron is None:
        raise ValueError(f"`{entry.text}` does not tick by the clock")
    return entry.cron


@lru_cache(maxsize=_REMEMBERED)
def _last(cron: str, name: str, now: datetime) -> datetime:
    zone = ZoneInfo(name)
    local = now.astimezone(zone)
    # While the clocks show an hour for the second time, later local times have already been.
    newest = local.replace(tzinfo=None, fold=0) + _shown_twice(local)
    # get_prev looks strictly before its start, and a tick that is now has happened.
    ticks = _ticks(croniter(cron, newest + _SECOND), zone, back=True)
    return next(tick for tick in ticks if tick <= now)


@lru_cache(maxsize=_REMEMBERED)
def _next(cron: str, name: str, now: datetime) -> datetime:
    zone = ZoneInfo(name)
    local = now.astimezone(zone).replace(tzinfo=None, fold=0)
    ticks = _ticks(croniter(cron, local), zone, back=False)
    return next(tick for tick in ticks if tick > now)


def _ticks(cron: croniter, zone: ZoneInfo, *, back: bool) -> Iterator[datetime]:
    """The moments of the local times that cron comes to, one after the other; there is no end to them."""
    while True:
        local = cron.get_prev(datetime) if back else cron.get_next(datetime)
        yield _moment(local.replace(tzinfo=None, fold=0), zone)


def _shown_twice(local: datetime) -> timedelta:
    """How much earlier the clocks showed the same time once before; 0 for nearly all times."""
    if not local.fold:
        return _ZERO
    return (local.replace(fold=0).utcoffset() or _ZERO) - (local.utcoffset() or _ZERO)


def _moment(local: datetime, zone: ZoneInfo) -> datetime:
    """When the clocks of the zone show a local time first, or skip it."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return moment
    # Of a time that is skipped, fold tells by which offset it is read: before the skip, or after it.
    before, after = local.replace(tzinfo=zone, fold=1).astimezone(UTC), moment
    offset = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after

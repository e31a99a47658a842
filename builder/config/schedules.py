"""Reads schedules: when a diskimage is built by the clock, or after which other one."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from croniter import CroniterError, croniter

from builder.config.model import DiskImage, ScheduleEntry
from builder.config.problems import suggestion
from builder.config.values import BadValueError

#: Written instead of any other entry: no build by the clock.
NEVER: Final = "never"
#: Written before the name of the diskimage that one follows.
AFTER: Final = "@after"
_CRON_FIELDS: Final = 5
#: A schedule of more is a mistake; each entry has a mark of its own on record.
_MOST_ENTRIES: Final = 50

_RANDOM = re.compile(r"(?:^|[\s,])r(?![a-z])", re.IGNORECASE)

_LIKE_A_ZONE = re.compile(r"[A-Za-z]{3}[A-Za-z0-9_+/-]*\Z")


def entry(text: str) -> ScheduleEntry:
    """One entry: five cron fields, with a time zone after them or not, or `@after IMAGE`; BadValueError."""
    words = text.split()
    if words[:1] == [AFTER]:
        return _following(text, words)
    if words == [NEVER]:
        raise BadValueError(f"{NEVER!r} stands alone, not beside other entries")
    cron, zone = " ".join(words[:_CRON_FIELDS]), " ".join(words[_CRON_FIELDS:])
    # A cron text with seconds, as other tools have it, has six fields as well.
    if len(words) < _CRON_FIELDS or (zone and not _LIKE_A_ZONE.match(zone)):
        raise BadValueError(
            f"a schedule is {NEVER!r}, '{AFTER} IMAGE', or five cron fields (minute hour day month weekday)"
            f" and, if it is not UTC, a time zone such as Europe/Berlin, not {text!r}"
        )
    if zone and not _is_zone(zone):
        hint = suggestion(zone, zoneinfo.available_timezones()) or ", by IANA's names such as Europe/Berlin"
        raise BadValueError(f"there is no time zone {zone!r}{hint}")
    if _RANDOM.search(cron):
        raise BadValueError(f"{text!r} is no cron text: random fields are not the same for every daemon")
    try:
        croniter(cron, datetime(2024, 1, 1, tzinfo=UTC)).get_next(datetime)
    except (CroniterError, ValueError, OverflowError) as error:
        raise BadValueError(f"{text!r} is no cron text that ever comes true: {error}") from error
    return ScheduleEntry(text=" ".join(words), cron=cron, zone=zone or ScheduleEntry.zone)


def entries(texts: Sequence[str]) -> Iterator[tuple[int | None, ScheduleEntry | BadValueError]]:
    """The entries of a schedule, or what is wrong with them, by position; without one, it is about all of
    them. Nothing for `never` alone."""
    if [text.split() for text in texts] == [[NEVER]]:
        return
    seen: set[str] = set()
    for position, text in enumerate(texts):
        try:
            found = entry(text)
        except BadValueError as problem:
            yield position, problem
            continue
        if found.text in seen:
            yield position, BadValueError(f"{found.text!r} is there twice")
        elif position >= _MOST_ENTRIES:
            yield position, BadValueError(f"a schedule has at most {_MOST_ENTRIES} entries")
            return
        else:
            seen.add(found.text)
            yield position, found
    if not texts:
        yield None, BadValueError(f"is empty: say {NEVER!r} for no build by the clock")


def cycle(images: Mapping[str, DiskImage], start: str) -> tuple[str, ...] | None:
    """The diskimages that lead from `start` back to it, each following the next; None when none do."""
    paths: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    while paths:
        path = paths.pop()
        for followed in _followed(images, path[-1]):
            if followed == start:
                return (*path, start)
            if followed not in seen:
                seen.add(followed)
                paths.append((*path, followed))
    return None


def _followed(images: Mapping[str, DiskImage], name: str) -> Iterator[str]:
    image = images.get(name)
    return (found.after for found in (image.schedule if image else ()) if found.after is not None)


def _following(text: str, words: Sequence[str]) -> ScheduleEntry:
    if len(words) != 2:
        raise BadValueError(
            f"{AFTER} is followed by the name of one diskimage, as in '{AFTER} base', not {text!r}"
        )
    return ScheduleEntry(text=" ".join(words), after=words[1])


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False  # OSError: a directory of zones
    return True

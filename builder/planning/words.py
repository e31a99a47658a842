"""How a reason speaks: times, build ids and other people's words, put the same way everywhere.

A reason is one line of full sentences, each ending with a full stop, for whoever operates this.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from builder.model import (
    Build,
    Cancellation,
    Clearance,
    Deletion,
    Pause,
    Release,
    Request,
    Upload,
    UploadCancellation,
    UploadWish,
    Withholding,
)

#: How many changes a sentence names; the record has more.
_CHANGES: Final = 3
_UNITS: Final = ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "min"))


def at(time: datetime) -> str:
    """A time for people, to the minute: "2026-11-21 14:14 UTC"."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def line(text: str) -> str:
    """Somebody else's text as part of a sentence of ours: one line, without a full stop."""
    return " ".join(text.split()).rstrip(".")


def short(build_id: str) -> str:
    """The beginning of a build id, enough to know it again and to type it."""
    return build_id[:8]


def listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence: "a", "a and b", "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, noun: str) -> str:
    """A number of things: "1 build", "2 builds"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def failure(record: Build | Upload) -> str:
    """Why a build or upload failed, as part of a sentence."""
    return line(record.reason.summary) if record.reason else "no reason is on record"


def wish(request: Request) -> str:
    """Who asked for a build, when and why: "asked by ann at 2026-11-21 14:14 UTC: new kernel"."""
    why = f": {line(request.why)}" if line(request.why) else ""
    return f"asked by {line(request.by) or 'somebody'} at {at(request.time)}{why}"


def by_whom(
    wish: (
        Cancellation | UploadCancellation | UploadWish | Withholding | Clearance | Release | Deletion | Pause
    ),
) -> str:
    """Whose wish it was, when and why: "by ann at 2026-11-21 14:14 UTC: it does not boot"."""
    why = f": {line(wish.why)}" if line(wish.why) else ""
    return f"by {line(wish.by) or 'somebody'} at {at(wish.time)}{why}"


def cancelled(wish: Cancellation | UploadCancellation) -> str:
    """Who cancelled what, when and why: "cancelled by ann at 2026-11-21 14:14 UTC: wrong mirror"."""
    return f"cancelled {by_whom(wish)}"


def withheld(build_id: str, word: Withholding) -> str:
    """That a build is not to serve, where, whose word that is, when and why, as part of a sentence: "build
    00000001 was put in quarantine by ann at 2026-11-21 14:14 UTC: it does not boot"; of one that is held also
    what lets it go."""
    told = f"build {short(build_id)} was {how_withheld(word)} {by_whom(word)}"
    return f"{told}; `imagepool build release {short(build_id)}` lets it go" if word.held else told


def how_withheld(word: Withholding) -> str:
    """What such a word does to a build: "put in quarantine", "withheld from devcloud-one", "held"."""
    if word.held:
        return "held"
    return "put in quarantine" if word.provider is None else f"withheld from {word.provider}"


def frozen(pause: Pause) -> str:
    """That nothing begins by itself, whose wish that is, and what ends it, as a sentence."""
    return f"Everything is frozen {by_whom(pause)}; `imagepool unfreeze` lets it go on."


def gone_for_good(holder: Build, word: Pause) -> str:
    """That the files of a build are lost with its builder, as part of a sentence."""
    where = holder.builder or "a builder"
    return f"the files of build {short(holder.id)} were on {where}, declared gone for good {by_whom(word)}"


def lasting(time: timedelta) -> str:
    """How long something takes, for people: "12 h", "90 min", "5 s"."""
    for unit, name in _UNITS:
        if time >= unit and not time % unit:
            return f"{time // unit} {name}"
    return f"{time.total_seconds():g} s"


def changed(build: Build) -> str:
    """The first things that had changed when a build was begun: "a; b; c; 4 more". It has some on record."""
    more = len(build.changes) - _CHANGES
    shown = [line(change) for change in build.changes[:_CHANGES]]
    return "; ".join([*shown, f"{more} more"] if more > 0 else shown)

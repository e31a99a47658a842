"""Says how the turns of builds in a provider follow each other, and turns them into JSON bytes and back.

There are at most TURNS of them, the last ones, and no more than ZooKeeper likes to write at once. A list that
can't be read says nothing, and is written over; so does a turn in it that does not say which upload began
to serve when.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, Final

from builder.model import Turn
from builder.store.fields import Fields, RecordError, a_text, a_time, present, unknown

#: How many are kept.
TURNS: Final = 100
#: Characters of who and why.
_BY, _WHY = 100, 200
#: Bytes that all turns in a provider may take.
_ROOM: Final = 100_000
_FIELDS: Final = frozenset({"build", "upload", "since", "until", "by", "why", "ended_why"})


def begun(turns: Iterable[Turn], turn: Turn) -> tuple[Turn, ...]:
    """The turns, newest first, once that one has begun: the same, when it is of the upload that serves. It
    begins no sooner than what it ends, which may have been broken off before it came to anything."""
    before = tuple(turns)
    if before and before[0].until is None and before[0].upload == turn.upload:
        return before
    turn = replace(turn, since=max([turn.since, *(each.since for each in before if each.until is None)]))
    over = (replace(each, until=turn.since, ended_why=turn.why) for each in before)
    ended_now = (new if old.until is None else old for old, new in zip(before, over, strict=True))
    return _that_fit(map(_bounded, (turn, *ended_now)))


def ended(turns: Iterable[Turn], upload: str, until: datetime, why: str) -> tuple[Turn, ...]:
    """The turns once that of the upload of that name is over."""
    return tuple(
        _bounded(replace(turn, until=max(turn.since, until), ended_why=why))
        if turn.upload == upload and turn.until is None
        else turn
        for turn in turns
    )


def encode_turns(turns: Iterable[Turn]) -> bytes:
    """The bytes of a node with the turns of `begun` or `ended`."""
    return json.dumps([_fields(turn) for turn in turns]).encode()


def decode_turns(data: bytes) -> tuple[Turn, ...]:
    """The turns in a node's data, newest first; none, if it can't be read."""
    try:
        items = json.loads(data)
    except (ValueError, RecursionError):
        return ()
    found = map(_turn, items if isinstance(items, list) else [])
    return tuple(turn for turn in found if turn is not None)


def _that_fit(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    kept: list[Turn] = []
    room = _ROOM
    for turn in islice(turns, TURNS):
        room -= len(json.dumps(_fields(turn)))
        if room < 0:
            break
        kept.append(turn)
    return tuple(kept)


def _bounded(turn: Turn) -> Turn:
    return replace(turn, by=turn.by[:_BY], why=turn.why[:_WHY], ended_why=turn.ended_why[:_WHY])


def _fields(turn: Turn) -> dict[str, Any]:
    return {
        **turn.extra,
        "build": turn.build_id,
        "upload": turn.upload,
        "since": turn.since.timestamp(),
        "by": turn.by,
        "why": turn.why,
        **present(
            until=None if turn.until is None else turn.until.timestamp(), ended_why=turn.ended_why or None
        ),
    }


def _turn(item: Any) -> Turn | None:
    try:
        fields = Fields(item if isinstance(item, dict) else {}, "a turn")
        return Turn(
            build_id=fields.need("build", a_text),
            upload=fields.need("upload", a_text),
            since=fields.need("since", a_time),
            until=fields.lenient("until", a_time, None),
            by=fields.lenient("by", a_text, ""),
            why=fields.lenient("why", a_text, ""),
            ended_why=fields.lenient("ended_why", a_text, ""),
            extra=unknown(fields.all, _FIELDS),
        )
    except RecordError:
        return None

"""Cuts what can be long in a record to what ZooKeeper takes.

A node has at most a megabyte, and one character takes up to twelve bytes of JSON. All that can be long in
one record fits together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from builder.model import (
    BootResult,
    BudgetCheck,
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
from builder.store.fields import NOTHING, as_bytes

Record = TypeVar("Record", Build, Upload)
Signed = TypeVar(
    "Signed",
    Cancellation,
    Clearance,
    Release,
    UploadCancellation,
    UploadWish,
    Withholding,
    Deletion,
    Request,
    Pause,
)

#: Of a failure.
_LINES, _LINE, _MESSAGE = 20, 2000, 4000
#: Of what changed since the build before.
_CHANGES, _CHANGE = 25, 200
#: Bytes that the digests of what went in may take; a build that has more is compared with nothing.
_INPUTS: Final = 200_000
#: Of a boot test: proofs that failed, ports, setuid files.
_NAMES, _NAME = BootResult.MOST_NAMES, BootResult.LONGEST_NAME
#: Of the budgets of a build; there are ten measures.
_CHECKS, _SENTENCE = 20, 1000
#: Characters of who wished something, and why.
_BY, _WHY = 200, 1000
#: Characters of what a check said.
_SAID: Final = 1000
#: Bytes that the reasons of all wishes on a build, and of why it is withheld or may serve, may take.
_WISHES: Final = 100_000
#: Of the ways that were tried in vain, and of what a hook said.
_FALLBACKS, _FALLBACK = 10, 1000
_OUTPUT, _OUTPUT_LINE = 50, 400
#: Bytes that the remembered times of one image's schedule may take.
_TICKS: Final = 100_000
#: Bytes that all wishes that uploads of one image end may take.
_CANCELLATIONS: Final = 500_000


def bounded(record: Record) -> Record:
    """The record with as much as ZooKeeper takes of what can be long.

    Of a reason and of a hook's output the last lines, of what changed the first ones, and the beginning of
    each; of what went in all or, when that is too much, nothing: half of it would look like a change.
    """
    record = _bounded_build(record) if isinstance(record, Build) else _bounded_upload(record)
    failure = record.reason
    if failure is None:
        return record
    lines = tuple(line[:_LINE] for line in failure.lines[-_LINES:])
    return replace(record, reason=replace(failure, message=failure.message[:_MESSAGE], lines=lines))


def bounded_signed(wish: Signed) -> Signed:
    """The wish with as much of who and why as ZooKeeper takes."""
    return replace(wish, by=wish.by[:_BY], why=wish.why[:_WHY])


def bounded_cancellations(wishes: Iterable[UploadCancellation]) -> tuple[UploadCancellation, ...]:
    """The wishes that uploads of one image end, oldest first, without the oldest if they are too many."""
    kept: list[UploadCancellation] = []
    room = _CANCELLATIONS
    for wish in sorted(map(bounded_signed, wishes), key=lambda wish: (wish.time, wish.upload), reverse=True):
        room -= _size(wish.upload, wish.by, wish.why)
        if room < 0:
            break
        kept.append(wish)
    return tuple(reversed(kept))


def bounded_ticks(ticks: Mapping[str, datetime]) -> dict[str, datetime]:
    """The times of a schedule, without those that are longest ago if they are too many: entries that were
    taken out of the configuration long since."""
    kept: dict[str, datetime] = {}
    room = _TICKS
    for entry, time in sorted(ticks.items(), key=lambda tick: (tick[1], tick[0]), reverse=True):
        room -= _size(entry)
        if room < 0:
            break
        kept[entry] = time
    return kept


def _bounded_build(build: Build) -> Build:
    changes = tuple(change[:_CHANGE] for change in build.changes[:_CHANGES])
    inputs = build.inputs if len(as_bytes(dict(build.inputs))) <= _INPUTS else NOTHING
    wishes = tuple(bounded_signed(wish) for wish in build.wishes)
    withheld = tuple(bounded_signed(word) for word in build.withheld)
    cleared = tuple(bounded_signed(word) for word in build.cleared)
    why = (*(wish.why for wish in wishes), *(word.why for word in withheld), *(word.why for word in cleared))
    if _size(*why) > _WISHES:
        # That it was wished counts for more than why.
        wishes = tuple(replace(wish, why="") for wish in wishes)
        withheld = tuple(replace(word, why="") for word in withheld)
        cleared = tuple(replace(word, why="") for word in cleared)
    return replace(
        build,
        changes=changes,
        inputs=inputs,
        wishes=wishes,
        withheld=withheld,
        cleared=cleared,
        release=None if build.release is None else bounded_signed(build.release),
        test=None if build.test is None else _bounded_test(build.test),
        budgets=tuple(_bounded_check(check) for check in build.budgets[:_CHECKS]),
    )


def _bounded_check(check: BudgetCheck) -> BudgetCheck:
    return replace(check, sentence=check.sentence[:_SENTENCE])


def _bounded_test(test: BootResult) -> BootResult:
    # What is in an image is up to whoever made it; test.json has all of it.
    return replace(
        test,
        failed=tuple(name[:_NAME] for name in test.failed[:_NAMES]),
        ports=test.ports[:_NAMES],
        setuid=tuple(path[:_NAME] for path in test.setuid[:_NAMES]),
    )


def _bounded_upload(upload: Upload) -> Upload:
    return replace(
        upload,
        fallbacks=tuple(text[:_FALLBACK] for text in upload.fallbacks[-_FALLBACKS:]),
        hook_output=tuple(line[:_OUTPUT_LINE] for line in upload.hook_output[-_OUTPUT:]),
        deletion=None if upload.deletion is None else bounded_signed(upload.deletion),
        checked=None if upload.checked is None else replace(upload.checked, why=upload.checked.why[:_SAID]),
    )


def _size(*texts: str) -> int:
    """Bytes that the texts take in a record, with what stands around them."""
    return sum(len(as_bytes({"": text})) + 80 for text in texts)

"""Keeps on disk what is to be told until it has arrived, or will not.

    <state-dir>/outbox/told.json                             the builds whose end was put into the queue
    <state-dir>/outbox/queue/<build>.<state>.<target>.json   one event for one target
    <state-dir>/outbox/targets/<target>.json                 how the last tries with it went

Which crash leaves what, step by step:
    before the event is in the queue       nothing says that the build was told: it is put there anew
    between the files of two targets       the same; what is there already is written over with the same
    after told.json                        it is in the queue of each target
    before it was sent, or while it was    it is sent, or sent again: the same bytes with the same id
    after it was sent, before it went      it is sent again: whoever minds has the id to know it by
So an event arrives at least once, unless its target takes nothing for days. Memory is changed before the disk
is: a disk that can't be written costs what is on it its truth, and nobody a thousand messages.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

LOG = logging.getLogger(__name__)

#: What waits for one target; of more, the oldest goes.
LIMIT: Final = 200
#: What is older is no news.
OLDEST: Final = timedelta(days=3)
#: What a file is called while it is written.
_DRAFT: Final = ".draft"
#: Characters of what is kept of why something did not arrive.
_LONGEST_REASON: Final = 500


def home(state_dir: Path) -> Path:
    """Where the outbox of a state directory is."""
    return state_dir / "outbox"


@dataclass(frozen=True, kw_only=True)
class Notice:
    """That one target is to be told of one event."""

    event: str  #: its id
    image: str  #: what it is about
    target: str
    filed: datetime
    tries: int = 0  #: that failed
    due: datetime  #: not before then

    @property
    def subject(self) -> str:
        """The event, for people."""
        return f"{self.image}: the event {self.event}"

    @property
    def file_name(self) -> str:
        """The file's name in the queue."""
        return f"{self.event}.{self.target}.json"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a target has been lately."""

    failures: int = 0  #: in a row, until now
    since: datetime | None = None  #: when the first of these was
    why: str = ""  #: what the last one came to
    due: datetime | None = None  #: nothing is sent there before then
    lost: int = 0  #: events that it will never be told, since it last took one
    arrived: datetime | None = None  #: when it last took one


class Outbox:
    """The outbox of one state directory, which belongs to one daemon. Thread-safe.

    Nothing is on disk before the first event. What can't be written raises OSError.
    """

    def __init__(self, directory: Path, limit: int = LIMIT) -> None:
        """`limit`: how much may wait for one target."""
        self._limit = limit
        self._directory = directory
        self._queue = directory / "queue"
        self._targets = directory / "targets"
        self._told_file = directory / "told.json"
        self._lock = threading.Lock()
        self._notices: dict[str, Notice] = {}
        self._standings: dict[str, Standing] = {}
        self._told: Mapping[str, datetime] | None = None

    def load(self) -> None:
        """Take up what an earlier life left; what can't be read of it is left alone, with a word."""
        with self._lock:
            self._notices = {n.file_name: n for n in self._read_queue()}
            self._standings = read_standings(self._directory)
            stored = _read(self._told_file)
            told = stored.get("told") if stored else None
            self._told = _times(told) if isinstance(told, dict) else None

    @property
    def told(self) -> Mapping[str, datetime] | None:
        """The events that were put into the queue lately, by their ids, and when they happened; None when
        nobody ever was to be told."""
        return self._told

    def file(self, event: str, image: str, body: str, targets: Iterable[str], now: datetime) -> None:
        """Put an event about an image into the queues of these targets."""
        for target in targets:
            notice = Notice(event=event, image=image, target=target, filed=now, due=now)
            with self._lock:
                self._make_room(target)
                self._notices[notice.file_name] = notice
                self._write_notice(notice, body)

    def remember(self, told: Mapping[str, datetime]) -> None:
        """These events, which happened then, and no others have been put into the queue."""
        with self._lock:
            self._told = dict(told)
            times = {event: time.isoformat() for event, time in sorted(told.items())}
            self._write(self._told_file, {"told": times})

    def waiting(self) -> dict[str, list[Notice]]:
        """What waits, by target, oldest first."""
        found: dict[str, list[Notice]] = {}
        with self._lock:
            for notice in sorted(self._notices.values(), key=lambda each: (each.filed, each.event)):
                found.setdefault(notice.target, []).append(notice)
        return found

    def standing(self, target: str) -> Standing:
        """How a target has been lately."""
        with self._lock:
            return self._standings.get(target, Standing())

    def body(self, notice: Notice) -> str | None:
        """The event's JSON; None, after a word in the log, when it is on disk no more."""
        try:
            stored = _read(self._queue / notice.file_name)
        except OSError as error:
            LOG.warning("%s can't be read: %s", self._queue / notice.file_name, error.strerror)
            stored = None
        body = stored.get("body") if stored else None
        if isinstance(body, str):
            return body
        self.give_up(notice, "its file can't be read any more")
        return None

    # -- what became of it --------------------------------------------------------------------

    def arrived(self, notice: Notice, now: datetime) -> None:
        """The target was told."""
        with self._lock:
            self._notices.pop(notice.file_name, None)
            self._standings[notice.target] = Standing(arrived=now)
            (self._queue / notice.file_name).unlink(missing_ok=True)
            self._write_standing(notice.target)

    def put_off(self, notice: Notice, why: str, now: datetime, *, again: datetime, rest: datetime) -> None:
        """It did not arrive: it is tried `again` then, and the target is left alone until `rest`."""
        with self._lock:
            known = self._standings.get(notice.target, Standing())
            self._standings[notice.target] = replace(
                known,
                failures=known.failures + 1,
                since=known.since or now,
                why=why[:_LONGEST_REASON],
                due=rest,
            )
            if notice.file_name in self._notices:
                tried = replace(notice, tries=notice.tries + 1, due=again)
                self._notices[notice.file_name] = tried
                stored = _read(self._queue / notice.file_name)
                if stored is not None:
                    self._write_notice(tried, str(stored.get("body")))
            self._write_standing(notice.target)

    def give_up(self, notice: Notice, why: str) -> None:
        """It never will: say so, and forget it."""
        with self._lock:
            self._lose(notice, why)

    def expire(self, now: datetime) -> None:
        """Give up what is too old to be news."""
        with self._lock:
            for notice in list(self._notices.values()):
                if now - notice.filed > OLDEST:
                    self._lose(notice, f"it is older than {OLDEST.days} days")

    def retain(self, targets: Collection[str]) -> None:
        """Forget what was for targets that are no more."""
        with self._lock:
            for notice in [each for each in self._notices.values() if each.target not in targets]:
                LOG.warning("%s is not told to %s: that is no target any more", notice.subject, notice.target)
                del self._notices[notice.file_name]
                (self._queue / notice.file_name).unlink(missing_ok=True)
            for target in self._standings.keys() - targets:
                del self._standings[target]
                (self._targets / f"{target}.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Nobody is to be told anything: forget all, so that whoever is later hears nothing old."""
        self.retain(())
        with self._lock:
            self._told = None
            if not self._directory.exists():
                return
            self._told_file.unlink(missing_ok=True)
            for directory in (self._queue, self._targets, self._directory):
                (directory / _DRAFT).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    directory.rmdir()  # what is not ours stays

    # -- under the lock -----------------------------------------------------------------------

    def _make_room(self, target: str) -> None:
        queue = [each for each in self._notices.values() if each.target == target]
        for notice in sorted(queue, key=lambda each: each.filed)[: max(0, len(queue) - self._limit + 1)]:
            self._lose(notice, f"more than {self._limit} wait")

    def _lose(self, notice: Notice, why: str) -> None:
        LOG.warning("%s is not told to %s: %s", notice.subject, notice.target, why)
        if self._notices.pop(notice.file_name, None) is None:
            return
        known = self._standings.get(notice.target, Standing())
        self._standings[notice.target] = replace(known, lost=known.lost + 1, why=known.why or why)
        (self._queue / notice.file_name).unlink(missing_ok=True)
        self._write_standing(notice.target)

    def _write_notice(self, notice: Notice, body: str) -> None:
        self._write(self._queue / notice.file_name, {**_plain(notice), "body": body})

    def _write_standing(self, target: str) -> None:
        self._write(self._targets / f"{target}.json", _plain(self._standings[target]))

    def _write(self, file: Path, data: Mapping[str, Any]) -> None:
        for directory in (self._directory, self._queue, self._targets):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(file, data)

    def _read_queue(self) -> Iterable[Notice]:
        for file in _files(self._queue):
            stored = _read(file)
            notice = None if stored is None else _notice(stored)
            if notice is not None and notice.file_name == file.name and "body" in (stored or {}):
                yield notice
            else:
                LOG.warning("%s can't be read as a message that waits, and is left alone", file)


def read_standings(directory: Path) -> dict[str, Standing]:
    """How each target of an outbox has been lately, by name; only those that ever were told anything.

    Raises OSError when somebody else's outbox can't be read.
    """
    found = {}
    for file in _files(directory / "targets"):
        stored = _read(file)
        if stored is not None:
            found[file.stem] = _standing(stored)
    return found


def count_waiting(directory: Path) -> Mapping[str, int]:
    """How many events wait in an outbox for each target. Raises OSError as `read_standings`."""
    # The id of an event has one dot, names of targets have any number of them.
    return Counter(file.stem.split(".", 2)[-1] for file in _files(directory / "queue"))


# -- files -------------------------------------------------------------------------------------------


def _files(directory: Path) -> list[Path]:
    """The files that are whole: a crash may have left half of one beside them."""
    try:
        there = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    return [file for file in there if file.suffix == ".json" and not file.name.startswith(".")]


def _read(file: Path) -> dict[str, Any] | None:
    """What a file says; None when it is gone, or holds something else."""
    try:
        stored = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return stored if isinstance(stored, dict) else None


def _write(file: Path, data: Mapping[str, Any]) -> None:
    """Write a file that a crash leaves as it was or as it is to be; for its owner alone to read."""
    # There is one daemon, and one writer at a time: what a crash left under this name is written over.
    draft = file.with_name(_DRAFT)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump({"schema": 1, **data}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    parent = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _plain(record: Notice | Standing) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(record).items()
    }


def _notice(stored: Mapping[str, Any]) -> Notice | None:
    event, target, filed = stored.get("event"), stored.get("target"), _time(stored.get("filed"))
    if not isinstance(event, str) or not isinstance(target, str) or filed is None:
        return None
    return Notice(
        event=event,
        image=str(stored.get("image")),
        target=target,
        filed=filed,
        tries=_count(stored.get("tries")),
        due=_time(stored.get("due")) or filed,
    )


def _standing(stored: Mapping[str, Any]) -> Standing:
    return Standing(
        failures=_count(stored.get("failures")),
        since=_time(stored.get("since")),
        why=str(stored.get("why", "")),
        due=_time(stored.get("due")),
        lost=_count(stored.get("lost")),
        arrived=_time(stored.get("arrived")),
    )


def _times(stored: Mapping[str, Any]) -> dict[str, datetime]:
    times = {event: _time(value) for event, value in stored.items()}
    return {event: time for event, time in times.items() if time is not None}


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _time(value: object) -> datetime | None:
    """An aware time, None for what is none."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None

"""Tells when a configuration file has changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from watchdog.events import (
    EVENT_TYPE_ATTRIB,
    EVENT_TYPE_CLOSED,
    EVENT_TYPE_CREATED,
    EVENT_TYPE_DELETED,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_MOVED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from builder.errors import ConfigError

LOG = logging.getLogger(__name__)

#: An editor or a configuration manager writes in several steps; this long after the last one it is done.
SETTLE_SECONDS: Final = 0.2

#: Opening and reading a file, which loading it does, is no change.
_CHANGES = frozenset(
    {
        EVENT_TYPE_ATTRIB,
        EVENT_TYPE_CLOSED,
        EVENT_TYPE_CREATED,
        EVENT_TYPE_DELETED,
        EVENT_TYPE_MODIFIED,
        EVENT_TYPE_MOVED,
    }
)

#: What tells one state of a file from another: device, inode, size, time of change. None: it is not there.
_Mark = tuple[int, int, int, int] | None


class ConfigWatch:
    """Calls `on_change` in a thread of its own, once for each burst of changes to any of the files.

    It is the directories that are watched: a file that is replaced, as editors do, or reached through
    a link that is set anew, as Kubernetes does, is noticed too. Nothing is polled. Make it before the files
    are read: what changes between that and `start` is told as well.
    `find` tells which files they are; after each burst it is asked again, for one may include others.
    Neither it nor `on_change` may raise. Use as a context manager, or `start` and `stop`.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[Path]],
        on_change: Callable[[], None],
        *,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self._find = find
        self._paths = self._found()
        self._on_change = on_change
        self._settle = settle
        self._observer = Observer()
        self._handler = _Handler(self._touched)
        self._watched: set[Path] = set()
        self._marks = self._marks_now()
        self._event = threading.Condition()
        self._due = False
        self._stopping = False
        self._thread = threading.Thread(target=self._tell, name="config-watch", daemon=True)

    def __enter__(self) -> ConfigWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to watch; what changed since it was made is told. ConfigError when that is impossible."""
        try:
            self._watch_directories()
            self._observer.start()
        except OSError as error:
            raise ConfigError(
                [f"{self._paths[0]}: can't be watched for changes: {error.strerror or error}"],
                hint="The limits are fs.inotify.max_user_watches and fs.inotify.max_user_instances.",
            ) from error
        self._touched()  # what changed before the observer's start had no event
        self._thread.start()

    def stop(self) -> None:
        """End it; no call of `on_change` begins or runs after this returns. Harmless when not started."""
        with self._event:
            self._stopping = True
            self._event.notify_all()
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch_directories(self) -> None:
        """Watch where each file is, and where it really is when it is a link."""
        # Not Path.resolve, which raises where links lead in a circle.
        wanted = {place.parent for path in self._paths for place in (path, Path(os.path.realpath(path)))}
        for directory in sorted(wanted - self._watched):
            if directory.is_dir():
                self._observer.schedule(self._handler, str(directory), recursive=False)
                self._watched.add(directory)

    def _found(self) -> tuple[Path, ...]:
        return tuple(path.absolute() for path in self._find())

    def _marks_now(self) -> Mapping[Path, _Mark]:
        return {path: _mark(path) for path in self._paths}

    def _touched(self) -> None:
        with self._event:
            self._due = True
            self._event.notify_all()

    def _tell(self) -> None:
        while self._wait_for_quiet():
            self._paths = self._found()
            # Before the marks are taken: what changes after that has an event.
            try:
                self._watch_directories()
            except OSError as error:
                LOG.warning("not all changes of the configuration will be noticed: %s", error)
            marks = self._marks_now()
            if marks != self._marks:
                self._marks = marks
                self._on_change()

    def _wait_for_quiet(self) -> bool:
        """Wait for a burst of events to end; False when it is time to stop."""
        with self._event:
            self._event.wait_for(lambda: self._due or self._stopping)
            while self._due and not self._stopping:
                self._due = False
                self._event.wait_for(lambda: self._due or self._stopping, timeout=self._settle)
            return not self._stopping


class _Handler(FileSystemEventHandler):
    """Passes on that something was changed; what it was, the files themselves tell."""

    def __init__(self, touched: Callable[[], None]) -> None:
        self._touched = touched

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _CHANGES:
            self._touched()


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

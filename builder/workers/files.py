"""Checks the file of an upload once for the many regions that get it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.dib.output import inspect
from builder.model import Artifact

#: So many files are remembered; what is older is checked again.
_LIMIT: Final = 1000


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A file as it was when it was checked, and against what."""

    identity: tuple[int, ...]
    artifact: Artifact


class CheckedFiles:
    """Which files are what their records say. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Path, _Seen] = {}

    def check(self, path: Path, artifact: Artifact) -> None:
        """Raise as `inspect.check` unless the file is that artifact; asks anew only when it has changed."""
        # Of the regions that ask at the same time, the first one finds out for all.
        with self._lock:
            seen = _Seen(identity=_identity(path), artifact=artifact)
            if seen.identity and self._seen.get(path) == seen:
                return
            inspect.check(path, artifact, artifact.format)
            self._seen[path] = seen
            while len(self._seen) > _LIMIT:
                del self._seen[next(iter(self._seen))]


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from another one, or from itself before a change; nothing when there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

"""Read the log of a build for a terminal or another program, while it grows and afterwards."""

from __future__ import annotations

import codecs
import errno
import io
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from builder.cli import text
from builder.dib.logs import logfiles
from builder.errors import NotFoundError, RefusedError, UnavailableError
from builder.host import host_name
from builder.model import Build, BuildState
from builder.store.base import Store

#: Seconds between two looks at a log that grows: files have no way to wake us.
PAUSE: Final = 0.3
#: Bytes of a log that are read at once.
CHUNK: Final = 1 << 16


def opened(build: Build) -> BinaryIO:
    """The log, compressed or not, to be read from its beginning.

    Raises NotFoundError, which says where it is when it isn't here, RefusedError for what is no log of
    that build, UnavailableError when it can't be read.
    """
    if build.log is None:
        raise NotFoundError(f"build {build.id} has no log on record")
    # Whoever may write records could name any file here, and the reader may be root.
    if Path(build.log).name != logfiles.path(Path(), build.image, build.id).name:
        raise RefusedError(f"{build.log}, which is on record, is no name of the log of build {build.id}")
    try:
        return logfiles.open_bytes(Path(build.log))
    except FileNotFoundError as error:
        raise _missing(build) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError(f"{build.log} is no plain file") from error
        raise UnavailableError(
            f"{build.log} can't be read: {error.strerror}", hint="Run this command as the user of the daemon."
        ) from error


def _missing(build: Build) -> NotFoundError:
    if build.builder not in (None, host_name()):
        where = f"the log of build {build.id} is on {build.builder}: {build.log}"
        return NotFoundError(where, hint="Run this command there.")
    return NotFoundError(
        f"the log of build {build.id} is gone: {build.log}",
        hint="Old logs are removed (build-log-retention, build-log-limit).",
    )


class Text:
    """The text of a log; a character that is half written yet waits for its other half."""

    def __init__(self, log: BinaryIO, name: str) -> None:
        self._log = log
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def rest(self) -> Iterator[str]:
        """All there is and was not read yet. Raises UnavailableError when it can't be read."""
        try:
            while chunk := self._log.read(CHUNK):
                yield self._decoder.decode(chunk)
        except (OSError, EOFError) as error:
            raise UnavailableError(f"{self._name} can't be read: {error}") from error

    def last(self, lines: int) -> Iterator[str]:
        """The last so many lines of what was not read yet."""
        kept: deque[str] = deque(maxlen=lines)
        for chunk in self.rest():
            for line in io.StringIO(chunk, newline="\n"):
                if kept and not kept[-1].endswith("\n"):
                    kept[-1] += line
                else:
                    kept.append(line)
        yield from kept

    def coming(self, store: Store, build: Build) -> Iterator[str]:
        """What is not read yet and what comes, until the build has ended and all of it was read."""
        running = True
        while running:
            # Ask first: what is written between the question and the reading belongs to the build.
            running = _is_running(store, build)
            yield from self.rest()
            if running:
                time.sleep(PAUSE)


def _is_running(store: Store, build: Build) -> bool:
    try:
        return store.get_build(build.image, build.id).state is BuildState.BUILDING
    except NotFoundError:
        return False


def harmless(chunk: str) -> str:
    """The chunk with what would act on a terminal spelt out."""
    return "".join(map(_harmless, chunk.splitlines(keepends=True)))


def _harmless(line: str) -> str:
    body = line.rstrip("\r\n")
    return "\t".join(text.visible(part) for part in body.split("\t")) + line[len(body) :].replace("\r", "")

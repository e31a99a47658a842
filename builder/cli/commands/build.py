"""`imagepool build ...`: what was built, and its logs."""

from __future__ import annotations

import argparse
import codecs
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from builder.cli import guard, lookup, render, text
from builder.cli.base import Action, Lister, Shower
from builder.dib import logfiles
from builder.errors import ConflictError, NotFoundError, RefusedError, UnavailableError
from builder.host import host_name
from builder.model import Build, BuildState, Snapshot
from builder.store.base import Store

#: Seconds between two looks at a log that grows: files have no way to wake us.
LOG_PAUSE: Final = 0.3
#: Bytes of a log that are read at once.
CHUNK: Final = 1 << 16


class ListBuilds(Lister):
    """List builds

    Newest first. Size is that of all files together; age counts from the beginning of the build.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which builds."""
        parser.add_argument("--image", metavar="IMAGE", help="builds of this image only")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each build."""
        config, now = self.context.config_for_records(), self.context.now()
        with self.context.store(config) as store:
            snapshot = store.snapshot()
        image = options.image
        if image is not None:
            image = lookup.image_name(snapshot, tuple(config.diskimages), image)
        builds = [b for b in snapshot.builds() if image in (None, b.image)]
        return render.table(render.BUILD_COLUMNS, [render.build_row(b, now) for b in builds])


class ShowBuild(Shower):
    """Show everything on record about a build"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build."""
        _build_argument(parser)

    def row(self, options: argparse.Namespace) -> render.Row:
        """All fields of its record."""
        with self.context.store(self.context.config_for_records()) as store:
            snapshot = store.snapshot()
        build = lookup.build(snapshot, options.build)
        uploads = snapshot.image(build.image).uploads_of(build.id)
        return render.build_details(build, uploads, self.context.now())


class ShowLog(Action):
    """Print the log of a build

    The log is on the machine that built; there this command prints it, elsewhere it says where.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, and until when."""
        _build_argument(parser)
        parser.add_argument(
            "-F", "--follow", action="store_true", help="go on printing until the build has ended"
        )

    def act(self, options: argparse.Namespace) -> int:
        """Print it, to the end of the file or of the build."""
        with self.context.store(self.context.config_for_records()) as store:
            build = lookup.build(store.snapshot(), options.build)
            with _opened_log(build) as log:
                written = _Text(log)
                for chunk in written.following(store, build) if options.follow else written.rest():
                    self._write(chunk)
        return 0

    def _write(self, chunk: str) -> None:
        out = self.app.stdout
        # A file or another program gets the log as it is; a terminal must not obey it.
        out.write("".join(map(_harmless, chunk.splitlines(keepends=True))) if out.isatty() else chunk)
        out.flush()


class DeleteBuild(Action):
    """Delete a build, its files and its uploads

    The record goes to `deleting` at once; the daemon's janitor removes files and cloud images.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, and whether to insist."""
        _build_argument(parser)
        parser.add_argument(
            "--force",
            action="store_true",
            help="even the last ready build of its image, or the last good image of a provider",
        )

    def act(self, options: argparse.Namespace) -> int:
        """Write `deleting`."""
        with self.context.store(self.context.config_for_records()) as store:
            build = lookup.build(store.snapshot(), options.build)
            try:
                done = self._delete(store, build, options.force)
            except ConflictError:
                # Somebody was faster: decide again on what is true now, once.
                done = self._delete(store, build, options.force)
        self.say(f"build {build.id} of {build.image} {done}")
        return 0

    def _delete(self, store: Store, build: Build, force: bool) -> str:
        current = store.get_build(build.image, build.id)
        if current.state is BuildState.DELETING:
            return "is being deleted already"
        _refuse_to_delete(store.snapshot(), current, force)
        store.update_build(current.become(BuildState.DELETING, self.context.now()))
        return "will be deleted"


def _build_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", metavar="BUILD", help="the id of a build, or its beginning")


def _refuse_to_delete(snapshot: Snapshot, build: Build, force: bool) -> None:
    if build.state is BuildState.BUILDING:
        raise RefusedError(f"build {build.id} is in progress", hint="Delete it when it has ended.")
    reasons = guard.against_deleting_build(snapshot.image(build.image), build)
    if reasons and not force:
        raise RefusedError(
            f"build {build.id} is still needed: {'; '.join(reasons)}",
            hint="Use --force to delete it all the same.",
        )


# -- logs -----------------------------------------------------------------------------------------


def _opened_log(build: Build) -> BinaryIO:
    """The log file; NotFoundError says where it is when it isn't here."""
    if build.log is None:
        raise NotFoundError(f"build {build.id} has no log on record")
    # Whoever may write records could name any file here, and the reader may be root.
    if Path(build.log).name != logfiles.path(Path(), build.image, build.id).name:
        raise RefusedError(f"{build.log}, which is on record, is no name of the log of build {build.id}")
    try:
        descriptor = os.open(build.log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
        raise RefusedError(f"{build.log} is no plain file")
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError(f"{build.log} is no plain file") from error
        raise UnavailableError(
            f"{build.log} can't be read: {error.strerror}", hint="Run this command as the user of the daemon."
        ) from error
    if build.builder in (None, host_name()):
        raise NotFoundError(
            f"the log of build {build.id} is gone: {build.log}",
            hint="Old logs are removed (build-log-retention).",
        )
    raise NotFoundError(
        f"the log of build {build.id} is on {build.builder}: {build.log}", hint="Run this command there."
    )


class _Text:
    """The text of a log; a character that is half written yet waits for its other half."""

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def rest(self) -> Iterator[str]:
        """All there is and was not read yet."""
        while chunk := self._log.read(CHUNK):
            yield self._decoder.decode(chunk)

    def following(self, store: Store, build: Build) -> Iterator[str]:
        """All there is, then what comes, until the build has ended and the file was read to its end."""
        running = True
        while running:
            # Ask first: what is written between the question and the reading belongs to the build.
            running = _is_running(store, build)
            yield from self.rest()
            if running:
                time.sleep(LOG_PAUSE)


def _is_running(store: Store, build: Build) -> bool:
    try:
        return store.get_build(build.image, build.id).state is BuildState.BUILDING
    except NotFoundError:
        return False


def _harmless(line: str) -> str:
    body = line.rstrip("\r\n")
    return "\t".join(text.visible(part) for part in body.split("\t")) + line[len(body) :].replace("\r", "")

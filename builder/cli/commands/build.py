"""`imagepool build ...`: what was built, and its logs."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from typing import Final

from builder.cli import buildlog, guard, lookup, render, text
from builder.cli.base import Action, Lister, Shower, words_on_record
from builder.errors import ActionFailedError, ConflictError, RefusedError
from builder.model import Build, BuildState, Cancellation, ImageRecords, Snapshot
from builder.planning import words
from builder.store.base import Store

#: Seconds that a cancelled build may take to end before it is worth a word.
CANCEL_PATIENCE: Final = 20.0


class ListBuilds(Lister):
    """List builds

    Newest first. Size is that of all files together; age counts from the beginning of the build.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which builds."""
        parser.add_argument("--image", metavar="IMAGE", help="builds of this image only")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each build."""
        known, now = self.known(uploads=False), self.context.now()
        snapshot = known.snapshot
        image = options.image
        if image is not None:
            image = lookup.image_name(snapshot, known.images, image)
        builds = [b for b in snapshot.builds() if image in (None, b.image)]
        rows = [render.build_row(b, snapshot.image(b.image), now) for b in builds]
        return render.table(render.BUILD_COLUMNS, rows)


class ShowBuild(Shower):
    """Show everything on record about a build"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build."""
        _build_argument(parser)

    def row(self, options: argparse.Namespace) -> render.Row:
        """All fields of its record."""
        snapshot = self.records(self.context.config_for_records())
        build = lookup.build(snapshot, options.build)
        return render.build_details(build, snapshot.image(build.image), self.context.now())


class ShowLog(Action):
    """Print the log of a build

    The log is on the machine that built; there this command prints it, elsewhere it says where.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, from where, and until when."""
        _build_argument(parser)
        parser.add_argument(
            "-F", "--follow", action="store_true", help="go on printing until the build has ended"
        )
        parser.add_argument("--tail", metavar="N", type=_lines, help="begin with the last N lines")

    def act(self, options: argparse.Namespace) -> int:
        """Print it, to the end of the file or of the build."""
        with self.context.store(self.context.config_for_records()) as store:
            build = lookup.build(store.snapshot(), options.build)
            with buildlog.opened(build) as log:
                written = buildlog.Text(log, str(build.log))
                self._write(written.rest() if options.tail is None else written.last(options.tail))
                if options.follow:
                    self._write(written.coming(store, build))
        return 0

    def _write(self, chunks: Iterator[str]) -> None:
        out = self.app.stdout
        for chunk in chunks:
            # A file or another program gets the log as it is; a terminal must not obey it.
            out.write(buildlog.harmless(chunk) if out.isatty() else chunk)
            out.flush()


class CancelBuild(Action):
    """Cancel a build that runs

    It ends within seconds, in the state failed, with who cancelled it and why on its record. The
    command waits for that (exit code 0); it ends with 1 when the build ended otherwise, or not yet.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, why, and whether to wait."""
        _build_argument(parser)
        parser.add_argument("--reason", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("--no-wait", action="store_true", help="don't wait for the build to end")

    def act(self, options: argparse.Namespace) -> int:
        """Write the wish, and wait until it has come true."""
        why = words_on_record("--reason", options.reason)
        with self.context.store(self.context.config_for_records(), watch=not options.no_wait) as store:
            snapshot = store.snapshot()
            build = lookup.build(snapshot, options.build)
            build = store.get_build(build.image, build.id)
            if guard.is_cancelled(build):
                self.say(_was_cancelled(build))
                return 0
            if build.state is not BuildState.BUILDING:
                raise RefusedError(f"build {build.id} of {build.image} is {build.state}, not in progress")
            self._wish(store, snapshot.image(build.image), build, why)
            if not guard.is_alive(snapshot.image(build.image), build):
                self.note("no builder works on it any more; the janitor of a running daemon ends it")
            if options.no_wait:
                self.say(f"build {build.id} of {build.image} will be cancelled")
                return 0
            self.say(_was_cancelled(self._ended(store, build)))
        return 0

    def _wish(self, store: Store, records: ImageRecords, build: Build, why: str) -> None:
        """Put on record who cancels it; who did so first stays."""
        first = records.cancellation
        if first is not None and first.build_id == build.id:
            self.note(text.one_line(f"it was {words.cancelled(first)} already"))
            return
        store.cancel_build(
            Cancellation(
                image=build.image,
                build_id=build.id,
                by=self.context.who(),
                time=self.context.now(),
                why=why,
            )
        )

    def _ended(self, store: Store, build: Build) -> Build:
        """The build once it was cancelled; ActionFailedError when it ended otherwise, or does not end."""
        seen, deadline = -1, time.monotonic() + CANCEL_PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            seen = store.wait(seen, left)
            now = store.snapshot().image(build.image).build(build.id)
            if now is None or now.state is BuildState.DELETING:
                raise ActionFailedError(f"build {build.id} of {build.image} was deleted meanwhile")
            if guard.is_cancelled(now):
                return now
            if now.state is not BuildState.BUILDING:
                why = f": {text.summary(now.reason)}" if now.reason is not None else ""
                raise ActionFailedError(f"build {build.id} was {now.state} before it could be cancelled{why}")
        raise ActionFailedError(
            f"build {build.id} has not ended yet after {CANCEL_PATIENCE:.0f} s; it stays cancelled",
            hint=f"See 'imagepool build show {build.id}'; the daemon that builds, or a janitor, ends it.",
        )


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


def _was_cancelled(build: Build) -> str:
    how = build.reason.message if build.reason is not None else "cancelled"
    return text.one_line(f"build {build.id} of {build.image} was {how}")


def _lines(word: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of lines: give 0 or more")
    return int(word)


def _build_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", metavar="BUILD", help="the id of a build, or its beginning")


def _refuse_to_delete(snapshot: Snapshot, build: Build, force: bool) -> None:
    if build.state is BuildState.BUILDING:
        raise RefusedError(
            f"build {build.id} is in progress",
            hint=f"Delete it when it has ended; 'imagepool build cancel {build.id}' ends it.",
        )
    reasons = guard.against_deleting_build(snapshot.image(build.image), build)
    if reasons and not force:
        raise RefusedError(
            f"build {build.id} is still needed: {'; '.join(reasons)}",
            hint="Use --force to delete it all the same.",
        )

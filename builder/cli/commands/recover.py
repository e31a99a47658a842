"""`imagepool recover`: with ZooKeeper's records lost, make them again from clouds and disk."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from builder import recovery
from builder.cli import render, text
from builder.cli.base import Lister
from builder.cli.cells import BuildId, Bytes, Cell, Paragraph, UploadName
from builder.cli.context import builder_id
from builder.config.model import Config
from builder.errors import (
    CloudUnavailableError,
    NotFoundError,
    StoreUnavailableError,
    UnavailableError,
    UsageError,
)
from builder.host import host_name
from builder.planning.recovery import LOST, Step, Thing
from builder.recovery import Machine, Outcome, Seen
from builder.store.base import Store
from builder.workers import statedir

COLUMNS: Final = (
    "what", "action", "id", "image", "provider", "external_id", "bytes", "reason", "outcome",
)  # fmt: skip
EXIT_LEFT_UNDONE: Final = 1
#: Some clouds could not be asked, so something may still be lost.
EXIT_UNASKED: Final = CloudUnavailableError.exit_code
_HEX: Final = frozenset("0123456789abcdef")


class Recover(Lister):
    """Make lost records again, from images in the clouds and files on this machine

    For the day when ZooKeeper has lost its records: builds and uploads are written again as far as
    properties of images in all clouds, and build.json and files on this machine, prove them. Nothing
    in a cloud or on disk is changed. Stop the daemons on all machines first; afterwards they start as
    ever. On several machines, run it on each before. It may be broken off and repeated at any time:
    what is on record stays as it is. Begin with --dry-run. Exit code 5: some cloud could not be asked,
    so run it again when it can.
    """

    _code = 0

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Whose records, and whether to write them."""
        parser.add_argument(
            "--dry-run", action="store_true", help="list what would be written, and write nothing"
        )
        parser.add_argument(
            "--installation",
            metavar="ID",
            help="whose records (default: those of the installation this machine belongs to)",
        )
        parser.add_argument("-y", "--yes", action="store_true", help="don't ask before doing it")

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List what was done; the exit code."""
        super().run(parsed_args)
        return self._code

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each thing that was found."""
        config = self.context.config_for_records()
        with _instead_of_the_daemon(config):
            installation_id, seen = self._whose(config, options.installation)
            self.note(f"recovering installation {installation_id}")
            with self.context.own_store(config) as store:
                steps = self._steps(config, store, seen, installation_id, dry_run=options.dry_run)
                outcomes: Mapping[int, Outcome] = {}
                if not options.dry_run:
                    self._ask(steps, seen, installation_id, yes=options.yes)
                    store.restore_installation(installation_id)
                    outcomes = self._write(store, steps)
                    statedir.remember_installation(config.state_dir, installation_id)
        self._conclude(seen, outcomes)
        return render.table(COLUMNS, [_row(step, outcomes.get(n)) for n, step in enumerate(steps)])

    # -- what there is to do ----------------------------------------------------------------------

    def _whose(self, config: Config, named: str | None) -> tuple[str, Seen]:
        """Which installation it is about, and what the clouds have of it."""
        known = statedir.known_installation(config.state_dir)
        if named is None and known is not None:
            return known, recovery.ask_clouds(config, self.context.clouds.get, known)
        if named is not None and (len(named) != 32 or not _HEX.issuperset(named)):
            raise UsageError(f"{named!r} is no installation's id", hint="That is 32 hex digits.")
        seen = recovery.ask_clouds(config, self.context.clouds.get, None)
        with _readable(config):
            there = recovery.installations(config, seen)
        for each, trace in there.items():
            on_disk, in_clouds = _counted(trace.builds, "build"), _counted(trace.images, "image")
            self.note(
                text.one_line(f"installation {each}: {in_clouds} in the clouds, {on_disk} on this disk")
            )
        if named is None:
            self._tell_unasked(seen)
            raise UsageError(
                f"{config.state_dir} does not say which installation this machine belongs to",
                hint="Name one of those with --installation."
                if there
                else "Nothing of any was found in the clouds that were asked, nor on this disk.",
            )
        if named not in there and not seen.unasked:
            raise NotFoundError(
                f"there is nothing of an installation {named}, in no cloud and not on this disk"
            )
        return named, seen

    def _steps(
        self, config: Config, store: Store, seen: Seen, installation_id: str, *, dry_run: bool
    ) -> tuple[Step, ...]:
        here = builder_id(config)
        if here is None:
            # What is listed alone needs no id, and makes none.
            here = "" if dry_run else statedir.builder_id(config.images_dir)
        with _readable(config):
            return recovery.find_steps(
                config,
                store,
                seen,
                installation_id=installation_id,
                machine=Machine(hostname=host_name(), builder_id=here),
                now=self.context.now(),
                on_file=lambda name: self.note(text.one_line(f"reading {name}")),
            )

    def _ask(self, steps: Sequence[Step], seen: Seen, installation_id: str, *, yes: bool) -> None:
        writes = [step for step in steps if step.writes]
        self._tell_unasked(seen)
        if yes:
            return
        for step in writes:
            self.note(text.one_line(f"{step.fate} {step.thing} {step.name}: {step.reason}"))
        builds = _counted(sum(step.thing is Thing.BUILD for step in writes), "build")
        uploads = _counted(sum(step.upload is not None for step in writes), "upload")
        without = f", without those in {', '.join(seen.unasked)}" if seen.unasked else ""
        self.confirm(f"Write {builds} and {uploads} of installation {installation_id}{without}?")

    # -- doing it ---------------------------------------------------------------------------------

    def _write(self, store: Store, steps: Sequence[Step]) -> Mapping[int, Outcome]:
        """What came of each step that is to be written, by its place."""
        outcomes: dict[int, Outcome] = {}
        try:
            for place, step in enumerate(steps):
                if step.writes:
                    outcomes[place] = recovery.write(store, step)
        except StoreUnavailableError as error:
            done = sum(outcome.done for outcome in outcomes.values())
            raise StoreUnavailableError(
                f"{error.message}; {_counted(done, 'record')} of"
                f" {sum(step.writes for step in steps)} had been written",
                hint="Run it again: what is on record stays, and the rest is added.",
            ) from error
        return outcomes

    def _tell_unasked(self, seen: Seen) -> None:
        for provider, trouble in seen.unasked.items():
            self.note(text.one_line(f"{provider} was not asked: {trouble}"))

    def _conclude(self, seen: Seen, outcomes: Mapping[int, Outcome]) -> None:
        if any(not outcome.done for outcome in outcomes.values()):
            self._code = EXIT_LEFT_UNDONE
        if seen.unasked:
            self._code = EXIT_UNASKED
        for each in LOST:
            self.note(f"not recovered: {each}")


def _row(step: Step, outcome: Outcome | None) -> render.Row:
    image = step.image
    size = image.size if image is not None else None
    if step.build is not None:
        size = sum(each.size for each in step.build.artifacts) or None
    return {
        "what": Cell(step.thing),
        "action": Cell(step.fate),
        "id": _id(step),
        "image": Cell(step.diskimage),
        "provider": Cell(step.provider),
        "external_id": Cell(image.id if image is not None else None),
        "bytes": Bytes(size),
        "reason": Paragraph(step.reason),
        "outcome": Cell(outcome.text if outcome is not None else None),
    }


def _id(step: Step) -> Cell:
    if step.thing is Thing.BUILD:
        return BuildId(step.name)
    if step.upload is not None:
        return UploadName(step.upload.name)
    return Cell(step.name if step.thing is Thing.FILE else None)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def _instead_of_the_daemon(config: Config) -> Iterator[None]:
    """Keep the daemon of this machine out while the block runs; RefusedError when it is in."""
    with statedir.locked(config.state_dir), statedir.alone_in(config.images_dir):
        yield


@contextmanager
def _readable(config: Config) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"the images directory {config.images_dir} can't be read: {error}",
            hint="Run this as the user that the daemon runs as.",
        ) from error

"""`imagepool build diff`: how two builds differ."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from builder.cli import lookup
from builder.cli.base import Action
from builder.cli.render_build_differences import lines
from builder.config.model import Config
from builder.dib.differences import contents
from builder.dib.differences.compare import compare
from builder.dib.differences.contents import Contents
from builder.dib.differences.document import plain
from builder.dib.differences.markdown import markdown
from builder.dib.differences.model import Differences
from builder.dib.differences.record import text
from builder.dib.output import artifacts
from builder.errors import NotFoundError, RefusedError, UsageError
from builder.host import host_name
from builder.model import Build, BuildState, Snapshot

#: As of diff: 1 when they differ. Where nothing does, but not all could be compared, it is no success either.
SAME, DIFFER, UNKNOWN = 0, 1, 5

_NO_FILES: Final = {BuildState.BUILDING: "is in progress", BuildState.FAILED: "made no image"}


class DiffBuilds(Action):
    """Show how two builds differ

    Packages, kernel, services, setuid files and what is below /etc, sizes, and what went in: elements,
    environment, git repositories. With an image's name instead of builds, its last two ready builds are
    compared; with one build, it and the ready one before it, or, if it is held or failed over its budget,
    the last good one; with nothing, the last two of the only image. The files of both builds have to be on
    this machine.

    The exit code is 0 when nothing differs, 1 when something does, 5 when nothing does as far as could
    be compared, and otherwise the one of the error: 1 never means that the command failed.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which builds, and in which format."""
        parser.add_argument(
            "a", metavar="A", nargs="?", help="the earlier build, its id or the beginning of it; or an image"
        )
        parser.add_argument("b", metavar="B", nargs="?", help="the later build")
        parser.add_argument(
            "-f",
            "--format",
            choices=("text", "json", "markdown"),
            default="text",
            help="the output format (default: text)",
        )

    def act(self, options: argparse.Namespace) -> int:
        """Print what differs."""
        snapshot = self.known(uploads=False).snapshot
        config = self.context.config_for_records()
        before, after = _chosen(snapshot, tuple(config.diskimages), options.a, options.b)
        found = compare(_contents(config, before), _contents(config, after))
        self.app.stdout.write(_written(found, options.format))
        if found.differ:
            return DIFFER
        return SAME if found.same else UNKNOWN


def _written(differences: Differences, form: str) -> str:
    if form == "json":
        return text(plain(differences))
    if form == "markdown":
        return markdown(differences)
    return "".join(f"{line}\n" for line in lines(differences))


# -- which two ----------------------------------------------------------------------------------------


def _chosen(
    snapshot: Snapshot, configured: Sequence[str], first: str | None, second: str | None
) -> tuple[Build, Build]:
    """The earlier and the later build that somebody means; NotFoundError or UsageError without them."""
    if first is not None and second is not None:
        return lookup.build(snapshot, first), lookup.build(snapshot, second)
    known = sorted({*configured, *snapshot.images})
    if first is None:
        return _last_two(snapshot, _only(known))
    if first in known:
        return _last_two(snapshot, first)
    later = lookup.build(snapshot, first)
    return _before(snapshot, later), later


def _only(images: Sequence[str]) -> str:
    if len(images) != 1:
        there = f"There is: {', '.join(images)}." if images else "There are no images."
        raise UsageError("say which image, or which builds", hint=there)
    return images[0]


def _last_two(snapshot: Snapshot, image: str) -> tuple[Build, Build]:
    ready = snapshot.image(image).ready_builds
    if len(ready) < 2:
        count = "only one ready build" if ready else "no ready build"
        raise NotFoundError(f"image {image} has {count}: there is nothing to compare")
    return ready[1], ready[0]


def _before(snapshot: Snapshot, later: Build) -> Build:
    ready = snapshot.image(later.image).ready_builds
    earlier = [b for b in ready if b.began < later.began and b.id != later.id]
    over = later.hold is not None or later.kept is not None
    # Those before it may be held for the same.
    found = next((b for b in earlier if not (over and b.withheld)), None)
    if found is None:
        raise NotFoundError(
            f"image {later.image} has no {'good' if over else 'ready'} build from before build {later.id}",
            hint="Name both builds: 'imagepool build diff A B'.",
        )
    return found


# -- what is in them ----------------------------------------------------------------------------------


def _contents(config: Config, build: Build) -> Contents:
    """What the build's files say; RefusedError when it has none, NotFoundError when they are not here."""
    if build.state in _NO_FILES and build.kept is None:
        raise RefusedError(f"there is nothing to compare: build {build.id} {_NO_FILES[build.state]}")
    directory = artifacts.directory(config.images_dir, build.image, build.id)
    try:
        return contents.load(directory)
    except NotFoundError as error:
        if build.builder not in (None, host_name()):
            raise NotFoundError(
                f"the files of build {build.id} are on {build.builder}",
                hint="Run this command there; builds of different machines can't be compared.",
            ) from error
        raise NotFoundError(
            f"the files of build {build.id} are gone: {error.message}",
            hint="'imagepool build list' shows which other builds there are.",
        ) from error

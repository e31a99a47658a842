"""`imagepool image ...`: what there is, what comes next, and asking for more."""

from __future__ import annotations

import argparse

from builder.cli import follow, lookup, render, status, text
from builder.cli.base import Action, Lister, Shower, words_on_record
from builder.cli.cells import Cell, Moment
from builder.cli.context import builder_id
from builder.config.model import Config
from builder.errors import ActionFailedError, NotFoundError, RefusedError
from builder.model import Request
from builder.planning.explain import explain
from builder.store.base import Store

#: The reason on record when nobody says one.
BY_HAND = "asked by hand"
EXPLAIN_COLUMNS = ("what", "verdict", "due", "reason")
#: Seconds after which the waiting looks at the clock even when nothing changes in the store.
HEARTBEAT = 5.0


class ListImages(Lister):
    """List every image, its state and its next build

    The state is building, failed or ready after its newest build, else paused or missing. Uploads
    are counted for the newest ready build: in how many of its providers it is ready.
    """

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each image that is configured or on record."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config) as store:
            snapshot = store.snapshot()
        images = status.of_all(config, snapshot, now)
        return render.table(render.IMAGE_COLUMNS, [render.image_row(image, now) for image in images])


class ShowImage(Shower):
    """Show an image, where it is and what comes next"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def row(self, options: argparse.Namespace) -> render.Row:
        """Its state, its decisions, its builds and its providers."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config) as store:
            snapshot = store.snapshot()
        name = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        return render.image_details(status.of_image(config, snapshot, now, name), now)


class ExplainImage(Lister):
    """Say why an image will or won't be built and uploaded, and when

    These are the daemon's own decisions, made on what is on record now.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each decision."""
        config = self.context.config_to_show(self.note)
        with self.context.store(config) as store:
            snapshot = store.snapshot()
        name = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        decisions = explain(config, snapshot, self.context.now(), name, builder_id(config))
        rows = [
            {"what": Cell(d.what), "verdict": Cell(d.verdict), "due": Moment(d.due), "reason": Cell(d.reason)}
            for d in decisions
        ]
        return render.table(EXPLAIN_COLUMNS, rows)


class PauseImage(Action):
    """Stop builds of an image

    Uploads of what is built already go on. A build somebody asks for is made all the same.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Set the pause mark."""
        config = self.context.config_for_records()
        with self.context.store(config) as store:
            name = lookup.image_name(store.snapshot(), tuple(config.diskimages), options.image)
            store.pause(name)
        self.say(f"builds of {name} are paused")
        return 0


class UnpauseImage(Action):
    """Let builds of an image go on"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Take the pause mark away."""
        config = self.context.config_for_records()
        with self.context.store(config) as store:
            name = lookup.image_name(store.snapshot(), tuple(config.diskimages), options.image)
            store.unpause(name)
        by_file = name in config.diskimages and config.diskimages[name].pause
        still = f", but still paused by the configuration {config.path}" if by_file else ""
        self.say(f"builds of {name} are no longer paused by hand{still}")
        return 0


class BuildImage(Action):
    """Ask for a build of an image now

    The request stays until a daemon with the role builder has served it. With --wait, every change
    is reported on stderr until the image is ready in all its providers (exit code 0) or failed (1);
    Ctrl-C ends the waiting, not the request.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, why, and whether to wait."""
        _image_argument(parser)
        parser.add_argument("--wait", action="store_true", help="wait for the build and all its uploads")
        parser.add_argument(
            "--why", metavar="TEXT", default=BY_HAND, help=f"the reason to put on record (default: {BY_HAND})"
        )

    def act(self, options: argparse.Namespace) -> int:
        """File the request, and follow it when asked to."""
        config = self.context.config()
        why = words_on_record("--why", options.why) or BY_HAND
        with self.context.store(config, watch=options.wait) as store:
            snapshot = store.snapshot()
            name = _buildable(config, lookup.image_name(snapshot, tuple(config.diskimages), options.image))
            before = frozenset(b.id for b in snapshot.image(name).builds)
            ours = Request(image=name, by=self.context.who(), why=why, time=self.context.now())
            request = store.request_build(ours)
            answer = text.one_line(_answer(ours, request))
            if not options.wait:
                self.say(answer)
                return 0
            if not _is_same(ours, request):
                self.note(answer)
            follower = follow.Follower(request=request, known=before, since=self.context.now())
            try:
                self._follow(config, store, follower)
            except KeyboardInterrupt:
                self.note("no longer waiting; the request and its build go on")
                raise
        self.say(f"{name} is ready in all its providers")
        return 0

    def _follow(self, config: Config, store: Store, follower: follow.Follower) -> None:
        """Report every change until the end; ActionFailedError when it was no good one."""
        seen = -1
        while True:
            seen = store.wait(seen, HEARTBEAT)
            news = follower.look(config, store.snapshot(), self.context.now())
            for line in news.lines:
                self.note(text.one_line(line))
            if news.outcome is not None:
                break
        for line in news.outcome.lines:
            self.note(f"  {text.visible(line)}")
        if news.outcome.reason is not None:
            raise ActionFailedError(
                news.outcome.reason,
                hint=news.outcome.hint or f"See 'imagepool image show {follower.request.image}'.",
            )


def _image_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the name of an image")


def _buildable(config: Config, name: str) -> str:
    """The name, when the configuration lets that image be built; NotFoundError, RefusedError."""
    image = config.diskimages.get(name)
    if image is None:
        raise NotFoundError(
            f"{name} is on record, but the configuration {config.path} has no such diskimage",
            hint="Add it to the configuration to build it again.",
        )
    if image.pause:
        raise RefusedError(
            f"{name} is paused by the configuration {config.path}",
            hint="Remove 'pause' from the diskimage there.",
        )
    return name


def _is_same(ours: Request, there: Request) -> bool:
    return (ours.by, ours.why, ours.time) == (there.by, there.why, there.time)


def _answer(ours: Request, there: Request) -> str:
    """What became of our request: it is the open one, or somebody else's is."""
    if _is_same(ours, there):
        return f"a build of {ours.image} is requested ({ours.why}, {ours.by})"
    who = f"{there.why}, {there.by}, {text.moment(there.time)}"
    return f"a build of {ours.image} was asked for already ({who}); this request joins it"

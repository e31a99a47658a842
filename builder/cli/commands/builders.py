"""`imagepool builder ...`: the machines that build, and declaring one of them gone for good."""

from __future__ import annotations

import argparse

from builder.cli import builders, render_builders, standstill, text
from builder.cli.base import Action, Lister, words_on_record
from builder.cli.builders import BuilderStatus, Presence
from builder.cli.render import Table, table
from builder.errors import RefusedError
from builder.model import Pause


class ListBuilders(Lister):
    """List the machines that build, and what each of them has

    `alive` are all daemons that run, those without the role builder included. A builder that records know
    and that doesn't run is `gone`, or `forgotten` when somebody said that it won't come back.
    """

    def table(self, options: argparse.Namespace) -> Table:
        """A row for each."""
        snapshot = self.records(self.context.config_for_records())
        rows = [render_builders.builder_row(status) for status in builders.of_all(snapshot)]
        return table(render_builders.BUILDER_COLUMNS, rows)


class ForgetBuilder(Action):
    """Declare a builder and its files gone for good

    What it built stays in use in the clouds until successors are ready there; what only its files could
    serve is built anew. Its daemon takes that back by itself if it starts after all.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which builder, why, and whether to insist."""
        _builder_argument(parser)
        parser.add_argument("--why", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("--force", action="store_true", help="although it still seems to be alive")

    def act(self, options: argparse.Namespace) -> int:
        """Put the word on record, and say what becomes of what it had."""
        why = words_on_record("--why", options.why)
        config = self.context.config_for_records()
        snapshot = self.context.snapshot(config)
        status = builders.named(snapshot, options.builder)
        if status.forgotten is not None:
            self.say(f"{status.name} was forgotten already, {standstill.told(status.forgotten)}")
            return 0
        _refuse_alive(status, force=options.force)
        word = Pause(by=self.context.who(), time=self.context.now(), why=why)
        with self.context.store(config) as store:
            store.forget_builder(str(status.builder_id), word)
        self.say(f"{status.name} is forgotten")
        for line in builders.consequences(config, snapshot, status):
            self.say(text.one_line(line))
        self.say("Its daemon takes this back if it starts again; so does 'imagepool builder recall'.")
        return 0


class RecallBuilder(Action):
    """Take it back that a builder is gone for good

    Its files count again. What was failed or removed meanwhile stays so.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which builder."""
        _builder_argument(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Take the word away."""
        config = self.context.config_for_records()
        status = builders.named(self.context.snapshot(config), options.builder)
        with self.context.store(config) as store:
            store.recall_builder(str(status.builder_id))
        if status.forgotten is None:
            self.say(f"{status.name} was not forgotten")
        else:
            self.say(f"{status.name} is no longer forgotten (it was {standstill.told(status.forgotten)})")
        return 0


def _refuse_alive(status: BuilderStatus, *, force: bool) -> None:
    if status.presence is not Presence.ALIVE or force:
        return
    if status.daemon is not None:
        alive = f"its daemon runs since {text.moment(status.daemon.started)}"
    else:
        alive = f"build {status.running[0].id} is running there"
    raise RefusedError(
        f"{status.name} is alive: {alive}",
        hint="Stop it first. One that has just died is seen to be gone when its session has timed out;"
        " with --force it is forgotten at once.",
    )


def _builder_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "builder", metavar="NAME", help="the host name of a builder, or the beginning of its id"
    )

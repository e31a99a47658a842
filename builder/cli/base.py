"""What all commands share: cliff's three kinds of commands, our formats, our context.

A command says its arguments and what it does: `Action.act`, `Lister.table`, `Shower.row`.
"""

from __future__ import annotations

import argparse
import gc
import unicodedata
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cliff._argparse import SmartHelpFormatter
from cliff.command import Command
from cliff.display import DisplayCommandBase
from cliff.lister import Lister as CliffLister
from cliff.show import ShowOne

from builder.cli import formatters, standstill
from builder.cli.render import Row, Table
from builder.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from builder.cli.app import Application
    from builder.cli.context import Context, Known
    from builder.config.model import Config
    from builder.model import Snapshot


class _HelpFormatter(SmartHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the paragraphs of a command's docstring."""


class Base(Command):
    """A command of imagepool."""

    @property
    def application(self) -> Application:
        """The application that runs this command."""
        application: Application = self.app  # type: ignore[assignment]  # there is but one
        return application

    @property
    def context(self) -> Context:
        """Configuration, store and clock."""
        return self.application.context

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of this command."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The parser of this command, its own arguments included."""
        parser = super().get_parser(prog_name)
        parser.formatter_class = _HelpFormatter
        self.arguments(parser)
        return parser

    def get_epilog(self) -> str:
        """No epilog; cliff's names the distribution of a plugin, after reading all there are."""
        return ""

    def _load_hooks(self) -> None:
        # cliff scans the installed entry points for plugins that hook into commands; we have none.
        self._hooks = []

    def say(self, line: str = "") -> None:
        """Write a line of output."""
        self.app.stdout.write(f"{line}\n")

    def note(self, line: str) -> None:
        """Write a line about what is going on to stderr, at once."""
        self.app.stderr.write(f"{line}\n")
        self.app.stderr.flush()

    def records(self, config: Config) -> Snapshot:
        """All records at this moment, for who only looks at them; that everything is frozen is noted."""
        return self.noted(self.context.snapshot(config))

    def known(self, *, uploads: bool = True) -> Known:
        """The same, and the names that the configuration has, without loading all of it where that can be
        avoided. Without `uploads` these may be missing, which is quicker."""
        known = self.context.known(uploads=uploads)
        self.noted(known.snapshot)
        return known

    def noted(self, snapshot: Snapshot) -> Snapshot:
        """The same snapshot; that everything is frozen is told, if it is."""
        if snapshot.frozen is not None:
            self.note(standstill.frozen(snapshot.frozen))
        return snapshot

    def confirm(self, question: str) -> None:
        """Return when somebody at a terminal says yes; RefusedError when they don't, UsageError when
        there is nobody to ask."""
        stdin = self.app.stdin
        if not stdin.isatty():
            raise UsageError(f"nobody is there to be asked: {question}", hint="With --yes it is done.")
        self.app.stderr.write(f"{question} [y/N] ")
        self.app.stderr.flush()
        if stdin.readline().strip().lower() not in ("y", "yes"):
            raise RefusedError("it was not confirmed, and nothing was changed")


def words_on_record(option: str, value: str) -> str:
    """What somebody says for the record, without the white space around it; UsageError when it has line
    ends or control characters, with which it could look like more than one line of a log or a list."""
    words = value.strip()
    if any(not c.isprintable() and unicodedata.category(c) != "Zs" for c in words):
        raise UsageError(
            f"{option} has line ends or control characters in it: {words!r}", hint="Say it in one line."
        )
    return words


class Action(Base):
    """A command that does something, and prints text if anything."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Do it."""
        return self.act(parsed_args)

    @abstractmethod
    def act(self, options: argparse.Namespace) -> int:
        """Do it; the exit code."""


class _Display(Base, DisplayCommandBase[Any]):
    def _load_formatter_plugins(self) -> Any:
        return formatters.all_formatters()

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        # Thousands of records are made here and kept to the end: to look for garbage among them again and
        # again takes longer than to show them.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return int(super().run(parsed_args))
        finally:
            if collecting:
                gc.enable()

    def _generate_columns_and_selector(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str]
    ) -> tuple[list[str], list[bool] | None]:
        """Which columns to show; UsageError for one that there isn't (cliff ignores it)."""
        known = {self._normalize_column_name(name) for name in column_names}
        for asked in (*parsed_args.columns, *getattr(parsed_args, "sort_columns", ())):
            if self._normalize_column_name(asked) not in known:
                raise UsageError(
                    f"there is no column {asked!r}", hint=f"There is: {', '.join(column_names)}."
                )
        return super()._generate_columns_and_selector(parsed_args, column_names)


class Lister(_Display, CliffLister):
    """A command that lists records."""

    def get_parser(self, prog_name: str) -> Any:
        """Its options; cliff says of one that it passes over what it is told, which is refused here."""
        parser = super().get_parser(prog_name)
        for option in parser._actions:
            if option.dest == "sort_columns":
                option.help = "the column(s) to sort by; may be repeated, the first counts most"
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Column names and rows, as cliff wants them."""
        listed = self.table(parsed_args)
        return listed.columns, listed.rows

    @abstractmethod
    def table(self, options: argparse.Namespace) -> Table:
        """What to list."""


class Shower(_Display, ShowOne):
    """A command that shows one record."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Field names and values, as cliff wants them."""
        row = self.row(parsed_args)
        return tuple(row), tuple(row.values())

    @abstractmethod
    def row(self, options: argparse.Namespace) -> Row:
        """What to show."""

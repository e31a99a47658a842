"""The application: global options, choice of the command, help; errors are left to `main`."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from cliff._argparse import ArgumentParser
from cliff.app import App

from builder import __version__
from builder.cli import logs, nodepool
from builder.cli.context import CONFIG_VARIABLE, DEFAULT_CONFIG, SECURE_VARIABLE, Context, Parts
from builder.cli.registry import COMMANDS, LAUNCHERS, NODEPOOL, Entry, Registry
from builder.errors import UsageError

DESCRIPTION: Final = "Keep a CI system's virtual-machine images fresh in every OpenStack region."


class Application(App):
    """imagepool on cliff.

    cliff turns most errors into exit code 1 and an interactive shell into the default; here an
    error reaches `main` as it was raised, and no command means help.
    """

    NAME = "imagepool"

    def __init__(self, parts: Parts) -> None:
        self.registry = Registry()
        super().__init__(DESCRIPTION, __version__, self.registry)
        self._parts = parts
        self.context = Context(parts)

    def build_option_parser(
        self, description: str | None, version: str | None, argparse_kwargs: dict[str, Any] | None = None
    ) -> argparse.ArgumentParser:
        """The global options; they may stand before or after the command."""
        # Abbreviations would take "--col" of a command for a "--co(nfig)" of ours.
        parser = ArgumentParser(
            prog=self.NAME,
            usage="%(prog)s [OPTIONS] COMMAND ...",
            description=description,
            add_help=False,
            allow_abbrev=False,
        )
        parser.add_argument(
            "--config",
            metavar="FILE",
            type=Path,
            help=f"the configuration (default: ${CONFIG_VARIABLE} or {DEFAULT_CONFIG})",
        )
        parser.add_argument(
            "--secure",
            metavar="FILE",
            type=Path,
            help=f"nodepool's secure file, if you have one (default: ${SECURE_VARIABLE})",
        )
        loudness = parser.add_mutually_exclusive_group()
        loudness.add_argument("-v", "--verbose", action="count", default=0, help="log more; twice: all")
        loudness.add_argument("-q", "--quiet", action="store_true", help="log errors only")
        parser.add_argument("--debug", action="store_true", help="show a traceback when there is a bug")
        parser.add_argument("--version", action="version", version=f"{self.NAME} {version}")
        parser.add_argument("-h", "--help", action="store_true", help="show help and exit")
        return parser

    def run(self, argv: list[str]) -> int:
        """Run the command that `argv` names; its exit code. Raises what the command raises."""
        self.options, words = self.parser.parse_known_args(nodepool.in_our_words(argv))
        if self.options.help or not words:
            return self.show_help(words)
        self.context = Context(self._parts, self.options.config, self.options.secure)
        with logs.to_stderr(self.stderr, verbose=self.options.verbose, quiet=self.options.quiet):
            return self.run_subcommand(words)

    def run_subcommand(self, argv: list[str]) -> int:
        """Find the command, parse its options, run it."""
        command, name, rest = self._find(argv)
        options = command.get_parser(f"{self.NAME} {name}").parse_args(rest)
        return int(command.run(options))

    def show_help(self, words: list[str]) -> int:
        """Help for the command or group of commands these words begin with, or for everything."""
        names = words[: next((i for i, word in enumerate(words) if word.startswith("-")), len(words))]
        group = list(self.registry.below(" ".join(names)))
        if len(group) > 1:
            self.stdout.write(f"usage: {self.NAME} {' '.join(names)} COMMAND ...\n\n")
            self._list(group)
        elif names == [nodepool.GROUP]:
            self.stdout.write(f"usage: {self.NAME} [-c FILE] [-s FILE] COMMAND ...\n\nnodepool's ")
            self._list(NODEPOOL)
        elif names:
            command, name, _ = self._find(names)
            self.stdout.write(command.get_parser(f"{self.NAME} {name}").format_help())
        else:
            self.stdout.write(self.parser.format_help() + "\n")
            self._list(COMMANDS)
            self.stdout.write(f"\n'{self.NAME} help COMMAND' or '{self.NAME} COMMAND --help' says more.\n")
            self.stdout.write(f"nodepool's commands work as well: '{self.NAME} help {nodepool.GROUP}'.\n")
        return 0

    def _list(self, entries: Iterable[Entry]) -> None:
        self.stdout.write("commands:\n")
        listed = list(entries)
        width = max(len(entry.name) for entry in listed)
        for entry in listed:
            self.stdout.write(f"  {entry.name:<{width}}  {entry.summary}\n")

    def _find(self, words: list[str]) -> tuple[Any, str, list[str]]:
        try:
            factory, name, rest = self.command_manager.find_command(words)
        except ValueError:
            self._unknown(words)
        return factory(self, self.options, cmd_name=name), name, rest

    def _unknown(self, words: list[str]) -> NoReturn:
        if words[0].startswith("-"):
            raise UsageError(
                f"{words[0]} is no option of {self.NAME} itself",
                hint=f"Options of a command come after it. '{self.NAME} help' lists what there is.",
            )
        below = [e.name for e in self.registry.below(words[0])]
        if below:
            raise UsageError(
                f"'{self.NAME} {words[0]}' needs one of its commands", hint=f"There is: {', '.join(below)}."
            )
        if words[0] in LAUNCHERS:
            raise UsageError(
                f"there is no command {words[0]!r}: it is about servers, not images",
                hint="nodepool-launcher's own `nodepool` has it.",
            )
        typed = " ".join(words[:2])
        close = difflib.get_close_matches(typed, [e.name for e in (*COMMANDS, *NODEPOOL)], n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"'{self.NAME} help' lists all commands."
        raise UsageError(f"there is no command {typed!r}", hint=hint)

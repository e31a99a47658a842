"""`imagepool help`."""

from __future__ import annotations

import argparse

from builder.cli.base import Action


class Help(Action):
    """Show help for imagepool or one of its commands"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which command, if any."""
        parser.add_argument("words", nargs="*", metavar="COMMAND", help="the command, or its first word")

    def act(self, options: argparse.Namespace) -> int:
        """Print it."""
        return self.application.show_help(options.words)

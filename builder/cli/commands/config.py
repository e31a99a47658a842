"""`imagepool config ...`: check and print the configuration."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from builder.cli.base import Action
from builder.config import show


class ValidateConfig(Action):
    """Check a configuration and report every problem

    All problems are reported at once, each with file and line; the exit code is 2 when there are any.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which file."""
        parser.add_argument(
            "file", metavar="FILE", nargs="?", type=Path, help="the file to check (default: the one in use)"
        )

    def act(self, options: argparse.Namespace) -> int:
        """Load it."""
        config = self.context.config(options.file)
        counts = (
            (len(config.platforms), "platform"),
            (len(config.diskimages), "diskimage"),
            (len(config.providers), "provider"),
        )
        listed = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
        for remark in config.notes:
            self.note(f"note: {remark}")
        self.say(f"{config.path}: no problems ({listed})")
        return 0


class ShowConfig(Action):
    """Print the configuration as rendered, secrets masked

    With defaults, templates and parents filled in: what the daemon works with.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """In which format."""
        parser.add_argument(
            "-f",
            "--format",
            choices=("yaml", "json"),
            default="yaml",
            help="the output format (default: yaml)",
        )

    def act(self, options: argparse.Namespace) -> int:
        """Print it."""
        data = show.as_data(self.context.config())
        if options.format == "json":
            self.say(json.dumps(data, indent=2))
        else:
            self.app.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
        return 0

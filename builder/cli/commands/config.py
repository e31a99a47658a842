"""`imagepool config ...`: check and print the configuration."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

import yaml

from builder.cli import render
from builder.cli.base import Action, Lister
from builder.cli.cells import Cell, Paragraph
from builder.config import importing, show
from builder.config.document import read_document
from builder.config.problems import Problems
from builder.errors import ConfigError

IMPORT_COLUMNS: Final = ("place", "key", "kind", "text")


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


class CheckImport(Lister):
    """Say what of a nodepool.yaml is ignored, what differs, and what needs attention

    A nodepool.yaml works as it is; this says how it works here. What is `ignored` has no effect, what
    `differs` does not do just what it did with nodepool, and an `error` is for somebody to mend. The exit
    code is 0 when the file can be used, else 2.
    """

    _usable = True

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which file."""
        parser.add_argument(
            "file", metavar="FILE", nargs="?", type=Path, help="the file to read (default: the one in use)"
        )

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List the remarks; the exit code."""
        super().run(parsed_args)
        return 0 if self._usable else ConfigError.exit_code

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each remark, in the order of the file; what is wrong comes first."""
        path, secure = options.file or self.context.config_path, self.context.secure
        # What is wrong in the files is for the loader to tell.
        unheard = Problems()
        file = read_document(path, self.context.environ, unheard)
        secrets = (
            None if secure is None else read_document(secure, self.context.environ, unheard, secret=True)
        )
        remarks = [*self._loading(options.file), *importing.remarks(file, secrets)]
        rows: list[render.Row] = [
            {
                "place": Cell(remark.place),
                "key": Cell(remark.key),
                "kind": Cell(remark.kind),
                "text": Paragraph(remark.text),
            }
            for remark in remarks
        ]
        return render.table(IMPORT_COLUMNS, rows)

    def _loading(self, path: Path | None) -> list[importing.Remark]:
        """What the loader says of the file."""
        try:
            return [importing.without_effect(note) for note in self.context.config(path).notes]
        except ConfigError as error:
            self._usable = False
            return [importing.problem(text) for text in error.problems]

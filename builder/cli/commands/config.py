"""`imagepool config ...`: check and print the configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from builder.cli import render, render_differences
from builder.cli.base import Action, Lister
from builder.cli.cells import Cell, Paragraph
from builder.config import differences, importing, show
from builder.config.document import read_document
from builder.config.problems import Problems
from builder.config.sources import included_documents
from builder.dib.mirrors import unused
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
        for remark in dict.fromkeys(text for image in config.diskimages.values() for text in unused(image)):
            self.note(f"note: {remark}")
        self.say(f"{config.path}: no problems ({listed})")
        return 0


class ShowConfig(Action):
    """Print the configuration as rendered, secrets masked

    With defaults, templates and parents filled in: what the daemon works with. With --diff, only how two
    diskimages or two platforms of it differ; the exit code is 0 whether they do or not.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """In which format, and whether two of a kind are compared."""
        parser.add_argument(
            "-f",
            "--format",
            choices=("yaml", "json"),
            help="the output format (default: yaml; with --diff: lines with - and +)",
        )
        parser.add_argument(
            "--diff",
            nargs=2,
            metavar=("A", "B"),
            help="how diskimage or platform B differs from A, once rendered",
        )

    def act(self, options: argparse.Namespace) -> int:
        """Print it."""
        config = self.context.config_to_show(self.note)
        if options.diff is None:
            self._print(show.as_data(config), options.format or "yaml")
            return 0
        comparison = differences.compare(config, *options.diff)
        if options.format is None:
            for line in render_differences.lines(comparison):
                self.say(line)
        else:
            self._print(differences.as_data(comparison), options.format)
        return 0

    def _print(self, data: Mapping[str, Any], output_format: str) -> None:
        if output_format == "json":
            self.say(json.dumps(data, indent=2))
        else:
            self.app.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


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
        included = included_documents(file, self.context.environ)
        remarks = [*self._loading(options.file), *importing.remarks(file, secrets, included)]
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

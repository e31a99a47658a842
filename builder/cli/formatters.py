"""The output formats of every list and show: table, json, yaml, csv and value.

cliff finds its formatters by scanning the entry points of everything installed, which costs more
than most of our commands; and its `show` has no csv. Table, json and yaml are cliff's own.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from itertools import chain
from typing import Any, TextIO

from cliff.formatters.base import ListFormatter, SingleFormatter
from cliff.formatters.json_format import JSONFormatter
from cliff.formatters.table import TableFormatter
from cliff.formatters.yaml_format import YAMLFormatter
from stevedore.extension import Extension, ExtensionManager

from builder.cli import grid, text
from builder.cli.cells import Cell


def _plain(value: Any) -> Any:
    return value.machine_readable() if isinstance(value, Cell) else value


def flat(value: Any) -> str | int | float | bool | None:
    """A value in one field: lists of words joined by commas, anything deeper as JSON.

    Text is made safe for a terminal, which is where csv and value often end up.
    """
    value = _plain(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return text.visible(value) if isinstance(value, str) else value


class QuickTableFormatter(TableFormatter):
    """cliff's table, drawn by ourselves where a list is plain text and nobody wants it to fit: cliff fits
    what goes to a terminal."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write the table."""
        rows = [tuple(row) for row in data]
        if rows and not (parsed_args.max_width > 0 or parsed_args.fit_width or sys.stdout.isatty()):
            texts = [[cell.human_readable() for cell in row if isinstance(cell, Cell)] for row in rows]
            texts_are_all = all(len(cells) == len(column_names) for cells in texts)
            if texts_are_all and all(map(grid.is_plain, chain(column_names, *texts))):
                stdout.write(f"{grid.draw(column_names, texts)}\n")
                return
        super().emit_list(column_names, rows, stdout, parsed_args)


class CsvFormatter(ListFormatter, SingleFormatter):
    """RFC 4180: a header line, then a line for each record; what is not known is empty."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """It has no options."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write all records."""
        writer = csv.writer(stdout, lineterminator="\n")
        writer.writerow(column_names)
        writer.writerows([flat(value) for value in row] for row in data)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write one record."""
        self.emit_list(column_names, [data], stdout, parsed_args)


class ValueFormatter(ListFormatter, SingleFormatter):
    """Bare values for shell scripts: a line for each record, or for each field of a single one.

    What is not known is `None`, as in the `openstack` command, so that columns stay in place.
    """

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """It has no options."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write a line of values, separated by spaces, for each record."""
        for row in data:
            stdout.write(" ".join(str(flat(value)) for value in row) + "\n")

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write a line for each value."""
        for value in data:
            stdout.write(f"{flat(value)}\n")


def all_formatters() -> ExtensionManager[Any]:
    """Every formatter by its name, in the shape cliff keeps them in; each serves list and show."""
    formatters: dict[str, ListFormatter] = {
        "table": QuickTableFormatter(),
        "json": JSONFormatter(),
        "yaml": YAMLFormatter(),
        "csv": CsvFormatter(),
        "value": ValueFormatter(),
    }
    # stevedore calls it a test instance; it is its only way to make a manager without a scan.
    return ExtensionManager.make_test_instance(
        [
            Extension(
                name, EntryPoint(name, type(formatter).__module__, "imagepool"), type(formatter), formatter
            )
            for name, formatter in formatters.items()
        ]
    )

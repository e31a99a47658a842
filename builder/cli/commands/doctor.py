"""`imagepool doctor`: check by hand all that imagepool depends on, and say what to do."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from typing import Final

from builder.cli.base import Lister
from builder.cli.cells import Cell, Lines
from builder.cli.render import Row, Table, table
from builder.config.model import Config, DiskImage
from builder.doctor.examination import Diagnosis, cloud_of, examine
from builder.doctor.world import World
from builder.errors import NotFoundError, UsageError
from builder.findings import Level
from builder.service import ROLES

COLUMNS: Final = ("role", "check", "state", "found", "advice")
EXIT_PROBLEMS: Final = 1
#: Characters of a line in a table's cell.
_FOUND_WIDTH: Final = 64
_ADVICE_WIDTH: Final = 44


class Doctor(Lister):
    """Check all that imagepool depends on, and say what to do

    Looks at this machine, ZooKeeper, the mirrors and the clouds as the daemon would use them, whether it
    runs or not, and changes nothing. A `problem` will make work fail, with a `warning` it goes on. It ends
    within a minute, whatever hangs. The exit code is 1 when there is a problem.
    """

    _problems = 0

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """For whom, and for which image."""
        parser.add_argument(
            "--roles",
            metavar="ROLE[,ROLE...]",
            default=",".join(ROLES),
            help=f"the roles of this machine, of {', '.join(ROLES)} (default: all)",
        )
        parser.add_argument("--image", metavar="IMAGE", help="only what this image needs")

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List what was found; the exit code."""
        super().run(parsed_args)
        return EXIT_PROBLEMS if self._problems else 0

    def table(self, options: argparse.Namespace) -> Table:
        """Look at everything."""
        roles = _roles(options.roles)
        config = self.context.config_to_show(self.note)
        world = World(
            config=config,
            environ=self.context.environ,
            now=self.context.now(),
            cloud=cloud_of,
            images=_images(config, options.image),
        )
        found = examine(world, roles)
        counted = Counter(each.finding.level for each in found)
        self._problems = counted[Level.PROBLEM]
        self.note(
            f"{_plural(len(found), 'check')}: {_plural(counted[Level.PROBLEM], 'problem')},"
            f" {_plural(counted[Level.WARNING], 'warning')}"
        )
        return table(COLUMNS, [row(each) for each in found])


def row(diagnosis: Diagnosis) -> Row:
    """A line of the table."""
    finding = diagnosis.finding
    return {
        "role": Cell(diagnosis.role),
        "check": Cell(finding.name),
        "state": Cell(finding.level),
        "found": Lines(finding.text, textwrap.wrap(finding.text, _FOUND_WIDTH)),
        "advice": Lines(finding.hint or None, textwrap.wrap(finding.hint, _ADVICE_WIDTH)),
    }


def _roles(written: str) -> tuple[str, ...]:
    roles = tuple(role.strip() for role in written.split(",") if role.strip())
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise UsageError(
            f"no such role: {', '.join(unknown) or 'none given'}", hint=f"Roles are {', '.join(ROLES)}."
        )
    return roles


def _images(config: Config, name: str | None) -> tuple[DiskImage, ...]:
    if name is None:
        # What no provider lists and has no formats is never built, whatever is missing for it.
        return tuple(image for image in config.diskimages.values() if image.formats)
    if name not in config.diskimages:
        raise NotFoundError(
            f"the configuration {config.path} has no diskimage {name!r}",
            hint=f"There is: {', '.join(config.diskimages) or 'none'}.",
        )
    return (config.diskimages[name],)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""`imagepool plan`: what will be built, where, when and why, as far as it can be foreseen."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from builder.cli import render_plan, text
from builder.cli.base import Lister
from builder.cli.render import Table, table
from builder.errors import UsageError
from builder.planning.forecast import foresee

#: Hours that a plan covers, and at most.
HOURS: Final = 24
_MOST_HOURS: Final = 24 * 31
#: How far ahead a plan may begin: who looks further has mistyped the year.
_FARTHEST: Final = timedelta(days=366)
#: A time that somebody typed may be over when the command runs.
_TYPING: Final = timedelta(minutes=1)


class ShowPlan(Lister):
    """Say what will be built in the next 24 hours, where, when and why

    The daemon's own decisions, with time passing: builds come out well, and take as long as those before
    them. Diskimages that get no build have the verdict `no`, and the reason.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """From when, and for how long."""
        parser.add_argument(
            "--at",
            metavar="TIME",
            type=_moment,
            help="when the plan begins, as 2026-01-31T14:14 (UTC, or with an offset: +02:00); default: now",
        )
        parser.add_argument(
            "--hours", metavar="N", type=_hours, default=HOURS, help=f"how long it is (default: {HOURS})"
        )
        parser.add_argument(
            "--json",
            action="store_const",
            const="json",
            dest="formatter",
            default=argparse.SUPPRESS,
            help="the same as -f json",
        )

    def table(self, options: argparse.Namespace) -> Table:
        """A row for each build, then one for each diskimage without any."""
        now = self.context.now()
        begin = _beginning(options.at, now)
        config = self.context.config_to_show(self.note)
        until = begin + timedelta(hours=options.hours)
        outlook = foresee(config, self.records(config), now, until)
        if outlook.until < begin:
            raise UsageError(
                f"too much is built before {text.moment(begin)} to foresee so far",
                hint=f"It can be told until {text.moment(outlook.until)}.",
            )
        if outlook.until < until:
            self.note(f"there is too much to build: the plan ends at {text.moment(outlook.until)}")
        return table(render_plan.PLAN_COLUMNS, render_plan.plan_rows(outlook, begin))


def _beginning(at: datetime | None, now: datetime) -> datetime:
    """When the plan begins; UsageError when that is past, or too far ahead."""
    if at is None or now - _TYPING < at <= now:
        return now
    if at < now:
        raise UsageError(
            f"--at: {text.moment(at)} is past; now it is {text.moment(now)}",
            hint="'imagepool build list' shows what was built.",
        )
    if at - now > _FARTHEST:
        raise UsageError(
            f"--at: {text.moment(at)} is more than {_FARTHEST.days} days ahead",
            hint="Name a time before that.",
        )
    return at


def _moment(word: str) -> datetime:
    """A time in ISO 8601, taken as UTC unless it has an offset."""
    try:
        time = datetime.fromisoformat(word)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{word!r} is no time: write 2026-01-31T14:14, with Z or an offset such as +02:00 if you like"
        ) from None


def _hours(word: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", word) or not 1 <= int(word) <= _MOST_HOURS:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of hours: give 1 to {_MOST_HOURS}")
    return int(word)

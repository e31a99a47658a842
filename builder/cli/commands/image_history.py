"""`imagepool image history`: which build served where, from when to when, and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from builder.cli import lookup, render
from builder.cli.base import Lister
from builder.cli.cells import BuildId, Cell, Moment, Paragraph, Seconds, UploadName
from builder.model import Turn

HISTORY_COLUMNS: Final = (
    "provider", "build", "since", "until", "lasted", "by", "why", "ended_why", "upload",
)  # fmt: skip


class ShowHistory(Lister):
    """Tell which build served where, from when to when, and why

    The last 100 builds of each provider, newest first. What serves now has no `until`, and has lasted until
    now. `by` is whose word it was: imagepool's own, or that of somebody who went back or withheld a build.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, and where."""
        parser.add_argument("image", metavar="IMAGE", help="the name of an image")
        parser.add_argument(
            "--provider",
            metavar="PROVIDER",
            action="append",
            default=[],
            help="only there; may be given several times",
        )

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each time in which a build served."""
        config, now = self.context.config_for_records(), self.context.now()
        with self.context.store(config) as store:
            snapshot = self.noted(store.snapshot())
            image = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
            history = store.history(image)
        asked = [
            name if name in history else lookup.provider_name(snapshot, tuple(config.providers), name)
            for name in dict.fromkeys(options.provider)
        ]
        names = asked or _in_order(history, tuple(config.providers))
        rows = [_row(name, turn, now) for name in names for turn in history.get(name, ())]
        if not rows:
            self.note(f"nothing is on record of what served {image}{' there' if asked else ''}")
        return render.table(HISTORY_COLUMNS, rows)


def _in_order(history: Mapping[str, tuple[Turn, ...]], configured: tuple[str, ...]) -> Iterator[str]:
    """The providers in the order of the configuration, then those that are not in it any more."""
    yield from (name for name in configured if name in history)
    yield from sorted(history.keys() - set(configured))


def _row(provider: str, turn: Turn, now: datetime) -> render.Row:
    return {
        "provider": Cell(provider),
        "build": BuildId(turn.build_id),
        "since": Moment(turn.since),
        "until": Moment(turn.until),
        "lasted": Seconds(((turn.until or now) - turn.since).total_seconds()),
        "by": Cell(turn.by),
        "why": Paragraph(turn.why or None),
        "ended_why": Paragraph(turn.ended_why or None),
        "upload": UploadName(turn.upload),
    }

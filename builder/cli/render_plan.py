"""Turn what is foreseen into rows of cells: what is built from a moment on, and what is not; pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from builder.cli import text
from builder.cli.cells import Cell, Moment, Paragraph, Seconds, Words
from builder.cli.render import Row
from builder.planning.actions import Verdict
from builder.planning.forecast import Outlook, PlannedBuild

PLAN_COLUMNS: Final = (
    "image", "verdict", "start", "end", "builder", "trigger", "expected", "providers", "reason", "tick",
)  # fmt: skip


def plan_rows(outlook: Outlook, begin: datetime) -> tuple[Row, ...]:
    """What `plan` shows: the builds that run at the moment of beginning or start later, by start; then, by
    name, the diskimages that get none, with the reason."""
    builds = [build for build in outlook.builds if build.end > begin]
    without = dict(_without(outlook, {build.image for build in builds}))
    return (
        *(_build(build, begin) for build in builds),
        *(_nothing(image, without[image]) for image in sorted(without)),
    )


def _build(build: PlannedBuild, begin: datetime) -> Row:
    return {
        "image": Cell(build.image),
        "verdict": Cell(_verdict(build, begin)),
        "start": Moment(build.start),
        "end": Moment(build.end),
        "builder": Cell(build.hostname),
        "trigger": Cell(build.trigger),
        "expected": Seconds(build.expected),
        "providers": Words(build.providers),
        "reason": Paragraph(build.reason),
        "tick": Moment(build.tick),
    }


def _verdict(build: PlannedBuild, begin: datetime) -> Verdict:
    if build.running or build.start < begin:
        return Verdict.RUNNING
    return Verdict.NOW if build.start == begin else Verdict.LATER


def _without(outlook: Outlook, shown: set[str]) -> Iterator[tuple[str, str]]:
    """Why each of the other diskimages gets no build in this time."""
    for build in outlook.builds:
        if build.image not in shown:
            yield build.image, f"Its build at {text.moment(build.start)} is over by then; no other is due."
    for decision in outlook.others:
        yield decision.image, decision.reason


def _nothing(image: str, reason: str) -> Row:
    return {
        "image": Cell(image),
        "verdict": Cell(Verdict.NO),
        "start": Moment(None),
        "end": Moment(None),
        "builder": Cell(None),
        "trigger": Cell(None),
        "expected": Seconds(None),
        "providers": Words(()),
        "reason": Paragraph(reason),
        "tick": Moment(None),
    }

"""Turn open requests into rows of cells; pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from builder.cli.cells import Cell, Flag, Moment, Paragraph, Seconds
from builder.cli.render import Row
from builder.cli.waiting import Waiting

REQUEST_COLUMNS: Final = (
    "image", "by", "why", "age", "manual", "force", "urgent", "tick", "verdict", "builder", "reason",
)  # fmt: skip


def request_row(waiting: Waiting, now: datetime) -> Row:
    """What `request list` shows; age counts from when it was filed."""
    request, assignment = waiting.request, waiting.assignment
    return {
        "image": Cell(request.image),
        "by": Cell(request.by),
        "why": Cell(request.why),
        "age": Seconds((now - request.time).total_seconds()),
        "manual": Flag(request.manual),
        "force": Flag(request.force),
        "urgent": Flag(request.urgent),
        "tick": Moment(request.tick),
        "verdict": Cell(waiting.verdict),
        "builder": Cell(assignment.hostname if assignment is not None else None),
        "reason": Paragraph(waiting.reason),
    }

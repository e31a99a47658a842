"""Turn what regions serve before and after a build was withheld into rows of cells; pure."""

from __future__ import annotations

from typing import Final

from builder.cli.cells import BuildId, Cell, Paragraph, Seconds
from builder.cli.moving import Standing
from builder.cli.render import Row
from builder.model import Upload
from builder.planning.rollback import Move, MoveFate

MOVE_COLUMNS: Final = ("provider", "fate", "before", "after", "seconds", "outcome", "reason")


def planned_row(move: Move) -> Row:
    """A region before anything moved there: `after` is what would serve at once."""
    return _row(move, move.upload or move.serving)


def standing_row(standing: Standing) -> Row:
    """A region after it was waited for: `after` is what serves now."""
    return {
        **_row(standing.move, standing.serving),
        "seconds": Seconds(standing.seconds),
        "outcome": Cell(_outcome(standing)),
        "reason": Paragraph(standing.trouble or standing.move.reason),
    }


def _outcome(standing: Standing) -> str:
    if standing.move.fate is MoveFate.STUCK:
        return "stuck"
    return "serves" if standing.there else "not yet"


def _row(move: Move, after: Upload | None) -> Row:
    return {
        "provider": Cell(move.provider),
        "fate": Cell(move.fate),
        "before": _build(move.serving),
        "after": _build(after),
        "seconds": Seconds(None),
        "outcome": Cell(None),
        "reason": Paragraph(move.reason),
    }


def _build(upload: Upload | None) -> Cell:
    return BuildId(upload.build_id) if upload is not None else Cell(None)

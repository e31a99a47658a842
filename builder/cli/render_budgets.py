"""What came of the budgets of a build, and who let it go, as cells."""

from __future__ import annotations

from builder.cli import text
from builder.cli.cells import Lines
from builder.model import BudgetCheck, Build, Release
from builder.planning.words import by_whom


def budgets_cell(build: Build) -> Lines:
    """A line for each budget: what it came to, or why nobody can tell."""
    data = [
        {
            "measure": check.measure,
            "over": str(check.over) if check.over is not None else None,
            "value": check.value,
            "limit": check.limit,
            "baseline": check.baseline,
            "sentence": check.sentence,
        }
        for check in build.budgets
    ]
    return Lines(data, [_line(check) for check in build.budgets])


def release_cell(release: Release | None) -> Lines:
    """Whose word ended the hold of a build; nothing where none did."""
    if release is None:
        return Lines(None, ())
    data = {"by": release.by, "why": release.why, "time": text.iso(release.time)}
    return Lines(data, [f"released {by_whom(release)}"])


def _line(check: BudgetCheck) -> str:
    return f"over budget ({check.over}): {check.sentence}" if check.over is not None else check.sentence

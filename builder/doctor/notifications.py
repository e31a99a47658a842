"""Looks at those who are told how builds end: whether they could be told, and how it went lately."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from builder.config.model import Config, NotifyTarget
from builder.findings import Finding, fine, warning
from builder.notify import delivery, outbox
from builder.notify.outbox import Standing

_HINT: Final = "Builds go on all the same, and what waits is sent again and again, for three days."


def look(config: Config) -> Iterator[Finding]:
    """A finding for each target, whom nothing is sent now.

    Raises OSError when the daemon's outbox can't be read.
    """
    directory = outbox.home(config.state_dir)
    standings, waiting = outbox.read_standings(directory), outbox.count_waiting(directory)
    for target in config.notify.values():
        standing = standings.get(target.name, Standing())
        yield _look_at(target, standing, waiting.get(target.name, 0))


def _look_at(target: NotifyTarget, standing: Standing, waiting: int) -> Finding:
    name, where = f"notify {target.name}", delivery.address(target)
    problem = delivery.problem_of(target)
    if problem is not None:
        return warning(name, f"{where}: {problem}", hint=f"Mend it. {_HINT}")
    waits = f"; {waiting} to be told" if waiting else ""
    lost = f"; {standing.lost} never will be" if standing.lost else ""
    if standing.failures or standing.lost:
        since = f" since {standing.since:%Y-%m-%d %H:%M} UTC" if standing.since else ""
        tries = (
            f"the last {standing.failures} tries failed{since}" if standing.failures else "not all was told"
        )
        return warning(name, f"{where}: {tries}: {standing.why}{waits}{lost}", hint=_HINT)
    arrived = (
        f"told last at {standing.arrived:%Y-%m-%d %H:%M} UTC" if standing.arrived else "nothing told yet"
    )
    return fine(name, f"{where}: {arrived}{waits}")

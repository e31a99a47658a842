"""Turn builders into rows of cells; pure."""

from __future__ import annotations

from typing import Final

from builder.cli.builders import BuilderStatus
from builder.cli.cells import BuildId, Cell, Flag, Moment, Reason, Words
from builder.cli.render import Row
from builder.cli.standstill import told

BUILDER_COLUMNS: Final = (
    "host", "id", "state", "roles", "labels", "workers", "running", "holds", "version", "unfit", "draining",
    "leader", "since", "last_build", "forgotten",
)  # fmt: skip


def builder_row(status: BuilderStatus) -> Row:
    """What `builder list` shows; what only a daemon that is alive can tell is empty for the others."""
    daemon = status.daemon
    return {
        "host": Cell(status.hostname),
        "id": BuildId(status.builder_id),
        "state": Cell(status.presence),
        "roles": Words(daemon.roles if daemon is not None else ()),
        "labels": Words(sorted(daemon.labels) if daemon is not None else ()),
        "workers": Cell(daemon.build_workers if daemon is not None and _builds(status) else None),
        "running": Words([build.image for build in status.running]),
        "holds": Cell(len(status.holds)),
        "version": Cell(daemon.version if daemon is not None else None),
        "unfit": Reason(daemon.unfit if daemon is not None else None),
        "draining": Flag(daemon.draining if daemon is not None else None),
        "leader": Flag(status.leads),
        "since": Moment(daemon.started if daemon is not None else None),
        "last_build": Moment(status.last_build),
        "forgotten": Reason(told(status.forgotten) if status.forgotten is not None else None),
    }


def _builds(status: BuilderStatus) -> bool:
    return status.daemon is not None and "builder" in status.daemon.roles

"""Turn what would be cleaned up into rows of cells, each with its reason, bytes and age; pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from builder.cli.cells import BuildId, Bytes, Cell, Moment, Paragraph, Seconds, UploadName
from builder.cli.render import Row
from builder.model import Build, Upload
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.records import has_file

CLEANUP_COLUMNS: Final = (
    "by", "action", "id", "image", "provider", "external_id", "bytes", "age", "verdict", "due", "reason",
    "outcome",
)  # fmt: skip


class By(StrEnum):
    """Who does it."""

    PERSON = "you"  #: `imagepool cleanup`, on somebody's word
    JANITOR = "janitor"  #: the daemon, by itself


class Action(StrEnum):
    """What is done besides what the janitor can do."""

    FORGET = "forget-upload"  #: remove the record, and leave what is in the cloud


@dataclass(frozen=True, kw_only=True)
class Line:
    """One action, and what came of it once it was tried; "" before."""

    by: By
    action: CleanupKind | Action
    verdict: Verdict
    reason: str
    build: Build | None = None
    upload: Upload | None = None
    due: datetime | None = None
    outcome: str = ""

    @classmethod
    def of(cls, action: CleanupAction, by: By) -> Line:
        """The line of a planned action."""
        return cls(
            by=by,
            action=action.kind,
            verdict=action.verdict,
            reason=action.reason,
            build=action.build,
            upload=action.upload,
            due=action.due,
        )

    @property
    def name(self) -> str:
        """The id of what it is about, whole."""
        if self.upload is not None:
            return self.upload.name
        return self.build.id if self.build is not None else ""

    @property
    def bytes(self) -> int | None:
        """What becomes free in the cloud or on disk, as far as it is on record."""
        if self.upload is not None:
            return self.upload.size if self.upload.external_id is not None else None
        if self.build is None:
            return None
        files = [a.size for a in self.build.artifacts if has_file(self.build, a.format)]
        return sum(files) if files else None


def line_row(line: Line, now: datetime) -> Row:
    """What `cleanup` shows; age counts from the beginning of the build or upload."""
    record = line.upload or line.build
    began = None if record is None else (record.started or record.state_time)
    shown = UploadName(line.name) if line.upload is not None else BuildId(line.name or None)
    return {
        "by": Cell(line.by),
        "action": Cell(line.action),
        "id": shown if line.name else Cell(None),
        "image": Cell(record.image if record is not None else None),
        "provider": Cell(line.upload.provider if line.upload is not None else None),
        "external_id": Cell(line.upload.external_id if line.upload is not None else None),
        "bytes": Bytes(line.bytes),
        "age": Seconds(None if began is None else (now - began).total_seconds()),
        "verdict": Cell(line.verdict),
        "due": Moment(line.due),
        "reason": Paragraph(line.reason),
        "outcome": Cell(line.outcome or None),
    }

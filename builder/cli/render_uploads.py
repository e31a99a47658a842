"""Turn uploads into rows of cells; pure. The column names are an interface: scripts read them."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from builder.cli import guard, text, withheld
from builder.cli.cells import (
    BuildId,
    Bytes,
    Cell,
    Flag,
    Lines,
    Moment,
    Rate,
    Reason,
    Seconds,
    Share,
    UploadName,
)
from builder.cli.motion import motion
from builder.cli.render import Row, failure_cell, timings_cell
from builder.model import Checked, CheckVerdict, Deletion, ImageRecords, Upload, UploadCancellation
from builder.planning import words

UPLOAD_COLUMNS: Final = (
    "id", "build_id", "image", "provider", "region", "state", "external_id", "external_name", "format",
    "size", "age", "duration", "reason", "phase", "way", "sent", "progress", "rate", "left", "serving",
    "hidden", "withheld", "check",
)  # fmt: skip

_SAID: Final = {
    CheckVerdict.RUNNING: "running",
    CheckVerdict.GOOD: "good",
    CheckVerdict.REFUSED: "refused",
    CheckVerdict.UNKNOWN: "could not tell",
}


def upload_row(upload: Upload, records: ImageRecords, now: datetime) -> Row:
    """What `upload list` shows; age counts from the upload's beginning.

    `records` are those of its image: they tell whether anybody works on one that says it runs.
    """
    began = upload.started or upload.state_time
    moving = motion(upload, records, now)
    return {
        "id": UploadName(upload.name),
        "build_id": BuildId(upload.build_id),
        "image": Cell(upload.image),
        "provider": Cell(upload.provider),
        "region": Cell(upload.region),
        "state": Cell(upload.state),
        "external_id": Cell(upload.external_id),
        "external_name": Cell(upload.external_name),
        "format": Cell(upload.format),
        "size": Bytes(upload.size),
        "age": Seconds((now - began).total_seconds()),
        "duration": Seconds(upload.duration),
        "reason": Reason(_why(upload, records)),
        "phase": Cell(upload.phase),
        "way": Cell(upload.way),
        "sent": Bytes(upload.sent),
        "progress": Share(moving.share),
        "rate": Rate(moving.rate),
        "left": Seconds(moving.left),
        "serving": Moment(upload.serving),
        "hidden": Flag(upload.hidden),
        "withheld": Reason(_withheld(upload, records)),
        "check": Reason(_check(upload.checked)),
    }


def upload_details(upload: Upload, records: ImageRecords, now: datetime) -> Row:
    """What `upload show` shows: the row, and everything else on record."""
    wish = next((w for w in records.upload_cancellations if w.upload == upload.name), None)
    return {
        **upload_row(upload, records, now),
        "id": Cell(upload.name),
        "build_id": Cell(upload.build_id),
        "reason": Cell(_why(upload, records)),
        "parts": Lines(
            dict(upload.parts), [f"{name}: {image_id}" for name, image_id in upload.parts.items()]
        ),
        "failure": failure_cell(upload.reason),
        "uploader": Cell(upload.uploader),
        "state_time": Moment(upload.state_time),
        "started": Moment(upload.started),
        "ended": Moment(upload.ended),
        "timings": timings_cell(upload.timings),
        "fallbacks": Lines(list(upload.fallbacks), upload.fallbacks),
        "task": Cell(upload.task),
        "cloud": Cell(upload.cloud),
        "hook_output": Lines(list(upload.hook_output), upload.hook_output),
        "cancellation": _cancellation(wish),
        "deletion": _deletion(upload.deletion),
        "withheld": Cell(_withheld(upload, records)),
        "check": Cell(_check(upload.checked)),
    }


def _why(upload: Upload, records: ImageRecords) -> str | None:
    return text.summary(upload.reason) or guard.nobody_uploads(records, upload)


def _withheld(upload: Upload, records: ImageRecords) -> str | None:
    return withheld.in_provider(records.build(upload.build_id), upload.provider)


def _check(checked: Checked | None) -> str | None:
    """What the check of the canaries says of the image, since when and why."""
    if checked is None:
        return None
    since = "since" if checked.verdict is CheckVerdict.RUNNING else "at"
    why = f": {words.line(checked.why)}" if checked.why else ""
    return text.one_line(f"{_SAID[checked.verdict]} {since} {text.moment(checked.time)}{why}")


def _cancellation(wish: UploadCancellation | None) -> Lines:
    if wish is None:
        return Lines(None, ())
    data = {"by": wish.by, "why": wish.why, "time": text.iso(wish.time)}
    return Lines(data, [f"cancelled by {_who(wish.by, wish.time, wish.why)}"])


def _deletion(deletion: Deletion | None) -> Lines:
    if deletion is None:
        return Lines(None, ())
    data = {"by": deletion.by, "why": deletion.why, "time": text.iso(deletion.time)}
    return Lines(data, [f"by {_who(deletion.by, deletion.time, deletion.why)}"])


def _who(by: str, time: datetime, why: str) -> str:
    return f"{words.line(by)} at {text.moment(time)}" + (f": {words.line(why)}" if why else "")

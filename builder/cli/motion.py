"""How far an upload is, how fast its bytes move and how long they still take; pure, and only as far as known.

Bytes that left say nothing of what Glance still has to do with them: `left` is the rest of the
sending alone, and there is no share or rest of an upload that nobody works on any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from builder.cli import guard, text
from builder.model import ImageRecords, Upload, UploadPhase, UploadState

#: Seconds after which a rate says something.
_LEAST: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Each is None where it is not known, or makes no sense."""

    share: float | None = None  #: of the bytes that have to leave, 0 to 1
    rate: float | None = None  #: bytes per second; of an upload that has ended, on average
    left: float | None = None  #: seconds until all bytes have left, at this rate


def motion(upload: Upload, records: ImageRecords, now: datetime) -> Motion:
    """How an upload moves at `now`; `records` are those of its image."""
    if upload.state is not UploadState.UPLOADING:
        return Motion(rate=upload.rate)
    if not guard.is_moving(records, upload) or not upload.size:
        return Motion()
    share = min(1.0, upload.sent / upload.size)
    if upload.phase != UploadPhase.SEND:
        # Before, nothing has left; afterwards Glance works, and nobody knows for how long.
        return Motion(share=share, rate=upload.rate)
    rate = _rate(upload, now)
    left = None if rate is None else max(0, upload.size - upload.sent) / rate
    return Motion(share=share, rate=rate, left=left)


def _rate(upload: Upload, now: datetime) -> float | None:
    """Bytes per second since sending began; the phases before are timed on the record, this one isn't yet."""
    if upload.started is None:
        return None
    seconds = (now - upload.started).total_seconds() - sum(upload.timings.values())
    return upload.sent / seconds if upload.sent and seconds >= _LEAST else None


def told(moving: Motion) -> str:
    """How fast, and for how long still, as the end of a line: ", 35.2 MB/s, about 10s left"."""
    if moving.left is None or moving.rate is None:
        return ""
    return f", {text.size(round(moving.rate))}/s, {text.rest(moving.left, 0.0)}"

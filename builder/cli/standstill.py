"""Say what stands still: on whose word, since when and why; pure.

Builds of an image, uploads to a provider, or everything: each is a `Pause` on record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.cli import text
from builder.cli.cells import Lines
from builder.model import Pause
from builder.planning import words

if TYPE_CHECKING:
    from builder.config.model import DiskImage


def told(pause: Pause) -> str:
    """Whose word it was, when and why, on one line: "by ann@nb01 at 2026-11-21 14:14 UTC: bad mirror"."""
    return text.one_line(words.by_whom(pause))


def frozen(pause: Pause) -> str:
    """The line above every list and show while everything is frozen."""
    return f"frozen {told(pause)}; nothing begins by itself until 'imagepool unfreeze'"


def pause_cell(pause: Pause | None) -> Lines:
    """Everything on record about a pause; nothing without one."""
    if pause is None:
        return Lines(None, ())
    data = {"by": pause.by, "why": pause.why, "time": text.iso(pause.time)}
    return Lines(data, [told(pause)])


def of_image(image: DiskImage | None, pause: Pause | None) -> str | None:
    """Why builds of an image are paused, by the configuration or by hand; None when they are not."""
    by_file = "in the configuration" if image is not None and image.pause else ""
    by_hand = told(pause) if pause is not None else ""
    return " and ".join(filter(None, (by_file, by_hand))) or None

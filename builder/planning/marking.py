"""Decide which cloud images are told that their build is withheld, and which no longer.

The property outlives the records, so that no build in quarantine comes back when those are lost. Which word
an image tells is on its record (`Upload.withheld`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.config.model import Config
from builder.model import ImageRecords, Snapshot, Upload, UploadState, Withholding
from builder.planning.words import short, withheld


@dataclass(frozen=True, kw_only=True)
class Marking:
    """That an image is to tell something else than it does; there is none where all is right."""

    upload: Upload
    word: Withholding | None  #: None: its build is not withheld there
    reason: str


def plan_markings(config: Config, snapshot: Snapshot) -> tuple[Marking, ...]:
    """The changes that are due in all configured providers, by image. A freeze stops none: nothing moves."""
    return tuple(
        marking for name in sorted(snapshot.images) for marking in markings_of(config, snapshot.images[name])
    )


def markings_of(config: Config, records: ImageRecords) -> Iterator[Marking]:
    """Those of one image."""
    words = {build.id: build for build in records.builds if build.withheld}
    for upload in records.uploads:
        if upload.state is not UploadState.READY or upload.provider not in config.providers:
            continue
        build = words.get(upload.build_id)
        word = None if build is None else build.withheld_from(upload.provider)
        if upload.withheld != (None if word is None else word.time):
            yield Marking(upload=upload, word=word, reason=_reason(upload, word))


def _reason(upload: Upload, word: Withholding | None) -> str:
    if word is None:
        return f"Build {short(upload.build_id)} is not withheld from {upload.provider} any more."
    said = withheld(upload.build_id, word)
    return f"{said[0].upper()}{said[1:]}."

"""Puts the records of what is to serve before those of the others, and lets nodepool's launcher take it.

The launchers go on while records are written, and take the ready upload with the newest `state_time`. As far
as images tell their age, that may be one which is withheld, or still waited for other providers. Which is to
serve, and by which time it is taken, is found by deciding on the records as they will be, as the promoter
does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from builder.config.model import Config
from builder.model import Build, ImageRecords, Snapshot, Upload
from builder.planning.actions import Promotion
from builder.planning.promotion import promotions_of
from builder.planning.recovery.steps import Step


def with_heirs_first(
    config: Config, snapshot: Snapshot, steps: Sequence[Step], now: datetime
) -> tuple[Step, ...]:
    """The steps with what is written first, of which uploads that don't serve come last; each upload that is
    to serve gets a time by which it is taken, whatever else is on record of its provider."""
    heirs: dict[str, Promotion] = {}
    for name, written in _by_diskimage(steps).items():
        image = config.diskimages.get(name)
        if image is None:
            continue
        after = snapshot.with_image(_after(snapshot.image(name), written))
        for promotion in promotions_of(image, config, after, now):
            if promotion.upload is not None:
                heirs[promotion.upload.name] = promotion
    return tuple(sorted((_taken(step, heirs) for step in steps), key=lambda step: _rank(step, heirs)))


def _by_diskimage(steps: Iterable[Step]) -> Mapping[str, list[Step]]:
    """The steps that are written, by what they are of."""
    found: defaultdict[str, list[Step]] = defaultdict(list)
    for step in steps:
        if step.writes and step.diskimage is not None:
            found[step.diskimage].append(step)
    return found


def _after(records: ImageRecords, steps: Iterable[Step]) -> ImageRecords:
    """The records of an image once those steps are written."""
    builds: dict[str, Build] = {build.id: build for build in records.builds}
    uploads: dict[str, Upload] = {upload.name: upload for upload in records.uploads}
    for step in steps:
        if step.upload is not None:
            uploads[step.upload.name] = step.upload
        elif step.build is not None:
            builds[step.build.id] = step.build
    return replace(records, builds=tuple(builds.values()), uploads=tuple(uploads.values()))


def _taken(step: Step, heirs: Mapping[str, Promotion]) -> Step:
    """The step, of what is to serve with the time by which it is taken."""
    if step.upload is None or not step.writes:
        return step
    promotion = heirs.get(step.upload.name)
    if promotion is None or promotion.renewed is None:
        return step
    return replace(step, upload=step.upload.renewed(promotion.renewed))


def _rank(step: Step, heirs: Mapping[str, Promotion]) -> tuple[bool, bool]:
    waits = step.upload is not None and step.upload.name not in heirs
    return not step.writes, step.writes and waits

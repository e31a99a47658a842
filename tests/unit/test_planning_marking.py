"""Which images are to tell that their build is withheld, and which no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.model import Build, ImageRecords, Snapshot, Upload, UploadState, Withholding
from builder.planning.marking import plan_markings
from tests.unit.planning_world import DAY, HOUR, IMAGE, NOW, config, diskimage, provider, ready, upload

MADE = ready(1, NOW - DAY)
THERE = upload(1, UploadState.READY, NOW - DAY, external_id="i-1")
EVERYWHERE = Withholding(provider=None, by="ann", time=NOW - HOUR, why="it does not boot")
NORTH = Withholding(provider="north", by="bob", time=NOW)
SOUTH = Withholding(provider="south", by="bob", time=NOW)
CONFIG = config(diskimage(), provider("north"))


def planned(build: Build, *uploads: Upload) -> list[tuple[str, Withholding | None]]:
    """The uploads whose images are to tell something else, and what."""
    records = ImageRecords(name=IMAGE, builds=(build,), uploads=uploads)
    plan = plan_markings(CONFIG, Snapshot(images={IMAGE: records}))
    return [(each.upload.name, each.word) for each in plan]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((EVERYWHERE,), EVERYWHERE),
        ((NORTH,), NORTH),
        ((NORTH, EVERYWHERE), EVERYWHERE),
    ],
)
def test_an_image_is_told_what_is_on_record_once(words: tuple[Withholding, ...], wanted: Withholding) -> None:
    build = replace(MADE, withheld=words)
    assert planned(build, THERE) == [(THERE.name, wanted)]
    assert planned(build, replace(THERE, withheld=wanted.time)) == []


def test_a_newer_word_takes_the_place_of_an_older_one() -> None:
    assert planned(replace(MADE, withheld=(NORTH,)), replace(THERE, withheld=EVERYWHERE.time)) == [
        (THERE.name, NORTH)
    ]


def test_it_is_taken_back_with_the_word() -> None:
    told = replace(THERE, withheld=EVERYWHERE.time)
    assert planned(MADE, told) == [(told.name, None)]
    assert planned(replace(MADE, withheld=(SOUTH,)), told) == [(told.name, None)]


def test_nothing_is_told_where_no_image_is_to_stay_or_nobody_can_be_asked() -> None:
    build = replace(MADE, withheld=(EVERYWHERE,))
    others = (
        upload(1, UploadState.UPLOADING, NOW),
        upload(1, UploadState.DELETING, NOW, external_id="i-2"),
        upload(1, UploadState.READY, NOW, to="gone", external_id="i-3"),
    )
    assert planned(build, *others) == []
    assert planned(MADE, THERE) == []

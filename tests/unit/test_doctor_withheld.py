"""What `imagepool doctor` says of builds that somebody keeps out of service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Config
from builder.doctor.withheld import look
from builder.findings import Finding, Level
from builder.model import Build, Upload, UploadState, Withholding
from tests.unit.planning_world import (
    DAY,
    HOUR,
    NOW,
    build_id,
    config,
    daemon,
    diskimage,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

CONFIG = config(diskimage(), provider("north"), provider("south"))
WORD = Withholding(provider=None, by="ann@nb01", time=NOW - HOUR, why="no network")
TOLD = f"build {build_id(2)[:8]} was put in quarantine by ann@nb01 at 2026-11-21 13:30 UTC: no network"
OLD, BAD = ready(1, NOW - 2 * DAY), ready(2, NOW - DAY, withheld=(WORD,))


def serves(number: int, to: str) -> Upload:
    return upload(number, UploadState.READY, NOW, to=to, ended=NOW - DAY, serving=NOW)


def found(*parts: Build | Upload, old: bool = False) -> list[Finding]:
    daemons = (daemon(), daemon(hostname="nb02", version="0.0.9", withholds=not old))
    return list(look(CONFIG, snapshot(records(*parts), daemons=daemons), NOW))


def test_where_nothing_is_withheld_nothing_is_said() -> None:
    assert found(OLD, serves(1, "north"), old=True) == []


def test_what_is_withheld_and_serves_nowhere_is_fine_and_named() -> None:
    (one,) = found(OLD, BAD, serves(1, "north"), serves(1, "south"))
    assert (one.name, one.level) == ("withheld", Level.OK) and TOLD in one.text


def test_a_region_that_serves_it_for_want_of_another_is_a_warning() -> None:
    (one,) = found(OLD, BAD, serves(1, "north"), serves(2, "south"))
    assert one.level is Level.WARNING and "south" in one.text and "north" not in one.text
    assert "nothing else is ready there" in one.text and TOLD in one.text
    assert "imagepool image build" in one.hint


def test_a_held_build_waits_for_somebody_until_a_newer_one_is_good() -> None:
    hold = Withholding(
        provider=None, by="imagepool", time=NOW - HOUR, why="over budget: it is fat", held=True
    )
    fat = replace(BAD, withheld=(hold,))
    waits, fine = found(OLD, fat, serves(1, "north"), serves(1, "south"))
    assert waits.level is Level.WARNING and waits.text.endswith(
        f"build {fat.id[:8]} is held since 2026-11-21 13:30 UTC: over budget: it is fat"
    )
    assert f"`imagepool build release {fat.id[:8]}`" in waits.hint
    assert fine.level is Level.OK
    (fine,) = found(OLD, fat, ready(3, NOW - HOUR), serves(1, "north"), serves(1, "south"))
    assert fine.level is Level.OK


def test_a_daemon_that_is_too_old_to_know_is_a_warning() -> None:
    fine, one = found(OLD, BAD, serves(1, "north"), serves(1, "south"), old=True)
    assert (fine.level, one.level) == (Level.OK, Level.WARNING)
    assert "nb02 runs version 0.0.9" in one.text and "upgrade it" in one.hint


def test_of_many_some_are_named_and_the_rest_is_counted() -> None:
    builds = [ready(number, NOW - DAY, withheld=(WORD,)) for number in range(1, 9)]
    (one,) = found(*builds)
    assert one.text.count("put in quarantine") == 5 and one.text.endswith("; 3 builds more")


@pytest.mark.parametrize("left", [config(provider("north")), config(diskimage(), provider("south"))])
def test_where_the_configuration_let_it_go_no_more_nothing_takes_over(left: Config) -> None:
    parts = (OLD, BAD, serves(1, "south"), serves(2, "north"))
    (one,) = look(left, snapshot(records(*parts)), NOW)
    assert one.level is Level.WARNING and TOLD in one.text and "serves in north all the same" in one.text
    assert "imagepool cleanup" in one.hint


def test_an_image_that_left_the_configuration_is_named_all_the_same() -> None:
    (one,) = look(config(provider("north")), snapshot(records(OLD, BAD, serves(1, "north"))), NOW)
    assert one.level is Level.OK and TOLD in one.text

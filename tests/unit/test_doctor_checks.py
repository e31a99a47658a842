"""What `imagepool doctor` says of programs that check images for the canaries, and of what is held up."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import Canary
from builder.doctor.checks import look
from builder.findings import Finding, Level
from builder.model import Checked, CheckVerdict, UploadState
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    diskimage,
    provider,
    ready,
    records,
    snapshot,
    upload,
)


def found(*programs: Path) -> list[Finding]:
    images = [
        diskimage(f"image-{number}", promote=Canary(providers=("north",), check=(str(program), "-v")))
        for number, program in enumerate(programs)
    ]
    return list(look(config(*images, diskimage(), provider("north")), None, NOW))


def test_where_nothing_is_checked_nothing_is_said() -> None:
    assert found() == []


def test_a_program_that_can_be_run_is_fine_and_said_once(tmp_path: Path) -> None:
    program = tmp_path / "check"
    program.touch(mode=0o755)
    (one,) = found(program, program)
    assert one.level is Level.OK and str(program) in one.text and "image-0, image-1" in one.text


def test_one_that_is_missing_or_not_executable_is_a_warning(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch(mode=0o644)
    missing, unfit = found(tmp_path / "nothing", plain)
    assert missing.level is unfit.level is Level.WARNING
    assert "there is no such file" in missing.text and "it is not executable" in unfit.text


SOAK = Canary(providers=("north",), soak=2 * HOUR, check=("/bin/true",), check_timeout=15 * MINUTE)


def held_up(since: timedelta, checked: Checked | None) -> list[Finding]:
    """What is said besides of a build that north serves for so long, and south is to."""
    serves = upload(2, UploadState.READY, NOW, ended=NOW - DAY, serving=NOW - since, checked=checked)
    settings = config(diskimage(promote=SOAK), provider("north"), provider("south"))
    world = snapshot(records(ready(2, NOW - 2 * DAY), serves))
    _, *others = look(settings, world, NOW)
    return others


@pytest.mark.parametrize(
    ("since", "checked"),
    [
        (2 * HOUR, None),
        (HOUR, Checked(verdict=CheckVerdict.UNKNOWN, time=NOW - MINUTE, tries=9)),
        (9 * HOUR, Checked(verdict=CheckVerdict.GOOD, time=NOW - 8 * HOUR)),
    ],
)
def test_what_soaks_or_is_about_to_be_let_out_is_no_trouble(
    since: timedelta, checked: Checked | None
) -> None:
    assert held_up(since, checked) == []


def test_what_the_check_holds_up_when_the_soak_is_over_is_a_warning() -> None:
    unknown = Checked(verdict=CheckVerdict.UNKNOWN, time=NOW - MINUTE, why="no quota", tries=9)
    (told,) = held_up(3 * HOUR, unknown)
    assert (told.name, told.level) == ("check", Level.WARNING)
    assert f"{IMAGE}: Build {build_id(2)[:8]} waits for the check in north: it could not tell" in told.text
    assert f"`imagepool image promote {IMAGE} --build {build_id(2)[:8]}`" in told.hint


def test_what_gives_way_before_its_soak_is_over_is_a_warning() -> None:
    """A canary is down, and each night's build takes the place of the one before: no soak is ever over."""
    promote = Canary(providers=("north", "south"), soak=2 * DAY)
    settings = config(diskimage(promote=promote), provider("north"), provider("south"), provider("west"))
    serves = upload(2, UploadState.READY, NOW, ended=NOW - HOUR, serving=NOW - HOUR)
    failed = upload(2, UploadState.FAILED, NOW - HOUR, "south")
    (told,) = look(settings, snapshot(records(ready(2, NOW - 2 * HOUR), serves, failed)), NOW)
    assert "waits for south, where its upload failed" in told.text

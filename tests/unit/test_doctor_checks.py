"""What `imagepool doctor` says of the programs that check images for the canaries."""

from __future__ import annotations

from pathlib import Path

from builder.config.model import Canary
from builder.doctor.checks import look
from builder.findings import Finding, Level
from tests.unit.planning_world import config, diskimage, provider


def found(*programs: Path) -> list[Finding]:
    images = [
        diskimage(f"image-{number}", promote=Canary(providers=("north",), check=(str(program), "-v")))
        for number, program in enumerate(programs)
    ]
    return list(look(config(*images, diskimage(), provider("north"))))


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

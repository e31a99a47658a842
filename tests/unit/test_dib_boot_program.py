"""The real program that boots images, in a real sandbox, with orders that come to nothing before QEMU."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.bootorder import CONSOLE, Order
from builder.dib.boot import program
from builder.dib.isolation import sandbox, workspace
from builder.dib.logs.masking import Masker
from builder.errors import UnavailableError
from builder.model import BootVerdict
from tests.unit.boottest_world import order
from tests.unit.dib_world import BUILD, INSTALLATION, need_root


@pytest.fixture
def space(tmp_path: Path) -> workspace.Workspace:
    need_root()
    return workspace.create(
        tmp_path, image="debian", build_id=BUILD, installation_id=INSTALLATION, now=datetime.now(UTC)
    )


def ordered(space: workspace.Workspace, **changes: object) -> Order:
    place = space.directory / "boot-test"
    place.mkdir()
    return order(place, **changes)


def test_it_is_found_in_the_sandbox_and_answers(space: workspace.Workspace) -> None:
    wanted = ordered(space, disk="/nowhere/debian.qcow2")
    told = program.Told(lambda line: None, Masker(()))
    child = program.start(wanted, space, sandbox.USUAL, on_line=told.take)
    assert child.wait(60) == 0, told.lines
    answer = program.answer(wanted, space, 0, told)
    assert answer.verdict is BootVerdict.BROKEN
    assert answer.problem == "there is no image /nowhere/debian.qcow2 to boot"
    assert Path(wanted.place, CONSOLE).exists()
    assert workspace.release(space).problem == ""


def test_an_order_that_is_none_has_no_answer_but_says_why(space: workspace.Workspace) -> None:
    wanted = ordered(space, format="tar")
    told = program.Told(lambda line: None, Masker(()))
    child = program.start(wanted, space, sandbox.USUAL, on_line=told.take)
    assert child.wait(60) == 1
    answer = program.answer(wanted, space, 1, told)
    assert answer.verdict is BootVerdict.BROKEN
    assert answer.problem == "the program that boots it ended with exit code 1"
    assert any("'tar' is not a valid ImageFormat" in line for line in answer.lines)


def test_a_machine_of_a_kind_that_nobody_can_boot_is_told_so() -> None:
    with pytest.raises(UnavailableError, match="architecture s390x can't be booted, only amd64 and arm64"):
        program.require("s390x", "bios")

"""`imagepool build diff`: which builds are compared, how it is shown, and what the exit code says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.dib.contents.marks import Service
from builder.host import host_name
from builder.model import Build, Withholding
from tests.unit.cli_world import Result, World
from tests.unit.differences_world import IMAGE, MARKS, Made, deb, marked
from tests.unit.planning_world import DAY, NOW, build_id, building, failed, ready
from tests.unit.test_dib_differences_markdown import HOSTILE

NEWER = (deb("bash", "5.3"), deb("libc6", "2.36-9"))


class Installation:
    """Builds on record, with their files on this machine or elsewhere; build 1 is the earliest."""

    def __init__(self, place: Path) -> None:
        self.images = place
        self.world = World()
        self.world.config = replace(self.world.config, images_dir=place)

    def build(self, number: int, *, builder: str | None = None, image: str = IMAGE, **made: Any) -> Build:
        """A ready build; its files are here unless another machine built it."""
        record = ready(number, NOW - DAY + timedelta(minutes=number))
        record = replace(record, image=image, builder=builder or host_name())
        self.world.store.put(record)
        if builder is None:
            Made(build_id=record.id, image=image, **made).publish(self.images)
        return record

    def diff(self, *words: str) -> Result:
        return self.world.run("build", "diff", *words)

    def compared(self, *words: str) -> tuple[str, str]:
        """The builds that were compared."""
        result = self.diff(*words, "-f", "json")
        assert result.code in (0, 1), result.err
        told = json.loads(result.out)
        return told["before"]["build"], told["after"]["build"]


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


# -- which two ----------------------------------------------------------------------------------------


def test_an_image_stands_for_its_last_two_ready_builds(here: Installation) -> None:
    one, two, three = (here.build(number).id for number in (1, 2, 3))
    here.world.store.put(failed(4, NOW))
    assert here.compared(IMAGE) == (two, three)
    assert here.compared() == (two, three)
    assert here.compared(two) == (one, two)
    assert here.compared(three[:8], one[:8]) == (three, one)
    assert here.compared(f"{IMAGE}-{two}", three) == (two, three)


def test_builds_of_different_images_may_be_compared(here: Installation) -> None:
    one, other = here.build(1), here.build(2, image="ubuntu-noble")
    assert here.compared(one.id, other.id) == (one.id, other.id)


def test_of_several_images_one_has_to_be_named(here: Installation) -> None:
    here.build(1)
    here.build(2, image="ubuntu-noble")
    refused = here.diff()
    assert (refused.code, refused.out) == (2, "")
    assert IMAGE in refused.err and "ubuntu-noble" in refused.err


@pytest.mark.parametrize("number", [0, 1])
def test_an_image_without_two_ready_builds_has_nothing_to_compare(here: Installation, number: int) -> None:
    for each in range(number):
        here.build(each + 1)
    refused = here.diff(IMAGE)
    assert refused.code == 3
    assert "nothing to compare" in refused.err


def test_a_build_without_one_before_it_says_so(here: Installation) -> None:
    one = here.build(1)
    here.build(2)
    refused = here.diff(one.id)
    assert refused.code == 3
    assert "no ready build from before" in refused.err


def test_a_build_that_failed_over_budget_and_kept_its_files_can_be_compared(here: Installation) -> None:
    one = here.build(1)
    here.world.store.put(failed(9, NOW, builder=host_name(), kept=str(here.images / "img.d")))
    Made(build_id=build_id(9), image=IMAGE).publish(here.images)
    assert here.compared(build_id(9)) == (one.id, build_id(9))


def test_what_is_over_budget_is_compared_with_the_last_good_build(here: Installation) -> None:
    good, fat, fatter = (here.build(number).id for number in (1, 2, 3))
    hold = Withholding(provider=None, by="imagepool", time=NOW, held=True)
    for held in (fat, fatter):
        here.world.store.withhold(IMAGE, held, hold)
    assert here.compared(fatter) == (good, fatter)
    here.world.store.put(failed(9, NOW, builder=host_name(), kept=str(here.images / "img.d")))
    Made(build_id=build_id(9), image=IMAGE).publish(here.images)
    assert here.compared(build_id(9)) == (good, build_id(9))
    assert here.compared(IMAGE) == (fat, fatter)
    here.world.store.withhold(IMAGE, good, hold)
    refused = here.diff(fatter)
    assert refused.code == 3 and "no good build from before" in refused.err


@pytest.mark.parametrize(
    ("record", "says"), [(failed(9, NOW), "made no image"), (building(9, NOW), "in progress")]
)
def test_a_build_without_an_image_is_refused(here: Installation, record: Build, says: str) -> None:
    one = here.build(1)
    here.world.store.put(record)
    refused = here.diff(one.id, build_id(9))
    assert refused.code == 4
    assert says in refused.err


def test_a_build_of_another_machine_names_it(here: Installation) -> None:
    here.build(1)
    here.build(2, builder="nb02")
    refused = here.diff(IMAGE)
    assert (refused.code, refused.out) == (3, "")
    assert "on nb02" in refused.err


def test_a_build_whose_files_are_gone_says_so(here: Installation) -> None:
    one, two = here.build(1), here.build(2)
    home = here.images / f"{IMAGE}-{one.id}.d"
    home.rename(here.images / "elsewhere")
    refused = here.diff(one.id, two.id)
    assert refused.code == 3
    assert "gone" in refused.err and str(home) in refused.err


def test_nobody_it_knows_is_not_found(here: Installation) -> None:
    assert here.diff("nobody").code == 3
    assert here.diff("-f", "xml").code == 2


# -- what is printed ----------------------------------------------------------------------------------


def test_the_exit_code_is_that_of_diff(here: Installation) -> None:
    here.build(1)
    here.build(2)
    here.build(3, packages=NEWER)
    here.build(4, packages=())
    assert [here.diff(build_id(a), build_id(b)).code for a, b in ((1, 2), (2, 3), (1, 4))] == [0, 1, 5]


def test_the_same_builds_leave_no_more_than_their_names(here: Installation) -> None:
    one, two = here.build(1), here.build(2)
    printed = here.diff(IMAGE)
    assert [line.split()[:3] for line in printed.out.splitlines()] == [
        ["---", IMAGE, one.id],
        ["+++", IMAGE, two.id],
    ]
    assert printed.err == ""


def test_what_differs_is_printed_as_lines_of_a_diff(here: Installation) -> None:
    here.build(1)
    here.build(
        2,
        packages=(*NEWER, deb("jq", "1")),
        marks=replace(
            MARKS, kernels=("6.1.0-28-amd64",), services=(), files=(marked("/etc/passwd", "0666"),)
        ),
    )
    assert here.diff(IMAGE).out.splitlines()[2:] == [
        "kernel:",
        "  6.1.0-27-amd64 -> 6.1.0-28-amd64",
        "packages, 2 -> 3 (1 added, 1 upgraded):",
        "+ jq amd64: 1",
        "  bash amd64: 5.2.15-2+b7 -> 5.3",
        "services:",
        "- ssh.service: enabled by multi-user.target",
        "setuid files, and files below /etc:",
        "  /etc/passwd: 0644 root:root -> 0666 root:root",
        "- /usr/bin/su: 4755 root:root",
    ]


def test_what_could_not_be_compared_is_printed(here: Installation) -> None:
    here.build(1)
    two = here.build(2, packages=())
    printed = here.diff(IMAGE)
    assert f"! build {two.id}: packages.json: it is empty" in printed.out
    assert "- bash" not in printed.out


def test_markdown(here: Installation) -> None:
    here.build(1)
    here.build(2, packages=NEWER)
    printed = here.diff(IMAGE, "--format", "markdown")
    assert printed.code == 1
    assert "| `bash amd64` | `5.2.15-2+b7` | `5.3` |" in printed.out


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_no_terminal_obeys_an_image(here: Installation, form: str) -> None:
    here.build(1)
    marks = replace(
        MARKS,
        files=tuple(marked(f"/etc/{name}", owner=name) for name in HOSTILE),
        services=tuple(Service(unit=f"x{name}", state=name, by=(name,)) for name in HOSTILE),
        kernels=tuple(HOSTILE),
        problems=tuple(HOSTILE),
    )
    here.build(2, packages=tuple(deb(name, name, name) for name in HOSTILE), marks=marks)
    printed = here.diff(IMAGE, "-f", form)
    assert printed.code == 1
    assert all(line.isprintable() for line in printed.out.split("\n"))


# -- five years of daily builds -------------------------------------------------------------------------

_watched: list[list[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if (
        _watched
        and event in ("open", "os.listdir", "os.scandir")
        and isinstance(arguments[0], str | os.PathLike)
    ):
        _watched[-1].append(os.fspath(arguments[0]))


@pytest.fixture(scope="module")
def _hooked() -> None:
    # Such a hook can't be taken away again; it does nothing while nobody watches.
    sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[str]]:
    """The paths that are opened or listed meanwhile."""
    seen: list[str] = []
    _watched.append(seen)
    try:
        yield seen
    finally:
        _watched.clear()


@pytest.mark.usefixtures("_hooked")
def test_of_five_years_of_builds_the_files_of_two_are_opened(here: Installation) -> None:
    homes = [f"{IMAGE}-{build_id(number)}.d" for number in range(1, 1826)]
    for number in range(1, 1824):
        here.build(number, builder=host_name())
        (here.images / homes[number - 1]).mkdir()
    here.build(1824)
    here.build(1825)
    with watched() as seen:
        assert here.diff(IMAGE).code == 0
    below = [Path(path) for path in seen if str(path).startswith(str(here.images))]
    assert {path.parent.name for path in below} == set(homes[-2:])
    assert len(below) <= 2 * 6

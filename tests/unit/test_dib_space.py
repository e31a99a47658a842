"""How much disk a build needs, and what is said when it isn't there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.dib.checks import space
from builder.dib.checks.space import FileSystem, Needs, Use, needs
from builder.findings import Level
from builder.model import Artifact, Build, FailureClass, ImageFormat
from tests.unit.dib_world import need_root
from tests.unit.planning_world import NOW, ready

GIB = 1 << 30
QCOW2, RAW = ImageFormat.QCOW2, ImageFormat.RAW


def artifact(image_format: ImageFormat, size: int) -> Artifact:
    return Artifact(format=image_format, size=size, virtual_size=2 * GIB, md5="m", sha256="s", sha512="t")


def build(number: int, *files: Artifact, work_bytes: int | None = None) -> Build:
    return ready(number, NOW, artifacts=files, work_bytes=work_bytes)


def test_a_first_build_is_taken_to_need_something() -> None:
    needed = needs([QCOW2, RAW], [])
    assert needed.basis == "assumed for a first build"
    assert needed.work == space.DEFAULT_WORK
    assert needed.artifacts == space.DEFAULT_COMPRESSED + space.DEFAULT_ARTIFACT


EARLIER = build(1, artifact(QCOW2, 1000), artifact(RAW, 9000), work_bytes=4000)


@pytest.mark.parametrize(
    ("formats", "earlier", "taken", "work", "artifacts"),
    [
        pytest.param([QCOW2], [EARLIER], {}, 4400, 1100, id="a tenth more than last time"),
        pytest.param(
            [QCOW2, RAW], [EARLIER], {"raw": 3000}, 4400, 4400, id="holes of a raw file don't count"
        ),
        pytest.param([RAW], [EARLIER], {}, 4400, 4400, id="nor do they where the file is gone"),
        pytest.param(
            [QCOW2],
            [build(2, artifact(QCOW2, 50), work_bytes=200), EARLIER],
            {},
            220,
            55,
            id="the newest counts",
        ),
        pytest.param([QCOW2], [build(2), EARLIER], {}, 4400, 1100, id="one without files says nothing"),
        pytest.param(
            [QCOW2],
            [build(2, artifact(QCOW2, 1000))],
            {},
            space.DEFAULT_WORK,
            1100,
            id="nodepool's don't say",
        ),
    ],
)
def test_what_earlier_builds_tell(
    formats: list[ImageFormat], earlier: list[Build], taken: dict[str, int], work: int, artifacts: int
) -> None:
    needed = needs(formats, earlier, taken)
    assert (needed.work, needed.artifacts) == (work, artifacts)
    assert needed.basis.startswith("from build 0000000")


def test_a_format_that_is_new_is_assumed() -> None:
    needed = needs([QCOW2, ImageFormat.VHD], [EARLIER])
    assert needed.artifacts == int((1000 + space.DEFAULT_ARTIFACT) * space.GROWTH)


def test_what_files_take_on_this_disk(tmp_path: Path) -> None:
    made = build(1, artifact(RAW, GIB), artifact(QCOW2, 1))
    with (tmp_path / f"{made.image}-{made.id}.raw").open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(GIB)
    found = space.on_disk(tmp_path, [made])
    assert set(found) == {"raw"}
    assert 8192 <= found["raw"] < GIB


# -- is it there? ---------------------------------------------------------------------------------


DISK = FileSystem(mount=Path("/srv"), free=10 * GIB, free_inodes=1_000_000)
WORK = Use(key="work-dir", path=Path("/srv/work"), parts={"work": 4 * GIB}, inodes=space.INODES)
IMAGES = Use(key="images-dir", path=Path("/srv/images"), parts={"artifacts": 3 * GIB}, moved_from="work-dir")
LOGS = Use(key="build-log-dir", path=Path("/srv/logs"), parts={"logs": 3 * GIB})


@pytest.mark.parametrize(
    ("group", "reserve", "level"),
    [
        ([WORK], 6 * GIB, Level.OK),
        ([WORK], 6 * GIB + 1, Level.PROBLEM),
        ([WORK, LOGS], 3 * GIB, Level.OK),
        ([WORK, LOGS], 3 * GIB + 1, Level.PROBLEM),
        # What is only renamed is in the work directory's share; copied, it takes room of its own.
        ([WORK, IMAGES], 6 * GIB, Level.OK),
        ([WORK, IMAGES], 6 * GIB + 1, Level.PROBLEM),
        ([IMAGES], 7 * GIB, Level.OK),
        ([IMAGES], 7 * GIB + 1, Level.PROBLEM),
        ([Use(key="cache-dir", path=Path("/srv/cache"))], 10 * GIB + 1, Level.PROBLEM),
    ],
)
def test_all_directories_of_a_disk_and_the_reserve_have_to_fit(
    group: list[Use], reserve: int, level: Level
) -> None:
    assert space.judge(DISK, group, reserve=reserve, basis="b").level is level


def test_the_message_has_all_numbers() -> None:
    full = replace(DISK, free=int(3.1 * GIB) + 1)
    finding = space.judge(full, [IMAGES, LOGS], reserve=2 * GIB, basis="from build 1a2b3c4d")
    assert finding.text == (
        "3.1 GiB free on /srv (images-dir, build-log-dir), 8.0 GiB needed:"
        " artifacts 3.0 GiB + logs 3.0 GiB + reserve 2.0 GiB (from build 1a2b3c4d)"
    )
    assert "disk-reserve" in finding.hint
    assert finding.failure_class is FailureClass.DISK


def test_what_running_builds_will_take_counts(tmp_path: Path) -> None:
    listed = space.uses(
        Needs(work=1, artifacts=2, basis="b"),
        work=tmp_path,
        images=tmp_path,
        cache=tmp_path,
        logs=tmp_path,
        promised=1 << 60,
    )
    (finding,) = space.check(listed, reserve=0, basis="b")
    assert finding.level is Level.PROBLEM
    assert "builds that run 1073741824.0 GiB" in finding.text


@pytest.mark.parametrize(("free", "level"), [(None, Level.OK), (space.INODES, Level.OK), (99, Level.PROBLEM)])
def test_inodes_run_out_as_well(free: int | None, level: Level) -> None:
    finding = space.judge(replace(DISK, free_inodes=free), [WORK], reserve=0, basis="b")
    assert finding.level is level
    assert level is Level.OK or "99 inodes free on /srv (work-dir)" in finding.text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (2047, "1.9 KiB"), (5 << 20, "5.0 MiB"), (2 * GIB, "2.0 GiB")]
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert space.human(count) == text


# -- real file systems ----------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    need_root()
    points: list[Path] = []

    def mount(name: str, options: str) -> Path:
        point = tmp_path / name
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


def test_each_file_system_is_looked_at_once(mounted: Callable[[str, str], Path], tmp_path: Path) -> None:
    small, large = mounted("small", "size=1m"), mounted("large", "size=64m")
    listed = [
        Use(key="work-dir", path=large / "not" / "there" / "yet", parts={"work": 32 << 20}),
        Use(key="images-dir", path=small / "images", parts={"artifacts": 4 << 20}),
        Use(key="cache-dir", path=large / "cache"),
    ]
    first, second = space.check(listed, reserve=1 << 20, basis="b")
    assert first.level is Level.OK
    assert f"64.0 MiB free on {large} (work-dir, cache-dir)" in first.text
    assert second.level is Level.PROBLEM
    assert f"free on {small} (images-dir), 5.0 MiB needed" in second.text


def test_a_file_system_without_inodes_left(mounted: Callable[[str, str], Path]) -> None:
    place = mounted("few", "size=64m,nr_inodes=100")
    (finding,) = space.check([Use(key="work-dir", path=place, inodes=space.INODES)], reserve=0, basis="b")
    assert finding.level is Level.PROBLEM
    assert "inodes free" in finding.text

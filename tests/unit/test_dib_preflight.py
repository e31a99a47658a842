"""What stops a build before it begins, and that nothing else does."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import Platform
from builder.dib.checks import preflight, reachable
from builder.dib.checks.preflight import Preflight, check_build
from builder.dib.checks.reachable import Mirror
from builder.dib.checks.space import Needs
from builder.dib.limits import Limits
from builder.errors import ActionFailedError
from builder.findings import Finding, Level
from builder.model import Failure, FailureClass
from tests.unit.dib_world import image, need_root
from tests.unit.reachable_world import closed_mirror, mirror, silent_mirror

MIB = 1 << 20
BASIS = "from build 1a2b3c4d"
PLATFORM = Platform(name="debian-bookworm", distribution="debian", release="bookworm")


def about(place: Path, **changes: Any) -> Preflight:
    """A build that takes 48 MiB below `place`, and no mirror."""
    fields: dict[str, Any] = {
        "image": image(platform=PLATFORM),
        "environment": {"DIB_RELEASE": "bookworm"},
        "work_dir": place / "work",
        "images_dir": place / "images",
        "cache_dir": place / "cache",
        "log_dir": place / "logs",
        "needs": Needs(work=48 * MIB, artifacts=16 * MIB, basis=BASIS),
        "reserve": 0,
    }
    return Preflight(**(fields | changes))


def refusal(checked: Preflight, limits: Limits | None = None) -> Failure:
    with pytest.raises(ActionFailedError) as caught:
        check_build(checked, limits)
    assert caught.value.failure is not None
    return caught.value.failure


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes file systems in memory with these mount options, and takes them away again."""
    need_root()
    points: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"mounted-{len(points)}"
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


def test_when_nothing_speaks_against_it_a_build_may_begin(tmp_path: Path) -> None:
    need_root()
    with mirror() as served:
        check_build(
            about(tmp_path, environment={"DIB_RELEASE": "bookworm", "DIB_DISTRIBUTION_MIRROR": served.url})
        )
    # Its directories are there, and nothing is in them.
    assert {path.name for path in tmp_path.rglob("*")} == {"work", "images", "cache", "logs"}


def test_a_disk_that_is_too_small(mounted: Callable[..., Path]) -> None:
    place = mounted("size=60m")
    failure = refusal(about(place, needs=Needs(work=64 * MIB, artifacts=16 * MIB, basis=BASIS)))
    assert failure.failure_class is FailureClass.DISK
    assert f"60.0 MiB free on {place} (work-dir, images-dir, cache-dir, build-log-dir)" in failure.message
    # Finished files are only renamed there: they are among what the work directory takes.
    assert "64.0 MiB needed: work 64.0 MiB + reserve" in failure.message
    assert "(from build 1a2b3c4d)" in failure.message
    assert "lower disk-reserve" in failure.message


def test_a_disk_with_room_for_the_build_has_room_for_its_files(mounted: Callable[..., Path]) -> None:
    check_build(about(mounted("size=60m")))


def test_on_a_disk_of_their_own_finished_files_need_room(
    mounted: Callable[..., Path], tmp_path: Path
) -> None:
    images = mounted("size=8m")
    failure = refusal(about(tmp_path, images_dir=images))
    assert f"8.0 MiB free on {images} (images-dir), 16.0 MiB needed: artifacts 16.0 MiB" in failure.message


def test_the_reserve_is_for_every_disk(mounted: Callable[..., Path], tmp_path: Path) -> None:
    logs = mounted("size=1m")
    failure = refusal(about(tmp_path, log_dir=logs, reserve=2 * MIB))
    assert f"1.0 MiB free on {logs} (build-log-dir), 2.0 MiB needed: reserve 2.0 MiB" in failure.message


def test_a_directory_on_a_read_only_disk_names_its_setting(
    mounted: Callable[..., Path], tmp_path: Path
) -> None:
    frozen = mounted("ro")
    failure = refusal(about(tmp_path, images_dir=frozen / "images"))
    assert failure.failure_class is FailureClass.CONFIG
    assert f"the images-dir {frozen / 'images'} can't be used: Read-only file system" in failure.message


def test_a_directory_that_is_a_file_names_its_setting(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "cache").touch()
    failure = refusal(about(tmp_path))
    assert failure.failure_class is FailureClass.CONFIG
    assert f"the cache-dir {tmp_path / 'cache'} can't be used: File exists" in failure.message


def test_a_system_is_not_installed_where_nothing_may_run(mounted: Callable[..., Path]) -> None:
    place = mounted("size=256m,noexec")
    failure = refusal(about(place))
    assert failure.failure_class is FailureClass.CONFIG
    assert f"the work-dir {place / 'work'} is mounted noexec" in failure.message


def test_a_place_without_devices_is_told_and_tried(mounted: Callable[..., Path]) -> None:
    place = mounted("size=256m,nodev")
    check_build(about(place))
    (finding,) = preflight.directories({"work-dir": place}, make=False)
    assert finding.level is Level.WARNING
    assert "is mounted nodev" in finding.text


def test_finished_images_can_be_kept_there(mounted: Callable[..., Path], tmp_path: Path) -> None:
    check_build(about(tmp_path, images_dir=mounted("size=64m,nodev,noexec")))


def test_a_program_that_is_not_installed(tmp_path: Path) -> None:
    need_root()
    failure = refusal(about(tmp_path, image=image(dib_cmd=("disk-image-conjure",))))
    assert failure.failure_class is FailureClass.TOOL
    assert "the program disk-image-conjure is not installed" in failure.message


def test_a_machine_that_may_not_make_namespaces(tmp_path: Path) -> None:
    need_root()
    # Without this capability, as in most containers, root is not allowed to.
    program = "from builder.dib.checks import preflight; print(preflight.namespaces())"
    bare = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", program]
    told = subprocess.run(bare, check=True, capture_output=True, text=True).stdout
    assert "the namespaces of a build can't be made: unshare: unshare failed: Operation not permitted" in told
    assert "SYS_ADMIN" in told
    assert preflight.namespaces().level is Level.OK


def test_a_mirror_that_does_not_run(tmp_path: Path) -> None:
    need_root()
    url = closed_mirror()
    failure = refusal(about(tmp_path, environment={"DIB_DISTRIBUTION_MIRROR": url}))
    assert failure.failure_class is FailureClass.MIRROR
    assert f"{url} (DIB_DISTRIBUTION_MIRROR) does not answer: connection refused" in failure.message


def test_what_cannot_be_done_with_mirrors_is_told_and_the_build_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need_root()
    platform = replace(PLATFORM, updates_mirror="http://updates.test/debian")
    check_build(about(tmp_path, image=image(platform=platform)))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "platform debian-bookworm: updates-mirror is not used: it takes mirror and security-mirror beside it"
    ]


def test_what_an_image_needs_of_the_machine_is_asked_before_it_is_built(tmp_path: Path) -> None:
    need_root()
    environment = {"DIB_RELEASE": "bookworm", "ARCH": "no-such-machine"}
    failure = refusal(about(tmp_path, environment=environment))
    assert failure.failure_class is FailureClass.TOOL
    assert "what runs programs of no-such-machine here" in failure.message


def test_all_that_is_wrong_is_told_at_once(mounted: Callable[..., Path]) -> None:
    place = mounted("size=40m")
    with mirror() as served:
        environment = {"DIB_RELEASE": "bokworm", "DIB_DISTRIBUTION_MIRROR": served.url}
        failure = refusal(about(place, environment=environment))
    assert failure.failure_class is FailureClass.DISK
    (other,) = failure.lines
    assert other.startswith("config: ")
    assert "has no bokworm" in other


def test_a_mirror_that_hangs_does_not_keep_a_cancelled_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root()
    wish = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ada")
    asked, given_up, ask = threading.Event(), threading.Event(), reachable.ask

    def patiently(mirror: Mirror, environment: Mapping[str, str]) -> Finding:
        asked.set()
        try:
            return ask(mirror, environment, timeout=40, pause=0)
        finally:
            given_up.set()

    monkeypatch.setattr(reachable, "ask", patiently)
    monkeypatch.setattr(preflight, "MIRRORS_TIMEOUT", 120.0)
    with silent_mirror() as url:
        checked = about(tmp_path, environment={"DIB_DISTRIBUTION_MIRROR": url})
        failure = refusal(checked, Limits(stop=lambda: wish if asked.is_set() else None))
        assert not given_up.is_set()
    assert failure == wish


@pytest.mark.parametrize("variable", ["DIB_DISTRIBUTION_MIRROR", "DIB_DEBIAN_SECURITY_MIRROR"])
def test_a_mirror_whose_url_is_none_names_its_variable(tmp_path: Path, variable: str) -> None:
    need_root()
    failure = refusal(about(tmp_path, environment={"DIB_RELEASE": "bookworm", variable: "http://[bad/"}))
    assert failure.failure_class is FailureClass.CONFIG
    assert f"http://[bad/ ({variable}) is no URL" in failure.message


def test_looking_makes_no_directory(tmp_path: Path) -> None:
    (finding,) = preflight.directories({"work-dir": tmp_path / "a" / "b"}, make=False)
    assert finding.level is Level.OK
    assert finding.text == f"the work-dir {tmp_path / 'a' / 'b'} can be written, to be made in {tmp_path}"
    assert list(tmp_path.iterdir()) == []

"""`imagepool doctor`: what it finds, what it advises, how it ends; and that it leaves no trace."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import BootTest, BuildLimits, Config, Platform, Provider, ZooKeeper
from builder.dib.boot import program
from builder.dib.isolation import cgroups, sudo, workspace
from builder.doctor import clouds, daemon, examination, images, machine, records
from builder.doctor.world import World
from builder.errors import CloudError, CloudUnavailableError
from builder.findings import Finding, Level
from builder.model import FailureClass, ImageFormat, Snapshot
from builder.store.probe import probe
from builder.store.zookeeper import ZooKeeperStore
from builder.workers import statedir
from tests.fakes.cloud import FakeCloud
from tests.unit import cli_world
from tests.unit.dib_world import BUILD, FAKE_BOOT_TEST, INSTALLATION, need_root
from tests.unit.planning_world import IMAGE, NOW, building, config, diskimage, provider, ready
from tests.unit.reachable_world import closed_mirror, mirror

MINUTE = timedelta(minutes=1)


def installation(place: Path, *parts: object, **changes: object) -> Config:
    """A configuration with all its directories below `place`."""
    directories = {
        "state_dir": place / "state",
        "images_dir": place / "images",
        "work_dir": place / "work",
        "cache_dir": place / "cache",
        "log_dir": place / "logs",
        "disk_reserve": 0,
    }
    return config(*(parts or (diskimage(),)), **(directories | changes))  # type: ignore[arg-type]


def seen(configured: Config, **changes: object) -> World:
    made = World(
        config=configured,
        environ={},
        now=NOW,
        cloud=lambda provider: FakeCloud(),
        images=tuple(configured.diskimages.values()),
        snapshot=Snapshot(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def levels(found: Iterator[Finding] | tuple[Finding, ...]) -> dict[str, Level]:
    return {finding.name: finding.level for finding in found}


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """host:port of a server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, zookeeper: ZooKeeper) -> cli_world.World:
    """A new installation whose ZooKeeper answers; nothing was ever built there."""
    platform = Platform(name="p", distribution="debian", release="bookworm")
    image = diskimage(elements=("debian-minimal", "vm"), platform=platform)
    return cli_world.World(config=installation(tmp_path, image, zookeeper=zookeeper))


def test_all_is_well_with_a_new_installation(place: cli_world.World) -> None:
    need_root()
    result = place.run("doctor", "-f", "json")
    rows = {row["check"]: row for row in result.json}
    assert {row["state"] for row in rows.values()} <= {"ok", "warning"}
    assert list(rows["tools"]) == ["role", "check", "state", "found", "advice"]
    assert rows["ZooKeeper"]["state"] == "warning"
    assert "has no records yet" in rows["ZooKeeper"]["found"]
    assert f"elements of {IMAGE}" in rows
    assert rows[f"disk of {IMAGE}"]["state"] == "ok"
    assert "0 problems" in result.err


def test_it_leaves_no_trace(place: cli_world.World, tmp_path: Path, zookeeper: ZooKeeper) -> None:
    place.run("doctor")
    assert list(tmp_path.iterdir()) == []
    assert probe(zookeeper, 10).has_records is False


def test_a_problem_is_in_the_exit_code_and_comes_with_advice(place: cli_world.World) -> None:
    place.config = replace(place.config, disk_reserve=1 << 60)
    result = place.run("doctor", "--roles", "builder")
    assert result.code == 1
    assert "problem" in result.out
    assert "lower disk-reserve" in " ".join(result.out.replace("|", " ").split())
    assert "1 problem" in result.err


def test_only_what_a_role_needs_is_looked_at(place: cli_world.World) -> None:
    place.config = replace(place.config, disk_reserve=1 << 60)
    rows = place.json("doctor", "--roles", "uploader,janitor")
    assert {row["role"] for row in rows} == {"all"}


def test_only_what_an_image_needs_is_looked_at(place: cli_world.World) -> None:
    other = diskimage("other", elements=("no-such-element",))
    place.config = replace(place.config, diskimages={**place.config.diskimages, "other": other})
    assert place.run("doctor").code == 1
    checks = {row["check"] for row in place.json("doctor", "--image", IMAGE)}
    assert f"elements of {IMAGE}" in checks
    assert "elements of other" not in checks


def test_what_is_never_built_is_not_looked_at_unless_it_is_named(place: cli_world.World) -> None:
    need_root()
    unlisted = diskimage("unlisted", elements=("no-such-element",), formats=())
    place.config = replace(place.config, diskimages={**place.config.diskimages, "unlisted": unlisted})
    result = place.run("doctor", "-f", "json")
    rows = {row["check"]: row for row in result.json}
    assert result.code == 0
    assert "elements of unlisted" not in rows
    assert f"diskimages: {IMAGE} (1 more" in rows["configuration"]["found"]
    assert place.run("doctor", "--image", "unlisted").code == 1


def test_a_configuration_that_builds_nothing_is_told(tmp_path: Path) -> None:
    (found,) = daemon.configuration(installation(tmp_path, diskimage(formats=())))
    assert (found.level, "builds none" in found.text) == (Level.WARNING, True)
    assert "in a provider" in found.hint


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("--roles", "doctor"), 2, "no such role: doctor"),
        (("--roles", ","), 2, "no such role: none given"),
        (("--image", "nothing"), 3, "has no diskimage 'nothing'"),
    ],
)
def test_what_can_not_be_examined(
    place: cli_world.World, argv: tuple[str, ...], code: int, said: str
) -> None:
    result = place.run("doctor", *argv)
    assert (result.code, said in result.err) == (code, True)


def test_whatever_hangs_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "CHECKS_TIMEOUT", 2.0)
    monkeypatch.setattr(records, "CONNECT_TIMEOUT", 1.0)
    cloud = FakeCloud()
    gate = cloud.hold("find")
    configured = installation(tmp_path, diskimage(), provider("north"))
    began = time.monotonic()
    try:
        with silent_server() as hosts:
            hanging = seen(configured, cloud=lambda _: cloud)
            hanging = replace(hanging, environ={"IMAGEPOOL_ZOOKEEPER": hosts})
            found = {d.finding.name: d.finding for d in examination.examine(hanging, ["uploader"])}
    finally:
        gate.set()
    assert time.monotonic() - began < examination.RECORDS_TIMEOUT
    assert found["ZooKeeper"].level is Level.PROBLEM
    assert found["provider north"].text == "not done within 2 s"


def test_what_can_not_be_looked_at_spoils_nothing_else(tmp_path: Path) -> None:
    def broken(provider: Provider) -> FakeCloud:
        if provider.name == "north":
            raise PermissionError(errno.EACCES, "Permission denied", "/root/clouds.yaml")
        return FakeCloud()

    configured = installation(tmp_path, diskimage(), provider("north"), provider("south"))
    found = {
        d.finding.name: d.finding for d in examination.examine(seen(configured, cloud=broken), ["uploader"])
    }
    assert found["provider north"].level is Level.PROBLEM
    assert "Permission denied: '/root/clouds.yaml'" in found["provider north"].text
    assert found["provider south"].level is Level.OK


def test_a_bug_in_one_check_hides_nothing_that_others_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("http://me:hunter2@mirror.test is odd")

    monkeypatch.setattr(records, "look", broken)
    monkeypatch.setattr(images, "look", broken)
    found = {
        d.finding.name: d.finding for d in examination.examine(seen(installation(tmp_path)), ["builder"])
    }
    for name in (records.NAME, f"image {IMAGE}"):
        assert found[name].level is Level.PROBLEM
        assert found[name].text == "can't be checked: ValueError: http://********@mirror.test is odd"
        assert "-vv" in found[name].hint
    assert found["work-dir"].level is Level.OK


def test_a_mirror_whose_url_is_none_is_a_problem_of_its_variable(tmp_path: Path) -> None:
    platform = Platform(name="p", distribution="debian", release="bookworm", mirror="http://[bad/")
    (finding,) = images.mirrors(seen(installation(tmp_path, diskimage(platform=platform))))
    assert (finding.level, finding.failure_class) == (Level.PROBLEM, FailureClass.CONFIG)
    assert "http://[bad/ (DIB_DISTRIBUTION_MIRROR) is no URL" in finding.text


# -- every role -----------------------------------------------------------------------------------


def test_records_of_this_installation(zookeeper: ZooKeeper, tmp_path: Path) -> None:
    store = ZooKeeperStore(zookeeper, watch=False)
    store.start()
    try:
        owner = store.installation_id()
    finally:
        store.close()
    configured = installation(tmp_path, zookeeper=zookeeper)
    statedir.check_installation(configured.state_dir, owner)
    looked = records.look(configured, {}, NOW)
    assert levels(looked.findings) == {
        "ZooKeeper": Level.OK,
        "installation": Level.OK,
        "clock": Level.OK,
        "daemons": Level.WARNING,  # none runs
    }
    assert looked.snapshot == Snapshot(installation=owner)


def test_records_of_another_installation(zookeeper: ZooKeeper, tmp_path: Path) -> None:
    store = ZooKeeperStore(zookeeper, watch=False)
    store.start()
    store.close()
    configured = installation(tmp_path, zookeeper=zookeeper)
    statedir.check_installation(configured.state_dir, "another one")
    looked = records.look(configured, {}, NOW)
    assert levels(looked.findings)["installation"] is Level.PROBLEM


def test_no_zookeeper_there(tmp_path: Path) -> None:
    hosts = closed_mirror().split("/")[2]
    looked = records.look(installation(tmp_path), {"IMAGEPOOL_ZOOKEEPER": hosts}, NOW)
    (finding,) = looked.findings
    assert finding.level is Level.PROBLEM
    assert hosts in finding.text
    assert "zookeeper-servers" in finding.hint
    assert looked.snapshot is None


def test_a_private_server_can_be_started(tmp_path: Path) -> None:
    (finding,) = records.look(installation(tmp_path), {}, NOW).findings
    assert finding.level is Level.OK
    assert "will start a private server" in finding.text


def test_a_private_server_needs_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = records.look(installation(tmp_path), {}, NOW).findings
    assert finding.level is Level.PROBLEM
    assert "the program java is not installed" in finding.text
    assert "default-jre-headless" in finding.hint


@pytest.mark.parametrize(("ahead", "level"), [(0, Level.OK), (1, Level.OK), (5, Level.PROBLEM)])
def test_records_from_the_future(ahead: int, level: Level) -> None:
    written = ready(1, NOW + ahead * MINUTE)
    snapshot = Snapshot(images={IMAGE: replace(Snapshot().image(IMAGE), builds=(written,))})
    assert records.clock(snapshot, NOW).level is level


def test_whether_a_daemon_runs_is_told(tmp_path: Path) -> None:
    configured = installation(tmp_path)
    with statedir.locked(configured.state_dir):
        (running,) = daemon.state_directory(configured)
        # Looking takes no lock, and so keeps none from anybody.
        assert "a daemon runs here, process" in running.text
    (stopped,) = daemon.state_directory(configured)
    assert "no daemon runs here" in stopped.text


def test_what_has_no_effect_is_told(tmp_path: Path) -> None:
    configured = installation(tmp_path, notes=("x.yaml:3: labels: for a launcher",))
    assert [f.level for f in daemon.configuration(configured)] == [Level.OK, Level.WARNING]


# -- the builder ----------------------------------------------------------------------------------


def test_elements_that_do_not_exist(tmp_path: Path) -> None:
    broken = diskimage(elements=("debian-minimal", "no-such-element"))
    found = images.look(seen(installation(tmp_path, broken)), broken)
    elements = next(f for f in found if f.name == f"elements of {IMAGE}")
    assert elements.level is Level.PROBLEM
    assert "no-such-element" in elements.text
    assert "elements-dir" in elements.hint


def test_an_image_for_other_machines_is_none_of_this_ones_business(tmp_path: Path) -> None:
    platform = Platform(name="p", distribution="debian", release="bookworm", mirror=closed_mirror())
    other = diskimage(elements=("no-such-element",), platform=platform, requires=frozenset({"riscv64"}))
    world = seen(installation(tmp_path, other))
    (found,) = images.look(world, other)
    assert found.level is Level.OK
    assert "riscv64" in found.text
    assert list(images.mirrors(world)) == []


def test_what_boots_images_is_asked_for_where_one_is_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PROGRAM", (str(FAKE_BOOT_TEST), str(tmp_path)))
    image = diskimage(elements=("debian-minimal", "vm"), boot_test=BootTest(mode="on"))
    world = seen(installation(tmp_path, image))

    def found() -> Finding:
        return next(f for f in images.look(world, image) if f.name == f"boot test of {IMAGE}")

    assert found().level is Level.OK
    (tmp_path / "missing").write_text("no firmware\nInstall the package ovmf.\n")
    assert (found().level, found().text) == (Level.PROBLEM, "images can't be booted here: no firmware")
    assert found().hint == "Install the package ovmf."
    unbooted = replace(image, boot_test=BootTest())
    assert "boot test" not in " ".join(f.name for f in images.look(world, unbooted))


def test_the_disk_is_compared_with_the_last_build(tmp_path: Path) -> None:
    image = diskimage(elements=("debian-minimal", "vm"))
    last = ready(7, NOW, work_bytes=10 << 30)
    snapshot = Snapshot(images={IMAGE: replace(Snapshot().image(IMAGE), builds=(last,))})
    found = images.look(seen(installation(tmp_path, image), snapshot=snapshot), image)
    disk = next(f for f in found if f.name == f"disk of {IMAGE}")
    assert "work 11.0 GiB" in disk.text
    assert "(from build 00000007)" in disk.text


def test_without_records_nothing_is_said_of_earlier_builds(tmp_path: Path) -> None:
    image = diskimage(elements=("debian-minimal", "vm"))
    found = images.look(seen(installation(tmp_path, image), snapshot=None), image)
    disk = next(f for f in found if f.name == f"disk of {IMAGE}")
    assert "(assumed: without records, earlier builds are not known)" in disk.text


def test_kvm_is_noted_as_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, world = tmp_path / "kvm", seen(installation(tmp_path))
    (none,) = machine.virtualisation(world, device)
    assert none.level is Level.OK and "this machine has none" in none.text
    device.touch()
    (usable,) = machine.virtualisation(world, device)
    emulated = "an image that is booted here runs in emulation"
    assert usable.level is Level.OK
    assert usable.text == f"{device} can be opened; where no guest runs under it, {emulated}"
    # Root may open everything.
    monkeypatch.setattr(os, "access", lambda *_: False)
    (closed,) = machine.virtualisation(world, device)
    assert closed.level is Level.WARNING and closed.hint


def test_each_mirror_is_asked_once_and_by_name(tmp_path: Path) -> None:
    with mirror() as served:
        platform = Platform(name="p", distribution="debian", release="bookworm", mirror=served.url)
        gone = replace(platform, mirror=closed_mirror())
        world = seen(
            installation(
                tmp_path,
                diskimage("one", platform=platform),
                diskimage("two", platform=platform),
                diskimage("three", platform=gone),
                diskimage("four"),
            )
        )
        found = list(images.mirrors(world))
        assert len(served.asked) == 1
    assert [f.level for f in found] == [Level.OK, Level.PROBLEM, Level.OK]
    assert found[2].text.startswith("not asked: four")


def test_the_kernel_gives_namespaces_and_loop_devices(tmp_path: Path) -> None:
    need_root()
    world = seen(installation(tmp_path))
    assert levels(machine.namespaces(world)) == {"namespaces": Level.OK}
    assert levels(machine.loop_devices(world)) == {"loop devices": Level.OK, "device-mapper": Level.OK}


def test_a_kernel_without_loop_devices(tmp_path: Path) -> None:
    found = levels(machine.loop_devices(seen(installation(tmp_path)), tmp_path / "none"))
    assert found["loop devices"] is Level.PROBLEM


def test_missing_tools_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = machine.programs(seen(installation(tmp_path)))
    assert finding.level is Level.PROBLEM
    assert "qemu-img" in finding.text
    assert "apt-get install" in finding.hint


def test_limits_that_can_not_be_kept_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support = cgroups.Support(cpu=True, problem="there is no controller for memory")
    monkeypatch.setattr(cgroups, "available", lambda: support)
    unwanted = installation(tmp_path)
    assert levels(machine.limits(seen(unwanted)))["build-limits"] is Level.OK
    kept = replace(unwanted, build_limits=BuildLimits(cpus=1.0))
    assert levels(machine.limits(seen(kept)))["build-limits"] is Level.OK
    wanted = replace(unwanted, build_limits=BuildLimits(memory=1 << 30))
    told = next(f for f in machine.limits(seen(wanted)) if f.name == "build-limits")
    assert told.level is Level.WARNING
    assert told.text == "builds are not held to memory: there is no controller for memory"
    assert "build-limits.memory" in told.hint


MEMINFO = "MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {free} kB\nHugePages_Total: 0\n"


@pytest.mark.parametrize(
    ("total", "free", "workers", "limit", "level"),
    [
        (8, 4, 1, None, Level.OK),
        (8, 4, 4, None, Level.OK),
        (8, 3, 4, None, Level.WARNING),
        (8, 8, 2, 4, Level.OK),
        (8, 8, 2, 5, Level.WARNING),
    ],
)
def test_memory_for_all_builds_at_a_time(
    tmp_path: Path, total: int, free: int, workers: int, limit: int | None, level: Level
) -> None:
    file = tmp_path / "meminfo"
    file.write_text(MEMINFO.format(total=total << 20, free=free << 20))
    limits = BuildLimits(memory=None if limit is None else limit << 30)
    configured = installation(tmp_path, build_workers=workers, build_limits=limits)
    (finding,) = machine.memory(seen(configured), file)
    assert finding.level is level


def test_what_dead_builds_left_is_told_apart_from_what_runs(tmp_path: Path) -> None:
    configured = installation(tmp_path)
    running = building(1, NOW)
    snapshot = Snapshot(images={IMAGE: replace(Snapshot().image(IMAGE), builds=(running,))})
    for number in (running.id, BUILD):
        workspace.create(
            configured.work_dir, image=IMAGE, build_id=number, installation_id=INSTALLATION, now=NOW
        )
    (configured.work_dir / "somebody-elses").mkdir()
    (finding,) = machine.leftovers(seen(configured, snapshot=snapshot))
    assert finding.level is Level.WARNING
    assert finding.text == f"left behind in {configured.work_dir}: {IMAGE}-{BUILD}"


@pytest.mark.parametrize(("limit", "level"), [(1 << 20, Level.OK), (4096, Level.WARNING)])
def test_a_cache_beyond_its_limit(tmp_path: Path, limit: int, level: Level) -> None:
    configured = installation(tmp_path, cache_limit=limit)
    configured.cache_dir.mkdir()
    (configured.cache_dir / "package").write_bytes(b"x" * 65536)
    # The same bytes under a second name take no more.
    (configured.cache_dir / "again").hardlink_to(configured.cache_dir / "package")
    (finding,) = machine.cache(seen(configured))
    assert finding.level is level
    assert finding.text.startswith("64.0 KiB")


def test_elements_directories_have_to_be_there(tmp_path: Path) -> None:
    configured = installation(tmp_path, elements_dirs=(tmp_path / "elements",))
    assert levels(machine.directories(seen(configured)))["elements-dir"] is Level.PROBLEM


def test_as_a_service_user_namespaces_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudo, "needed", lambda: True)
    (finding,) = machine.namespaces(seen(installation(tmp_path)))
    assert finding.text.startswith("not tried")


# -- the uploader ---------------------------------------------------------------------------------


def test_a_cloud_that_lets_us_in() -> None:
    (finding,) = clouds.look(provider("north"), lambda _: FakeCloud())
    assert finding.level is Level.OK
    assert "cloud north: logged in and listed images" in finding.text


def test_a_cloud_that_refuses_us() -> None:
    cloud = FakeCloud()
    said = "provider north: could not list images: the answer was 401: go away"
    cloud.fail("find", CloudError(said, failure_class=FailureClass.AUTH, hint="Check the credentials."))
    (finding,) = clouds.look(provider("north"), lambda _: cloud)
    assert finding.level is Level.PROBLEM
    assert finding.text == "auth: could not list images: the answer was 401: go away"
    assert finding.hint == "Check the credentials."


def test_a_cloud_that_is_down_always_comes_with_advice() -> None:
    cloud = FakeCloud()
    cloud.fail("find", CloudUnavailableError("it is down", failure_class=FailureClass.NETWORK))
    (finding,) = clouds.look(provider("north"), lambda _: cloud)
    assert finding.level is Level.PROBLEM
    assert finding.hint


def test_a_cloud_that_takes_another_format() -> None:
    cloud = FakeCloud()
    cloud.formats = {"raw", "vhd"}
    (finding,) = clouds.look(provider("north", image_format=ImageFormat.QCOW2), lambda _: cloud)
    assert finding.level is Level.PROBLEM
    assert "takes no qcow2, only raw, vhd" in finding.text


def test_a_cloud_that_does_not_say_what_it_takes_is_trusted() -> None:
    cloud = FakeCloud()
    cloud.formats = set()
    (finding,) = clouds.look(provider("north"), lambda _: cloud)
    assert finding.level is Level.OK


def test_only_providers_of_the_images_are_asked(tmp_path: Path) -> None:
    configured = installation(tmp_path, diskimage(), provider("north"), provider("south", "other"))
    assert [p.name for p in seen(configured).providers] == ["north"]

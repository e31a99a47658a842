"""A build from the diskimage to its files, with a scripted disk-image-create in the real sandbox."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from builder.config.model import Platform
from builder.dib import engine
from builder.dib.contents import manifest
from builder.dib.isolation import sandbox, workspace
from builder.dib.job import Job
from builder.dib.limits import Stop
from builder.dib.output import artifacts, inspect
from builder.dib.output.hashing import Disk
from builder.dib.product import Product
from builder.errors import ActionFailedError
from builder.model import Artifact, BuildPhase, Failure, FailureClass, ImageFormat
from tests.unit import reachable_world
from tests.unit.dib_world import (
    BUILD,
    INSTALLATION,
    bound_loops,
    eventually,
    hold_vmdk,
    image,
    job,
    need_root,
    processes_naming,
)


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def control(tmp_path: Path) -> Path:
    directory = tmp_path / "control"
    directory.mkdir()
    return directory


def stop_at(cancelled: threading.Event) -> Stop:
    """Go on until the event is set, then end as somebody's wish."""
    wish = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ops@host")
    return lambda: wish if cancelled.is_set() else None


def build(work: Job, cancelled: threading.Event | None = None) -> Product:
    return engine.run(work, on_phase=lambda _: None, stop=stop_at(cancelled or threading.Event()))


def failure_of(work: Job) -> Failure:
    with pytest.raises(ActionFailedError) as caught:
        build(work)
    assert caught.value.failure is not None
    return caught.value.failure


def assert_nothing_left(work: Job, control: Path) -> None:
    assert list(work.work_dir.iterdir()) == []
    assert processes_naming(control) == []
    assert [file for file in bound_loops().values() if str(work.work_dir) in file] == []
    assert str(work.work_dir) not in Path("/proc/self/mountinfo").read_text()


@contextmanager
def in_background(work: Job, cancelled: threading.Event) -> Iterator[Future[Product]]:
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(build, work, cancelled)
        finally:
            cancelled.set()


def test_a_build_passes_all_phases_and_publishes_what_its_record_says(tmp_path: Path, control: Path) -> None:
    formats = (ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.VHD, ImageFormat.VHDX, ImageFormat.VMDK)
    work = job(tmp_path, image(control, formats=formats))
    phases: list[BuildPhase] = []

    product = engine.run(work, on_phase=phases.append, stop=stop_at(threading.Event()))

    # A phase of some milliseconds may pass between two looks; none comes twice or out of order.
    assert phases == sorted(set(phases), key=list(BuildPhase).index)
    assert phases[:2] == [BuildPhase.RENDER, BuildPhase.PREFLIGHT]
    assert phases[-2:] == [BuildPhase.MANIFEST, BuildPhase.PUBLISH]
    assert {artifact.format for artifact in product.artifacts} == set(formats)
    for artifact in product.artifacts:
        file = artifacts.path(work.images_dir, "debian-bookworm", BUILD, artifact.format)
        assert artifacts.check(file, artifact, hashes=True) is None
        assert artifact.virtual_size == 4 << 20
    assert_nothing_left(work, control)


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, qemu-img makes no vmdk."""
    return hold_vmdk(tmp_path, monkeypatch)


EARLY = (ImageFormat.VMDK, ImageFormat.QCOW2, ImageFormat.RAW)


def test_a_file_is_published_and_told_while_another_is_still_made(
    tmp_path: Path, control: Path, hold: Path
) -> None:
    work = job(tmp_path, image(control, formats=EARLY))
    told: list[object] = []

    def on_artifact(artifact: Artifact) -> None:
        told.append(artifact.format)
        file = artifacts.path(work.images_dir, "debian-bookworm", BUILD, artifact.format)
        assert artifacts.check(file, artifact, hashes=True) is None
        inspect.check(file, artifact, artifact.format)
        proof = artifacts.directory(work.images_dir, "debian-bookworm", BUILD) / artifacts.PROOF
        assert json.loads(proof.read_text())["build_id"] == BUILD
        if {ImageFormat.QCOW2, ImageFormat.RAW} <= {*told}:
            hold.unlink(missing_ok=True)

    product = engine.run(
        work,
        on_phase=lambda _: None,
        on_disk=told.append,
        on_artifact=on_artifact,
        stop=stop_at(threading.Event()),
    )
    assert told[0] == product.disk
    assert {*told[1:3]} == {ImageFormat.QCOW2, ImageFormat.RAW}
    assert told[3:] == [ImageFormat.VMDK]
    raw = next(a for a in product.artifacts if a.format is ImageFormat.RAW)
    assert product.disk == Disk(sha256=raw.sha256, size=raw.size)
    home = artifacts.directory(work.images_dir, "debian-bookworm", BUILD)
    record = json.loads((home / artifacts.PROOF).read_text())
    assert (record["raw_sha256"], record["raw_size"]) == (raw.sha256, raw.size)
    assert (home / "packages.json").is_file()
    assert_nothing_left(work, control)


@pytest.mark.parametrize(
    "how", ["it is cancelled", "the listener fails", "a conversion fails", "the manifests fail"]
)
def test_a_build_that_fails_takes_back_what_it_had_published(
    tmp_path: Path, control: Path, hold: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = job(tmp_path, image(control, formats=EARLY))
    cancelled = threading.Event()
    published: list[bool] = []

    def on_artifact(artifact: Artifact) -> None:
        file = artifacts.path(work.images_dir, "debian-bookworm", BUILD, artifact.format)
        published.append(file.is_file())
        if how == "it is cancelled":
            cancelled.set()
        elif how == "the listener fails":
            raise LookupError("the claim is lost")
        hold.unlink(missing_ok=True)

    if how == "a conversion fails":
        script = tmp_path / "programs" / "qemu-img"
        script.write_text(script.read_text().replace("exec", '[ "$1 $5" = "convert vmdk" ] && exit 1\nexec'))
    elif how == "the manifests fail":
        monkeypatch.setattr(manifest, "write", _fail)
    with pytest.raises(LookupError if how == "the listener fails" else ActionFailedError):
        engine.run(work, on_phase=lambda _: None, on_artifact=on_artifact, stop=stop_at(cancelled))
    assert published and all(published)
    assert list(work.images_dir.iterdir()) == []
    assert_nothing_left(work, control)


def _fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_what_a_killed_daemon_had_published_can_be_deleted(tmp_path: Path, control: Path, hold: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", EARLY_DAEMON, str(tmp_path), str(control)],
        cwd=Path(__file__).parent.parent.parent,
    )
    work = job(tmp_path, image(control))
    early = artifacts.path(work.images_dir, "debian-bookworm", BUILD, ImageFormat.QCOW2)
    try:
        eventually(early.exists, "the qcow2 is published, the vmdk is not made")
    finally:
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    eventually(lambda: processes_naming(hold) == [], "its qemu-img is gone")
    assert artifacts.directory(work.images_dir, "debian-bookworm", BUILD).is_dir()
    artifacts.delete(work.images_dir, "debian-bookworm", BUILD, INSTALLATION)
    assert list(work.images_dir.iterdir()) == []
    workspace.sweep(work.work_dir, INSTALLATION)
    assert_nothing_left(work, control)


def test_a_log_that_can_not_be_written_ends_no_build_but_is_told(
    tmp_path: Path, control: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = replace(job(tmp_path, image(control)), log_path=Path("/dev/full"))
    assert build(work).artifacts
    assert "is not whole" in caplog.text and "No space left" in caplog.text


def test_raw_is_converted_from_and_not_kept_unless_wanted(tmp_path: Path, control: Path) -> None:
    work = job(tmp_path, image(control))
    build(work)
    assert sorted(path.name for path in work.images_dir.iterdir()) == [
        f"debian-bookworm-{BUILD}.d",
        f"debian-bookworm-{BUILD}.qcow2",
    ]


def test_each_phase_of_dib_is_told_while_it_lasts(tmp_path: Path, control: Path) -> None:
    (control / "pause").touch()
    cancelled = threading.Event()
    told: list[BuildPhase] = []
    work = job(tmp_path, image(control))
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(engine.run, work, on_phase=told.append, stop=stop_at(cancelled))
        try:
            eventually(lambda: told[-1:] == [BuildPhase.BOOTSTRAP], "the build waits in root.d")
            for phase in ("install", "block-device", "finalise"):
                (control / f"pause.{phase}").touch()
            (control / "pause").unlink()
            eventually(lambda: told[-1:] == [BuildPhase.PACKAGES], "the build waits in install.d")
            (control / "pause.install").unlink()
            eventually(lambda: told[-1:] == [BuildPhase.IMAGE], "the build waits at the block device")
            (control / "pause.block-device").unlink()
            eventually(lambda: told[-1:] == [BuildPhase.FINALISE], "the build waits in finalise.d")
            (control / "pause.finalise").unlink()
            run.result(timeout=30)
        finally:
            cancelled.set()
    # Nothing is booted.
    assert told == [phase for phase in BuildPhase if phase is not BuildPhase.TEST]


def test_secrets_reach_dib_and_nobody_else(tmp_path: Path, control: Path) -> None:
    secret = "s3cret 'with' $signs"
    recipe = image(control)
    recipe = image(
        environment={**recipe.environment, "DIB_DEV_USER_PASSWORD": secret},
        secret_names=frozenset({"DIB_DEV_USER_PASSWORD"}),
    )
    (control / "print").write_text(f"+ echo {secret}\nDIB_DEV_USER_PASSWORD={secret}\n")
    work = job(tmp_path, recipe)

    build(work)

    (run,) = map(json.loads, (control / "runs").read_text().splitlines())
    assert run["environment"]["DIB_DEV_USER_PASSWORD"] == secret
    proof = artifacts.directory(work.images_dir, "debian-bookworm", BUILD) / artifacts.PROOF
    for text in (work.log_path.read_text(), proof.read_text()):
        assert "DIB_DEV_USER_PASSWORD" in text
        assert secret not in text


def test_credentials_of_proxies_and_mirrors_are_told_to_dib_alone(
    tmp_path: Path, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = "http://bob:s3cr3t@mirror.test/debian"
    platform = Platform(name="p", distribution="debian", release="bookworm", mirror=mirror)
    work = job(tmp_path, image(control, platform=platform))
    with reachable_world.mirror() as server:
        server.paths = {"http://mirror.test/debian/dists/bookworm/InRelease"}
        proxy = f"http://ann:p4ssw0rd@{urlsplit(server.url).netloc}"
        monkeypatch.setenv("http_proxy", proxy)
        told = f"+ curl -x {proxy}\nusing ann:p4ssw0rd\nI: Retrieving {mirror}/dists\n"
        (control / "print").write_text(told)
        build(work)

    (run,) = map(json.loads, (control / "runs").read_text().splitlines())
    assert run["environment"]["http_proxy"] == proxy
    assert run["environment"]["DIB_DISTRIBUTION_MIRROR"] == mirror
    proof = artifacts.directory(work.images_dir, "debian-bookworm", BUILD) / artifacts.PROOF
    for text in (work.log_path.read_text(), proof.read_text()):
        assert "http_proxy" in text
        assert "p4ssw0rd" not in text
        assert "s3cr3t" not in text
    assert "using ********" in work.log_path.read_text()


def test_secrets_in_the_words_of_the_command_are_told_to_it_alone(tmp_path: Path, control: Path) -> None:
    proxy, secret = "http_proxy=http://ann:p4ssw0rd@proxy.test:3128", "s3cret 'word'"
    recipe = image(control)
    recipe = image(
        environment={**recipe.environment, "TOKEN": secret},
        secret_names=frozenset({"TOKEN"}),
        dib_cmd=("/usr/bin/env", "-u", "http_proxy", proxy, f"ALSO={secret}", *recipe.dib_cmd),
    )
    (control / "print").write_text("using ann:p4ssw0rd\n")
    work = job(tmp_path, recipe)
    build(work)
    (run,) = map(json.loads, (control / "runs").read_text().splitlines())
    assert (run["environment"]["http_proxy"], run["environment"]["ALSO"]) == (proxy.partition("=")[2], secret)
    proof = artifacts.directory(work.images_dir, "debian-bookworm", BUILD) / artifacts.PROOF
    for text in (work.log_path.read_text(), proof.read_text()):
        assert "http_proxy=http://********@proxy.test:3128" in text
        assert "p4ssw0rd" not in text
        assert "s3cret" not in text
    record = json.loads(proof.read_text())
    assert record["environment"]["DIB_IMAGE_FILENAME"] in record["command"]


def test_what_an_image_has_among_its_manifests_hangs_no_build_and_stands_for_no_proof(
    tmp_path: Path, control: Path
) -> None:
    leave = """
    "$@"
    cd "$(dirname "$DIB_IMAGE_FILENAME")"; place=$(basename "$DIB_IMAGE_FILENAME").d
    mkdir -p "$place/dib-manifests"; mkfifo "$place/dib-manifests/dib-manifest-git-x"
    mknod "$place/zero" c 1 5; echo '{"installation_id": "other"}' > "$place/build.json"
    """
    recipe = image(control)
    work = job(tmp_path, image(control, dib_cmd=("/bin/sh", "-ec", leave, "sh", *recipe.dib_cmd)))
    build(work)
    home = artifacts.directory(work.images_dir, "debian-bookworm", BUILD)
    assert json.loads((home / artifacts.PROOF).read_text())["installation_id"] == work.installation_id
    assert not (home / "zero").exists()
    artifacts.delete(work.images_dir, "debian-bookworm", BUILD, work.installation_id)
    assert not home.exists()


def test_the_log_tells_the_command_each_line_with_its_time_and_how_it_ended(
    tmp_path: Path, control: Path
) -> None:
    work = job(tmp_path, image(control))
    build(work)
    lines = work.log_path.read_text().splitlines()
    assert all(line[:4].isdigit() and " | " in line for line in lines)
    assert any("imagepool: DIB_RELEASE=bookworm" in line for line in lines)
    assert "the build is done" in lines[-1]
    assert work.log_path.stat().st_mode & 0o777 == 0o640


def test_a_failing_script_is_named_with_its_exit_code_and_last_words(tmp_path: Path, control: Path) -> None:
    (control / "fail").write_text("install 100\nE: Unable to locate package no-such-thing\n")
    work = job(tmp_path, image(control))

    failure = failure_of(work)

    assert failure == Failure(
        failure_class=FailureClass.PACKAGE,
        message="E: Unable to locate package no-such-thing",
        phase=BuildPhase.PACKAGES,
        step="package-installs/install.d/01-package-installs",
        exit_code=100,
        lines=("E: Unable to locate package no-such-thing",),
    )
    assert "the build failed: package: E: Unable" in work.log_path.read_text().splitlines()[-1]
    assert list(work.images_dir.iterdir()) == []
    assert_nothing_left(work, control)


def test_a_build_that_makes_no_image_failed_whatever_it_says(tmp_path: Path, control: Path) -> None:
    (control / "no-image").touch()
    failure = failure_of(job(tmp_path, image(control)))
    assert "made no image" in failure.message


def test_a_missing_disk_image_create_is_a_missing_tool(tmp_path: Path) -> None:
    work = job(tmp_path, image(dib_cmd=("no-such-disk-image-create",)))
    failure = failure_of(work)
    assert failure.failure_class is FailureClass.TOOL
    assert "no-such-disk-image-create" in failure.message
    assert list(work.work_dir.iterdir()) == []


PLACES = {
    "work-dir": "work_dir",
    "images-dir": "images_dir",
    "cache-dir": "cache_dir",
    "build-log-dir": "log_path",
}


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("file", "File exists|Not a directory"),
        ("file/below", "Not a directory"),
        ("/proc/nowhere", "No such file"),
        ("ro", "Read-only"),
    ],
)
def test_a_directory_that_cannot_be_used_is_a_matter_of_the_configuration(
    tmp_path: Path, control: Path, read_only: Path, key: str, where: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    bad = read_only if where == "ro" else tmp_path / where
    value = bad / "build.log" if key == "build-log-dir" else bad
    work = Job(**{**vars(job(tmp_path, image(control))), PLACES[key]: value})

    failure = failure_of(work)

    assert failure.failure_class is FailureClass.CONFIG
    assert f"the {key} {bad} can't be used: " in failure.message
    assert re.search(reason, failure.message)
    assert not (control / "runs").exists()  # found before hours of building


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A disk that can't be written."""
    disk = tmp_path / "read-only"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "imagepool-test", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_build_that_hangs_and_ignores_term_ends_at_its_timeout_with_all_its_children(
    tmp_path: Path, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GRACE", 0.5)
    (control / "hang.install").touch()
    (control / "ignore-term").touch()
    (control / "children").write_text("3")
    work = job(tmp_path, image(control, build_timeout=timedelta(seconds=3)))

    failure = failure_of(work)

    assert failure.failure_class is FailureClass.TIMEOUT
    assert failure.phase == BuildPhase.PACKAGES
    assert failure.step == "package-installs/install.d/01-package-installs"
    assert_nothing_left(work, control)


def test_a_stopped_build_ends_soon_and_leaves_no_loop_device(tmp_path: Path, control: Path) -> None:
    (control / "hang.finalise").touch()
    (control / "loop").touch()
    (control / "tmp").touch()
    work = job(tmp_path, image(control))
    cancelled = threading.Event()
    with in_background(work, cancelled) as run:
        eventually((control / "paused").exists, "the build hangs in finalise.d")
        assert [file for file in bound_loops().values() if str(work.work_dir) in file]
        cancelled.set()
        with pytest.raises(ActionFailedError) as caught:
            run.result(timeout=30)
    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is FailureClass.CANCELLED
    assert_nothing_left(work, control)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "imagepool-test", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_while_dib_works_is_told_as_that(small_disk: Path, control: Path) -> None:
    (control / "fill").write_text(str(small_disk / "work" / f"debian-bookworm-{BUILD}"))
    work = job(small_disk, image(control))
    failure = failure_of(work)
    assert failure.failure_class is FailureClass.DISK
    assert failure.phase == BuildPhase.PACKAGES
    assert_nothing_left(work, control)


def test_a_full_disk_while_converting_is_told_as_that(small_disk: Path, control: Path) -> None:
    # The image's data fits once but not twice.
    (control / "size").write_text("32")
    (control / "data").write_text("14")
    work = job(small_disk, image(control, formats=(ImageFormat.VHD,)))
    failure = failure_of(work)
    assert failure.failure_class is FailureClass.DISK
    assert failure.phase == BuildPhase.CONVERT
    assert_nothing_left(work, control)


def test_a_full_images_directory_leaves_no_half_published_build(
    tmp_path: Path, small_disk: Path, control: Path
) -> None:
    (control / "size").write_text("4")
    work = job(tmp_path, image(control))
    work = Job(**{**vars(work), "images_dir": small_disk / "images"})

    def fill(phase: BuildPhase) -> None:
        if phase is BuildPhase.CONVERT:
            (small_disk / "ballast").write_bytes(bytes(23 << 20))

    with pytest.raises(ActionFailedError) as caught:
        engine.run(work, on_phase=fill, stop=lambda: None)
    failure = caught.value.failure
    assert failure is not None
    assert failure.failure_class is FailureClass.DISK
    assert failure.phase == BuildPhase.PUBLISH
    assert list(work.images_dir.iterdir()) == []
    assert_nothing_left(work, control)


def test_what_other_builds_will_still_take_is_not_there_for_this_one(tmp_path: Path, control: Path) -> None:
    work = Job(**{**vars(job(tmp_path, image(control))), "promised": 1 << 60})
    failure = failure_of(work)
    assert (failure.failure_class, failure.phase) == (FailureClass.DISK, BuildPhase.PREFLIGHT)
    assert "builds that run 1073741824.0 GiB" in failure.message
    assert_nothing_left(work, control)


def test_work_and_images_may_be_on_different_disks(tmp_path: Path, small_disk: Path, control: Path) -> None:
    work = job(tmp_path, image(control, formats=(ImageFormat.RAW,)))
    work = Job(**{**vars(work), "images_dir": small_disk / "images"})
    (artifact,) = build(work).artifacts
    file = artifacts.path(work.images_dir, "debian-bookworm", BUILD, ImageFormat.RAW)
    assert artifacts.check(file, artifact, hashes=True) is None
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.stat().st_blocks * 512 < artifact.size  # its holes are holes still


def test_what_the_listener_raises_ends_the_build(tmp_path: Path, control: Path) -> None:
    (control / "hang.root").touch()
    work = job(tmp_path, image(control))

    def listener(phase: BuildPhase) -> None:
        if phase is BuildPhase.BOOTSTRAP:
            raise LookupError("the claim is lost")

    with pytest.raises(LookupError):
        engine.run(work, on_phase=listener, stop=stop_at(threading.Event()))
    assert_nothing_left(work, control)


DAEMON = """
import sys, threading
from pathlib import Path
from builder.dib import engine
from builder.model import ImageFormat
from tests.unit.dib_world import image, job
place, control = map(Path, sys.argv[1:])
engine.run(job(place, image(control)), on_phase=lambda _: None, stop=lambda: None)
"""


EARLY_DAEMON = DAEMON.replace(
    "image(control)", "image(control, formats=(ImageFormat.VMDK, ImageFormat.QCOW2))"
)


def test_a_daemon_killed_takes_everything_along_and_the_next_start_releases_the_rest(
    tmp_path: Path, control: Path
) -> None:
    (control / "hang.finalise").touch()
    for knob in ("ignore-term", "children", "loop"):
        (control / knob).touch()
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path), str(control)], cwd=Path(__file__).parent.parent.parent
    )
    try:
        eventually((control / "paused").exists, "the build hangs in finalise.d")
    finally:
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()

    eventually(lambda: processes_naming(control) == [], "all its processes are gone")
    work = job(tmp_path, image(control))
    (released,) = workspace.sweep(work.work_dir, INSTALLATION)

    assert released.problem == ""
    assert any(device.startswith("/dev/loop") for device in released.devices)
    assert released.ledger.build_id == BUILD
    assert_nothing_left(work, control)
    assert workspace.sweep(work.work_dir, INSTALLATION) == ()


@pytest.mark.skipif(sandbox.has_device_mapper(), reason="kpartx itself is used where there is device-mapper")
def test_the_stand_ins_are_seen_inside_the_sandbox_only(tmp_path: Path, control: Path) -> None:
    (control / "loop").touch()
    work = job(tmp_path, image(control))
    before = Path("/usr/sbin/kpartx").read_bytes()
    build(work)
    assert Path("/usr/sbin/kpartx").read_bytes() == before
    assert_nothing_left(work, control)

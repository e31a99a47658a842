"""Bad days: what dies, hangs, fills up, goes away or lies, and what is left afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.model import BuildState, FailureClass, UploadState
from tests.fakes.glance import (
    FakeGlance,
    Fault,
    answers,
    expires_token,
    hangs,
    loses_answer,
    resets,
    stores_nothing,
    then_changes,
    then_loses,
)
from tests.functional.installation import (
    Installation,
    command_lines,
    processes_mentioning,
    suspended,
    wait_until,
)

PHASES = ("root", "pre-install", "install", "finalise", "cleanup")


def only_ready_files(place: Installation) -> bool:
    """Whether the disk holds files of ready builds and nothing else."""
    ready = {b.id for b in place.snapshot().image("img").ready_builds}
    return all(any(build_id in name for build_id in ready) for name in place.files())


# -- the daemon dies ------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_mid_build_it_starts_over_and_leaves_nothing(place: Installation, phase: str) -> None:
    pause = place.knob(f"pause.{phase}")
    place.knob("loop")
    place.knob("tmp")
    daemon = place.start()
    place.paused_at(phase)
    daemon.kill()
    # Its build dies with it, to the last process.
    wait_until(lambda: not processes_mentioning(str(place.control)), place.story)
    (place.control / "paused").unlink(missing_ok=True)
    pause.unlink()
    place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    records = place.snapshot().image("img")
    lost = [b for b in records.builds if b.state is BuildState.FAILED]
    assert [b.reason.failure_class for b in lost if b.reason] == [FailureClass.INTERRUPTED]
    assert place.runs() == 2
    assert only_ready_files(place), place.files()
    assert str(place.root) not in _loop_devices()
    assert len(place.glance.images()) == 2


def test_killed_in_mid_conversion_it_starts_over_and_leaves_nothing(place: Installation) -> None:
    started, hold = place.slow_tool("qemu-img", "convert")
    daemon = place.start()
    wait_until(started.exists, place.story)
    daemon.kill()
    hold.unlink()
    wait_until(lambda: not processes_mentioning(str(place.root / "state")), place.story)
    place.start()
    place.ready_uploads(place.ready_build())
    assert place.runs() == 2
    assert only_ready_files(place), place.files()


@pytest.mark.parametrize(
    "fault",
    [
        hangs(on="create", after=0.0),
        loses_answer(on="create"),
        hangs(on="send", after=0.0),
        hangs(on="send", after=0.5),
        hangs(on="send", after=1.0),
        then_changes(status="importing"),
    ],
    ids=["in create", "after create", "before sending", "half sent", "all sent", "while Glance works"],
)
def test_killed_in_mid_upload_it_deletes_the_half_image_and_sends_again(
    place: Installation, glance: FakeGlance, fault: Fault
) -> None:
    glance.faults.append(replace(fault, region="RegionOne"))
    daemon = place.start()
    build = place.ready_build()
    half = place.until(lambda s: next((u for u in s.image("img").uploads_to("one") if u.external_name), None))
    wait_until(lambda: glance.faults[0].times == 0, place.story)
    place.ready_uploads(build, count=1)
    daemon.kill()
    place.start()
    uploads = place.ready_uploads(build)
    first = place.failed_upload()
    assert first.id == half.id
    assert first.reason is not None
    place.until(lambda s: not any(u.may_linger for u in s.image("img").uploads))
    assert {image["id"] for image in glance.images()} == {u.external_id for u in uploads}
    assert place.runs() == 1


def test_stopped_in_mid_build_it_ends_soon_and_the_next_start_goes_on(place: Installation) -> None:
    pause = place.knob("pause.install")
    daemon = place.start()
    place.paused_at("install")
    assert daemon.stop() == 0
    assert not processes_mentioning(str(place.control))
    lost = place.failed_build()
    assert lost.reason is not None and lost.reason.failure_class is FailureClass.INTERRUPTED
    assert not place.files()
    pause.unlink()
    place.start()
    place.ready_uploads(place.ready_build())


def test_a_second_daemon_shares_the_work_and_does_nothing_twice(place: Installation) -> None:
    pause = place.knob("pause.install")
    place.start()
    place.paused_at("install")
    other = place.root / "other.yaml"
    first = place.config.read_text()
    other.write_text(first.replace(str(place.root / "state"), str(place.root / "other-state")))
    second = place.start(config=other)
    wait_until(lambda: "runs as" in second.text(), place.story)
    pause.unlink()
    build = place.ready_build()
    place.ready_uploads(build)
    assert place.runs() == 1
    assert len(place.glance.images()) == 2


def test_a_signal_that_the_kernel_hands_to_another_thread_is_heard(place: Installation) -> None:
    place.knob("pause.install")
    daemon = place.start()
    place.paused_at("install")
    threads = sorted(int(task.name) for task in Path(f"/proc/{daemon.process.pid}/task").iterdir())
    os.kill(threads[-1], signal.SIGTERM)  # Linux delivers it to that very thread
    assert daemon.wait() == 0


def test_stopped_while_a_cloud_hangs_it_ends_in_bounded_time(place: Installation, glance: FakeGlance) -> None:
    daemon = place.start()
    upload = place.ready_uploads(place.ready_build())[0]
    glance.faults.append(hangs(on="delete"))
    place.store.update_upload(replace(upload, state=UploadState.DELETING))
    wait_until(lambda: glance.faults[0].times == 0, place.story)
    daemon.process.terminate()
    assert daemon.process.wait(45) == 0  # the cloud would be given up only after a minute


def test_a_second_daemon_on_the_same_work_directory_is_refused_and_sweeps_none(
    place: Installation,
) -> None:
    place.settings["work-dir"] = str(place.root / "work")
    place.write()
    pause = place.knob("pause.install")
    place.start()
    place.paused_at("install")
    other = place.root / "other.yaml"
    other.write_text(place.config.read_text().replace(str(place.root / "state"), str(place.root / "other")))
    second = place.start(config=other)
    assert second.wait() == 4
    assert str(place.root / "work") in second.text()
    pause.unlink()
    place.ready_build()
    assert place.runs() == 1


def test_a_second_daemon_on_the_same_state_directory_is_refused(place: Installation) -> None:
    place.start()
    place.ready_build()
    second = place.start()
    assert second.wait() == 4
    assert "state directory" in second.text()


# -- ZooKeeper goes away --------------------------------------------------------------------------


def test_another_tree_is_refused_before_anything_is_touched(place: Installation) -> None:
    daemon = place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    daemon.stop()
    files, images = place.files(), place.glance.images()
    place.settings["zookeeper-servers"][0]["chroot"] = f"{place.zookeeper.chroot}-wrong"
    place.write()
    daemon = place.start()
    assert daemon.wait() == 4
    assert "installation" in daemon.text()
    assert place.files() == files
    assert place.glance.images() == images


def test_it_waits_for_a_zookeeper_that_is_not_there_yet(place: Installation) -> None:
    servers = place.settings["zookeeper-servers"]
    place.settings["zookeeper-servers"] = [{"host": "127.0.0.1", "port": 1}]
    place.write()
    daemon = place.start()
    wait_until(lambda: "127.0.0.1:1" in daemon.text(), place.story)
    assert daemon.process.poll() is None
    assert daemon.stop() == 0
    once = place.start("--once")
    assert place.cli("build", "list").returncode == 5
    assert once.wait() == 5
    place.settings["zookeeper-servers"] = servers
    place.write()
    place.start()
    place.ready_uploads(place.ready_build())


# -- disk-image-create ----------------------------------------------------------------------------


def _fails(place: Installation) -> None:
    place.knob("fail", "install 100\nE: Unable to locate package linux-image-nonsense\n")


def _mirror(place: Installation) -> None:
    place.knob(
        "fail", "root 1\nE: Failed to fetch http://mirror.test/x.deb  Could not connect to mirror.test:80\n"
    )


def _hangs(place: Installation) -> None:
    place.knob("hang.install")
    place.image["build-timeout"] = 2
    place.write()


def _hangs_and_ignores(place: Installation) -> None:
    place.knob("ignore-term")
    place.knob("children", "2")
    _hangs(place)


def _no_image(place: Installation) -> None:
    place.knob("no-image")


def _missing(place: Installation) -> None:
    place.image["dib-cmd"] = "no-such-disk-image-create"
    place.write()


@pytest.mark.parametrize(
    ("spoil", "expected", "word"),
    [
        (_fails, FailureClass.PACKAGE, "linux-image-nonsense"),
        (_mirror, FailureClass.MIRROR, "mirror.test"),
        (_hangs, FailureClass.TIMEOUT, "2"),
        (_hangs_and_ignores, FailureClass.TIMEOUT, "2"),
        (_no_image, FailureClass.UNKNOWN, "made no image"),
        (_missing, FailureClass.TOOL, "no-such-disk-image-create"),
    ],
)
def test_a_build_that_fails_says_why_and_leaves_nothing(
    place: Installation, spoil: Callable[[Installation], None], expected: FailureClass, word: str
) -> None:
    spoil(place)
    daemon = place.start()
    failed = place.failed_build()
    assert failed.reason is not None
    assert failed.reason.failure_class is expected, failed.reason
    assert word in " ".join((failed.reason.message, *failed.reason.lines))
    shown = place.json("build", "show", failed.id)
    assert word in str(shown)
    daemon.stop()
    assert not processes_mentioning(str(place.control))
    assert not place.files()


def test_a_failing_build_backs_off_and_stops_at_the_limit(place: Installation) -> None:
    place.knob("fail", "install 1\nno luck\n")
    place.start()
    place.until(lambda s: [build.state for build in s.image("img").builds] == [BuildState.FAILED] * 3)
    explained = place.cli("image", "explain", "img", "-f", "json")
    assert explained.returncode == 0
    assert "3 builds in a row failed" in explained.stdout
    assert place.runs() == 3


def test_a_full_disk_is_named_and_released(small_disk: Path, place: Installation) -> None:
    place.settings["work-dir"] = str(small_disk / "work")
    place.settings["images-dir"] = str(small_disk / "images")
    place.settings["disk-reserve"] = "1M"  # the machine has it, and the build needs more
    place.knob("fill", str(small_disk))
    place.write()
    place.start()
    failed = place.failed_build()
    assert failed.reason is not None
    assert failed.reason.failure_class is FailureClass.DISK, failed.reason
    assert not list((small_disk / "work").glob("img-*"))
    assert not list((small_disk / "images").glob("img-*"))


# -- clouds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (answers(503, on="send", after=0.5), FailureClass.CLOUD),
        (answers(413, on="send", after=0.0), FailureClass.QUOTA),
        (answers(403, on="create"), FailureClass.AUTH),
        (answers(401, on="auth"), FailureClass.AUTH),
        (resets(on="send", after=0.5), FailureClass.NETWORK),
        (expires_token(), FailureClass.AUTH),
        (then_changes(status="killed"), FailureClass.CLOUD),
        (then_changes(os_hash_value="0" * 128), FailureClass.CLOUD),
        (then_changes(size=1), FailureClass.CLOUD),
        (then_loses(), FailureClass.CLOUD),
        (stores_nothing(), FailureClass.CLOUD),
    ],
    ids=lambda value: (
        f"{value.do}-{value.status}-{sorted(value.change)}" if isinstance(value, Fault) else None
    ),
)
def test_a_cloud_that_fails_or_lies_is_found_out_and_tried_again(
    place: Installation, glance: FakeGlance, fault: Fault, expected: FailureClass
) -> None:
    place.no_other_way()
    glance.faults.append(replace(fault, region="RegionOne" if fault.on != "auth" else None))
    place.start()
    build = place.ready_build()
    uploads = place.ready_uploads(build)  # the second try works, and the other region never noticed
    failed = [u for u in place.snapshot().image("img").uploads if u.state is UploadState.FAILED]
    assert {u.reason.failure_class for u in failed if u.reason} == {expected}
    # The regions of a cloud share a login and its token.
    assert {u.provider for u in failed} == {"one"} or fault.on == "auth" or fault.do == "expire"
    assert {(u.external_id, u.external_name) for u in failed} == {(None, None)}
    assert {image["id"] for image in glance.images()} == {u.external_id for u in uploads}


def test_a_half_image_that_can_not_be_deleted_at_once_is_deleted_later(
    place: Installation, glance: FakeGlance
) -> None:
    place.no_other_way()
    glance.faults.append(then_changes(status="killed", region="RegionOne"))
    glance.faults.append(answers(500, on="delete", region="RegionOne", times=3))
    place.start()
    build = place.ready_build()
    uploads = place.ready_uploads(build)
    failed = place.failed_upload()
    assert failed.reason is not None and "stays behind" in failed.reason.message
    place.until(lambda s: not any(u.may_linger for u in s.image("img").uploads))
    assert {image["id"] for image in glance.images()} == {u.external_id for u in uploads}


def test_a_cloud_that_hangs_is_cut_and_delays_no_other(place: Installation, glance: FakeGlance) -> None:
    place.settings["stall-timeout"] = 2
    place.no_other_way()
    glance.faults.append(hangs(on="send", after=0.5, region="RegionOne"))
    place.start()
    build = place.ready_build()
    uploads = place.ready_uploads(build)
    failed = [u for u in place.snapshot().image("img").uploads if u.state is UploadState.FAILED]
    assert [(u.provider, u.reason.failure_class) for u in failed if u.reason] == [
        ("one", FailureClass.TIMEOUT)
    ]
    assert {image["id"] for image in glance.images()} == {u.external_id for u in uploads}


def test_a_region_that_hangs_gives_the_only_place_to_the_others_and_can_be_cancelled(
    place: Installation, glance: FakeGlance
) -> None:
    place.settings["upload-workers"] = 1
    place.no_other_way()
    glance.faults.append(hangs(on="send", after=0.5, region="RegionOne"))
    place.start()
    build = place.ready_build()
    place.ready_uploads(build, count=1)
    (slow,) = place.snapshot().image("img").uploads_to("one")
    assert slow.state is UploadState.UPLOADING
    begun = time.monotonic()
    assert place.cli("upload", "cancel", slow.name, "--why", "too slow").returncode == 0, place.story()
    failed = place.failed_upload()
    assert time.monotonic() - begun < 15
    assert failed.reason is not None and failed.reason.failure_class is FailureClass.CANCELLED
    assert "too slow" in failed.reason.message
    assert glance.images("RegionOne") == []


def test_a_cloud_that_is_down_is_reported_and_served_when_it_is_back(
    place: Installation, glance: FakeGlance
) -> None:
    glance.down()
    place.start()
    build = place.ready_build()
    failed = place.failed_upload()
    assert failed.reason is not None and failed.reason.failure_class is FailureClass.NETWORK
    glance.up()
    place.ready_uploads(build)


def test_a_wrong_password_is_named_without_showing_it(place: Installation, glance: FakeGlance) -> None:
    glance.password = "another"
    place.start()
    place.ready_build()
    failed = place.failed_upload()
    assert failed.reason is not None and failed.reason.failure_class is FailureClass.AUTH
    assert "kept-in-clouds-yaml" not in place.story() + str(failed)


def test_what_imagepool_did_not_make_is_never_deleted(place: Installation, glance: FakeGlance) -> None:
    foreign = glance.add("RegionOne", name="img-somebody-elses")
    (place.root / "state" / "images").mkdir(parents=True)
    stranger = place.root / "state" / "images" / f"img-{'a' * 32}.qcow2"
    stranger.write_text("somebody's backup")
    place.start()
    build = place.ready_build()
    upload = next(u for u in place.ready_uploads(build) if u.provider == "one")
    # Somebody makes our record point at their image and asks for it to go.
    place.store.update_upload(replace(upload, state=UploadState.DELETING, external_id=foreign))
    place.until(
        lambda s: next(
            (u for u in s.image("img").uploads if u.id == upload.id and u.provider == "one" and u.reason),
            None,
        )
    )
    assert foreign in {image["id"] for image in glance.images("RegionOne")}
    assert stranger.read_text() == "somebody's backup"


def _loop_devices() -> str:
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return "\n".join(file.read_text() for file in files if os.access(file, os.R_OK))


def test_hup_reloads_and_does_not_kill(place: Installation) -> None:
    daemon = place.start()
    place.ready_build()
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration is in force" in daemon.text(), place.story)
    assert daemon.process.poll() is None


# -- sessions and servers that come and go ------------------------------------------------------


def test_a_session_lost_in_mid_build_costs_nothing(place: Installation) -> None:
    place.settings["zookeeper-timeout"] = 2
    place.write()
    pause = place.knob("pause.install")
    daemon = place.start()
    place.paused_at("install")
    assert place.snapshot().image("img").build_claimed
    with suspended(daemon.process.pid):
        # Held still for longer than the session lives, the daemon loses its lock.
        place.until(lambda s: not s.image("img").build_claimed)
    pause.unlink()
    build = place.ready_build()
    place.ready_uploads(build)
    assert place.runs() == 1


def test_a_session_lost_in_mid_upload_costs_nothing(place: Installation, glance: FakeGlance) -> None:
    place.settings["zookeeper-timeout"] = 2
    place.write()
    glance.faults.append(then_changes(status="importing", region="RegionOne"))
    daemon = place.start()
    build = place.ready_build()
    place.until(lambda s: any(upload.phase == "wait" for upload in s.image("img").uploads_to("one")))
    with suspended(daemon.process.pid):
        place.until(lambda s: (build.id, "one") not in s.image("img").uploads_claimed)
    finish_importing(glance)
    uploads = place.ready_uploads(build)
    assert [u.id for u in uploads] == ["0000000001", "0000000001"]
    assert {image["id"] for image in glance.images()} == {u.external_id for u in uploads}


def test_the_private_zookeeper_may_die_in_mid_build_and_mid_upload(
    place: Installation, glance: FakeGlance
) -> None:
    del place.settings["zookeeper-servers"]
    place.write()
    pause = place.knob("pause.install")
    glance.faults.append(then_changes(status="importing", region="RegionOne"))
    place.start()
    place.paused_at("install")
    kill_private_zookeeper(place)
    pause.unlink()
    place.use_private_zookeeper()
    build = place.ready_build()
    place.until(lambda s: any(upload.phase == "wait" for upload in s.image("img").uploads_to("one")))
    kill_private_zookeeper(place)
    finish_importing(glance)
    uploads = place.ready_uploads(build)
    assert place.runs() == 1
    assert {image["id"] for image in glance.images()} == {u.external_id for u in uploads}


def test_the_private_zookeeper_dies_with_a_killed_daemon_and_keeps_its_data(place: Installation) -> None:
    del place.settings["zookeeper-servers"]
    place.write()
    daemon = place.start()
    place.use_private_zookeeper()
    build = place.ready_build()
    place.ready_uploads(build)
    daemon.kill()
    wait_until(lambda: not private_zookeeper(place), place.story)
    assert place.cli("build", "list").returncode == 5
    place.start()
    place.use_private_zookeeper()
    assert place.ready_build().id == build.id
    assert place.json("build", "list")[0]["id"] == build.id
    assert place.runs() == 1


def finish_importing(glance: FakeGlance) -> None:
    """Glance is done with what it had all bytes of."""
    wait_until(lambda: any(image["status"] == "importing" for image in glance.images()))
    for image in glance.images():
        glance.change(image["id"], status="active")


def private_zookeeper(place: Installation) -> list[int]:
    """Process ids of this installation's own server."""
    mark = str(place.root / "state" / "zookeeper" / "zoo.cfg")
    return [pid for pid, line in command_lines() if mark in line]


def kill_private_zookeeper(place: Installation) -> None:
    """kill -9 the server, and wait for its end."""
    (pid,) = private_zookeeper(place)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in private_zookeeper(place), place.story)

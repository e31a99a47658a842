"""Builds as an operator meets them: cancelled, side by side, logged, deleted after upload, reproduced."""

from __future__ import annotations

import copy
import gzip
import json
import os
import time
from pathlib import Path

import pytest

from builder.model import Build, BuildState, FailureClass, Snapshot
from tests.fakes.glance import FakeGlance, answers
from tests.functional.installation import Installation, processes_mentioning, wait_until

#: Seconds that a cancelled build may take to end.
CANCELLED_WITHIN = 15.0


def traces(place: Installation) -> list[str]:
    """What builds have left: processes, devices, mounts, files of builds that are not ready."""
    work = str(place.root / "state" / "work")
    found = [line for needle in (str(place.control), work) for line in processes_mentioning(needle)]
    backing = Path("/sys/block").glob("loop*/loop/backing_file")
    found += [file.read_text() for file in backing if os.access(file, os.R_OK)]
    found += Path("/proc/self/mountinfo").read_text().splitlines()
    for daemon in place.daemons:
        if daemon.process.poll() is None:
            found += Path(f"/proc/{daemon.process.pid}/mountinfo").read_text().splitlines()
    found = [each for each in found if str(place.control) in each or work in each]
    ready = {build.id for build in place.snapshot().builds() if build.state is BuildState.READY}
    return found + [name for name in place.files() if not any(build_id in name for build_id in ready)]


def running(place: Installation, image: str = "img") -> Build:
    """The build of an image that is in progress."""

    def ask(snapshot: Snapshot) -> Build | None:
        builds = snapshot.image(image).builds
        return next((build for build in builds if build.state is BuildState.BUILDING), None)

    return place.until(ask)


def cancel(place: Installation, build: Build, reason: str) -> Build:
    """Cancel a build by the command, in time; its record afterwards."""
    began = time.monotonic()
    done = place.cli("build", "cancel", build.id, "--reason", reason)
    took = time.monotonic() - began
    assert (done.returncode, done.stderr) == (0, ""), place.story()
    assert took < CANCELLED_WITHIN, place.story()
    assert "cancelled by" in done.stdout and reason in done.stdout
    record = place.snapshot().image(build.image).build(build.id)
    assert record is not None and record.reason is not None
    assert record.state is BuildState.FAILED
    assert record.reason.failure_class is FailureClass.CANCELLED
    assert record.reason.message.startswith("cancelled by ") and record.reason.message.endswith(f": {reason}")
    return record


def assert_calm(place: Installation) -> None:
    """No daemon finds anything to do any more, and no record changes."""
    before = {(b.image, b.id): (b.version, b.state) for b in place.snapshot().builds()}
    for daemon in place.daemons:
        if daemon.process.poll() is None:
            assert daemon.stop() == 0
    again = place.start("--once")
    assert again.wait() == 0, again.text()
    assert {(b.image, b.id): (b.version, b.state) for b in place.snapshot().builds()} == before


# -- cancellation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["root", "finalise"])
def test_a_cancelled_build_that_obeys_nothing_ends_in_time_and_leaves_nothing(
    place: Installation, phase: str
) -> None:
    for knob in ("ignore-term", "loop", "tmp"):
        place.knob(knob)
    place.knob("children", "2")
    hang = place.knob(f"hang.{phase}")
    place.start()
    place.paused_at(phase)
    build = running(place)
    there = traces(place)
    assert len(processes_mentioning(str(place.control))) >= 2
    assert any("image0.raw" in each for each in there) is (phase == "finalise")

    record = cancel(place, build, "wrong mirror")
    assert record.next_try is None
    wait_until(lambda: not traces(place), lambda: f"{traces(place)}\n{place.story()}")
    assert place.snapshot().image("img").cancellation is None
    shown = place.cli("build", "show", record.id).stdout
    assert "wrong mirror" in shown
    # Nobody makes it again by himself, and anybody may.
    assert_calm(place)
    assert place.runs() == 1
    for knob in ("ignore-term", "children", "loop"):
        (place.control / knob).unlink()
    hang.unlink()
    (place.control / "paused").unlink()
    assert place.cli("image", "build", "img").returncode == 0
    assert place.start("--once").wait() == 0
    assert place.ready_build().id != record.id


def test_a_build_is_cancelled_while_it_is_converted(place: Installation) -> None:
    started, hold = place.slow_tool("qemu-img", "convert")
    place.image["formats"] = ["qcow2", "vhd"]
    place.write()
    place.start()
    wait_until(started.exists, place.story)
    record = cancel(place, running(place), "never mind")
    assert record.phase == "convert"
    wait_until(lambda: not traces(place), lambda: f"{traces(place)}\n{place.story()}")
    hold.unlink()
    assert_calm(place)
    assert place.runs() == 1
    assert (
        place.cli("build", "cancel", record.id).returncode == 0
    )  # it was cancelled, which is what is wished


def test_what_has_ended_can_not_be_cancelled(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    refused = place.cli("build", "cancel", build.id)
    assert refused.returncode == 4
    assert "is ready, not in progress" in refused.stderr
    assert place.snapshot().image("img").build(build.id) == build


# -- side by side -----------------------------------------------------------------------------------


def test_two_images_are_built_side_by_side_and_cancelling_one_leaves_the_other_alone(
    place: Installation,
) -> None:
    other_control = place.root / "control-of-other"
    other_control.mkdir()
    other = copy.deepcopy(place.image) | {"name": "other"}
    other["env-vars"]["FAKE_DIB_CONTROL"] = str(other_control)
    place.settings["diskimages"].append(other)
    place.settings["build-workers"] = 2
    place.write()
    place.knob("hang.install")
    pause = other_control / "pause.install"
    pause.touch()
    place.start()
    place.paused_at("install")
    wait_until((other_control / "paused").exists, place.story)
    first, second = running(place), running(place, "other")

    cancel(place, first, "one is enough")
    still = place.snapshot().image("other").build(second.id)
    assert still is not None and still.state is BuildState.BUILDING
    pause.unlink()
    place.until(lambda s: s.image("other").ready_builds)
    wait_until(lambda: not traces(place), lambda: f"{traces(place)}\n{place.story()}")

    own, others = (
        json.loads((control / "runs").read_text())["environment"]
        for control in (place.control, other_control)
    )
    for variable in ("TMPDIR", "HOME", "DIB_IMAGE_CACHE"):
        assert own[variable] != others[variable]


# -- logs -------------------------------------------------------------------------------------------


def test_a_log_is_read_while_it_grows_and_packed_when_the_build_has_ended(place: Installation) -> None:
    pause = place.knob("pause.post-install")
    place.knob("print", "something that only this build says")
    place.start()
    place.paused_at("post-install")
    build = running(place)
    growing = place.cli("build", "log", build.id)
    assert growing.returncode == 0
    assert "something that only this build says" in growing.stdout
    assert "the build is done" not in growing.stdout
    pause.unlink()

    place.ready_build()
    assert build.log is not None
    packed = Path(f"{build.log}.gz")
    wait_until(lambda: packed.exists() and not Path(build.log or "").exists(), place.story)
    done = place.cli("build", "log", build.id)
    assert done.returncode == 0
    assert done.stdout.startswith(growing.stdout)
    assert "imagepool: the build is done after" in done.stdout.splitlines()[-1]
    with gzip.open(packed, "rt") as stream:
        assert stream.read() == done.stdout
    last = place.cli("build", "log", build.id, "--tail", "1")
    assert last.stdout == done.stdout.splitlines(keepends=True)[-1]


# -- delete-after-upload ----------------------------------------------------------------------------


def test_files_go_once_every_region_has_the_image_and_nothing_is_built_for_it(
    place: Installation, glance: FakeGlance
) -> None:
    # One region needs the file once more when the other has the image already.
    glance.faults.append(answers(503, on="send", after=0.5, region="RegionTwo"))
    place.image["delete-after-upload"] = True
    place.image["formats"] = ["qcow2", "raw"]
    place.image["keep-formats"] = ["raw"]
    place.no_other_way()
    place.start()
    build = place.ready_build()
    place.until(lambda s: (known := s.image("img").build(build.id)) and known.pruned)
    uploads = place.serving_uploads(build)
    assert place.failed_upload("two").build_id == build.id
    files = place.files()
    assert not [name for name in files if name.endswith(".qcow2")]
    assert [name for name in files if name.endswith(".raw")]
    assert place.json("build", "show", build.id)["pruned"] == ["qcow2"]
    assert_calm(place)
    assert place.runs() == 1
    assert place.ready_uploads(build) == uploads
    assert {image["id"] for image in place.glance.images()} == {upload.external_id for upload in uploads}


# -- reproduce --------------------------------------------------------------------------------------


def test_a_script_builds_again_what_is_on_record(place: Installation) -> None:
    place.image["env-vars"]["API_TOKEN"] = "open-sesame"
    place.image["env-vars"]["DIB_FLAVOUR"] = "vanilla"
    place.write()
    place.start()
    build = place.ready_build()
    # What counts is how it was built, not how it would be now.
    place.image["env-vars"]["DIB_FLAVOUR"] = "chocolate"
    place.write()
    printed = place.cli("build", "reproduce", build.id[:8])
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "open-sesame" not in printed.stdout
    assert "DIB_FLAVOUR=vanilla" in printed.stdout
    assert f"img-{build.id}" in printed.stdout
    assert "disk-image-create -x -t raw" in printed.stdout

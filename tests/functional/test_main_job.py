"""The main job: scheduler, build, uploads, status, and round again."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from builder.model import Build, BuildState, Snapshot, UploadState
from tests.functional.installation import (
    FAKE_DIB,
    Installation,
    processes_mentioning,
    raw_session,
    wait_until,
)


def test_an_image_is_built_and_reaches_every_region(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    uploads = place.ready_uploads(build)

    # The file is there, is what the record says, and is what both clouds hold.
    file = place.root / "state" / "images" / f"img-{build.id}.qcow2"
    (artifact,) = build.artifacts
    assert sha256(file.read_bytes()).hexdigest() == artifact.sha256
    assert file.stat().st_size == artifact.size
    images = {image["id"]: image for image in place.glance.images()}
    assert {u.external_id for u in uploads} == set(images)
    assert {image["os_hash_value"] for image in images.values()} == {artifact.sha512}
    assert {image["size"] for image in images.values()} == {artifact.size}

    # Each cloud image says which image, build and upload it is, in our words and in nodepool's.
    for upload in uploads:
        image = images[upload.external_id or ""]
        assert image["imagepool_image"] == "img"
        assert image["imagepool_build_id"] == image["nodepool_build_id"] == build.id
        assert image["imagepool_provider"] == image["nodepool_provider_name"] == upload.provider
        assert image["nodepool_upload_id"] == upload.id
        assert image["owner_specified.openstack.sha256"] == artifact.sha256

    # The record tells the whole story.
    assert build.reason is None and build.phase is None
    assert set(build.timings) >= {
        "render",
        "preflight",
        "convert",
        "convert qcow2",
        "hash qcow2",
        "manifest",
        "publish",
    }
    assert build.elements == ("fake", "vm")
    assert "qemu-img" in " ".join(build.tools)
    assert build.request is not None and not build.request.manual
    assert place.snapshot().image("img").request is None
    assert place.runs() == 1


def test_the_records_are_nodepools(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    upload = place.ready_uploads(build)[0]
    base = f"/nodepool/images/img/builds/{build.id}"
    with raw_session(place.zookeeper) as client:
        record = json.loads(client.get(base)[0])
        raw = json.loads(client.get(f"{base}/providers/{upload.provider}/images/{upload.id}")[0])
        components = client.get_children("/nodepool/components/builder")
    assert record["state"] == "ready"
    assert record["formats"] == "qcow2"
    assert isinstance(record["state_time"], float)
    assert set(record) >= {"builder", "builder_id", "username", "python_path", "shell_type"}
    assert upload.id == "0000000001"
    assert raw["state"] == "ready" and raw["external_id"] == upload.external_id
    assert raw["format"] == "qcow2" and raw["external_name"].startswith("img-")
    assert len(components) == 1


def test_statsd_is_told_under_nodepools_names(place: Installation) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(0.2)
        place.variables = {"STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(statsd.getsockname()[1])}
        place.start()
        build = place.ready_build()
        place.ready_uploads(build)
        told: dict[str, str] = {}

        def is_told() -> bool:
            with suppress(TimeoutError):
                for line in statsd.recv(4096).decode().splitlines():
                    name, _, value = line.partition(":")
                    told[name] = value
            return wanted <= told.keys()

        base, host = "nodepool.dib_image_build.img", f"nodepool.builder.{build.builder}"
        wanted = {
            *(
                f"{base}.status.rc",
                f"{base}.status.duration",
                f"{base}.status.last_build",
                f"{base}.qcow2.size",
            ),
            *(
                "nodepool.image_update.img.one",
                "nodepool.image_update.img.two",
                "nodepool.image_build_requests",
            ),
            *(f"{host}.current_builds", f"{host}.build_workers", f"{host}.image.img.build.state"),
        }
        wait_until(is_told)
    assert told[f"{base}.status.rc"] == "0|g"
    assert told[f"{host}.build_workers"] == "1|g"


def test_the_commands_show_it(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    (row,) = place.json("build", "list")
    assert list(row) == [
        "id",
        "image",
        "state",
        "phase",
        "builder",
        "formats",
        "size",
        "age",
        "duration",
        "reason",
        "progress",
        "left",
        "withheld",
    ]
    assert (row["id"], row["state"], row["formats"], row["reason"]) == (build.id, "ready", ["qcow2"], None)
    rows = place.json("upload", "list", "--image", "img")
    assert {(r["provider"], r["region"], r["state"]) for r in rows} == {
        ("one", "RegionOne", "ready"),
        ("two", "RegionTwo", "ready"),
    }
    (image,) = place.json("image", "list")
    assert (image["image"], image["state"], image["uploads_ready"], image["uploads_total"]) == (
        "img",
        "ready",
        2,
        2,
    )
    assert place.json("build", "show", build.id[:6])["id"] == build.id
    log = place.cli("build", "log", build.id[:6])
    assert log.returncode == 0 and "debootstrap" in log.stdout


def test_a_rebuild_by_hand_follows_to_the_end(place: Installation) -> None:
    place.start()
    first = place.ready_build()
    place.ready_uploads(first)
    done = place.cli("image", "build", "img", "--wait", "--why", "a new kernel")
    assert done.returncode == 0, done.stderr + place.story()
    second = place.ready_build(after=first.id)
    assert len(place.ready_uploads(second)) == 2
    assert second.request is not None and second.request.manual and second.request.why == "a new kernel"
    assert place.runs() == 2


def test_asking_twice_while_it_waits_is_one_build(place: Installation) -> None:
    place.image["pause"] = False
    pause = place.knob("pause.root")
    place.start()
    place.paused_at("root")
    assert place.cli("image", "build", "img").returncode == 0
    assert place.cli("image", "build", "img").returncode == 0
    pause.unlink()
    # The first build answers the scheduler's wish, one more answers the person's two.
    place.until(lambda s: len(s.image("img").ready_builds) == 2 and s.image("img").request is None)
    assert place.runs() == 2


def test_a_failed_rebuild_by_hand_says_why_and_keeps_what_is_good(place: Installation) -> None:
    place.start()
    good = place.ready_build()
    place.ready_uploads(good)
    place.knob("fail", "install 100\nE: Unable to locate package no-such-package\n")
    done = place.cli("image", "build", "img", "--wait")
    assert done.returncode == 1
    assert "no-such-package" in done.stderr
    records = place.snapshot().image("img")
    assert records.ready_builds[0].id == good.id
    assert len(records.uploads_of(good.id)) == 2
    assert records.request is None


def test_two_builds_stay_and_older_ones_go_from_disk_and_clouds(place: Installation) -> None:
    place.start()
    builds = [place.ready_build()]
    place.ready_uploads(builds[0])
    for _ in range(2):
        assert place.cli("image", "build", "img", "--wait").returncode == 0, place.story()
        builds.append(place.ready_build(after=builds[-1].id))
        place.ready_uploads(builds[-1])
    place.until(lambda s: {b.id for b in s.image("img").builds} == {b.id for b in builds[1:]})
    assert {i["imagepool_build_id"] for i in place.glance.images()} == {b.id for b in builds[1:]}
    assert len(place.glance.images()) == 4
    assert not [name for name in place.files() if builds[0].id in name]


def test_the_stable_name_and_tag_are_on_the_newest_image_of_each_region_alone(place: Installation) -> None:
    place.image.update({"stable-name": "img-current", "stable-tag": "current"})
    place.write()
    place.start()
    first = place.ready_build()
    _served_by(place, first)
    assert place.cli("image", "build", "img", "--wait").returncode == 0, place.story()
    serving = _served_by(place, place.ready_build(after=first.id))
    images = place.glance.images()
    assert len(images) == 4
    assert {i["id"] for i in images if i["name"] == "img-current"} == serving
    assert {i["id"] for i in images if "current" in i["tags"]} == serving


def _served_by(place: Installation, build: Build) -> set[str | None]:
    """Wait until a build alone is in service, and everywhere; the ids of its images."""

    def ask(snapshot: Snapshot) -> set[str | None]:
        serving = [u for u in snapshot.image("img").uploads if u.serving]
        done = [u.build_id for u in serving] == [build.id] * 2
        return {u.external_id for u in serving} if done else set()

    return place.until(ask)


def test_a_build_deleted_by_hand_goes_everywhere(place: Installation) -> None:
    place.start()
    first = place.ready_build()
    place.ready_uploads(first)
    assert place.cli("image", "build", "img", "--wait").returncode == 0
    second = place.ready_build(after=first.id)
    place.ready_uploads(second)
    assert place.cli("build", "delete", first.id).returncode == 0
    place.until(lambda s: [b.id for b in s.image("img").builds] == [second.id])
    assert {i["imagepool_build_id"] for i in place.glance.images()} == {second.id}
    assert not [name for name in place.files() if first.id in name]


def test_the_last_good_image_is_deleted_only_by_force(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    assert place.cli("build", "delete", build.id).returncode == 4
    assert place.cli("upload", "delete", f"{build.id}/one").returncode == 4
    assert place.snapshot().image("img").builds[0].state is BuildState.READY
    assert all(u.state is UploadState.READY for u in place.snapshot().image("img").uploads)


def test_once_does_all_that_is_due_and_ends(place: Installation) -> None:
    daemon = place.start("--once")
    assert daemon.wait() == 0, daemon.text()
    build = place.ready_build()
    assert len(place.ready_uploads(build)) == 2
    assert place.start("--once").wait() == 0
    assert place.runs() == 1


def test_once_ends_with_1_when_something_failed(place: Installation) -> None:
    place.knob("fail", "install 1\nsomething is wrong\n")
    daemon = place.start("--once")
    assert daemon.wait() == 1, daemon.text()
    assert place.failed_build().reason is not None


def test_the_build_command_is_the_one_on_path(place: Installation) -> None:
    del place.image["dib-cmd"]
    place.write()
    place.path = f"{FAKE_DIB.parent}:{place.path}"
    assert place.start("--once").wait() == 0, place.story()
    assert place.runs() == 1


def test_a_paused_image_is_left_alone_until_unpaused(place: Installation) -> None:
    assert place.cli("image", "pause", "img").returncode == 0
    assert place.start("--once").wait() == 0
    assert place.runs() == 0
    (row,) = place.json("image", "list")
    assert row["paused"] is True
    assert place.cli("image", "unpause", "img").returncode == 0
    assert place.start("--once").wait() == 0
    assert place.runs() == 1


def test_a_changed_configuration_is_taken_while_it_runs(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    place.image["formats"] = ["qcow2", "raw"]
    place.write()
    second = place.ready_build(after=build.id)
    assert set(second.formats) == {"qcow2", "raw"}


def test_a_broken_configuration_is_reported_and_the_last_good_one_stays(place: Installation) -> None:
    daemon = place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    good = place.config.read_text()
    place.config.write_text(good.replace("elements:", "elemets:"))
    wait_until(lambda: "last good one stays in force" in daemon.text(), place.story)
    assert "elemets" in daemon.text() and "imagepool.yaml:" in daemon.text()
    assert place.cli("image", "build", "img").returncode == 2  # the command reads the broken file itself
    place.config.write_text(good)
    wait_until(lambda: "configuration is in force" in daemon.text(), place.story)
    assert place.cli("image", "build", "img", "--wait").returncode == 0, place.story()


def test_no_secret_reaches_a_log_a_record_or_the_process_list(place: Installation) -> None:
    place.image["env-vars"]["MIRROR_PASSWORD"] = "s3cr3t-of-the-mirror"
    place.write()
    place.knob("print", "connecting with s3cr3t-of-the-mirror\n")
    pause = place.knob("pause.finalise")
    daemon = place.start()
    place.paused_at("finalise")
    assert not processes_mentioning("s3cr3t-of-the-mirror")
    pause.unlink()
    build = place.ready_build()
    place.ready_uploads(build)
    daemon.stop()
    texts = [file for file in place.root.rglob("*") if file.is_file() and file != place.config]
    leaks = [str(f) for f in texts if b"s3cr3t-of-the-mirror" in f.read_bytes() and not _is_control(place, f)]
    assert not leaks
    assert "s3cr3t-of-the-mirror" not in place.cli("config", "show").stdout
    assert "s3cr3t-of-the-mirror" not in place.cli("image", "render", "img", "--script").stdout


def _is_control(place: Installation, file: Path) -> bool:
    return file.is_relative_to(place.control)  # the scripted dib's own notes, not ours

"""ZooKeeper has lost its records: what `imagepool recover` brings back, and that all goes on as before."""

from __future__ import annotations

import json
import shutil
from typing import Any

from builder.model import Build, BuildState, Upload, UploadState
from tests.fakes.glance import FakeGlance, hangs
from tests.functional.installation import Installation, wait_until


def recover(place: Installation, *arguments: str) -> list[dict[str, Any]]:
    """What the command lists; it must end well."""
    done = place.cli("recover", *arguments, "-f", "json")
    assert done.returncode == 0, done.stderr + place.story()
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def essence(upload: Upload) -> tuple[str, ...]:
    """What must be the same again."""
    return (
        *(upload.name, upload.state, str(upload.external_id), str(upload.external_name)),
        *(str(upload.cloud), str(upload.region), str(upload.serving is None)),
    )


def content(build: Build) -> tuple[object, ...]:
    return (
        *(build.id, build.state, build.artifacts, build.formats, build.builder, build.builder_id),
        *(build.raw_sha256, build.raw_size, build.username, build.tools, build.log, build.pruned),
        *(build.started, build.ended, build.state_time),
    )


def built_twice(place: Installation) -> None:
    """A daemon that built twice, uploaded both to both regions, and was stopped."""
    place.image["stable-name"] = "img-current"
    place.write()
    daemon = place.start()
    first = place.ready_build()
    place.ready_uploads(first)
    assert place.cli("image", "build", "img", "--wait").returncode == 0, place.story()
    second = place.ready_build(after=first.id)
    place.ready_uploads(second)
    place.until(lambda s: {u.build_id for u in s.image("img").uploads if u.serving} == {second.id})
    assert daemon.stop() == 0


def test_after_the_loss_all_goes_on_as_before(place: Installation, glance: FakeGlance) -> None:
    built_twice(place)
    before = place.snapshot().image("img")
    images, files = glance.images(), place.files()
    place.lose_records()

    # The daemon sees that something is wrong, and says what to do.
    refused = place.start()
    assert refused.wait() == 4 and "imagepool recover" in refused.text()

    rows = recover(place, "--dry-run")
    assert [row["action"] for row in rows] == ["restore"] * 6
    assert not list(place.snapshot().builds())
    rows = recover(place, "--yes")
    assert [row["outcome"] for row in rows] == ["restored"] * 6
    after = place.snapshot().image("img")
    assert [content(b) for b in after.builds] == [content(b) for b in before.builds]
    assert sorted(map(essence, after.uploads)) == sorted(map(essence, before.uploads))

    # Nothing is built, uploaded or deleted that was there.
    creations = glance.count("create")
    assert place.start("--once").wait() == 0, place.story()
    assert place.runs() == 2 and glance.count("create") == creations
    assert glance.images() == images and place.files() == files

    # Retention works on what was restored: the next build takes the place of the first.
    place.start()
    assert place.cli("image", "build", "img", "--wait").returncode == 0, place.story()
    place.until(lambda s: len(s.image("img").builds) == 2)
    newest = place.ready_build()
    kept = {newest.id, before.builds[0].id}
    assert {b.id for b in place.snapshot().image("img").builds} == kept
    wait_until(lambda: {i["imagepool_build_id"] for i in glance.images()} == kept, place.story)
    assert len(glance.images()) == 4
    assert not [name for name in place.files() if before.builds[1].id in name]


def test_beside_a_daemon_it_is_refused(place: Installation) -> None:
    place.start()
    place.ready_build()
    done = place.cli("recover", "--yes")
    assert done.returncode == 4 and "another imagepool daemon" in done.stderr


def test_what_was_half_uploaded_is_taken_away_and_uploaded_anew(
    place: Installation, glance: FakeGlance
) -> None:
    glance.faults.append(hangs(on="send", after=0.5, region="RegionTwo"))
    daemon = place.start()
    build = place.ready_build()
    place.ready_uploads(build, count=1)
    place.until(lambda s: [u for u in s.image("img").uploads_to("two") if u.external_id])
    daemon.kill()
    glance.released.set()
    half = {image["id"] for image in glance.images("RegionTwo")}
    (good,) = glance.images("RegionOne")
    assert len(half) == 1
    place.lose_records()

    rows = recover(place, "--yes")
    assert [(row["what"], row["provider"]) for row in rows] == [
        ("build", None),
        ("image", "one"),
        ("image", "two"),
    ]
    (failed,) = place.snapshot().image("img").uploads_to("two")
    assert failed.state is UploadState.FAILED and failed.external_id in half

    place.start()
    uploads = place.ready_uploads(build)
    wait_until(lambda: not half & {image["id"] for image in glance.images()}, place.story)
    assert {i["id"] for i in glance.images()} == {u.external_id for u in uploads}
    assert good["id"] in {u.external_id for u in uploads} and place.runs() == 1


def test_a_build_in_progress_is_cleaned_up_and_begun_anew(place: Installation, glance: FakeGlance) -> None:
    place.image["formats"] = ["qcow2", "vhdx"]
    place.write()
    # The qcow2 is there, and so is its proof, while the other format is still made.
    started, hold = place.slow_tool("qemu-img", "vhdx")
    daemon = place.start()
    wait_until(lambda: started.exists() and any(n.endswith(".qcow2") for n in place.files()), place.story)
    (lost,) = place.snapshot().image("img").builds
    daemon.kill()
    hold.unlink()
    place.lose_records()
    recover(place, "--yes")
    (failed,) = place.snapshot().image("img").builds
    assert (failed.id, failed.state) == (lost.id, BuildState.FAILED)
    place.start()
    build = place.ready_build()
    uploads = place.ready_uploads(build)
    wait_until(lambda: not [name for name in place.files() if lost.id in name], place.story)
    wait_until(lambda: {i["id"] for i in glance.images()} == {u.external_id for u in uploads}, place.story)


def test_a_private_zookeeper_that_lost_its_data_is_started_for_it(place: Installation) -> None:
    del place.settings["zookeeper-servers"]
    place.write()
    daemon = place.start()
    place.use_private_zookeeper()
    build = place.ready_build()
    uploads = place.serving_uploads(build)
    assert daemon.stop() == 0
    installation = place.root / "state" / "installation"
    ours = installation.read_text().strip()
    shutil.rmtree(place.root / "state" / "zookeeper")
    installation.unlink()
    unnamed = place.cli("recover", "--yes")
    assert unnamed.returncode == 2
    assert f"installation {ours}: 2 images in the clouds, 1 build on this disk" in unnamed.stderr
    rows = recover(place, "--yes", "--installation", ours)
    assert [row["outcome"] for row in rows] == ["restored"] * 3
    place.start()
    place.use_private_zookeeper()
    assert place.ready_build().id == build.id
    assert sorted(map(essence, place.serving_uploads(build))) == sorted(map(essence, uploads))
    assert place.runs() == 1

"""nodepool's own programs and ours on one tree: each reads what the other wrote, and does as it asks."""

from __future__ import annotations

import json
import stat
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.cli.text import iso
from builder.config.model import ZooKeeper
from builder.model import Build, BuildState, Pause, Snapshot, UploadState
from builder.store.zookeeper import ZooKeeperStore
from tests.contract.records import NOON, a_build, a_full_build, a_full_upload, an_upload
from tests.fakes.glance import FakeGlance
from tests.functional.installation import Installation
from tests.realparts.nodepool import Nodepool, tls_zookeeper, zookeeper_settings

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("nodepool")]

#: What nodepool-builder runs here: a qcow2 of no great size, and the checksums that dib writes beside it.
DIB = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in -o) base=$2; shift 2 ;; *) shift ;; esac
done
qemu-img create -q -f qcow2 "$base.qcow2" 4M
md5sum "$base.qcow2" > "$base.qcow2.md5"
sha256sum "$base.qcow2" > "$base.qcow2.sha256"
mkdir "$base.d"
"""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    """A server that nodepool talks to."""
    with tls_zookeeper(tmp_path_factory.mktemp("tls")) as zookeeper:
        yield zookeeper


@pytest.fixture
def zookeeper(secure: ZooKeeper) -> ZooKeeper:
    """It, in a chroot that is this test's own."""
    return replace(secure, chroot=f"/test-{uuid.uuid4().hex}")


@pytest.fixture
def place(tmp_path: Path, zookeeper: ZooKeeper) -> Iterator[Installation]:
    """An installation of ours; nothing runs yet."""
    with FakeGlance.start() as glance:
        installation = Installation(tmp_path, zookeeper, glance)
        installation.settings.update(zookeeper_settings(zookeeper))
        installation.write()
        try:
            # nodepool's commands need the chroot to be there.
            assert not installation.snapshot().images
            yield installation
        finally:
            glance.released.set()
            installation.close()


@pytest.fixture
def peer(place: Installation, zookeeper: ZooKeeper) -> Nodepool:
    """nodepool beside it, for the same image and clouds, with the same directory of image files."""
    return Nodepool(place.root, zookeeper, settings_of_nodepool(place), place.clouds)


def settings_of_nodepool(place: Installation) -> dict[str, Any]:
    dib = place.root / "dib"
    dib.write_text(DIB)
    dib.chmod(0o755)
    providers = [
        {
            "name": name,
            "cloud": "fake",
            "region-name": region,
            "rate": 0.001,
            "diskimages": [{"name": "img"}],
            "pools": [],
        }
        for name, region in (("one", "RegionOne"), ("two", "RegionTwo"))
    ]
    return {
        "images-dir": str(place.root / "state" / "images"),
        "build-log-dir": str(place.root / "nodepool-logs"),
        "labels": [],
        "diskimages": [
            {"name": "img", "elements": ["vm"], "formats": ["qcow2"], "dib-cmd": str(dib)},
        ],
        "providers": providers,
    }


def by_name(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: [str(row.get(key)) for key in ("id", "provider", "upload_id")])


def parsed(export: Path) -> dict[str, Any]:
    """An export, with its records as objects."""
    return {path: json.loads(data or "{}") for path, data in json.loads(export.read_text()).items()}


def image_ids(place: Installation, region: str) -> set[str]:
    return {image["id"] for image in place.glance.images(region)}


def make_chroot(zookeeper: ZooKeeper) -> None:
    """nodepool doesn't."""
    store = ZooKeeperStore(zookeeper, watch=False)
    store.start()
    store.close()


def filled(store: ZooKeeperStore) -> Build:
    """Put a build with two uploads on record, with every field there is and one that nobody knows."""
    build = store.create_build(a_full_build())
    for _ in range(2):
        store.create_upload(a_full_upload(build))
    store.pause(build.image, Pause(by="ann", time=NOON))
    return build


def test_nodepool_s_readers_show_what_we_wrote(place: Installation, peer: Nodepool) -> None:
    place.start()
    build = place.ready_build()
    one = next(upload for upload in place.ready_uploads(build) if upload.provider == "one")
    older = place.store.create_build(a_build("img", state=BuildState.READY, formats=("qcow2", "raw")))
    place.store.create_upload(
        an_upload(
            older, provider="one", state=UploadState.READY, state_time=older.state_time, external_id="old"
        )
    )
    hold = place.knob("pause")
    assert place.cli("image-build", "img").returncode == 0
    place.until(lambda s: s.image("img").build_claimed and s.image("img").builds[0].id != build.id)
    assert place.cli("image-pause", "img").returncode == 0

    seen = peer.view("img", "one")
    # The same file is ours, too.
    listed = {
        verb: place.json("-c", str(peer.config), verb)
        for verb in ("image-list", "dib-image-list", "image-status")
    }
    (status,) = listed["image-status"]
    assert (status["paused"], status["build_request"]) == (True, "building")
    # nodepool has the time at which the record came to the server, we have the one that is written in it.
    created = seen["cli"]["image-status"][0]["build_request_age"]
    assert created - status["build_request_age"] in (0, 1)
    status["build_request_age"] = created
    assert {row["state"] for row in listed["dib-image-list"]} == {"paused"}
    assert len(listed["image-list"]) == 3
    for verb, rows in listed.items():
        assert by_name(seen["cli"][verb]) == by_name(rows)
    # nodepool's web page never says that an image is paused.
    states = {f"img-{b.id}": str(b.state) for b in place.snapshot().image("img").builds}
    listed["dib-image-list"] = [{**row, "state": states[row["id"]]} for row in listed["dib-image-list"]]
    for verb, rows in listed.items():
        assert by_name(seen["web"][verb]) == by_name(rows)
    assert seen["newest"] == one.external_id
    hold.unlink()


def test_nodepool_s_launcher_takes_what_we_let_serve(place: Installation, peer: Nodepool) -> None:
    place.start()
    first = place.ready_build()
    before = {upload.provider: upload.external_id for upload in place.ready_uploads(first)}
    assert place.cli("image", "build", "img", "--wait").returncode == 0
    second = place.ready_build(after=first.id)
    after = {upload.provider: upload.external_id for upload in place.ready_uploads(second)}
    place.until(lambda s: {u.build_id for u in s.image("img").uploads if u.serving} == {second.id})
    assert newest(peer) == after
    assert place.cli("image", "rollback", "img").returncode == 0
    assert newest(peer) == before
    assert place.cli("build", "unquarantine", second.id).returncode == 0
    assert newest(peer) == after


def newest(peer: Nodepool) -> dict[str, str]:
    """The cloud images that nodepool's launcher takes, by its own code."""
    return {provider: peer.view("img", provider)["newest"] for provider in ("one", "two")}


def test_what_nodepool_s_commands_ask_for_is_done(place: Installation, peer: Nodepool) -> None:
    place.start()
    first = place.ready_build()
    place.ready_uploads(first)

    peer.cli("image-pause", "img")
    place.until(lambda s: s.image("img").paused)
    (image,) = place.json("image", "list")
    assert image["paused"]
    peer.cli("image-unpause", "img")
    place.until(lambda s: not s.image("img").paused)

    peer.cli("image-build", "img")
    second = place.ready_build(after=first.id)
    assert second.request is not None and second.request.by == "nodepool"
    newest = next(u for u in place.ready_uploads(second) if u.provider == "one")

    named = ("--provider", "one", "--image", "img", "--build-id", second.id, "--upload-id", newest.id)
    peer.cli("image-delete", *named)
    place.until(lambda s: newest.name not in {u.name for u in s.image("img").uploads})
    assert newest.external_id not in image_ids(place, "RegionOne")

    peer.cli("dib-image-delete", f"img-{first.id}")
    place.until(lambda s: s.image("img").build(first.id) is None)
    assert not [name for name in place.files() if first.id in name]
    assert len(image_ids(place, "RegionTwo")) == 1


def test_builds_and_uploads_of_nodepool_builder_are_taken_over(place: Installation, peer: Nodepool) -> None:
    (place.root / "state" / "images").mkdir(parents=True)
    with peer.builder():
        theirs = place.ready_build()
        uploads = place.ready_uploads(theirs)
    assert theirs.builder is not None and theirs.started is None

    shown = {row["id"]: row for row in place.json("upload", "list")}
    assert shown.keys() == {upload.name for upload in uploads}
    assert {row["state"] for row in shown.values()} == {"ready"}
    resolved = {row["provider"]: row["id"] for row in place.json("image", "resolve", "img")}
    assert resolved == {upload.provider: upload.external_id for upload in uploads}

    # It ages from when it was ready; once it is too old, a build of ours takes its place, and it goes.
    place.image.update({"rebuild-age": 86_400, "keep": 1})
    place.write()
    (image,) = place.json("image", "list")
    assert image["next_build"] == iso(theirs.state_time + timedelta(days=1))
    place.image["rebuild-age"] = 1
    place.write()
    place.start()
    ours = place.ready_build(after=theirs.id)
    place.image["rebuild-age"] = 86_400
    place.write()

    def only_ours(snapshot: Snapshot) -> bool:
        return theirs.id not in {build.id for build in snapshot.image("img").builds}

    place.ready_uploads(ours)
    place.until(only_ours)
    left = {upload.external_id for upload in uploads}
    assert not left & (image_ids(place, "RegionOne") | image_ids(place, "RegionTwo"))
    assert not [name for name in place.files() if theirs.id in name]


def test_an_export_of_either_is_an_import_of_the_other(
    place: Installation, peer: Nodepool, zookeeper: ZooKeeper
) -> None:
    build = filled(place.store)
    ours, theirs = place.root / "ours.json", place.root / "theirs.json"
    assert place.cli("export-image-data", str(ours)).returncode == 0
    peer.cli("export-image-data", str(theirs))
    assert parsed(ours) == parsed(theirs)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600

    # Into a tree that is empty: theirs by us, which nodepool then exports as it was.
    empty = replace(zookeeper, chroot=f"{zookeeper.chroot}-2")
    place.settings.update(zookeeper_settings(empty))
    place.write()
    done = place.cli("import-image-data", str(theirs))
    assert (done.returncode, done.stdout.strip()) == (0, f"1 build, 2 uploads put on record from {theirs}")
    again = Nodepool(place.root, empty, settings_of_nodepool(place), place.clouds)
    again.cli("export-image-data", str(place.root / "again.json"))
    assert parsed(place.root / "again.json") == parsed(ours)

    # And ours by nodepool.
    third = replace(zookeeper, chroot=f"{zookeeper.chroot}-3")
    make_chroot(third)
    Nodepool(place.root, third, settings_of_nodepool(place), place.clouds).cli("import-image-data", str(ours))
    place.settings.update(zookeeper_settings(third))
    place.write()
    (row,) = place.json("dib-image-list")
    assert row["id"] == f"{build.image}-{build.id}"

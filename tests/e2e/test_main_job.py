"""The main job on real parts alone: diskimage-builder, qemu, Keystone, Glance, ZooKeeper.

Needs root, loop devices and a Debian package mirror; takes a few minutes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import openstack
import pytest

from builder.dib.output.hashing import hash_file
from tests.e2e.machine import left_of, run
from tests.e2e.place import CONFIG, Place
from tests.realparts.devcloud import DevCloud, devcloud

__all__ = ["devcloud"]
pytestmark = pytest.mark.e2e


@pytest.fixture
def place(devcloud: DevCloud) -> Iterator[Place]:
    """A place outside /tmp, where the sandbox gives the build a /tmp of its own."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: run the end-to-end tests as root")
    directory = Path(tempfile.mkdtemp(prefix="imagepool-e2e-", dir="/var/tmp"))
    place = Place(directory, devcloud, CONFIG / "quickstart.yaml")
    try:
        yield place
    finally:
        place.stop()
        shutil.rmtree(directory)


def test_debian_is_built_killed_built_again_booted_and_uploaded_twice(
    place: Place, devcloud: DevCloud
) -> None:
    # A daemon dies while a real build has a loop device, partitions and mounts.
    daemon = place.start()
    place.until("build", "list", shows=lambda rows: any(row["phase"] == "finalise" for row in rows))
    daemon.kill()
    daemon.wait()

    # The next one cleans up, starts over, and brings the image into both regions.
    place.start()
    place.until("upload", "list", shows=lambda rows: [row["state"] for row in rows] == ["ready", "ready"])
    builds = place.json("build", "list")
    states = [build["state"] for build in builds]
    assert sorted(states) == ["failed", "ready"], builds
    assert "interrupted" in next(build["reason"] for build in builds if build["state"] == "failed")
    newest = next(build for build in builds if build["state"] == "ready")
    shown = place.json("build", "show", newest["id"][:8])
    assert shown["state"] == "ready"
    # It was booted, and whoever the image is for could log in with the key of the config drive.
    assert (shown["test"]["verdict"], shown["test"]["failed"]) == ("passed", [])
    assert shown["test"]["measures"]["ssh_seconds"] > 0
    place.imagepool("build", "log", newest["id"])

    # The file is a sound image of the size and hash on record.
    file = place.directory / "images" / f"debian-bookworm-{newest['id']}.qcow2"
    run("qemu-img", "check", "-f", "qcow2", str(file))
    hashes = hash_file(file)
    assert newest["size"] == file.stat().st_size > 100 << 20

    # Each region holds these very bytes, says whose they are, and nothing else.
    uploads = [u for u in place.json("upload", "list") if u["build_id"] == newest["id"]]
    assert {(u["provider"], u["region"], u["state"]) for u in uploads} == {
        ("devcloud-one", "RegionOne", "ready"),
        ("devcloud-two", "RegionTwo", "ready"),
    }
    known = {u["external_id"] for u in place.json("upload", "list")}
    for upload in uploads:
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(devcloud.clouds_yaml)
        with openstack.connect(cloud="devcloud", region_name=upload["region"]) as client:
            image = client.image.get_image(upload["external_id"])
            assert (image.status, image.size, image.hash_value) == ("active", newest["size"], hashes.sha512)
            assert image.properties["imagepool_build_id"] == newest["id"]
            assert {i.id for i in client.image.images()} <= known

    # Nothing is left of either build, nor of the daemon and its ZooKeeper once it has stopped.
    assert not list((place.directory / "work").iterdir())
    assert place.daemon is not None
    place.daemon.terminate()
    assert place.daemon.wait(60) == 0
    assert left_of(place.directory) == []
    place.imagepool("build", "list", code=5)

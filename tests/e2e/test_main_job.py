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
from builder.emulator.guest import boot
from builder.emulator.machine import Disk, Machine
from tests.e2e.machine import left_of, run
from tests.e2e.place import CONFIG, Place
from tests.realparts.devcloud import DevCloud, devcloud

__all__ = ["devcloud"]
pytestmark = pytest.mark.e2e

#: Seconds; an emulated machine takes about a minute.
BOOT_LIMIT = 600.0
LOGIN_LIMIT = 120.0
#: Whom the shipped images are for.
IMAGE_USER = "zuul"


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


def test_debian_is_built_killed_built_again_uploaded_twice_and_boots(
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
    assert shown["test"]["verdict"] == "passed"
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

    # It boots, and whoever the image is for can log in with the key of the config drive.
    with boot(Machine(image=Disk(path=file)), place.directory) as guest:
        guest.wait_for_ssh(BOOT_LIMIT)
        guest.wait_for_login(LOGIN_LIMIT, user=IMAGE_USER)
        assert guest.ssh("sudo -n id -u", user=IMAGE_USER).stdout == "0\n"

    # Nothing is left of either build, nor of the daemon and its ZooKeeper once it has stopped.
    assert not list((place.directory / "work").iterdir())
    assert place.daemon is not None
    place.daemon.terminate()
    assert place.daemon.wait(60) == 0
    assert left_of(place.directory) == []
    place.imagepool("build", "list", code=5)

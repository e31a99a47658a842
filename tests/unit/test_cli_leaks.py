"""`leak ...`: what no record knows is found, and by hand only what is provably ours is deleted."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from builder import cloudimage
from builder.cloudimage import (
    BUILD_ID,
    INSTALLATION,
    NODEPOOL_BUILD_ID,
    NODEPOOL_PROVIDER,
    NODEPOOL_UPLOAD_ID,
    PROVIDER,
    SDK_OBJECT,
    UPLOAD_ID,
    CloudImage,
    GlanceStatus,
    Sighting,
)
from builder.errors import CloudUnavailableError
from builder.model import FailureClass, UploadState
from tests.fakes.cloud import FakeCloud
from tests.unit.cli_world import World
from tests.unit.planning_world import DAY, HOUR, IMAGE, NOW, build_id, ready, upload

DOWN = CloudUnavailableError("provider south: refused", failure_class=FailureClass.NETWORK)


def put(world: World, image_id: str, number: int, to: str = "north", **changes: Any) -> CloudImage:
    """An image in a cloud with the marks of the first upload of that build."""
    marks = {
        INSTALLATION: world.store.installation_id(),
        cloudimage.IMAGE: IMAGE,
        BUILD_ID: build_id(number),
        UPLOAD_ID: "0000000001",
        PROVIDER: to,
        SDK_OBJECT: f"images/image-{number}",
    }
    image = CloudImage(
        id=image_id,
        name=f"image-{number}",
        status=changes.pop("status", GlanceStatus.ACTIVE),
        size=352_000_000,
        hash_algorithm=None,
        hash_value=None,
        checksum=None,
        visibility="private",
        properties={**marks, **changes.pop("properties", {})},
        created=NOW - DAY,
    )
    world.clouds[to].images[image_id] = image
    return image


def nodepools(world: World, image_id: str, to: str = "north", **changes: Any) -> None:
    marks = {NODEPOOL_BUILD_ID: "0000000007", NODEPOOL_UPLOAD_ID: "0000000001", NODEPOOL_PROVIDER: to}
    image = put(world, image_id, 7, to)
    world.clouds[to].images[image_id] = replace(image, properties={**marks, **changes})


@pytest.fixture
def world() -> World:
    """A build that is gone has left an image in each provider; one is known for a while already. What
    serves there is of a later build."""
    there = World()
    there.store.put(ready(1, NOW - DAY))
    there.store.delete_build(there.store.get_build(IMAGE, build_id(1)))
    there.store.put(ready(3, NOW - HOUR))
    for provider in ("north", "south"):
        there.store.put(upload(3, UploadState.READY, NOW - HOUR, provider, external_id="serving"))
    put(there, "leak-1", 1)
    put(there, "leak-2", 1, "south")
    there.store.put_sighting(
        Sighting(provider="north", external_id="leak-1", first=NOW - DAY, last=NOW - HOUR)
    )
    return there


def left(world: World) -> set[str]:
    return {image_id for cloud in world.clouds.values() for image_id in cloud.images}


# -- looking --------------------------------------------------------------------------------------


def test_what_no_record_knows_is_listed_with_the_daemons_verdict(world: World) -> None:
    north, south = world.json("leak", "list")
    assert north == {
        "provider": "north",
        "id": "leak-1",
        "name": "image-1",
        "size": 352_000_000,
        "created": "2026-11-20T14:30:00Z",
        "first_seen": "2026-11-20T14:30:00Z",
        "verdict": "now",
        "due": None,
        "reason": north["reason"],
    }
    assert "was removed at" in north["reason"]
    # An hour, `leak-sweep`, after this first look.
    assert (south["id"], south["verdict"], south["due"]) == ("leak-2", "later", "2026-11-21T15:30:00Z")
    assert left(world) == {"leak-1", "leak-2"} and world.store.sightings("south") == ()


def test_what_has_a_record_or_belongs_to_others_is_no_leak(world: World) -> None:
    world.store.put(ready(2, NOW - HOUR))
    world.store.put(upload(2, UploadState.READY, NOW - HOUR, external_id="known"))
    put(world, "known", 2)
    put(world, "snapshot", 1, properties={"image_type": "snapshot"})
    put(world, "others", 1, properties={INSTALLATION: "f" * 32})
    nodepools(world, "nodepools")
    assert [row["id"] for row in world.json("leak", "list", "--provider", "north")] == ["leak-1"]


def test_with_an_empty_tree_nothing_is_due(world: World) -> None:
    for gone in tuple(world.store.builds_gone()):
        world.store.forget_build_gone(gone)
    assert {row["verdict"] for row in world.json("leak", "list")} == {"no"}
    done = world.run("leak", "delete", "--all", "--provider", "north", "--yes")
    assert done.code == 0 and "nothing in north" in done.err
    assert left(world) == {"leak-1", "leak-2"}


def test_what_nodepool_left_is_listed_when_it_was_adopted(world: World) -> None:
    nodepools(world, "nodepools")
    nodepools(world, "of another nodepool", **{NODEPOOL_PROVIDER: "elsewhere"})
    world.config = replace(world.config, adopt_nodepool=True)
    rows = {row["id"]: row["verdict"] for row in world.json("leak", "list", "--provider", "north")}
    assert rows == {"leak-1": "now", "nodepools": "no"}


def test_a_cloud_that_can_not_be_asked_is_told_and_counts(world: World) -> None:
    world.clouds["south"].fail("find", DOWN, times=None)
    done = world.run("leak", "list", "-f", "value", "-c", "id")
    assert (done.code, done.out) == (5, "leak-1\n")
    assert "south: not asked: network: refused" in done.err


class Racing(FakeCloud):
    """A cloud in which somebody uploads while it is asked."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def find(self, properties: Mapping[str, str], *, hidden: bool | None = None) -> Iterator[CloudImage]:
        found = list(super().find(properties, hidden=hidden))
        self._world.store.put(ready(3, NOW))
        self._world.store.put(upload(3, UploadState.READY, NOW, external_id="new"))
        return iter(found)


def test_what_is_uploaded_while_the_cloud_is_asked_is_no_leak(world: World) -> None:
    world.clouds["north"] = Racing(world)
    put(world, "new", 3)
    assert world.json("leak", "list", "--provider", "north") == []


def test_a_provider_nobody_knows_is_3(world: World) -> None:
    assert world.run("leak", "list", "--provider", "mars").code == 3
    assert world.run("leak", "delete", "x", "--provider", "mars").code == 3


# -- deleting by hand -----------------------------------------------------------------------------


def test_a_leak_is_deleted_by_its_id_and_not_remembered(world: World) -> None:
    done = world.run("leak", "delete", "leak-1", "--provider", "north")
    assert done.code == 0 and done.out == "leak-1: deleted from north (image-1, 352.0 MB)\n"
    assert left(world) == {"leak-2"} and world.store.sightings("north") == ()


@pytest.mark.parametrize(
    ("image_id", "why"),
    [
        ("known", f"it is upload {build_id(2)}/north/0000000001, which is ready"),
        ("coming", f"it is upload {build_id(2)}/north/0000000002, which is uploading"),
        ("snapshot", "it is a snapshot"),
        ("others", "it belongs to another installation"),
        ("nobody's", "it has no mark of ours"),
        ("nodepools", "adopt-nodepool is not set"),
        ("going", "it is going already"),
    ],
)
def test_what_is_no_leak_of_ours_is_refused(world: World, image_id: str, why: str) -> None:
    world.store.put(ready(2, NOW - HOUR))
    world.store.put(upload(2, UploadState.READY, NOW - HOUR, external_id="known"))
    world.store.put(upload(2, UploadState.UPLOADING, NOW, id="0000000002"))
    put(world, "known", 2)
    put(world, "coming", 2, properties={UPLOAD_ID: "0000000002"})
    put(world, "snapshot", 1, properties={"image_type": "snapshot"})
    put(world, "others", 1, properties={INSTALLATION: "f" * 32})
    nobodys = put(world, "nobody's", 1)
    world.clouds["north"].images["nobody's"] = replace(nobodys, properties={})
    nodepools(world, "nodepools")
    put(world, "going", 1, status=GlanceStatus.PENDING_DELETE)
    before = left(world)
    done = world.run("leak", "delete", image_id, "--provider", "north")
    assert done.code == 4 and why in done.err and not done.out
    assert left(world) == before


def test_what_nodepool_left_in_that_very_provider_is_deleted_when_it_was_adopted(world: World) -> None:
    nodepools(world, "nodepools")
    nodepools(world, "elsewhere", **{NODEPOOL_PROVIDER: "elsewhere"})
    world.config = replace(world.config, adopt_nodepool=True)
    refused = world.run("leak", "delete", "elsewhere", "--provider", "north")
    assert refused.code == 4 and "nodepool's provider 'elsewhere'" in refused.err
    assert world.run("leak", "delete", "nodepools", "--provider", "north").code == 0
    assert left(world) == {"leak-1", "leak-2", "elsewhere"}


def test_all_are_those_that_the_daemon_would_remove(world: World) -> None:
    nodepools(world, "nodepools")
    put(world, "of unknown build", 9)
    world.config = replace(world.config, adopt_nodepool=True)
    done = world.run("leak", "delete", "--all", "--provider", "north", "--yes")
    assert done.code == 0 and "leak-1" in done.out
    assert left(world) == {"nodepools", "of unknown build", "leak-2"}


def test_what_an_image_boots_with_is_not_deleted_before_it(world: World) -> None:
    put(world, "kernel", 1)
    world.clouds["north"].change("kernel", disk_format="aki")
    put(world, "root", 1, properties={"kernel_id": "kernel"})
    refused = world.run("leak", "delete", "kernel", "--provider", "north")
    assert refused.code == 4 and "image root" in refused.err and "boots with it" in refused.err
    assert {"kernel", "root"} <= left(world)
    done = world.run("leak", "delete", "--all", "--provider", "north", "--yes")
    assert done.code == 0 and left(world).isdisjoint({"kernel", "root"})
    assert done.out.index("root") < done.out.index("kernel")


def test_what_boots_with_an_image_and_goes_already_does_not_keep_it(world: World) -> None:
    put(world, "kernel", 1)
    world.clouds["north"].change("kernel", disk_format="aki")
    put(world, "root", 1, properties={"kernel_id": "kernel"})
    world.clouds["north"].change("root", status=GlanceStatus.PENDING_DELETE)
    assert world.run("leak", "delete", "kernel", "--provider", "north").code == 0
    assert "kernel" not in left(world)


def test_all_are_deleted_once_somebody_said_yes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\ny\n"))
    refused = world.run("leak", "delete", "--all", "--provider", "north")
    assert refused.code == 4 and "Delete 1 images, 352.0 MB, from north?" in refused.err
    assert "leak-1" in left(world)
    assert world.run("leak", "delete", "--all", "--provider", "north").code == 0
    assert "leak-1" not in left(world)


def test_of_several_each_is_tried_and_the_failures_are_told(world: World) -> None:
    put(world, "leak-3", 1)
    world.clouds["north"].in_use.add("leak-1")
    done = world.run("leak", "delete", "leak-1", "no such", "leak-3", "--provider", "north")
    assert done.code == 1 and "leak-1: image leak-1 is in use. Delete" in done.err and "no such: " in done.err
    assert done.out.startswith("leak-3: deleted")
    assert left(world) == {"leak-1", "leak-2"}


def test_an_image_that_is_not_there_is_3_and_no_longer_remembered(world: World) -> None:
    del world.clouds["north"].images["leak-1"]
    assert world.run("leak", "delete", "leak-1", "--provider", "north").code == 3
    assert world.store.sightings("north") == ()


@pytest.mark.parametrize(
    "argv", [("--provider", "north"), ("leak-1", "--all", "--provider", "north"), ("leak-1",)], ids=" ".join
)
def test_what_to_delete_and_where_has_to_be_said(world: World, argv: tuple[str, ...]) -> None:
    done = world.run("leak", "delete", *argv)
    assert done.code == 2 and done.err
    assert left(world) == {"leak-1", "leak-2"}

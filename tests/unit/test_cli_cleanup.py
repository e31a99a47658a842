"""`cleanup`: what left the configuration goes, on somebody's word and with its reason; nothing else does."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builder.cloudimage import Sighting
from builder.errors import ConflictError
from builder.model import Build, BuildState, Deletion, Turn, Upload, UploadState
from tests.fakes.store import FakeStore
from tests.unit.cli_world import Result, World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    diskimage,
    provider,
    ready,
    upload,
)


@pytest.fixture
def world() -> World:
    """A build in a provider that stays and in one that left the configuration; an image that left."""
    there = World(config=config(diskimage(), provider("north")), environ={"SUDO_USER": "ann"})
    there.store.put(ready(1, NOW - DAY))
    there.store.put(upload(1, UploadState.READY, NOW - DAY, external_id="stays"))
    there.store.put(gone(1))
    there.store.put(ready(2, NOW - HOUR, image="old"))
    there.store.put(replace(upload(2, UploadState.READY, NOW - HOUR, external_id="x"), image="old"))
    return there


def gone(number: int, **changes: Any) -> Upload:
    there = upload(
        number,
        UploadState.READY,
        NOW - DAY,
        to="south",
        external_id="abc",
        external_name="debian-1",
        size=352_000_000,
        cloud="alpha",
        region="two",
    )
    return replace(there, **changes)


def states(world: World) -> dict[tuple[str, str], str]:
    """Of every record, by image and provider; a build has no provider."""
    snapshot = world.store.snapshot()
    return {
        **{(b.image, ""): str(b.state) for b in snapshot.builds()},
        **{(u.image, u.provider): str(u.state) for u in snapshot.uploads()},
    }


def south(world: World) -> Upload:
    return world.store.get_upload(IMAGE, build_id(1), "south", "0000000001")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def answering(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command at a terminal at which somebody answers."""

    def run(answer: str, *argv: str) -> Result:
        monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        return world.run(*argv)

    return run


# -- looking --------------------------------------------------------------------------------------


def test_a_dry_run_lists_every_action_with_reason_bytes_and_age_and_changes_nothing(world: World) -> None:
    before = world.store.snapshot()
    rows = {(row["action"], row["image"], row["provider"]): row for row in world.json("cleanup", "--dry-run")}
    assert rows["retire-upload", IMAGE, "south"] == {
        "by": "you",
        "action": "retire-upload",
        "id": f"{build_id(1)}/south/0000000001",
        "image": IMAGE,
        "provider": "south",
        "external_id": "abc",
        "bytes": 352_000_000,
        "age": (DAY + MINUTE).total_seconds(),
        "verdict": "now",
        "due": None,
        "reason": (
            "The upload of build 00000001 to south goes: the provider south is not in the configuration."
        ),
        "outcome": None,
    }
    assert rows["retire-upload", "old", "north"]["verdict"] == "now"
    assert (rows["retire-build", "old", None]["bytes"], rows["retire-build", "old", None]["by"]) == (1, "you")
    assert not any(row["external_id"] == "stays" for row in rows.values())
    assert world.store.snapshot() == before


def test_a_reason_is_never_cut_short(world: World) -> None:
    words = " ".join(world.run("cleanup", "--dry-run", "-c", "reason").out.replace("|", " ").split())
    assert "to south goes: the provider south is not in the configuration." in words


def test_a_dry_run_says_what_the_janitor_does_by_itself_besides(world: World) -> None:
    world.store.put(upload(1, UploadState.DELETING, NOW, id="0000000002", external_id="y"))
    rows = [row for row in world.json("cleanup", "--dry-run") if row["by"] == "janitor"]
    assert [(row["action"], row["external_id"]) for row in rows] == [("remove-upload", "y")]


def test_what_can_not_be_reached_stays_and_says_how_to_forget_it(world: World) -> None:
    world.nowhere = {"alpha"}
    rows = world.run("cleanup", "--yes", "-f", "json").json
    (row,) = [row for row in rows if row["provider"] == "south"]
    assert (row["verdict"], row["outcome"]) == ("no", None)
    assert "abc in the cloud alpha, region two" in row["reason"]
    assert "imagepool cleanup --forget south" in row["reason"]
    assert south(world).state is UploadState.READY


# -- doing it -------------------------------------------------------------------------------------

ALL_GONE = {
    (IMAGE, ""): "ready",
    (IMAGE, "north"): "ready",
    (IMAGE, "south"): "deleting",
    ("old", ""): "deleting",
    ("old", "north"): "deleting",
}


def test_what_left_goes_and_what_is_configured_stays(world: World) -> None:
    done = world.run("cleanup", "--yes", "--why", "region is closed", "-f", "json")
    assert {row["outcome"] for row in done.json} == {"will be deleted"}
    assert states(world) == ALL_GONE
    record = south(world)
    assert record.deletion is not None and record.deletion.by.startswith("ann@")
    assert record.deletion == Deletion(by=record.deletion.by, time=NOW, why="region is closed")
    # The provider may come back, and then gets the build again.
    assert world.store.get_build(IMAGE, build_id(1)).wishes == ()


def test_without_a_word_the_reason_of_the_plan_is_put_on_record(world: World) -> None:
    assert world.run("cleanup", "-y").code == 0
    deletion = south(world).deletion
    assert deletion is not None and "the provider south is not in the configuration" in deletion.why


def test_somebody_is_asked_and_told_what_goes(world: World, answering: Callable[..., Result]) -> None:
    done = answering("y", "cleanup")
    assert done.code == 0 and "retire-upload" in done.err and "352.0 MB" in done.err
    assert "Delete 3 records, 352.0 MB in all? [y/N]" in done.err
    assert states(world) == ALL_GONE


@pytest.mark.parametrize("answer", ["", "n", "yesterday"])
@pytest.mark.parametrize("argv", [("cleanup",), ("cleanup", "--forget", "south")])
def test_anything_but_yes_changes_nothing(
    world: World, answering: Callable[..., Result], answer: str, argv: tuple[str, ...]
) -> None:
    before = world.store.snapshot()
    done = answering(answer, *argv)
    assert done.code == 4 and "nothing was changed" in done.err and not done.out
    assert world.store.snapshot() == before


@pytest.mark.parametrize("argv", [("cleanup",), ("cleanup", "--forget", "south")])
def test_where_nobody_can_be_asked_nothing_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    before = world.store.snapshot()
    done = world.run(*argv)
    assert done.code == 2 and "--yes" in done.err
    assert world.store.snapshot() == before


def test_with_nothing_to_do_nobody_is_asked(world: World) -> None:
    assert world.run("cleanup", "--yes").code == 0
    done = world.run("cleanup", "-f", "json")
    assert (done.json, done.err) == ([], "")


class Rival(FakeStore):
    """A store in which an upload is changed, and a build is gone, just before we write."""

    def update_upload(self, upload: Upload) -> Upload:
        raise ConflictError(f"upload {upload.name} changed meanwhile")

    def get_build(self, image: str, build_id: str) -> Build:
        self.tree.builds.pop(f"/nodepool/images/{image}/builds/{build_id}", None)
        return super().get_build(image, build_id)


def test_what_changes_meanwhile_is_left_and_told(world: World) -> None:
    parts = world.parts()
    rival = replace(parts, open_store=lambda *_: Rival(world.store.tree))
    world.parts = lambda: rival  # type: ignore[method-assign]
    done = world.run("cleanup", "--yes", "-f", "json")
    assert done.code == 1 and "changed meanwhile" in done.err
    assert "left: it changed meanwhile" in done.out and "is gone already" in done.out
    assert states(world)[IMAGE, "south"] == "ready"


def test_what_is_being_uploaded_stays_until_it_has_ended(world: World) -> None:
    claim = world.store.claim_uploads(IMAGE, build_id(1), "south")
    world.store.put(gone(1, state=UploadState.UPLOADING))
    assert world.run("cleanup", "--yes").code == 0
    assert south(world).state is UploadState.UPLOADING
    assert claim is not None and claim.valid


# -- forgetting -----------------------------------------------------------------------------------


def test_the_records_of_a_provider_that_is_gone_are_forgotten_and_its_cloud_left_alone(world: World) -> None:
    world.store.put_sighting(Sighting(provider="south", external_id="z", first=NOW, last=NOW))
    done = world.run("cleanup", "--forget", "south", "--yes", "-f", "json")
    (row,) = done.json
    assert (row["action"], row["outcome"], row["bytes"]) == ("forget-upload", "forgotten", 352_000_000)
    assert "stays behind in the cloud alpha, region two: abc (debian-1)" in done.err
    assert ("south" not in {p for _, p in states(world)}) and states(world)["old", "north"] == "ready"
    assert world.store.sightings("south") == ()
    assert not world.clouds


def test_what_is_forgotten_serves_no_more_by_the_history(world: World) -> None:
    served = gone(1)
    turn = Turn(build_id=served.build_id, upload=served.name, since=NOW - HOUR, by="imagepool")
    world.store.begin_turn(IMAGE, "south", turn)
    assert world.run("cleanup", "--forget", "south", "--yes", "--why", "the cloud was switched off").code == 0
    (ended,) = world.store.history(IMAGE)["south"]
    assert ended.until == NOW
    assert ended.ended_why.startswith("It was forgotten by ann@")
    assert ended.ended_why.endswith(": the cloud was switched off")


def test_what_would_be_forgotten_is_listed_first(world: World) -> None:
    world.store.put(gone(1, id="0000000002", state=UploadState.FAILED, external_id=None, external_name=None))
    before = world.store.snapshot()
    reasons = {row["reason"] for row in world.json("cleanup", "--forget", "south", "--dry-run")}
    assert reasons == {
        "The image abc (debian-1) stays behind in the cloud alpha, region two.",
        "Nothing that it left in the cloud is on record.",
    }
    assert world.store.snapshot() == before


def test_a_provider_that_is_configured_is_not_forgotten(world: World) -> None:
    done = world.run("cleanup", "--forget", "north", "--yes")
    assert done.code == 4 and "Take it out of there first" in done.err
    assert states(world)[IMAGE, "north"] == "ready"


def test_a_provider_without_records_can_not_be_forgotten(world: World) -> None:
    for name in ("mars", "../x", ""):
        assert world.run("cleanup", "--forget", name, "--yes").code == 3


def test_what_somebody_works_on_is_not_forgotten(world: World) -> None:
    janitors = world.store.claim_upload(south(world))
    done = world.run("cleanup", "--forget", "south", "--yes")
    assert done.code == 1 and "a janitor works on it" in done.err
    assert south(world).state is UploadState.READY
    assert janitors is not None and janitors.valid


def test_an_upload_that_runs_is_not_forgotten(world: World) -> None:
    claim = world.store.claim_uploads(IMAGE, build_id(1), "south")
    world.store.put(gone(1, state=UploadState.UPLOADING))
    (row,) = world.run("cleanup", "--forget", "south", "--yes", "-f", "json").json
    assert (row["verdict"], row["outcome"]) == ("no", None)
    assert south(world).state is UploadState.UPLOADING
    assert claim is not None and claim.valid


def test_what_is_forgotten_says_so_before_it_asks(world: World, answering: Callable[..., Result]) -> None:
    done = answering("yes", "cleanup", "--forget", "south")
    assert done.code == 0 and "Forget 1 record of south and leave 352.0 MB in its cloud?" in done.err
    assert BuildState(states(world)[IMAGE, ""]) is BuildState.READY

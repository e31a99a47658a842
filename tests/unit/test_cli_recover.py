"""`imagepool recover`: what it lists, what it writes, and when it refuses."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from builder import recovery
from builder.cloudimage import INSTALLATION as MARK
from builder.cloudimage import CloudImage, GlanceStatus
from builder.dib.output import artifacts, hashing
from builder.errors import CloudUnavailableError, StoreUnavailableError
from builder.model import Build, BuildState, FailureClass, ImageFormat, Upload, UploadState
from builder.workers import statedir
from tests.fakes.store import FakeStore
from tests.unit import recovery_world as left
from tests.unit.cli_world import World
from tests.unit.dib_world import publish
from tests.unit.planning_world import IMAGE, MINUTE, NOW
from tests.unit.recovery_world import INSTALLATION

DOWN = CloudUnavailableError("refused", failure_class=FailureClass.NETWORK)
SIZE = 1 << 20
OTHER = "2" * 32


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A machine that knows its installation, with a build on disk and in both regions, and no records."""
    there = World()
    there.config = replace(
        there.config,
        state_dir=tmp_path / "state",
        images_dir=tmp_path / "state" / "images",
        log_dir=tmp_path / "logs",
    )
    statedir.remember_installation(there.config.state_dir, INSTALLATION)
    build = on_disk(there, tmp_path)
    for to in ("north", "south"):
        put(there, left.image(build, left.sent(build, to)), to)
    return there


def on_disk(world: World, tmp_path: Path) -> Build:
    """A build of an hour ago, its file and its proof; the record that it had."""
    file = tmp_path / "made.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), str(SIZE)], check=True)
    hashes = hashing.hash_file(file)
    made = replace(left.made(1), size=hashes.size, md5=hashes.md5, sha256=hashes.sha256, sha512=hashes.sha512)
    build = left.build(1, NOW - 60 * MINUTE, artifacts=(replace(made, virtual_size=SIZE),))
    proof = artifacts.Proof(
        installation_id=INSTALLATION,
        image=IMAGE,
        build_id=build.id,
        created=NOW - 65 * MINUTE,
        started=build.started,
        environment={},
        tools={},
    )
    publish(world.config.images_dir, proof, [(file, ImageFormat.QCOW2)])
    return build


def put(world: World, image: CloudImage, to: str = "north") -> None:
    world.clouds[to].images[image.id] = image


def records(world: World) -> tuple[list[Build], list[Upload]]:
    snapshot = world.store.snapshot()
    return list(snapshot.builds()), list(snapshot.uploads())


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(world: World) -> None:
    before = world.store.installation_id()
    rows = world.json("recover", "--dry-run")
    assert [(row["what"], row["action"], row["provider"]) for row in rows] == [
        ("build", "restore", None),
        ("image", "restore", "north"),
        ("image", "restore", "south"),
    ]
    assert list(rows[1]) == [
        *("what", "action", "id", "image", "provider", "external_id", "bytes", "reason", "outcome")
    ]
    assert rows[1]["external_id"] == "image-1-north" and rows[1]["outcome"] is None
    assert records(world) == ([], []) and world.store.installation_id() == before
    assert not (world.config.images_dir / "builder_id.txt").exists()


def test_records_are_written_for_this_machine_and_this_installation(world: World) -> None:
    done = world.run("recover", "--yes", "-f", "json")
    assert done.code == 0, done.err
    assert {row["outcome"] for row in json.loads(done.out)} == {"restored"}
    ((build,), uploads) = records(world)
    assert build.state is BuildState.READY and build.formats == ("qcow2",)
    assert build.builder_id == statedir.builder_id(world.config.images_dir)
    assert sorted((u.provider, u.state, u.external_id) for u in uploads) == [
        ("north", UploadState.READY, "image-1-north"),
        ("south", UploadState.READY, "image-1-south"),
    ]
    assert world.store.installation_id() == INSTALLATION
    assert "not recovered: requests" in done.err


def test_to_run_it_again_changes_nothing(world: World) -> None:
    assert world.run("recover", "--yes").code == 0
    before = records(world)
    rows = world.json("recover", "--yes")
    assert {row["action"] for row in rows} == {"known"} and records(world) == before


def test_the_clouds_alone_and_then_the_machine_with_the_files(world: World, tmp_path: Path) -> None:
    mine = world.config
    elsewhere = replace(mine, state_dir=tmp_path / "b", images_dir=tmp_path / "b" / "images")
    world.config = elsewhere
    assert world.run("recover", "--yes", "--installation", INSTALLATION).code == 0
    ((bare,), _) = records(world)
    assert (bare.artifacts, bare.builder_id) == ((), None)
    world.config = mine
    rows = world.json("recover", "--yes")
    assert [row["outcome"] for row in rows if row["action"] == "complete"] == ["completed"]
    ((full,), uploads) = records(world)
    assert len(full.artifacts) == 1 and full.builder_id and len(uploads) == 2


def test_a_cloud_that_can_not_be_asked_is_told_and_added_later(world: World) -> None:
    world.clouds["south"].fail("find", DOWN)
    done = world.run("recover", "--yes")
    assert done.code == 5 and "south was not asked: refused" in done.err
    assert [u.provider for u in records(world)[1]] == ["north"]
    assert world.run("recover", "--yes").code == 0
    assert sorted(u.provider for u in records(world)[1]) == ["north", "south"]


def test_a_cloud_that_hangs_is_not_waited_for(world: World) -> None:
    gate = world.clouds["south"].hold("find")
    seen = recovery.ask_clouds(world.config, lambda p: world.clouds[p.name], INSTALLATION, seconds=0.3)
    gate.set()
    assert list(seen.images) == ["north"] and "no answer" in seen.unasked["south"]


def test_it_asks_before_it_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    world.clouds["south"].fail("find", DOWN, times=None)
    monkeypatch.setattr(sys, "stdin", Terminal("n\ny\n"))
    refused = world.run("recover")
    assert refused.code == 4
    assert "Write 1 build and 1 upload of installation" in refused.err
    assert "without those in south?" in refused.err
    assert records(world) == ([], [])
    assert world.run("recover").code == 5
    assert len(records(world)[1]) == 1


def test_with_nobody_to_ask_nothing_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert world.run("recover").code == 2
    assert records(world) == ([], [])


# -- whose records --------------------------------------------------------------------------------


def forget(world: World) -> None:
    (world.config.state_dir / statedir.INSTALLATION).unlink()


def test_without_the_state_directory_the_installation_has_to_be_named(world: World) -> None:
    forget(world)
    alien = left.image(left.build(5, NOW - MINUTE), properties={MARK: OTHER})
    put(world, alien)
    put(world, replace(alien, id="unmarked", properties={}))
    done = world.run("recover", "--yes")
    assert done.code == 2 and "--installation" in done.err
    assert f"installation {INSTALLATION}: 2 images in the clouds, 1 build on this disk" in done.err
    assert f"installation {OTHER}: 1 image in the clouds, 0 builds on this disk" in done.err
    assert records(world) == ([], [])
    assert world.run("recover", "--yes", "--installation", INSTALLATION).code == 0
    assert len(records(world)[1]) == 2
    assert statedir.known_installation(world.config.state_dir) == INSTALLATION


def test_a_machine_that_was_given_another_installation_comes_back(world: World) -> None:
    statedir.remember_installation(world.config.state_dir, OTHER)
    world.store.restore_installation(OTHER)
    assert world.run("recover", "--yes", "--installation", INSTALLATION).code == 0
    assert world.store.installation_id() == INSTALLATION
    assert statedir.known_installation(world.config.state_dir) == INSTALLATION


@pytest.mark.parametrize(("named", "code"), [("x", 2), ("3" * 32, 3), ("A" * 32, 2)])
def test_an_installation_that_is_none_or_left_nothing(world: World, named: str, code: int) -> None:
    assert world.run("recover", "--yes", "--installation", named).code == code
    assert records(world) == ([], [])


@pytest.mark.parametrize("dry", [("--dry-run",), ("--yes",)])
def test_a_tree_with_the_records_of_another_is_refused(world: World, dry: tuple[str, ...]) -> None:
    world.store.restore_installation(OTHER)
    world.store.put(left.build(7, NOW))
    done = world.run("recover", *dry)
    assert done.code == 4 and OTHER in done.err
    assert len(records(world)[0]) == 1 and world.store.installation_id() == OTHER


def test_beside_a_daemon_it_is_refused(world: World) -> None:
    with statedir.locked(world.config.state_dir):
        done = world.run("recover", "--dry-run")
    assert done.code == 4 and "another imagepool daemon" in done.err


# -- what goes wrong on the way -------------------------------------------------------------------


class Breaking(FakeStore):
    """A store that loses its server after some writes."""

    left = 0

    def another_daemon(self) -> FakeStore:
        other = type(self)(self.tree)
        other.left = self.left
        return other

    def restore_upload(self, upload: Upload) -> Upload:
        if not self.left:
            raise StoreUnavailableError("the session was lost")
        self.left -= 1
        return super().restore_upload(upload)


def test_broken_off_it_says_so_and_goes_on_when_repeated(world: World) -> None:
    breaking = Breaking(world.store.tree)
    breaking.left = 1
    whole, world.store = world.store, breaking
    done = world.run("recover", "--yes")
    assert done.code == 5 and "2 records of 3 had been written" in done.err
    world.store = whole
    rows = world.json("recover", "--yes")
    assert [row["action"] for row in rows].count("restore") == 1
    assert len(records(world)[1]) == 2


def test_what_somebody_wrote_meanwhile_stays(world: World) -> None:
    class Racing(FakeStore):
        def restore_build(self, build: Build) -> Build:
            self.put(replace(build, builder="somebody"))
            return super().restore_build(build)

        def another_daemon(self) -> FakeStore:
            return type(self)(self.tree)

    world.store = Racing(world.store.tree)
    done = world.run("recover", "--yes", "-f", "json")
    assert done.code == 1 and "exists already" in done.out
    ((build,), uploads) = records(world)
    assert build.builder == "somebody" and len(uploads) == 2


def test_a_broken_file_is_told_and_not_used(world: World) -> None:
    (file,) = world.config.images_dir.glob("*.qcow2")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    rows = world.json("recover", "--yes")
    (told,) = [row for row in rows if row["what"] == "file"]
    assert (told["action"], told["id"]) == ("left", file.name)
    ((build,), uploads) = records(world)
    assert build.pruned == ("qcow2",) and len(uploads) == 2
    assert file.exists()


def test_files_of_others_are_none_of_our_business(world: World) -> None:
    (proof,) = world.config.images_dir.glob("*.d/build.json")
    proof.write_text(proof.read_text().replace(INSTALLATION, OTHER))
    assert world.run("recover", "--yes").code == 0
    assert records(world)[0][0].builder_id is None


def test_a_half_done_upload_is_on_record_for_the_janitor(world: World) -> None:
    known = world.clouds["south"].images["image-1-south"]
    put(world, replace(known, status=GlanceStatus.SAVING, size=None, hash_value=None, checksum=None), "south")
    assert world.run("recover", "--yes").code == 0
    states = {u.provider: u.state for u in records(world)[1]}
    assert states == {"north": UploadState.READY, "south": UploadState.FAILED}


def test_the_private_server_is_there_as_long_as_it_is_needed(world: World) -> None:
    served = []

    @contextmanager
    def own(*_: object) -> Iterator[FakeStore]:
        served.append("started")
        yield world.store.another_daemon()
        served.append("stopped")

    parts = world.parts
    world.parts = lambda: replace(parts(), own_store=own)  # type: ignore[method-assign]
    assert world.run("recover", "--yes").code == 0
    assert served == ["started", "stopped"]

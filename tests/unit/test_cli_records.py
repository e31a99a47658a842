"""Commands that change records: deleting, pausing, asking for builds; and logs."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.cli.context import Parts
from builder.config.model import Config, Platform
from builder.dib.logs import logfiles
from builder.errors import ConflictError
from builder.host import host_name
from builder.model import Build, BuildState, Pause, Request, Upload, UploadState
from builder.store.base import Store
from tests.fakes.store import FakeStore
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    NOW,
    asked,
    build_id,
    building,
    config,
    diskimage,
    doomed,
    failed,
    provider,
    ready,
    upload,
)


@pytest.fixture
def world() -> World:
    return World()


def state_of(world: World, number: int) -> BuildState:
    return world.store.get_build(IMAGE, build_id(number)).state


def upload_states(world: World) -> dict[tuple[str, str], UploadState]:
    return {(u.build_id, u.provider): u.state for u in world.store.snapshot().uploads()}


# -- deleting builds ------------------------------------------------------------------------------


def test_a_build_that_is_not_needed_is_marked_for_deletion(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(ready(2, NOW - HOUR))
    done = world.run("build", "delete", "00000001")
    assert done.code == 0 and build_id(1) in done.out
    assert (state_of(world, 1), state_of(world, 2)) == (BuildState.DELETING, BuildState.READY)
    assert world.store.get_build(IMAGE, build_id(1)).state_time == NOW


def test_a_failed_build_is_never_needed(world: World) -> None:
    world.store.put(failed(1, NOW - DAY))
    assert world.run("build", "delete", "00000001").code == 0
    assert state_of(world, 1) is BuildState.DELETING


def test_a_build_in_progress_stays_even_by_force(world: World) -> None:
    world.store.put(building(1, NOW - HOUR))
    for force in ((), ("--force",)):
        refused = world.run("build", "delete", "00000001", *force)
        assert refused.code == 4 and "in progress" in refused.err
    assert state_of(world, 1) is BuildState.BUILDING


def test_the_last_ready_build_goes_only_by_force(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(failed(2, NOW - HOUR))
    world.store.put(doomed(ready(3, NOW - HOUR)))
    refused = world.run("build", "delete", "00000001")
    assert refused.code == 4 and "last ready build" in refused.err and "--force" in refused.err
    assert state_of(world, 1) is BuildState.READY
    assert world.run("build", "delete", "00000001", "--force").code == 0
    assert state_of(world, 1) is BuildState.DELETING


@pytest.mark.parametrize(
    ("newer", "code"),
    [
        (None, 4),
        (UploadState.UPLOADING, 4),
        (UploadState.FAILED, 4),
        (UploadState.DELETING, 4),
        (UploadState.READY, 0),
    ],
)
def test_a_build_stays_while_a_provider_has_no_other_image(
    world: World, newer: UploadState | None, code: int
) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(ready(2, NOW - HOUR))
    world.store.put(upload(1, UploadState.READY, NOW - DAY))
    if newer is not None:
        world.store.put(upload(2, newer, NOW - HOUR))
    done = world.run("build", "delete", "00000001")
    assert done.code == code
    assert ("north has no other ready image" in done.err) == (code == 4)


def test_an_upload_that_goes_with_its_build_replaces_nothing(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    world.store.put(ready(2, NOW - HOUR))
    world.store.put(doomed(ready(3, NOW - HOUR)))
    world.store.put(upload(1, UploadState.READY, NOW - DAY))
    world.store.put(upload(3, UploadState.READY, NOW - HOUR))
    assert world.run("build", "delete", "00000001").code == 4


def test_deleting_twice_is_done(world: World) -> None:
    gone = doomed(ready(1, NOW - DAY))
    world.store.put(gone)
    done = world.run("build", "delete", "00000001")
    assert done.code == 0 and "already" in done.out
    assert world.store.get_build(IMAGE, build_id(1)) == gone


# -- deleting uploads -----------------------------------------------------------------------------


def test_an_upload_that_is_not_needed_is_marked_for_deletion(world: World) -> None:
    world.store.put(upload(1, UploadState.READY, NOW - DAY))
    world.store.put(upload(2, UploadState.READY, NOW - HOUR))
    assert world.run("upload", "delete", "00000001/north").code == 0
    assert upload_states(world) == {
        (build_id(1), "north"): UploadState.DELETING,
        (build_id(2), "north"): UploadState.READY,
    }


def test_the_last_good_image_of_a_provider_goes_only_by_force(world: World) -> None:
    world.store.put(upload(1, UploadState.READY, NOW - DAY))
    world.store.put(upload(1, UploadState.READY, NOW - DAY, to="south"))
    refused = world.run("upload", "delete", "00000001/north")
    assert refused.code == 4 and "--force" in refused.err
    assert set(upload_states(world).values()) == {UploadState.READY}
    assert world.run("upload", "delete", "00000001/north", "--force").code == 0
    assert upload_states(world)[build_id(1), "north"] is UploadState.DELETING


def test_an_upload_in_progress_stays_even_by_force(world: World) -> None:
    world.store.put(upload(1, UploadState.UPLOADING, NOW - HOUR))
    assert world.run("upload", "delete", "00000001", "--force").code == 4
    assert set(upload_states(world).values()) == {UploadState.UPLOADING}


@pytest.mark.parametrize("command", ["build", "upload"])
def test_what_is_not_there_is_3(world: World, command: str) -> None:
    for name in ("feedface", "", "../x", "a b", "a/b", "x" * 300):
        assert world.run(command, "delete", name).code == 3
        assert world.run(command, "show", name).code == 3


# -- somebody else writes at the same time --------------------------------------------------------


class Rival(FakeStore):
    """A store in which somebody else changes each record a number of times just before we write."""

    times = 1

    def update_build(self, build: Build) -> Build:
        if self.times:
            self.times -= 1
            super().update_build(self.get_build(build.image, build.id))
        return super().update_build(build)

    def update_upload(self, upload: Upload) -> Upload:
        if self.times:
            self.times -= 1
            super().update_upload(self.get_upload(upload.image, upload.build_id, upload.provider, upload.id))
        return super().update_upload(upload)


@dataclass
class Contested(World):
    """A world whose store has such a rival."""

    rival_times: int = 1

    def parts(self) -> Parts:
        def open_store(config: Config, environ: object, watch: bool) -> Store:
            store = Rival(self.store.tree)
            store.times = self.rival_times
            return store

        return replace_store(super().parts(), open_store)


def replace_store(parts: Parts, open_store: object) -> Parts:
    return replace(parts, open_store=open_store)  # type: ignore[arg-type]


@pytest.mark.parametrize(("command", "name"), [("build", "00000001"), ("upload", "00000001/north")])
def test_a_record_that_changed_meanwhile_is_read_again_once(command: str, name: str) -> None:
    world = Contested()
    world.store.put(failed(1, NOW - DAY))
    world.store.put(upload(1, UploadState.FAILED, NOW - DAY))
    assert world.run(command, "delete", name).code == 0
    record = (
        world.store.get_build(IMAGE, build_id(1))
        if command == "build"
        else next(world.store.snapshot().uploads())
    )
    assert record.state == "deleting"


def test_a_record_that_never_stands_still_is_a_failure() -> None:
    world = Contested(rival_times=5)
    world.store.put(failed(1, NOW - DAY))
    done = world.run("build", "delete", "00000001")
    assert done.code == ConflictError.exit_code
    assert state_of(world, 1) is BuildState.FAILED


# -- pausing and asking ---------------------------------------------------------------------------


def test_an_image_is_paused_and_unpaused_before_it_was_ever_built(world: World) -> None:
    assert world.run("image", "pause", IMAGE).code == 0
    assert world.store.snapshot().image(IMAGE).paused
    (row,) = world.json("image", "list")
    assert (row["paused"], row["state"]) == (True, "paused")
    assert world.run("image", "unpause", IMAGE).code == 0
    assert not world.store.snapshot().image(IMAGE).paused
    assert world.json("image", "list")[0]["state"] == "missing"


@pytest.mark.parametrize("pause", [False, True])
def test_an_image_that_nobody_has_a_use_for_is_not_missing(pause: bool) -> None:
    world = World(config=config(diskimage(formats=(), pause=pause)))
    (row,) = world.json("image", "list")
    assert (row["state"], row["next_build"], row["reason"]) == ("unused", None, None)
    # What it once had is still told.
    world.store.put(failed(1, NOW - DAY))
    assert world.json("image", "list")[0]["state"] == "failed"


def test_what_the_configuration_pauses_is_said_to_stay_paused() -> None:
    world = World(config=config(diskimage(pause=True)))
    done = world.run("image", "unpause", IMAGE)
    assert done.code == 0 and "still paused by the configuration" in done.out


@pytest.mark.parametrize("verb", ["show", "build", "pause", "unpause", "render", "explain"])
@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "", "x" * 300, "unknown"])
def test_an_image_nobody_knows_is_3_and_leaves_no_trace(world: World, verb: str, name: str) -> None:
    done = world.run("image", verb, name)
    assert done.code == 3 and done.err.startswith("imagepool: error: ") and not done.out
    assert not world.store.snapshot().images


def test_asking_for_a_build_records_who_and_why(world: World) -> None:
    world.environ["SUDO_USER"] = "ann"
    assert world.run("image", "build", IMAGE, "--why", "new kernel").code == 0
    request = world.store.get_request(IMAGE)
    assert request is not None
    assert (request.manual, request.why, request.time) == (True, "new kernel", NOW)
    assert request.by.startswith("ann@")


def test_asking_takes_the_place_of_the_scheduler_but_not_of_a_person(world: World) -> None:
    world.store.request_build(asked(manual=False, by="scheduler", why="it is time"))
    world.run("image", "build", IMAGE, "--why", "first")
    world.run("image", "build", IMAGE, "--why", "second")
    request = world.store.get_request(IMAGE)
    assert request is not None and request.why == "first"


def test_who_asks_second_is_told_whose_request_it_joins(world: World) -> None:
    world.store.request_build(asked(by="bob@test", why="new kernel", time=NOW - HOUR))
    done = world.run("image", "build", IMAGE)
    assert done.code == 0 and "was asked for already (new kernel, bob@test, " in done.out
    assert "joins it" in done.out


def test_who_asks_first_joins_nobody(world: World) -> None:
    done = world.run("image", "build", IMAGE)
    assert done.code == 0 and "is requested" in done.out and "already" not in done.out


def test_an_empty_reason_is_none(world: World) -> None:
    world.run("image", "build", IMAGE, "--why", " ")
    request = world.store.get_request(IMAGE)
    assert request is not None and request.why == "asked by hand"


def test_an_open_request_can_not_act_on_the_terminal_of_who_joins_it(world: World) -> None:
    world.store.request_build(asked(by="bob\x1b[2J", why="one\nimagepool: all is well"))
    done = world.run("image", "build", IMAGE)
    assert done.code == 0 and "bob\\x1b[2J" in done.out
    assert len(done.out.splitlines()) == 1 and "\x1b" not in done.out


def test_what_the_configuration_pauses_is_not_built_by_hand() -> None:
    world = World(config=config(diskimage(pause=True), provider()))
    refused = world.run("image", "build", IMAGE)
    assert refused.code == 4 and "paused" in refused.err
    assert world.store.get_request(IMAGE) is None


def test_what_was_paused_by_hand_is_built_when_somebody_asks(world: World) -> None:
    world.store.pause(IMAGE, Pause(by="ann", time=NOW))
    assert world.run("image", "build", IMAGE).code == 0
    assert isinstance(world.store.get_request(IMAGE), Request)


def test_what_left_the_configuration_is_listed_but_not_built(world: World) -> None:
    world.store.put(ready(1, NOW - DAY, image="old"))
    rows = {row["image"]: row for row in world.json("image", "list")}
    assert (rows["old"]["platform"], rows["old"]["state"], rows["old"]["next_build"]) == (None, "ready", None)
    assert world.json("image", "show", "old")["decision"] is None
    assert world.run("image", "build", "old").code == 3


# -- logs -----------------------------------------------------------------------------------------


def test_a_log_on_this_machine_is_printed_as_it_is(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    log.write_bytes(b"one\n\x1b[1mtwo\x1b[0m\n\xff\n" + b"x" * 200_000)
    world.store.put(ready(1, NOW - DAY, log=str(log)))
    shown = world.run("build", "log", "00000001")
    assert shown.code == 0
    assert shown.out == "one\n\x1b[1mtwo\x1b[0m\n\ufffd\n" + "x" * 200_000


def test_a_log_is_printed_from_its_last_lines_on(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    log.write_text("".join(f"line {number} {'x' * 40}\n" for number in range(5000)) + "no end")
    world.store.put(ready(1, NOW - DAY, log=str(log)))
    for packed in (False, True):
        assert logfiles.finish(log) if packed else log.exists()
        shown = world.run("build", "log", "00000001", "--tail", "2")
        assert (shown.code, shown.out) == (0, f"line 4999 {'x' * 40}\nno end")
        assert world.run("build", "log", "00000001", "--tail", "0").out == ""
    for wrong in ("-3", "x", "1e3"):
        refused = world.run("build", "log", "00000001", "--tail", wrong)
        assert refused.code == 2 and f"{wrong!r} is no number of lines: give 0 or more" in refused.err


def test_a_compressed_log_is_printed_as_any_other(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    log.write_text("one\ntwo\n")
    logfiles.finish(log)
    world.store.put(ready(1, NOW - DAY, log=str(log)))
    for arguments in ((), ("--follow",)):
        assert world.run("build", "log", "00000001", *arguments).out == "one\ntwo\n"


def test_a_broken_compressed_log_is_no_bug(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    logfiles.compressed(log).write_bytes(b"no gzip at all")
    world.store.put(ready(1, NOW - DAY, log=str(log)))
    done = world.run("build", "log", "00000001")
    assert done.code == 5 and "can't be read" in done.err


def test_a_log_elsewhere_is_said_to_be_there(world: World) -> None:
    log = str(logfiles.path(Path("/var/log/imagepool"), IMAGE, build_id(1)))
    world.store.put(ready(1, NOW - DAY, builder="faraway.test", log=log))
    done = world.run("build", "log", "00000001")
    assert done.code == 3 and f"faraway.test: {log}" in done.err


@pytest.mark.parametrize("name", ["shadow", f"{IMAGE}-{build_id(2)}.log", f"x-{build_id(1)}.log"])
def test_a_record_can_not_make_another_file_a_log(world: World, tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.write_text("sesame")
    world.store.put(ready(1, NOW - DAY, log=str(other)))
    assert_refused(world)


def test_a_link_with_the_name_of_a_log_is_not_followed(world: World, tmp_path: Path) -> None:
    other, log = tmp_path / "shadow", logfiles.path(tmp_path, IMAGE, build_id(1))
    other.write_text("sesame")
    log.symlink_to(other)
    world.store.put(ready(1, NOW - DAY, log=str(log)))
    assert_refused(world)


def test_a_pipe_with_the_name_of_a_log_keeps_nobody_waiting(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    os.mkfifo(log)
    world.store.put(ready(1, NOW - DAY, log=str(log)))
    assert_refused(world)


def assert_refused(world: World) -> None:
    done = world.run("build", "log", "00000001")
    assert (done.code, done.out) == (4, "") and "sesame" not in done.err


def test_a_log_that_can_not_be_opened_is_no_bug(world: World, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    world.store.put(ready(1, NOW - DAY, log=str(logfiles.path(file, IMAGE, build_id(1)))))
    done = world.run("build", "log", "00000001")
    assert (done.code, done.out) == (5, "") and "can't be read" in done.err


def test_a_log_that_was_removed_here_is_said_to_be_gone(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    world.store.put(ready(1, NOW - DAY, builder=host_name(), log=str(log)))
    done = world.run("build", "log", "00000001")
    assert done.code == 3 and "is gone" in done.err


@pytest.mark.parametrize(
    ("full", "known_by"),
    [("a.example", "a.example"), ("localhost", "short"), ("localhost.localdomain", "short")],
)
def test_a_machine_is_not_known_as_localhost(
    monkeypatch: pytest.MonkeyPatch, full: str, known_by: str
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: full)
    monkeypatch.setattr(socket, "gethostname", lambda: "short")
    assert host_name() == known_by


def test_a_build_without_a_log_says_so(world: World) -> None:
    world.store.put(ready(1, NOW - DAY))
    assert "has no log on record" in world.run("build", "log", "00000001").err


class Writing(FakeStore):
    """A store that stands for a build which writes a line each time somebody looks, and then ends."""

    chunks: list[bytes]
    log: Path

    def get_build(self, image: str, build_id: str) -> Build:
        build = super().get_build(image, build_id)
        if build.state is BuildState.BUILDING:
            with self.log.open("ab") as stream:
                stream.write(self.chunks.pop(0))
            if not self.chunks:
                logfiles.finish(self.log)
                return self.update_build(build.become(BuildState.READY, NOW))
        return build


def test_following_a_log_ends_with_the_build_and_misses_nothing(world: World, tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, IMAGE, build_id(1))
    log.write_text("begin\n")
    world.store.put(building(1, NOW - HOUR, log=str(log)))
    store = Writing(world.store.tree)
    store.chunks, store.log = [b"one\n", b"half a \xc3", b"\xa4 and more\n", b"end\n"], log

    class Busy(World):
        def parts(self) -> Parts:
            return replace_store(super().parts(), lambda *_: store)

    shown = Busy(store=world.store).run("build", "log", "00000001", "--follow")
    assert shown.code == 0
    assert shown.out == "begin\none\nhalf a \u00e4 and more\nend\n"


# -- rendering ------------------------------------------------------------------------------------


def test_render_prints_command_and_environment_without_secrets() -> None:
    image = diskimage(
        elements=("debian-minimal", "vm"),
        environment={"DIB_X": "a b", "TOKEN": "s3cret"},
        secret_names=frozenset({"TOKEN"}),
    )
    world = World(config=config(image, provider()))
    shown = world.run("image", "render", IMAGE)
    lines = shown.out.splitlines()
    assert shown.code == 0 and "s3cret" not in shown.out
    assert "DIB_X='a b'" in lines and "TOKEN='********'" in lines
    assert lines[-1].startswith("disk-image-create ") and " debian-minimal vm" in lines[-1]


def test_render_prints_a_script_that_asks_for_secrets() -> None:
    image = diskimage(environment={"TOKEN": "s3cret"}, secret_names=frozenset({"TOKEN"}))
    shown = World(config=config(image, provider())).run("image", "render", IMAGE, "--script")
    assert shown.code == 0 and shown.out.startswith("#!/bin/bash\n")
    assert "s3cret" not in shown.out and "${TOKEN" in shown.out


def test_a_script_works_where_only_root_can_make_directories(world: World) -> None:
    script = world.run("image", "render", IMAGE, "--script").out
    made = re.search(r"^mkdir -p (\S+)", script, re.MULTILINE)
    assert made is not None
    directory = next(parent for parent in Path(made[1]).parents if parent.exists())
    status = directory.stat()
    assert (status.st_uid, status.st_mode & 0o022) == (0, 0)


def test_render_masks_credentials_in_urls() -> None:
    platform = Platform(
        name="p", distribution="debian", release="bookworm", mirror="https://me:sesame@mirror.example/debian"
    )
    image = diskimage(
        platform=platform,
        environment={"DIB_X": "see https://me:sesame@x.test/"},
        dib_cmd=("d", "http://me:sesame@x"),
    )
    shown = World(config=config(image, provider())).run("image", "render", IMAGE)
    assert shown.code == 0 and "DIB_DISTRIBUTION_MIRROR='********'" in shown.out.splitlines()
    assert "sesame" not in shown.out


def test_an_abstract_image_is_said_to_be_one() -> None:
    world = World(config=replace(config(diskimage(), provider()), abstract=frozenset({"base"})))
    done = world.run("image", "render", "base")
    assert done.code == 3 and "base is abstract: only a parent of others" in done.err

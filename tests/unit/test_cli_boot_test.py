"""`imagepool build test`: the boot test by hand, with a scripted program in the real sandbox."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import pytest

from builder.config.model import BootTest, Config
from builder.dib.boot import byhand, program
from builder.dib.output import artifacts
from builder.host import host_name
from builder.model import Artifact, BootResult, BootVerdict, Build, BuildState, ImageFormat
from tests.unit.cli_world import World
from tests.unit.dib_world import (
    BUILD,
    FAKE_BOOT_TEST,
    described,
    eventually,
    image,
    need_root,
    processes_naming,
)
from tests.unit.planning_world import DAY, NOW, building, failed, ready
from tests.unit.test_dib_boot_testing import BAD, answer, orders, proof

NAME = "debian-bookworm"


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_root()
    directory = tmp_path / "control"
    directory.mkdir()
    monkeypatch.setattr(program, "PROGRAM", (str(FAKE_BOOT_TEST), str(directory)))
    return directory


@pytest.fixture
def world(tmp_path: Path, control: Path) -> World:
    """A machine with the files of one ready build."""
    recipe = image(boot_test=BootTest(user="ann"))
    places = {
        name: tmp_path / name for name in ("state_dir", "images_dir", "work_dir", "cache_dir", "log_dir")
    }
    settings = Config(
        path=tmp_path / "etc" / "imagepool.yaml", diskimages=MappingProxyType({NAME: recipe}), **places
    )
    world = World(config=settings)
    settings.images_dir.mkdir()
    file = artifacts.path(settings.images_dir, NAME, BUILD, ImageFormat.QCOW2)
    file.write_bytes(b"a disk")
    world.store.put(record(artifacts=(described(file, ImageFormat.QCOW2),)))
    return world


def record(**changes: object) -> Build:
    fields = {"id": BUILD, "image": NAME, "builder": host_name(), **changes}
    return replace(ready(1, NOW - DAY), **fields)  # type: ignore[arg-type]


def assert_nothing_left(world: World, control: Path) -> None:
    assert list(world.config.work_dir.iterdir()) == []
    eventually(lambda: processes_naming(control) == [], "all processes are gone")


def test_a_good_image_is_told_of_line_by_line(world: World, control: Path) -> None:
    (control / "print").write_text("ok: boot: it came up\n")
    (control / "children").touch()
    done = world.run("build", "test", BUILD[:6])
    assert (done.code, done.err) == (0, "")
    first, last = done.out.splitlines()
    assert first == "ok: boot: it came up"
    assert last == f"build {BUILD} of {NAME}: all 1 proofs passed (62 s under tcg)"
    (order,) = orders(control)
    assert order["disk"] == str(artifacts.path(world.config.images_dir, NAME, BUILD, ImageFormat.QCOW2))
    assert (order["user"], order["hold"]) == ("ann", False)
    # The record is what it was.
    (build,) = world.store.list_builds(NAME)
    assert (build.state, build.test) == (BuildState.READY, None)
    assert_nothing_left(world, control)


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (BAD, 1, "failed: ssh, dns (62 s under tcg)"),
        (answer("broken", problem="QEMU is gone"), 5, "the test came to nothing: QEMU is gone"),
    ],
)
def test_the_exit_code_tells_what_came_of_it(
    world: World, control: Path, said: str, code: int, words: str
) -> None:
    (control / "answer").write_text(said)
    done = world.run("build", "test", BUILD)
    assert done.code == code
    assert words in done.out
    assert_nothing_left(world, control)


def test_as_json_it_is_all_of_it_and_nothing_else(world: World, control: Path) -> None:
    (control / "print").write_text("ok: boot\n")
    done = world.run("build", "test", BUILD, "--json")
    assert json.loads(done.out)["proofs"][0]["sentence"] == "it came up"
    assert done.err == "ok: boot\n"


def test_secrets_are_in_nothing_that_is_shown(world: World, control: Path) -> None:
    secret = "s3cret word"
    hidden = replace(
        world.config.diskimages[NAME], environment={"TOKEN": secret}, secret_names=frozenset({"TOKEN"})
    )
    world.config = replace(world.config, diskimages=MappingProxyType({NAME: hidden}))
    (control / "print").write_text(f"NOT OK {secret}\n")
    (control / "answer").write_text(answer("failed", proof("units", f"{secret} failed", f"token={secret}")))
    done = world.run("build", "test", BUILD, "--json")
    (told,) = json.loads(done.out)["proofs"]
    assert told["sentence"].endswith(" failed") and told["lines"][0].startswith("token=")
    assert secret not in done.out + done.err
    (control / "answer").write_text("{}")
    (control / "code").write_text("1")
    done = world.run("build", "test", BUILD, "--shell")
    assert "NOT OK" in done.err and secret not in done.err
    assert_nothing_left(world, control)


def test_a_test_that_does_not_end_is_ended(
    world: World, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (control / "pause").touch()
    monkeypatch.setattr(program, "_BEYOND", 0.0)
    quick = replace(world.config.diskimages[NAME], boot_test=BootTest(timeout=timedelta(seconds=1)))
    world.config = replace(world.config, diskimages=MappingProxyType({NAME: quick}))
    done = world.run("build", "test", BUILD)
    assert done.code == 5
    assert "the test came to nothing: the boot test did not end within 1 s" in done.out
    assert_nothing_left(world, control)


def test_a_shell_opens_in_the_machine_and_goes_with_it(
    world: World, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: list[list[str]] = []

    def terminal(argv: list[str]) -> int:
        typed.append(argv)
        assert (control / "running").exists()
        assert Path(argv[argv.index("-i") + 1]).read_text() == "a key"
        return 7

    monkeypatch.setattr(byhand, "attached", terminal)
    done = world.run("build", "test", BUILD, "--shell")
    assert done.code == 7
    ((_, *words),) = typed
    assert words[-1] == "127.0.0.1"
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-l") + 1] == "ann"
    assert "the machine ends with this shell" in done.err
    assert_nothing_left(world, control)


def test_where_nobody_gets_in_what_was_said_is_shown(world: World, control: Path) -> None:
    (control / "print").write_text("Kernel panic\n")
    (control / "code").write_text("1")
    done = world.run("build", "test", BUILD, "--shell")
    assert done.code == 1
    assert "did not come so far that somebody could log in" in done.err and "Kernel panic" in done.err
    assert_nothing_left(world, control)


def test_what_came_of_a_build_s_own_test_is_shown(world: World, control: Path) -> None:
    result = BootResult(
        verdict=BootVerdict.FAILED,
        failed=("dns",),
        seconds=212.0,
        accelerator="tcg",
        measures={"ssh_seconds": 41.2, "disk_claimed": 50 << 20, "services": 12},
        ports=("tcp/22", "udp/68"),
        setuid=("/usr/bin/sudo",),
    )
    world.store.put(record(test=result))
    shown = world.json("build", "show", BUILD)["test"]
    assert (shown["verdict"], shown["failed"], shown["ports"]) == ("failed", ["dns"], ["tcp/22", "udp/68"])
    table = world.run("build", "show", BUILD).out
    for words in ("failed: dns (3m 32s under tcg)", "ssh_seconds: 41s", "services: 12", "tcp/22, udp/68"):
        assert words in table
    world.store.put(record(test=None))
    assert world.json("build", "show", BUILD)["test"] is None


KERNEL = Artifact(
    format=ImageFormat.AKI, size=1, virtual_size=1, md5="0" * 32, sha256="0" * 64, sha512="0" * 128
)
REFUSED = {
    "no image": (failed(2, NOW, id=BUILD, image=NAME), 4, "made no image"),
    "not done": (building(2, NOW, id=BUILD, image=NAME), 4, "is in progress"),
    "elsewhere": (record(builder="nb02"), 3, "are on nb02"),
    "no files": (record(artifacts=()), 3, "has no files"),
    "a kernel alone": (record(artifacts=(KERNEL,)), 3, "has no files that can be booted"),
    "not configured": (record(image="other"), 4, "the configuration has no diskimage other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_booted_here_says_why(world: World, control: Path, case: str) -> None:
    build, code, words = REFUSED[case]
    world.store.delete_build(world.store.get_build(NAME, BUILD))
    world.store.put(build)
    done = world.run("build", "test", BUILD)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert not (control / "orders").exists()


def test_files_that_are_not_as_on_record_are_not_booted(world: World, control: Path) -> None:
    artifacts.path(world.config.images_dir, NAME, BUILD, ImageFormat.QCOW2).write_bytes(b"half")
    done = world.run("build", "test", BUILD)
    assert done.code == 3
    assert "has 4 bytes, 6 are on record" in done.err


def test_without_an_emulator_the_package_is_named(world: World, control: Path) -> None:
    (control / "missing").write_text("the program qemu-system-x86_64 is not installed\nInstall it.\n")
    done = world.run("build", "test", BUILD)
    assert done.code == 5
    assert "qemu-system-x86_64 is not installed" in done.err and "Install it." in done.err
    assert_nothing_left(world, control)

"""Lists come from the daemon of this machine where it answers, and look the same where it doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from builder.cli.context import Context, Parts
from builder.cli.main import main
from builder.config.model import Config
from builder.config.text import fingerprint, state_dir_in
from builder.store.asking import Told
from builder.store.wire import Question
from tests.contract.records import a_build, a_pause, an_upload
from tests.unit.cli_world import World

LISTS = (("build", "list"), ("upload", "list"), ("upload", "list", "--provider", "north"))


def refuse(*_: object) -> NoReturn:
    raise AssertionError("a daemon has answered: there is no need for this")


class Machine:
    """A configuration in a file, a store with records, and a daemon that answers."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.path = directory / "imagepool.yaml"
        self.path.write_text(f"state-dir: '{directory}'  # here\ndiskimages: []\n")
        for image in ("debian", "ubuntu"):
            build = self.world.store.create_build(a_build(image))
            for provider in ("north", "south"):
                self.world.store.create_upload(an_upload(build, provider))
        self.asked: list[tuple[Path, Question]] = []

    def ask(self, state_dir: Path, question: Question) -> Told | None:
        self.asked.append((state_dir, question))
        return Told(
            snapshot=self.world.store.snapshot(), images=("debian", "ubuntu"), providers=("north", "south")
        )

    def parts(self, **changes: Any) -> Parts:
        environ = {"IMAGEPOOL_CONFIG": str(self.path), "IMAGEPOOL_ZOOKEEPER": "zk:1"}
        return replace(self.world.parts(), **{"ask": self.ask, "environ": environ, **changes})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("words", LISTS)
@pytest.mark.parametrize("form", ["table", "json", "value"])
def test_the_rows_are_the_same_either_way(
    machine: Machine, words: tuple[str, ...], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "-f", form], parts=machine.parts(load=refuse, open_store=refuse)) == 0
    told = capsys.readouterr().out
    assert main([*words, "-f", form], parts=machine.parts(ask=lambda *_: None)) == 0
    assert capsys.readouterr().out == told
    assert "north" in told or "debian" in told


def test_the_daemon_is_asked_for_this_very_configuration(machine: Machine, tmp_path: Path) -> None:
    Context(machine.parts()).known()
    text = machine.path.read_text()
    assert machine.asked == [(tmp_path, Question(config=fingerprint(text, ""), servers="zk:1"))]


def test_a_secure_file_and_the_environment_belong_to_it(machine: Machine, tmp_path: Path) -> None:
    secure = tmp_path / "secure.yaml"
    secure.write_text("a: %(NODEPOOL_SECRET)")
    machine.path.write_text("state-dir: /%(IMAGEPOOL_WHERE)\n")
    environ = {"NODEPOOL_SECRET": "s3cret", "IMAGEPOOL_WHERE": "there"}
    Context(replace(machine.parts(), environ=environ), machine.path, secure).known()
    expected = Question(config=fingerprint("state-dir: /there\n", "a: s3cret"))
    assert machine.asked == [(Path("/there"), expected)]


def test_a_command_that_loads_the_configuration_asks_for_what_was_loaded(machine: Machine) -> None:
    context = Context(machine.parts(open_store=refuse))
    config = replace(machine.world.config, fingerprint="f00")
    assert context.snapshot(config).images.keys() == {"debian", "ubuntu"}
    assert machine.asked == [(config.state_dir, Question(config="f00", servers="zk:1"))]


def test_nobody_is_asked_for_a_configuration_that_was_not_loaded(machine: Machine) -> None:
    assert Context(machine.parts(ask=refuse)).snapshot(machine.world.config).images


def test_an_unreadable_configuration_is_told_by_who_loads_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: Path, secure: Path | None, environ: Mapping[str, str], format_of: object) -> Config:
        raise AssertionError("it is loaded")

    machine.path.unlink()
    assert main(["upload", "list"], parts=machine.parts(load=load)) == 70
    assert "it is loaded" in capsys.readouterr().err
    assert machine.asked == []


def test_that_all_is_frozen_is_noted(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.world.store.freeze(a_pause())
    assert main(["build", "list"], parts=machine.parts()) == 0
    assert "ann" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state-dir: /a/b\n", "/a/b"),
        ('x: 1\nstate-dir: "/a b" # there\n', "/a b"),
        ("state-dir:   rel/ative  \n", "/etc/rel/ative"),
        ("# state-dir: /no\nx: 1\n", "/var/lib/imagepool"),
        ("a:\n  state-dir: /no\n", "/var/lib/imagepool"),
    ],
)
def test_the_state_directory_is_found_in_the_text(text: str, expected: str) -> None:
    assert state_dir_in(text, Path("/etc/imagepool.yaml")) == Path(expected)


def test_texts_are_told_apart() -> None:
    texts = [("a", ""), ("", "a"), ("ab", ""), ("a", "b"), ("", ""), ("\ud800", "")]
    assert len({fingerprint(*each) for each in texts}) == len(texts)

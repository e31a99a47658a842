"""The command line of tools/build-image: what it means, and what makes no sense."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

LIB = Path(__file__).resolve().parents[2] / "tools" / "lib"
HERE = Path("/somewhere")


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(LIB))
    yield import_module("build_image.arguments")
    for name in [name for name in sys.modules if name.startswith("build_image")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--nonsense"], "unrecognized arguments"),
        (["one", "two"], "unrecognized arguments"),
        (["--user", "me"], "--boot and --check"),
        (["--firmware", "uefi"], "--boot and --check"),
        (["--list", "one"], "--list"),
        (["--list", "--", "vm"], "--list"),
        (["one", "--show", "--keep"], "build nothing"),
        (["one", "--show", "--boot"], "build nothing"),
        (["one", "--last"], "--boot or --check"),
        (["one", "--last", "--boot", "--", "vm"], "--boot or --check"),
        (["one", "--format", "iso"], "invalid choice"),
        (["one", "--env", "1=2"], "NAME=VALUE"),
        (["one", "--env", "NAME"], "NAME=VALUE"),
        (["one", "--", "--check"], "come elements"),
    ],
)
def test_what_makes_no_sense_is_told(
    words: list[str], told: str, arguments: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(words, directory=HERE)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_without_a_word_the_default_platform_is_built(arguments: ModuleType) -> None:
    options = arguments.parse([], directory=HERE)
    assert (options.platform, options.formats) == ("debian-bookworm", ("qcow2",))
    assert options.config == LIB.parents[1] / "config" / "imagepool.yaml"
    assert options.builds and not options.boots
    assert options.profiles == ("builder",)


def test_every_word_has_its_meaning(arguments: ModuleType) -> None:
    words = "trixie --config c.yaml --output out --format raw --format qcow2 --env A=b=c --without vm --boot"
    options = arguments.parse([*words.split(), "--", "cloud-user", "ami"], directory=HERE)
    assert options.platform == "trixie" and options.elements == ("cloud-user", "ami")
    # Paths are meant from where the tool was called.
    assert (options.config, options.output) == (HERE / "c.yaml", HERE / "out")
    assert options.formats == ("raw", "qcow2")
    assert options.environment == (("A", "b=c"),) and options.without == ("vm",)
    assert options.profiles == ("builder", "emulator")


@pytest.mark.parametrize(
    ("words", "profiles"), [(["--list"], ()), (["--show"], ()), (["--last", "--check"], ("emulator",))]
)
def test_only_what_is_needed_gets_installed(
    words: list[str], profiles: tuple[str, ...], arguments: ModuleType
) -> None:
    assert arguments.parse(words, directory=HERE).profiles == profiles

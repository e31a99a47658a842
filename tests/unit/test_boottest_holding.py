"""A machine that is held for somebody, and the words by which the program that boots is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.bootorder import ANSWER, KEY, LOGIN, answer_of
from builder.boottest import __main__ as words
from builder.boottest import holding
from builder.emulator import accelerator, firmware, guest
from builder.emulator.machine import Architecture
from builder.errors import ActionFailedError, ToolMissingError
from builder.model import BootVerdict
from tests.unit.boottest_world import Emulator, order, trouble


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    emulator = Emulator()
    monkeypatch.setattr(holding, "boot", emulator.boot)
    monkeypatch.setattr(guest, "boot", emulator.boot)
    return emulator


def test_who_looks_around_is_told_how_to_log_in(tmp_path: Path, emulator: Emulator) -> None:
    holding.hold(order(tmp_path, hold=True), say=lambda line: None)
    login = json.loads((tmp_path / LOGIN).read_text())
    assert login == {"host": "127.0.0.1", "port": 2222, "user": "zuul", "key": str(tmp_path / KEY)}
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / KEY).stat().st_uid == tmp_path.stat().st_uid
    (machine,) = emulator.guests
    assert machine.machine.lifetime > 24 * 3600
    assert emulator.running == 0


def test_where_nobody_gets_in_nobody_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = Emulator({"not_in": trouble("zuul could not log in")})
    monkeypatch.setattr(holding, "boot", shut.boot)
    with pytest.raises(ActionFailedError, match="could not log in"):
        holding.hold(order(tmp_path, hold=True), say=lambda line: None)
    assert not (tmp_path / LOGIN).exists()


def test_an_order_ends_in_an_answer_whatever_that_says(tmp_path: Path, emulator: Emulator) -> None:
    assert words.main(["test", order(tmp_path).text()]) == 0
    assert answer_of((tmp_path / ANSWER).read_text()).verdict is BootVerdict.PASSED
    emulator.error = ToolMissingError("no qemu")
    other = tmp_path / "another"
    other.mkdir()
    assert words.main(["test", order(other).text()]) == 0
    assert answer_of((other / ANSWER).read_text()).verdict is BootVerdict.BROKEN


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ([], 2, "usage: "),
        (["ready", "amd64"], 2, "usage: "),
        (["ready", "vax", "bios"], 1, "'vax'"),
        (["test", "{"], 1, "JSONDecodeError"),
        (["test", "{}"], 1, "KeyError"),
    ],
)
def test_what_is_no_order_is_told(
    argv: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words.main(argv) == code
    assert said in capsys.readouterr().err


def test_what_is_not_installed_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def there(name: str, **_: str) -> str:
        return f"/usr/bin/{name}"

    def missing(architecture: Architecture, *_: object) -> str:
        raise ToolMissingError(f"nothing for {architecture}", hint="Install it.")

    monkeypatch.setattr(words, "find_tool", there)
    monkeypatch.setattr(accelerator, "emulator", lambda architecture: "/usr/bin/qemu")
    monkeypatch.setattr(firmware, "find", missing)
    assert words.main(["ready", "amd64", "bios"]) == 0
    for argv in (["ready", "amd64", "uefi"], ["ready", "arm64", "uefi"]):
        assert words.main(argv) == 5
        assert capsys.readouterr().err == f"nothing for {argv[1]}\nInstall it.\n"
    monkeypatch.setattr(accelerator, "emulator", missing)
    assert words.main(["ready", "amd64", "bios"]) == 5

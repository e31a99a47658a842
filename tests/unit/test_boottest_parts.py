"""The parts of a boot test that know of no machine: questions, answers, consoles, checks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from builder.bootorder import Check
from builder.boottest import checks, measures, proofs, signs
from builder.boottest.asking import Said, answers, script
from tests.unit.dib_world import shellcheck

MARK = "@@@0123456789abcdef"


# -- questions ----------------------------------------------------------------------------------


def ask(questions: dict[str, str]) -> dict[str, Said]:
    done = subprocess.run(
        ["sh", "-c", script(questions, MARK)],
        capture_output=True,
        text=True,
        check=True,
        input="not for them",
    )
    return dict(answers(done.stdout, MARK))


def test_each_question_has_its_answer_whatever_becomes_of_the_others() -> None:
    said = ask(
        {
            "two lines": "echo one; echo two >&2",
            "nothing": "true",
            "failing": "echo no; exit 3",
            "reading": "cat",
            "no newline": "printf end",
            "imitating": "echo '@@@ nothing'; echo 'it'\"'\"'s'",
            "comment": "echo 'a # b' # c",
        }
    )
    assert said == {
        "two lines": Said(code=0, text="one\ntwo"),
        "nothing": Said(code=0, text=""),
        "failing": Said(code=3, text="no"),
        "reading": Said(code=0, text=""),
        "no newline": Said(code=0, text="end"),
        "imitating": Said(code=0, text="@@@ nothing\nit's"),
        "comment": Said(code=0, text="a # b"),
    }


def test_an_answer_that_breaks_off_is_none() -> None:
    whole = f"{MARK} first\nyes\n\n{MARK} 0\n{MARK} second\nhalf of"
    assert answers(whole, MARK).keys() == {"first"}


def test_a_guest_that_knows_the_mark_gains_nothing_by_it() -> None:
    # Beginnings without an end, and an end that is no number of an exit code.
    begun = f"{MARK} again\n" * 100_000
    assert answers(f"{begun}yes\n{MARK} 0\n{MARK} last\nno\n{MARK} {'9' * 5000}", MARK) == {
        "again": Said(code=0, text="yes")
    }


@pytest.mark.parametrize("name", [*proofs.QUESTIONS, *measures.QUESTIONS])
def test_every_question_is_a_sound_script(name: str) -> None:
    question = {**proofs.QUESTIONS, **measures.QUESTIONS}[name]
    assert shellcheck(f"#!/bin/sh\n{question}\n") == ""
    assert re.fullmatch("[a-z].*", name)


def test_questions_about_this_very_machine_are_answered() -> None:
    said = ask({name: measures.QUESTIONS[name] for name in ("memory", "sockets")})
    found = measures.read(said, {"ssh_seconds": 1.234, "kernel_seconds": None})
    assert found.values["memory_used"] > 1 << 20
    assert found.values["ssh_seconds"] == 1.2
    assert "kernel_seconds" not in found.values and "packages" not in found.values
    assert all(re.fullmatch(r"(tcp|udp)/\d+", port) for port in found.ports)


# -- consoles -----------------------------------------------------------------------------------

CONSOLES = {
    "the firmware found nothing": ["SeaBIOS", "Booting from Hard Disk...", "No bootable device."],
    "firmware found nothing to boot": ["BdsDxe: No bootable option or device was found."],
    "boot loader": ["GRUB loading.", "error: no such partition.", "Entering rescue mode...", "grub rescue> "],
    "can't use the root file system": [
        '[    1.1] VFS: Cannot open root device "UUID=1" or unknown-block(0,0): error -6',
        "[    1.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
    ],
    "nothing to start": ["[ 2.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"],
    "the kernel gave up": ["[ 2.0] Kernel panic - not syncing: Fatal exception"],
    "initramfs does not find": ["ALERT!  UUID=dead-beef does not exist.  Dropping to a shell!"],
    "the initramfs": ["(initramfs) "],
    "no driver for the disk": ["dracut-initqueue[320]: Warning: Could not boot."],
    "or can't mount it": [
        "[FAILED] Failed to mount sysroot.mount - Root Partition.",
        "Entering emergency mode. Exit the shell to continue.",
    ],
    "emergency mode": ['You are in emergency mode. After logging in, type "journalctl -xb"'],
    "can't be mounted": ["Cannot open access to console, the root account is locked."],
}


@pytest.mark.parametrize("meaning", CONSOLES)
def test_a_console_says_why_nothing_comes_of_it(meaning: str) -> None:
    lines = CONSOLES[meaning]
    sign = signs.fatal(["early", *lines, "late"])
    assert sign is not None
    assert meaning in sign.meaning
    assert set(lines) <= set(sign.lines)


def test_a_console_that_goes_on_says_nothing_of_the_kind() -> None:
    lines = [
        "Linux version 6.1.0",
        "dracut-initqueue[320]: timeout, still waiting for following initqueue hooks",
        "Begin: Waiting for root file system ...",
        "[  OK  ] Started Emergency Shell helper.",
        "boot-test-host login: ",
    ]
    assert signs.fatal(lines) is None
    assert signs.asks_for_login(lines)
    assert not signs.asks_for_login(lines[:-1])


def test_lines_around_the_sign_are_shown_and_not_all() -> None:
    lines = [f"line {number}" for number in range(50)]
    lines[25] = "Kernel panic - not syncing: x"
    sign = signs.fatal(lines)
    assert sign is not None
    assert "line 24" in sign.lines and "line 26" in sign.lines
    assert len(sign.lines) < 20


# -- checks -------------------------------------------------------------------------------------

CHECK = Check(name="own/one", path="/one")
ENDS = [
    (0, "", None),
    (1, "broken", "it ended with exit code 1"),
    (0, "TAP version 13\n1..2\nok 1\nok 2 - fine", None),
    (0, "ok 1\nok 2\n1..2", None),
    (0, "1..2\nok 1\nnot ok 2 - mail # TODO later", None),
    (0, "1..1\nnot ok 1 # skip no network", None),
    (0, "1..2\nok 1\nnot ok 2", "1 of its 2 tests failed: test 2"),
    (1, "1..2\nnot ok 1 - a\nnot ok 2 - b", "2 of its 2 tests failed: a, b"),
    (0, "1..3\nok 1\nok 2", "it planned 3 tests and did 2"),
    (0, "1..3\nok 1\nBail out! no disk", "it gave up: no disk"),
    (2, "1..1\nok 1", "it ended with exit code 2"),
    (0, "ok, all is well", None),
    (0, "not ok is what this says", None),
]


@pytest.mark.parametrize(("code", "output", "problem"), ENDS)
def test_a_check_tells_by_its_exit_code_or_in_tap(code: int, output: str, problem: str | None) -> None:
    proof = checks.judge(CHECK, code, output)
    assert proof.name == "check own/one"
    assert (proof.passed, proof.sentence) == (problem is None, problem or "it found all well")


def test_what_tap_says_of_a_failure_is_shown_and_nothing_else() -> None:
    output = "1..3\nok 1\n# fine\nnot ok 2 - mail\n# no route\n# to host\nok 3\n"
    assert checks.judge(CHECK, 0, output).lines == ("not ok 2 - mail", "# no route", "# to host")


def test_a_script_arrives_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "check").write_bytes(content)
    monkeypatch.setattr(checks, "DIRECTORY", str(tmp_path / "guest"))
    commands = list(checks.copying(Check(name="n", path=str(tmp_path / "check")), 3))
    assert max(map(len, commands)) < 100_000
    for command in commands:
        subprocess.run(["sh", "-c", command], check=True)
    (copied,) = (tmp_path / "guest").iterdir()
    assert copied.read_bytes() == content
    assert copied.stat().st_mode & 0o777 == 0o700
    copied.write_text("#!/bin/sh\npwd; cat; echo err >&2; exit 4\n")
    done = subprocess.run(["sh", "-c", checks.running(3)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, f"{tmp_path / 'guest'}\nerr\n")


def test_a_huge_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "check").write_bytes(b"x" * (checks.LARGEST + 1))
    with pytest.raises(OSError, match="at most 1024 KiB"):
        list(checks.copying(Check(name="n", path=str(tmp_path / "check")), 1))

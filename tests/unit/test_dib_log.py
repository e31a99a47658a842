"""What the lines of a build tell: where it is, why it failed; and what must not be told."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.config.model import MASK
from builder.dib.log import LogFile, Masker, Reader
from builder.model import BuildPhase, FailureClass

#: Lines of a real run, in its order, with the phase and the step after each.
STORY: list[tuple[str, BuildPhase, str | None]] = [
    ("diskimage-builder version 3.43.0", BuildPhase.PREPARE, None),
    ("Copying hooks for debootstrap", BuildPhase.PREPARE, None),
    ("Copying hooks /usr/lib/x/elements/debootstrap/root.d/08-debootstrap", BuildPhase.PREPARE, None),
    ("Copying hooks /srv/elements/my-own/install.d/50-mine", BuildPhase.PREPARE, None),
    ("Running hooks from /w/tmp/dib_build.Xq3f/hooks/root.d", BuildPhase.BOOTSTRAP, None),
    (
        "dib-run-parts Running /w/tmp/dib_build.Xq3f/hooks/root.d/08-debootstrap",
        BuildPhase.BOOTSTRAP,
        "debootstrap/root.d/08-debootstrap",
    ),
    ("dib-run-parts 08-debootstrap completed", BuildPhase.BOOTSTRAP, None),
    ("Running hooks from /w/tmp/dib_build.Xq3f/hooks/extra-data.d", BuildPhase.PACKAGES, None),
    (
        "dib-run-parts Running /tmp/in_target.d/install.d/50-mine",
        BuildPhase.PACKAGES,
        "my-own/install.d/50-mine",
    ),
    ("dib-run-parts 50-mine completed", BuildPhase.PACKAGES, None),
    ("Calculating image size (this may take a minute)...", BuildPhase.FINALISE, "block-device"),
    (
        "dib-run-parts Running /tmp/in_target.d/finalise.d/50-bootloader",
        BuildPhase.FINALISE,
        "finalise.d/50-bootloader",
    ),
    # An element that runs another's hooks late takes the build back in no one's eyes.
    (
        "Running hooks from /w/tmp/dib_build.Xq3f/hooks/root.d",
        BuildPhase.FINALISE,
        "finalise.d/50-bootloader",
    ),
]


def read(*lines: str) -> Reader:
    reader = Reader()
    for line in lines:
        reader.feed(line)
    return reader


def test_phase_and_step_follow_what_dib_prints() -> None:
    reader = Reader()
    for line, phase, step in STORY:
        reader.feed(line)
        assert (reader.phase, reader.step) == (phase, step), line


IN_INSTALL = (
    "Running hooks from /w/hooks/root.d",
    "dib-run-parts Running /tmp/in_target.d/install.d/01-package-installs",
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cp: error writing 'x': No space left on device", FailureClass.DISK),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", FailureClass.DISK),
        ("E: Failed to fetch http://mirror.test/a.deb  404  Not Found", FailureClass.MIRROR),
        ("W: Temporary failure resolving 'mirror.test'", FailureClass.MIRROR),
        ("E: Release file for http://mirror.test/ is expired", FailureClass.MIRROR),
        ("fatal: unable to access 'https://git.test/x/': timed out", FailureClass.MIRROR),
        ("E: Unable to locate package nothing", FailureClass.PACKAGE),
        ("dpkg: error processing package linux-image (--configure):", FailureClass.PACKAGE),
        ("Error: Unable to find a match: nothing", FailureClass.PACKAGE),
        ("grub-install: error: unable to identify a filesystem", FailureClass.BOOTLOADER),
        ("/dev/mapper/control: open failed: No such device", FailureClass.BOOTLOADER),
        ("/tmp/in_target.d/install.d/50-x: line 3: jq: command not found", FailureClass.TOOL),
        ("Something else went wrong", FailureClass.ELEMENT),
    ],
)
def test_the_class_of_a_failure_is_told_by_its_lines(line: str, expected: FailureClass) -> None:
    failure = read(*IN_INSTALL, "Reading package lists...", line, "+ trap_cleanup").diagnose(100)
    assert failure.failure_class is expected
    assert failure.step == "install.d/01-package-installs"
    assert failure.phase == BuildPhase.PACKAGES
    assert failure.exit_code == 100
    assert failure.lines == ("Reading package lists...", line)


def test_trouble_of_a_step_that_completed_is_not_the_cause() -> None:
    failure = read(
        *IN_INSTALL,
        "W: Failed to fetch http://mirror.test/x, retrying",
        "dib-run-parts 01-package-installs completed",
        "dib-run-parts Running /tmp/in_target.d/install.d/50-mine",
        "boom",
    ).diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT
    assert failure.message == "the script install.d/50-mine failed"
    assert failure.lines == ("boom",)


def test_an_unknown_element_is_a_matter_of_the_configuration() -> None:
    failure = read(
        "Building elements: base nothing-such",
        "diskimage_builder.element_dependencies.MissingElementException: Element 'nothing-such' not found",
    ).diagnose(1)
    assert failure.failure_class is FailureClass.CONFIG
    assert "nothing-such" in failure.message


def test_at_most_twenty_lines_are_kept_and_the_telling_one_is_among_them() -> None:
    telling = "E: Unable to locate package nothing"
    failure = read(*IN_INSTALL, telling, *(f"line {n}" for n in range(50))).diagnose(1)
    assert len(failure.lines) == 20
    assert failure.lines[0] == telling
    assert failure.lines[-1] == "line 49"


def test_a_silent_death_is_unknown_and_says_so() -> None:
    failure = read().diagnose(137)
    assert failure.failure_class is FailureClass.UNKNOWN
    assert "killed" in failure.message


def test_dibs_own_time_is_taken_off() -> None:
    assert Reader.bare("2026-11-20 14:14:00.123 | Running") == "Running"
    assert Reader.bare("2026 | Running") == "2026 | Running"


SECRETS = [
    "it's $ecret",
    "'",
    "a,b~c#d",
    "#~x",
    'say "hi" \\ `now`!',
    "two\nlines",
    "t\tb\x1b\a\v\x01",
    "pässwörd€",
    "\x85x",
]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize(
    "how",
    [
        'set -x; : $TOKEN_IS TOKEN="$TOKEN"',
        'printf %q "$TOKEN"',
        'printf %q "TOKEN=$TOKEN"',
        "declare -p TOKEN",
        'echo "${TOKEN@Q}"',
        "set | grep ^TOKEN=",
        "export TOKEN; $PYTHON -c 'import os; print(repr(os.environ[\"TOKEN\"]))'",
        "export TOKEN; $PYTHON -c 'import json, os; print(json.dumps(os.environ[\"TOKEN\"]))'",
    ],
)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_masked_in_each_way_programs_write_it(secret: str, how: str, locale: str) -> None:
    def told(value: str) -> str:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHON": sys.executable, "TOKEN": value}
        done = subprocess.run(["bash", "-c", how], check=True, capture_output=True, env=environment)
        return (done.stdout + done.stderr).decode(errors="surrogateescape")

    # Quotes around it may differ with what is in it; of the secret itself nothing may be left.
    masked = Masker([secret])(told(secret))
    assert MASK in masked
    assert set(masked) - set("'\"$\n") <= set(told("") + MASK)


def test_a_secret_is_masked_as_dib_quotes_it_for_a_shell() -> None:
    assert Masker(["it's"])("+ TOKEN=" + shlex.quote("it's")) == f"+ TOKEN='{MASK}'"


TRACEBACK = (
    "sudo: unable to resolve host builder: Temporary failure in name resolution",
    "Traceback (most recent call last):",
    '  File "/srv/venv/bin/dib-block-device", line 8, in <module>',
    '  File "/srv/venv/lib/site-packages/diskimage_builder/block_device/cmd.py", line 120, in main',
    "    return bdc.main()",
    "AssertionError",
)


@pytest.mark.parametrize(
    "last", ["AssertionError", "yaml.scanner.ScannerError: while scanning", "KeyError: 'x'"]
)
def test_a_traceback_of_dib_itself_is_told_by_its_exception(last: str) -> None:
    failure = read("Calculating image size (this may take a minute)...", *TRACEBACK[:-1], last).diagnose(1)
    assert failure.failure_class is FailureClass.TOOL
    assert failure.message == last
    assert failure.step == "block-device"
    assert failure.lines[-1] == last


def test_a_traceback_of_an_elements_own_script_is_the_elements() -> None:
    lines = (
        TRACEBACK[0],
        "Traceback (most recent call last):",
        '  File "/x/diskimage_builder/elements/x/root.d/10-x", line 8',
        "KeyError: 1",
    )
    failure = read(*IN_INSTALL, *lines).diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT


def test_each_line_of_a_secret_is_secret() -> None:
    mask = Masker(["-----BEGIN-----\nabcdef\n-----END-----", "", "abc"])
    assert "abcdef" not in mask("key: abcdef")
    assert mask("nothing here") == "nothing here"


def test_the_log_can_be_read_while_it_grows(tmp_path: Path) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    log = LogFile(tmp_path / "logs" / "a.log", clock=lambda: noon)
    log.write("first")
    assert (tmp_path / "logs" / "a.log").read_text() == "2026-11-20 12:00:00.000 | first\n"
    threads = [threading.Thread(target=log.write, args=("x" * 5000,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close("the end")
    lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert lines[-1].endswith(" | the end")
    assert {len(line) for line in lines[1:-1]} == {5000 + len("2026-11-20 12:00:00.000 | ")}
    assert log.broken is None


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    log = LogFile(Path("/dev/full"))
    log.write("lost")
    log.close("lost too")
    assert log.broken is not None

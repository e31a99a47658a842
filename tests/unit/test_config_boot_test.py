"""`boot-test` in a configuration: a word or a mapping, inherited key by key, told with file and line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from builder.config.model import BOOT_TEST_LABEL, BootTest
from builder.config.show import diskimage_data
from tests.unit.config_world import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def boot_test(files: Files, text: str) -> BootTest:
    """What it comes to for the diskimage `one` of a file that has `base` as well."""
    return files.load(text).diskimages["one"].boot_test


def one(value: str, base: str = "{}") -> str:
    return f"""\
        diskimages:
          - {{name: base, abstract: true, elements: [debian-minimal, vm], boot-test: {base}}}
          - {{name: one, parent: base{f", boot-test: {value}" if value else ""}}}
        """


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ("on", "on"),
        ("off", "off"),
        ("'on'", "on"),
        ("true", "on"),
        ("report-only", "report-only"),
        ("{mode: off}", "off"),
        ("{mode: report-only, cpus: 4}", "report-only"),
        ("{cpus: 4}", "on"),
        ("", "off"),
    ],
)
def test_the_mode_is_a_word_or_a_key(files: Files, value: str, mode: str) -> None:
    said = f", boot-test: {value}" if value else ""
    assert boot_test(files, f"diskimages: [{{name: one{said}}}]").mode == mode


def test_every_key_has_its_meaning(files: Files) -> None:
    found = boot_test(
        files,
        one(
            "{mode: on, timeout: 1200, memory: 2G, cpus: 4, firmware: uefi, user: ci, uploads: meanwhile,"
            " allowed-failed-units: [a.service, 'b@*.service'], checks: [checks, /srv/checks]}"
        ),
    )
    assert found == BootTest(
        mode="on",
        timeout=timedelta(minutes=20),
        memory=2 << 30,
        cpus=4,
        firmware="uefi",
        user="ci",
        allowed_failed_units=("a.service", "b@*.service"),
        checks=(files.main.parent / "checks", Path("/srv/checks")),
        uploads_meanwhile=True,
    )


def test_what_a_parent_says_holds_key_by_key(files: Files) -> None:
    base = "{mode: on, memory: 2G, cpus: 1, user: ci}"
    assert boot_test(files, one("", base)) == BootTest(mode="on", memory=2 << 30, cpus=1, user="ci")
    child = boot_test(files, one("{cpus: 3}", base))
    assert child == BootTest(mode="on", memory=2 << 30, cpus=3, user="ci")
    assert boot_test(files, one("off", base)).mode == "off"
    assert boot_test(files, one("report-only", base)).cpus == 1


def test_who_builds_it_needs_what_boots_it(files: Files) -> None:
    config = files.load("diskimages: [{name: one, boot-test: on, requires: [fast]}, {name: two}]")
    assert config.diskimages["one"].needs == {"fast", BOOT_TEST_LABEL}
    assert config.diskimages["two"].needs == frozenset()


def test_what_is_shown_can_be_loaded_again(files: Files) -> None:
    config = files.load(one("{memory: 2G, checks: [], allowed-failed-units: x.service, firmware: bios}"))
    shown = diskimage_data(config.diskimages["one"])
    again = boot_test(files, yaml.safe_dump({"diskimages": [shown]}))
    assert again == config.diskimages["one"].boot_test
    assert "boot-test" not in diskimage_data(files.load(one("off")).diskimages["one"])


PROBLEMS = {
    "maybe": "boot-test: must be 'on', 'off', 'report-only' or a mapping, not text 'maybe'",
    "3": "boot-test: must be 'on', 'off', 'report-only' or a mapping, not number 3",
    "{mode: on, memory: 1M}": "boot-test.memory: must be from 128M to 1T, not 1M",
    "{memory: much}": "boot-test.memory: a size is a number of bytes",
    "{user: 'a b'}": "boot-test.user: 'a b' is no name of a user",
    "{allowed-failed-units: [a b]}": "boot-test.allowed-failed-units: 'a b' is no systemd unit",
    "{cpus: 0}": "boot-test.cpus: must be at least 1",
    "{minutes: 3}": "boot-test.minutes: unknown key",
    "{timeout: 0}": "boot-test.timeout: must be more than 0",
    "{firmware: coreboot}": "boot-test.firmware: must be 'bios' or 'uefi'",
}


@pytest.mark.parametrize("value", PROBLEMS)
def test_what_can_not_be_used_is_told_where_it_is(files: Files, value: str) -> None:
    (problem,) = files.problems(f"diskimages:\n  - name: one\n    boot-test: {value}\n")
    assert problem.startswith("imagepool.yaml:3: diskimages[0].boot-test")
    assert PROBLEMS[value].partition(": ")[2] in problem


def test_a_problem_of_a_parent_is_told_where_the_parent_says_it(files: Files) -> None:
    text = """\
        diskimages:
          - name: base
            abstract: true
            boot-test:
              memory: 1M
          - {name: one, parent: base, boot-test: {cpus: 1}}
        """
    assert files.problems(text) == [
        "imagepool.yaml:5: diskimages[0].boot-test.memory: must be from 128M to 1T, not 1M"
    ]


@pytest.mark.parametrize(
    ("architecture", "value", "problem"),
    [
        (
            "ppc64el",
            "on",
            "can't be booted, only amd64 and arm64: say `boot-test: off`",
        ),
        ("arm64", "{firmware: bios}", "machines of the architecture arm64 have no BIOS"),
    ],
)
def test_not_every_machine_can_be_emulated(files: Files, architecture: str, value: str, problem: str) -> None:
    text = f"""\
        platforms: [{{name: p, distribution: debian, release: sid, architecture: {architecture}}}]
        diskimages: [{{name: one, platform: p, boot-test: {value}}}]
        """
    assert problem in files.problems(text)[0]
    off = text.replace(f"boot-test: {value}", "boot-test: off")
    assert files.load(off).diskimages["one"].boot_test.mode == "off"


def test_nobody_says_of_a_machine_by_hand_that_it_boots_images(files: Files) -> None:
    (problem,) = files.problems("builder-labels: [boot-test]")
    assert "'boot-test' is a label that builders get by themselves" in problem

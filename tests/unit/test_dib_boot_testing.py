"""The boot test of a build: a scripted program in the real sandbox, beside a scripted disk-image-create."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.bootorder import order_of
from builder.config.model import BootTest, BuildLimits
from builder.dib import engine
from builder.dib.boot import program
from builder.dib.job import Job
from builder.dib.output import artifacts
from builder.errors import ActionFailedError
from builder.model import (
    Artifact,
    BootResult,
    BootVerdict,
    BuildPhase,
    Failure,
    FailureClass,
    ImageFormat,
)
from tests.unit.dib_world import (
    BUILD,
    FAKE_BOOT_TEST,
    bound_loops,
    eventually,
    hold_vmdk,
    image,
    job,
    need_root,
    processes_naming,
)

ON = BootTest(mode="on")
NAME = "debian-bookworm"


def proof(name: str, sentence: str, *lines: str, passed: bool = False) -> dict[str, Any]:
    return {"name": name, "passed": passed, "sentence": sentence, "lines": list(lines)}


def answer(verdict: str, *proofs: dict[str, Any], problem: str = "", lines: tuple[str, ...] = ()) -> str:
    return json.dumps(
        {
            "verdict": verdict,
            "proofs": proofs,
            "measures": {},
            "ports": [],
            "setuid": [],
            "seconds": 61.5,
            "accelerator": "tcg",
            "problem": problem,
            "lines": lines,
        }
    )


BAD = answer(
    "failed",
    proof("boot", "it came up", passed=True),
    proof("ssh", "no SSH server answered", "login: ", "the end"),
    proof("dns", "it asks no name server"),
)


class Told:
    """What the engine told, in its order."""

    def __init__(self) -> None:
        self.phases: list[BuildPhase] = []
        self.artifacts: list[Artifact] = []
        self.results: list[BootResult] = []
        self.cancelled = threading.Event()

    def run(self, work: Job) -> engine.Product:
        wish = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ops@host")
        return engine.run(
            work,
            on_phase=self.phases.append,
            on_artifact=self.artifacts.append,
            on_test=self.results.append,
            stop=lambda: wish if self.cancelled.is_set() else None,
        )

    def failure(self, work: Job) -> Failure:
        with pytest.raises(ActionFailedError) as caught:
            self.run(work)
        assert caught.value.failure is not None
        return caught.value.failure


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_root()
    directory = tmp_path / "control"
    directory.mkdir()
    monkeypatch.setattr(program, "PROGRAM", (str(FAKE_BOOT_TEST), str(directory)))
    return directory


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.cancelled.set()


def a_job(place: Path, test: BootTest = ON, **changes: Any) -> Job:
    return job(place, image(boot_test=test, **changes))


def home(work: Job) -> Path:
    return artifacts.directory(work.images_dir, NAME, BUILD)


def orders(control: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (control / "orders").read_text().splitlines()]


def assert_nothing_left(work: Job, control: Path) -> None:
    assert list(work.work_dir.iterdir()) == []
    eventually(lambda: processes_naming(control) == [], "all processes are gone")
    assert [file for file in bound_loops().values() if str(work.work_dir) in file] == []


def test_a_good_image_is_tested_before_it_is_published_whole(
    tmp_path: Path, control: Path, told: Told
) -> None:
    (control / "print").write_text("booting under tcg\n")
    (control / "children").touch()
    work = a_job(tmp_path)
    product = told.run(work)

    assert told.phases[-3:] == [BuildPhase.MANIFEST, BuildPhase.TEST, BuildPhase.PUBLISH]
    assert told.results == [
        BootResult(
            verdict=BootVerdict.PASSED,
            seconds=61.5,
            accelerator="tcg",
            measures={"ssh_seconds": 20.5},
            ports=("tcp/22",),
            setuid=("/usr/bin/sudo",),
        )
    ]
    assert product.timings["test boots"] == 61.5
    assert [artifact.format for artifact in told.artifacts] == [ImageFormat.QCOW2]
    record = json.loads((home(work) / "test.json").read_text())
    assert record["proofs"][0]["sentence"] == "it came up"
    assert "Linux version" in (home(work) / "console.log").read_text()
    log = work.log_path.read_text()
    assert "boot test: booting under tcg" in log
    assert "Linux version" not in log  # the console is beside the files
    assert_nothing_left(work, control)


def test_the_file_itself_is_booted_as_the_image_says(tmp_path: Path, control: Path, told: Told) -> None:
    test = replace(ON, memory=2 << 30, cpus=3, timeout=timedelta(minutes=5), allowed_failed_units=("a",))
    formats = (ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VMDK)
    work = a_job(tmp_path, test, formats=formats, elements=("debian-minimal", "vm"))
    told.run(work)
    (order,) = orders(control)
    assert order["disk"] == str(artifacts.path(work.images_dir, NAME, BUILD, ImageFormat.QCOW2))
    assert Path(order["place"]).is_relative_to(work.work_dir)
    del order["disk"], order["place"]
    assert order == {
        "format": "qcow2",
        "size": 4 << 20,
        "architecture": "amd64",
        "firmware": "bios",
        "memory": 2 << 30,
        "cpus": 3,
        "user": "zuul",
        "timeout": 300.0,
        "kernel": "",
        "ramdisk": "",
        "allowed_failed_units": ["a"],
        "checks": [],
        "hold": False,
    }


def test_an_image_that_fails_is_no_build_and_goes_nowhere(tmp_path: Path, control: Path, told: Told) -> None:
    (control / "answer").write_text(BAD)
    (control / "console").write_text("Linux version 6.1\n\x1b[31mred\x1b[0m panic\n")
    work = a_job(tmp_path)
    failure = told.failure(work)

    assert failure == Failure(
        failure_class=FailureClass.TEST,
        message="no SSH server answered; also: dns",
        phase=BuildPhase.TEST,
        step="proof ssh",
        lines=("login: ", "the end"),
    )
    assert told.artifacts == []
    assert [result.failed for result in told.results] == [("ssh", "dns")]
    assert list(work.images_dir.iterdir()) == []
    # What the machine said stays in the log, and no terminal obeys it.
    log = work.log_path.read_text()
    assert "boot test: | Linux version 6.1" in log
    assert "red" in log and "\x1b" not in log
    assert_nothing_left(work, control)


def test_with_report_only_a_failure_is_told_and_ends_nothing(
    tmp_path: Path, control: Path, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    (control / "answer").write_text(BAD)
    work = a_job(tmp_path, replace(ON, mode="report-only"))
    assert told.run(work).artifacts
    assert [result.verdict for result in told.results] == [BootVerdict.FAILED]
    assert "no SSH server answered; also: dns" in caplog.text
    assert json.loads((home(work) / "test.json").read_text())["verdict"] == "failed"


def test_with_report_only_a_test_that_does_not_end_is_told_and_ends_nothing(
    tmp_path: Path, control: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    (control / "pause").touch()
    (control / "children").touch()
    monkeypatch.setattr(program, "_BEYOND", 0.0)
    work = a_job(tmp_path, replace(ON, mode="report-only", timeout=timedelta(seconds=1)))
    assert told.run(work).artifacts
    assert [result.verdict for result in told.results] == [BootVerdict.BROKEN]
    record = json.loads((home(work) / "test.json").read_text())
    assert record["problem"] == "the boot test did not end within 1 s"
    assert_nothing_left(work, control)


#: How the program itself fails -> what a build that depends on it says.
BROKEN = {
    "it says why": (
        {"answer": answer("broken", problem="QEMU is gone", lines=("out of memory",))},
        "QEMU is gone",
    ),
    "it says nothing": ({"answer": "{}", "code": "3", "print": "Traceback\nboom"}, "exit code 3"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_test_that_comes_to_nothing_says_nothing_of_the_image(
    tmp_path: Path, control: Path, told: Told, how: str
) -> None:
    knobs, words = BROKEN[how]
    for name, text in knobs.items():
        (control / name).write_text(text)
    work = a_job(tmp_path)
    failure = told.failure(work)
    assert failure.failure_class is FailureClass.UNKNOWN
    assert failure.phase is BuildPhase.TEST
    assert failure.message.startswith("the boot test came to nothing: ") and words in failure.message
    assert failure.lines
    assert told.results[0].verdict is BootVerdict.BROKEN
    assert_nothing_left(work, control)


def test_files_wait_for_the_test_unless_they_may_not(tmp_path: Path, control: Path) -> None:
    for name, test, waits in (
        ("waits", ON, True),
        ("meanwhile", replace(ON, uploads_meanwhile=True), False),
        ("reports", replace(ON, mode="report-only"), False),
    ):
        (control / "pause").touch()
        (tmp_path / name).mkdir()
        told = Told()
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(told.run, a_job(tmp_path / name, test))
            try:
                eventually(lambda told=told: told.phases[-1:] == [BuildPhase.TEST], "all else is done")  # type: ignore[misc]
                assert (told.artifacts == []) is waits
                (control / "pause").unlink()
                run.result(timeout=30)
            finally:
                told.cancelled.set()
        assert len(told.artifacts) == 1


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file; as long as it is there, no vmdk gets made."""
    return hold_vmdk(tmp_path, monkeypatch)


def test_other_formats_are_made_meanwhile_and_not_for_nothing(
    tmp_path: Path, control: Path, told: Told, hold: Path
) -> None:
    # vmdk is not made as long as the test goes on; when that fails, nobody waits for it.
    (control / "answer").write_text(BAD)
    work = a_job(tmp_path, formats=(ImageFormat.QCOW2, ImageFormat.VMDK))
    failure = told.failure(work)
    assert hold.exists()
    assert (failure.failure_class, failure.step) == (FailureClass.TEST, "proof ssh")
    assert BuildPhase.MANIFEST not in told.phases
    assert told.results[0].failed == ("ssh", "dns")
    assert list(work.images_dir.iterdir()) == []
    assert_nothing_left(work, control)


def test_a_build_can_be_cancelled_when_its_image_has_passed(
    tmp_path: Path, control: Path, told: Told, hold: Path
) -> None:
    work = a_job(tmp_path, formats=(ImageFormat.QCOW2, ImageFormat.VMDK))
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(told.failure, work)
        eventually((control / "orders").exists, "the test has begun")
        eventually(lambda: not (control / "running").exists(), "the test has ended")
        told.cancelled.set()
        try:
            failure = failing.result(timeout=40)
        finally:
            hold.unlink()
    assert (failure.failure_class, failure.message) == (FailureClass.CANCELLED, "cancelled by ops@host")
    assert list(work.images_dir.iterdir()) == []
    assert_nothing_left(work, control)


@pytest.mark.parametrize("how", ["it is cancelled", "the test takes too long", "the build takes too long"])
def test_a_test_that_is_ended_leaves_nothing(
    tmp_path: Path, control: Path, told: Told, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (control / "pause").touch()
    (control / "children").touch()
    work = a_job(tmp_path, replace(ON, timeout=timedelta(seconds=1)))
    wanted = FailureClass.TIMEOUT
    if how == "the build takes too long":
        recipe = replace(work.image, build_timeout=timedelta(seconds=12))
        work = replace(work, image=recipe)
    elif how == "it is cancelled":
        wanted = FailureClass.CANCELLED
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(told.failure, work)
        eventually((control / "running").exists, "the test runs")
        if how == "it is cancelled":
            told.cancelled.set()
        elif how == "the test takes too long":
            # However long it took until it ran.
            monkeypatch.setattr(program, "_BEYOND", -1.0)
        failure = failing.result(timeout=40)
    assert failure.failure_class is wanted
    assert told.results == []
    assert list(work.images_dir.iterdir()) == []
    assert_nothing_left(work, control)


def test_secrets_are_in_nothing_that_a_machine_said(tmp_path: Path, control: Path, told: Told) -> None:
    secret = "s3cret word"
    bad = answer("failed", proof("units", f"units failed: {secret}.service", f"token={secret}"))
    (control / "print").write_text(f"NOT OK {secret}\n")
    (control / "console").write_text(f"echo {secret}\n")
    for name, mode in (("fails", "on"), ("reports", "report-only")):
        (control / "answer").write_text(bad)
        (tmp_path / name).mkdir()
        hidden = image(
            environment={"TOKEN": secret},
            secret_names=frozenset({"TOKEN"}),
            boot_test=BootTest(mode=mode),  # type: ignore[arg-type]
        )
        work = job(tmp_path / name, hidden)
        if mode == "on":
            failure = told.failure(work)
            texts = [failure.message, *failure.lines]
        else:
            told.run(work)
            texts = [(home(work) / each).read_text() for each in ("test.json", "console.log")]
        for text in (*texts, work.log_path.read_text()):
            assert secret not in text
        assert "********" in texts[-1]


def test_where_images_can_not_be_booted_the_build_ends_before_it_has_begun(
    tmp_path: Path, control: Path, told: Told
) -> None:
    (control / "missing").write_text(
        "the program qemu-system-x86_64 is not installed\nInstall qemu-system-x86.\n"
    )
    failure = told.failure(a_job(tmp_path))
    assert failure.failure_class is FailureClass.TOOL
    assert failure.phase is BuildPhase.PREFLIGHT
    assert "qemu-system-x86_64 is not installed. Install qemu-system-x86." in failure.message
    assert program.why_not() is not None
    (control / "missing").unlink()
    assert program.why_not() is None


def test_where_a_builds_memory_is_too_small_it_ends_as_early(
    tmp_path: Path, control: Path, told: Told
) -> None:
    work = replace(a_job(tmp_path), limits=BuildLimits(memory=1 << 30))
    failure = told.failure(work)
    assert (failure.failure_class, failure.phase) == (FailureClass.CONFIG, BuildPhase.PREFLIGHT)
    assert "build-limits.memory, 1024 MiB, has no room for a machine of 1024 MiB" in failure.message


def test_an_image_that_is_not_to_be_booted_is_not(tmp_path: Path, control: Path, told: Told) -> None:
    (control / "missing").write_text("nothing is here\n")
    work = a_job(tmp_path, BootTest())
    told.run(work)
    assert BuildPhase.TEST not in told.phases
    assert told.results == []
    assert not (control / "orders").exists()
    assert not (home(work) / "test.json").exists()


def test_own_checks_are_those_of_elements_and_of_the_operator(
    tmp_path: Path, control: Path, told: Told
) -> None:
    elements, etc = tmp_path / "elements", tmp_path / "etc"
    for directory in (elements / "mine" / "tests", etc / "boot-test.d", etc / "more"):
        directory.mkdir(parents=True)
    (elements / "mine" / "element-deps").touch()
    script(elements / "mine" / "tests" / "works")
    script(etc / "boot-test.d" / "10-mail")
    script(etc / "boot-test.d" / "notes.txt")
    (etc / "boot-test.d" / "draft").write_text("not executable")
    script(etc / "more" / "disk")
    recipe = image(boot_test=ON, elements=("debian-minimal", "mine"))
    work = replace(job(tmp_path, recipe), elements_dirs=(elements,), config_dir=etc)
    told.run(work)
    assert names(control) == ["mine/works", "boot-test.d/10-mail"]
    log = work.log_path.read_text()
    assert "boot-test.d/draft: not executable" in log
    assert "boot-test.d/notes.txt: its name has other characters" in log

    # Directories that are named take the place of the one that is found.
    other = tmp_path / "other"
    other.mkdir()
    named = replace(recipe, boot_test=replace(ON, checks=(etc / "more",)))
    told.run(replace(job(other, named), elements_dirs=(elements,), config_dir=etc))
    assert names(control) == ["mine/works", "more/disk"]


def test_a_directory_of_checks_that_is_not_there_is_told_before_the_build(
    tmp_path: Path, control: Path, told: Told
) -> None:
    failure = told.failure(a_job(tmp_path, replace(ON, checks=(tmp_path / "gone",))))
    assert (failure.failure_class, failure.phase) == (FailureClass.CONFIG, BuildPhase.PREFLIGHT)
    assert f"there is no directory {tmp_path / 'gone'}" in failure.message


def script(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def names(control: Path) -> list[str]:
    """What the checks of the last order are called; each of them is there."""
    order = order_of((control / "orders").read_text().splitlines()[-1])
    assert all(Path(check.path).is_file() for check in order.checks)
    return [check.name for check in order.checks]

"""Run the tox environments one after the other and add up what they report."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / ".tox" / "results"
LINT = "lint"
ENVIRONMENTS = (LINT, "unit", "contract", "simulation", "elements", "functional", "e2e")
NOTHING_COLLECTED = 5  #: pytest's exit code when no test fits what was asked for

_EPILOG = """\
Everything but -e goes to pytest: options such as -k EXPR, -x, -v, and paths such as
tests/unit/test_model.py or tests/unit/test_model.py::test_name, which choose their environments.
With arguments for pytest, lint runs only when -e names it.

  ./tools/run-tests                      all of it
  ./tools/run-tests -e unit,contract     two environments
  ./tools/run-tests -k retention         the tests with "retention" in their names
  ./tools/run-tests tests/unit -x        the unit tests up to the first failure

DEVCLOUD_VENV names the virtual environment with Keystone and Glance (default: .devcloud/venv),
NODEPOOL_VENV that with nodepool, whose programs work on the same records (default: .nodepool/venv).
The last line is "N passed, M failed". exit codes: 0 nothing failed, 1 something did,
2 wrong usage, 5 no test fits the arguments
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one environment ended. One without tests (lint) counts as one test."""

    environment: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        verdict = "FAILED" if self.failed else "ok"
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return f"{self.environment:<11} {verdict:<7} {counts:<38} {self.seconds:5.0f} s"


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments choose; returns the exit code."""
    parser = _parser()
    options, pytest_arguments = parser.parse_known_args(arguments)
    pytest_arguments = [argument for argument in pytest_arguments if argument != "--"]
    named = [name for text in options.environments for name in text.split(",") if name]
    if unknown := [name for name in named if name not in ENVIRONMENTS]:
        parser.error(f"no such environment: {', '.join(unknown)} (there are {', '.join(ENVIRONMENTS)})")
    paths = [argument for argument in pytest_arguments if _is_path(argument)]
    chosen = named or _of_paths(paths) or list(ENVIRONMENTS)
    if pytest_arguments and LINT not in named:
        chosen = [name for name in chosen if name != LINT]
    if not chosen:
        parser.error(f"no environment has tests in {', '.join(paths)}")
    if options.only_check:
        return 0
    prepare(chosen)
    outcomes = [run(name, pytest_arguments) for name in chosen]
    return report(outcomes)


def prepare(chosen: Sequence[str]) -> None:
    """Install the environments, two at a time, and the development cloud that tests share."""
    os.environ.setdefault("DEVCLOUD_VENV", str(PROJECT / ".devcloud" / "venv"))
    os.environ.setdefault("NODEPOOL_VENV", str(PROJECT / ".nodepool" / "venv"))
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    if set(chosen) & {"contract", "functional", "e2e"}:
        # A failure shows again in the tests that need the cloud, with its reason.
        subprocess.run(
            [str(PROJECT / "tools" / "devcloud"), "install"], stdin=subprocess.DEVNULL, check=False
        )
    if len(chosen) > 1:
        _tox("run-parallel", "--notest", "--parallel", "2", "-e", ",".join(chosen))
    if len(chosen) > 1 and "contract" in chosen:
        # Else the first test that needs it waits for pip. A failure shows there again, too.
        _tox("exec", "-e", "contract", "--", "python", "-m", "tests.realparts.nodepool")


def run(environment: str, arguments: Sequence[str]) -> Outcome:
    """Run one environment to its end and read its report."""
    print(f"\n=== {environment}", flush=True)
    started = time.monotonic()
    code = _tox("run", "-e", environment, "--", *_arguments_of(environment, arguments))
    cases = list(verdicts_of(RESULTS / f"{environment}.xml"))
    failed = cases.count("failed")
    nothing_to_do = bool(arguments) and code == NOTHING_COLLECTED and not cases
    if code and not failed and not nothing_to_do:
        failed = 1  # it broke before, after or around the tests
    passed = cases.count("passed") or int(environment == LINT and code == 0)
    return Outcome(
        environment=environment,
        passed=passed,
        failed=failed,
        skipped=cases.count("skipped"),
        seconds=time.monotonic() - started,
    )


def report(outcomes: Sequence[Outcome]) -> int:
    """Print a line for each environment and the totals last; returns the exit code."""
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    print("\n=== summary")
    for outcome in outcomes:
        print(outcome)
    print(f"{passed} passed, {failed} failed", flush=True)
    if failed:
        return 1
    return 0 if passed else NOTHING_COLLECTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run-tests",
        usage="run-tests [-e ENV[,ENV...]] [PYTEST-ARGUMENT...]",
        description="Install what the tests need and run them: " + ", ".join(ENVIRONMENTS) + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-e", dest="environments", action="append", default=[], metavar="ENV[,ENV]")
    # For tools/run-tests, which installs between the check and the run.
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)
    return parser


def _tox(*arguments: str) -> int:
    command = [
        sys.executable,
        "-m",
        "tox",
        "--root",
        str(PROJECT),
        "-c",
        str(PROJECT / "tox.ini"),
        *arguments,
    ]
    return subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, check=False).returncode


def _is_path(argument: str) -> bool:
    return (
        argument.removeprefix("./").startswith("tests/") and (PROJECT / argument.partition("::")[0]).exists()
    )


def _of_paths(paths: Sequence[str]) -> list[str]:
    owners = {Path(path.removeprefix("./").partition("::")[0]).parts[1:2] for path in paths}
    return [name for name in ENVIRONMENTS if (name,) in owners]


def _arguments_of(environment: str, arguments: Sequence[str]) -> list[str]:
    """What one environment gets: the options, and those of the paths that are its own."""
    if environment == LINT:
        return []
    return [
        argument for argument in arguments if not _is_path(argument) or _of_paths([argument]) == [environment]
    ]


def verdicts_of(path: Path) -> Iterator[str]:
    """Passed, failed or skipped, for each test of a JUnit report; nothing when there is no report."""
    if not path.exists():
        return
    verdicts: dict[tuple[str | None, str | None], str] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        key = (case.get("classname"), case.get("name"))
        if case.find("failure") is not None or case.find("error") is not None:
            verdicts[key] = "failed"  # also when only its teardown failed
        else:
            verdicts.setdefault(key, "passed" if case.find("skipped") is None else "skipped")
    yield from verdicts.values()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What tools/run-tests makes of the reports: every test counted once, and the totals last."""

from __future__ import annotations

import configparser
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "tools" / "lib" / "run_tests.py"
CASES = """\
<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure>no</failure></testcase>
<testcase classname="a" name="untidy"/>
<testcase classname="a" name="untidy"><error>teardown</error></testcase>
<testcase classname="a" name="elsewhere"><skipped/></testcase>
</testsuite></testsuites>
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("run_tests", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_tests", module)  # dataclasses look their module up
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    yield module


def outcome(tool: ModuleType, environment: str, passed: int, failed: int) -> object:
    return tool.Outcome(environment=environment, passed=passed, failed=failed, skipped=0, seconds=1)


def test_a_test_is_counted_once_and_fails_when_only_its_teardown_does(
    tool: ModuleType, tmp_path: Path
) -> None:
    report = tmp_path / "unit.xml"
    report.write_text(CASES)
    assert sorted(tool.verdicts_of(report)) == ["failed", "failed", "passed", "skipped"]


def test_an_environment_that_wrote_no_report_has_no_tests(tool: ModuleType, tmp_path: Path) -> None:
    assert list(tool.verdicts_of(tmp_path / "none.xml")) == []


@pytest.mark.parametrize(
    ("counts", "last_line", "code"),
    [
        ([(1, 0), (40, 0)], "41 passed, 0 failed", 0),
        ([(1, 0), (38, 2)], "39 passed, 2 failed", 1),
        ([(0, 0), (0, 0)], "0 passed, 0 failed", 5),
    ],
)
def test_the_last_line_is_the_sum_and_the_exit_code_agrees(
    tool: ModuleType,
    counts: list[tuple[int, int]],
    last_line: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes = [outcome(tool, f"env-{n}", *pair) for n, pair in enumerate(counts)]
    assert tool.report(outcomes) == code
    assert capsys.readouterr().out.splitlines()[-1] == last_line


def test_every_kind_of_tests_is_run_and_every_benchmark_looked_at(tool: ModuleType) -> None:
    kinds = {file.parent.name for file in (PROJECT / "tests").glob("*/test_*.py")}
    assert kinds == {*tool.ENVIRONMENTS} - {tool.LINT}
    tox = configparser.RawConfigParser()
    tox.read(PROJECT / "tox.ini")
    assert tox["tox"]["env_list"].split(", ") == [*tool.ENVIRONMENTS]
    looked_at = tox["testenv:lint"]["commands"].split()
    for program in (PROJECT / "tests" / "bench").iterdir():
        assert looked_at.count(f"tests/bench/{program.name}") == 2, "ruff format, ruff check"

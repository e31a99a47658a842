"""What tools/run-tests makes of the reports: every test counted once, and the totals last."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import subprocess
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
    # Modules are found by their suffix, programs have none.
    programs = (PROJECT / "tests" / "bench").iterdir()
    for program in (each for each in programs if each.is_file() and not each.suffix):
        assert looked_at.count(f"tests/bench/{program.name}") == 2, "ruff format, ruff check"


GROUPED = """\
import pytest

@pytest.fixture(params=["alone", pytest.param("real", marks=pytest.mark.xdist_group("real"))])
def part(request):
    return request.param

@pytest.mark.parametrize("number", range(8))
def test_it(part, number):
    pass
"""


def test_tests_of_one_group_run_in_one_process(tmp_path: Path) -> None:
    # Else each process would start a development cloud of its own, and nothing would say why all is slow.
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ran = re.findall(r"\[(gw\d)\] .*PASSED \S+\[(alone|real)-\d\](\S*)", done.stdout)
    # A test is handed out with all others whose names end alike. The rest goes to whoever has time.
    assert [(part, group) for _, part, group in ran].count(("real", "@real")) == 8, done.stdout
    assert [(part, group) for _, part, group in ran].count(("alone", "")) == 8, done.stdout
    assert len({worker for worker, part, _ in ran if part == "real"}) == 1

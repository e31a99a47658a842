"""tests/bench/images: which images it compares, what it reads of them, and what it prints."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from builder.boottest.comingup import Trouble

BENCH = Path(__file__).parents[1] / "bench" / "images"
STOCK = ("debian-minimal", "vm", "openssh-server")
SHIPPED = (*STOCK, "ci-base", "kernel", "slim", "fast-dpkg", "base-cache", "news")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The program as a module."""
    loader = SourceFileLoader("bench_images", str(BENCH))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    yield module
    del sys.modules[loader.name]


def measured(bench: Any, **changes: Any) -> Any:
    """A row of a table."""
    values = {"qcow2": 300_000_000, "raw": 900_000_000, "packages": 250, "build": 60.0, "boot": 30.0}
    return bench.Measured(elements=("vm",), **{**values, **changes})


def test_each_row_has_one_element_more_up_to_what_is_shipped(bench: Any) -> None:
    found = list(bench.variants(SHIPPED, quick=False))

    assert [variant.name for variant in found] == [
        *("stock", "+ kernel", "+ slim", "+ faster builds", "+ ci-base", "+ news", "minimal")
    ]
    for one, next_one in itertools.pairwise(found[:-1]):
        *before, last = next_one.elements
        if next_one.name == "+ faster builds":
            *before, other = before
            assert {other, last} == {"fast-dpkg", "base-cache"}
        else:
            assert next_one.name == f"+ {last}"
        assert tuple(before) == one.elements
    assert set(found[-2].elements) == set(SHIPPED)
    assert {"network-glean", "slim", "kernel", "base-cache"} <= set(found[-1].elements)
    assert "ci-base" not in found[-1].elements
    # What only makes builds fast boots like the one before it.
    assert [variant.name for variant in found if not variant.boots] == ["+ faster builds"]


def test_the_quick_run_is_the_stock_image_and_the_minimal_one(bench: Any) -> None:
    found = list(bench.variants(SHIPPED, quick=True))

    assert [variant.name for variant in found] == ["stock", "minimal"]
    assert found[0].elements == bench.STOCK


def test_every_shipped_debian_image_can_be_measured(bench: Any, tmp_path: Path) -> None:
    images = bench.shipped_images(tmp_path)

    for name in ("debian-bookworm", "debian-trixie", "debian-sid"):
        assert set(bench.STOCK) <= set(images[name].elements)


def test_the_metrics_are_those_of_the_platform_where_they_are_worst(bench: Any) -> None:
    good = {"stock": measured(bench), "minimal": measured(bench, qcow2=100_000_000, boot=29.0)}
    bad = {"stock": measured(bench), "minimal": measured(bench, qcow2=150_000_000, boot=15.0)}

    found = bench.metrics({"debian-bookworm": good, "debian-trixie": bad})

    assert found == {
        "minimal_size": {"ours": 150_000_000, "baseline": 300_000_000, "ratio": 0.5, "unit": "bytes"},
        "minimal_boot": {"ours": 29.0, "baseline": 30.0, "ratio": 0.967, "unit": "seconds"},
    }
    json.dumps(found)


def test_a_platform_whose_stock_image_does_not_boot_has_no_part_in_the_boots(bench: Any) -> None:
    good = {"stock": measured(bench), "minimal": measured(bench, boot=27.0)}
    none = {"stock": measured(bench, boot=None), "minimal": measured(bench, boot=40.0)}

    assert bench.metrics({"debian-bookworm": good, "debian-sid": none})["minimal_boot"]["ours"] == 27.0
    assert list(bench.metrics({"debian-sid": none})) == ["minimal_size"]


def test_the_table_has_a_line_for_each_image(bench: Any) -> None:
    rows = {"stock": measured(bench), "+ slim": measured(bench, packages=180)}
    more = {"+ base-cache": measured(bench, boot=0.0), "+ news": measured(bench, boot=None)}
    lines = bench.table({**rows, **more}).splitlines()

    assert lines[0].split("  ")[-1].strip() == "boot s"
    assert lines[1].split() == ["stock", "300", "900", "250", "60", "30.0"]
    assert lines[2].split() == ["+", "slim", "300", "900", "180", "60", "30.0"]
    assert lines[3].split()[-2:] == ["60", "-"]
    assert lines[4].split()[-2:] == ["60", "none"]


def test_what_was_measured_before_is_not_measured_again_unless_it_is_another_image(
    bench: Any, tmp_path: Path
) -> None:
    platform = bench.Bench(bench.shipped_images(tmp_path)["debian-bookworm"], tmp_path / "d", rounds=1)
    variant = bench.Variant(name="+ slim", elements=("vm",))
    place = tmp_path / "d" / "slim"
    place.mkdir()
    (place / "measured.json").write_text(json.dumps(bench.asdict(measured(bench, boot=12.5))))

    assert platform.measure([variant])["+ slim"].boot == 12.5
    other = bench.Variant(name="+ slim", elements=("no such element",))
    with pytest.raises(bench.ActionFailedError):
        platform.measure([other])


@pytest.fixture
def boots(bench: Any, monkeypatch: pytest.MonkeyPatch) -> list[Exception | float]:
    """What comes of one boot after the other."""
    outcomes: list[Exception | float] = []

    class Guest:
        def wait_for_ssh(self, limit: float) -> float:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    monkeypatch.setattr(bench, "boot", lambda machine, directory, check: contextlib.nullcontext(Guest()))
    return outcomes


def test_a_machine_that_does_not_come_up_is_told_and_tried_once_more(
    bench: Any, boots: list[Exception | float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "x.raw"
    raw.touch()
    hangs = bench.ActionFailedError("no SSH server answered")
    panics = bench.NoUseError(Trouble(stage="boot", sentence="the kernel gave up", lines=()))

    for first in (hangs, panics):
        boots[:] = [first, 31.5]
        assert bench.boot_seconds(raw, tmp_path) == 31.5
    boots[:] = [panics, panics]
    assert bench.boot_seconds(raw, tmp_path) is None
    boots[:] = [panics, hangs]
    with pytest.raises(bench.ActionFailedError):
        bench.boot_seconds(raw, tmp_path)

    said = capsys.readouterr().err
    assert "no SSH server answered" in said
    assert "does not boot: the kernel gave up" in said


@pytest.mark.parametrize("argv", [["--platform", "rocky-9"], ["--rounds", "0"], ["--slow"]])
def test_what_makes_no_sense_is_refused(
    bench: Any, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.arguments(argv)

    assert refused.value.code == 2
    assert capsys.readouterr().err

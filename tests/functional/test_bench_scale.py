"""The benchmark of large installations works: it measures both, says so, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.realparts import nodepool

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("nodepool")]

BENCH = Path(__file__).parents[1] / "bench" / "scale"


def test_the_benchmark_compares_both_and_cleans_up(tmp_path: Path) -> None:
    nodepool.virtual_environment()
    small = ("--size", "3x2", "--growth", "2x2", "--builds", "1", "--rounds", "1")
    short = ("--idle", "1", "--settle", "2")

    done = subprocess.run(
        [sys.executable, str(BENCH), "--json", *small, *short, "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert {name: metric["unit"] for name, metric in metrics.items()} == {
        "upload_list": "seconds",
        "build_list": "seconds",
        "reaction": "seconds",
        "idle_cpu": "CPU seconds per minute",
        "idle_packets": "packets per minute",
    }
    for name in ("upload_list", "build_list", "reaction"):
        metric = metrics[name]
        assert metric["ours"] > 0
        assert metric["ratio"] == pytest.approx(metric["ours"] / metric["baseline"], rel=0.05)
    assert "3x2, imagepool beside nodepool" in done.stderr
    assert "imagepool alone" in done.stderr
    assert list(tmp_path.iterdir()) == []

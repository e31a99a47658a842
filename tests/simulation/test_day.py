"""A small day: everything due at once, with failures, ends with every image in every region."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.day import Plan, live

BENCH = Path(__file__).parents[1] / "bench" / "day"


@pytest.mark.parametrize("trouble", [True, False])
def test_every_image_is_in_every_region(tmp_path: Path, trouble: bool) -> None:
    plan = Plan(images=10, providers=6, build_workers=2, upload_workers=10, trouble=trouble)
    day = live(plan, tmp_path)
    assert day.unsettled == []
    assert day.uploaded >= plan.images * plan.providers
    # Nobody is left behind: while a region is away its breaker waits, but no longer than an hour.
    assert day.took < plan.limit + (7200 if trouble else 300)
    assert day.longest_wait < (7200 if trouble else plan.limit)


def test_the_benchmark_tells_what_the_day_came_to(tmp_path: Path) -> None:
    small = ("--images", "4", "--providers", "3", "--build-workers", "2", "--work", str(tmp_path))
    done = subprocess.run(
        [sys.executable, str(BENCH), "--json", "--calm", *small],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert {"day", "longest_wait", "starvation", "planning", "scheduler_pass", "memory"} <= metrics.keys()
    assert metrics["starvation"]["ratio"] < 2
    assert list(tmp_path.iterdir()) == []

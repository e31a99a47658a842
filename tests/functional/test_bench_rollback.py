"""The benchmark of rollbacks works: it measures both, says so, and leaves nothing in the cloud."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builder.cloud.openstack import OpenStackCloud
from builder.config.model import Provider
from tests.realparts.devcloud import DevCloud, devcloud

__all__ = ["devcloud"]

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("devcloud")]

BENCH = Path(__file__).parents[1] / "bench" / "rollback"


def test_the_benchmark_rolls_back_and_cleans_up(
    tmp_path: Path, devcloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--work", str(tmp_path), "--clouds", str(devcloud.clouds_yaml))

    done = subprocess.run(
        [sys.executable, str(BENCH), "--json", "--rounds", "1", *where],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert {name: metric["unit"] for name, metric in metrics.items()} == {
        "rollback": "seconds",
        "one_image": "seconds",
    }
    for metric in metrics.values():
        assert metric["ours"] > 0
        assert metric["ratio"] == pytest.approx(metric["ours"] / metric["baseline"], rel=0.05)
    assert "going back in 2 regions" in done.stderr
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(devcloud.clouds_yaml))
    for region in devcloud.regions:
        there = OpenStackCloud(Provider(name="there", cloud=devcloud.cloud, region=region)).find({})
        assert [image.name for image in there if image.name.startswith("bench-")] == []

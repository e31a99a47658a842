"""Who has to keep the contracts: the fakes, and the real parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cloud.base import Cloud
from builder.cloud.openstack import OpenStackCloud
from builder.config.model import Provider
from builder.ways import Way
from tests.fakes.cloud import FakeCloud
from tests.fakes.glance import FakeGlance
from tests.realparts.devcloud import devcloud

__all__ = ["devcloud"]


@pytest.fixture(
    params=[
        "fake",
        "openstack on a fake Glance",
        pytest.param("openstack", marks=[pytest.mark.real, pytest.mark.xdist_group("devcloud")]),
    ]
)
def cloud(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Each implementation of the Cloud contract, on a healthy service."""
    if request.param == "fake":
        cloud = FakeCloud()
        cloud.import_methods |= {Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD}
        yield cloud
    elif request.param == "openstack":
        real = request.getfixturevalue("devcloud")
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(real.clouds_yaml))
        yield OpenStackCloud(Provider(name="real", cloud=real.cloud, region=real.regions[0]))
    else:
        with FakeGlance.start(page_size=3) as glance:
            path = glance.clouds_yaml(tmp_path / "clouds.yaml")
            monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
            yield OpenStackCloud(Provider(name="fake", cloud="fake", region="RegionOne"))


@pytest.fixture(params=["fake", "openstack on a fake Glance"])
def cloud_with_tasks(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    """Each implementation, on a service that makes images of objects."""
    if request.param == "fake":
        cloud = FakeCloud()
        cloud.tasks = True
        yield cloud
        return
    with FakeGlance.start(swift=True) as glance:
        path = glance.clouds_yaml(tmp_path / "clouds.yaml", image_api_use_tasks=True)
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
        yield OpenStackCloud(Provider(name="fake", cloud="fake", region="RegionOne"))

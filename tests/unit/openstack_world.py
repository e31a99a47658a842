"""A fake OpenStack and the real OpenStackCloud in front of it, for the tests of builder/cloud/openstack.

The fixtures have to be imported by name:

    from tests.unit.openstack_world import cloud, clouds_yaml, glance  # noqa: F401
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from builder.cloud.base import NewImage
from builder.cloud.openstack import OpenStackCloud
from builder.config.model import Provider
from tests.fakes.glance import FakeGlance

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def clouds_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clouds.yaml is to be; nothing is there yet."""
    path = tmp_path / "clouds.yaml"
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    return path


@pytest.fixture
def glance(clouds_yaml: Path) -> Iterator[FakeGlance]:
    """A fake OpenStack with an object store, which clouds.yaml leads to."""
    with FakeGlance.start(page_size=2, swift=True) as server:
        server.clouds_yaml(clouds_yaml)
        yield server


@pytest.fixture
def cloud() -> OpenStackCloud:
    """The provider "north" in its RegionOne."""
    return OpenStackCloud(provider(), answer_timeout=5.0)


def provider(name: str = "north", region: str | None = "RegionOne", **changes: object) -> Provider:
    """A provider of the fake cloud."""
    return Provider(name=name, **{"cloud": "fake", "region": region, **changes})  # type: ignore[arg-type]


def new(name: str = "noble-1", **properties: str) -> NewImage:
    """A small image to be created."""
    return NewImage(name=name, disk_format="raw", min_disk=1, properties=properties)


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return as soon as `condition` holds; AssertionError when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it never came true")
        time.sleep(0.01)


def write(path: Path, **clouds: object) -> None:
    """Write a clouds.yaml with these clouds."""
    path.write_text(yaml.safe_dump({"clouds": clouds}))

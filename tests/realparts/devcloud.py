"""A private development cloud for tests: real Keystone and Glance, made by tools/devcloud.

Every test process has one of its own, started at the first test that wants it and stopped at the
end; the virtual environment with Keystone and Glance is shared (DEVCLOUD_VENV). Tests that need
it carry the mark `real`, and with pytest-xdist the group "devcloud", so that one process starts it:

    from tests.realparts.devcloud import DevCloud, devcloud  # noqa: F401
    pytestmark = [pytest.mark.real, pytest.mark.xdist_group("devcloud")]
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "devcloud"
REGIONS = ("RegionOne", "RegionTwo")
#: Seconds to make the databases and start three services, or to stop them; with the virtual
#: environment to be installed first, pip takes its minutes.
LIMIT = 900


@dataclass(frozen=True, kw_only=True)
class DevCloud:
    """A running development cloud."""

    directory: Path
    cloud: str = "devcloud"
    regions: tuple[str, ...] = REGIONS

    @property
    def clouds_yaml(self) -> Path:
        """What OS_CLIENT_CONFIG_FILE has to name."""
        return self.directory / "clouds.yaml"


def _run(command: str, directory: Path) -> None:
    environment = {**os.environ, "DEVCLOUD_DIR": str(directory)}
    # The ports of a development cloud that runs already are not for this one.
    environment.pop("DEVCLOUD_PORT_BASE", None)
    done = subprocess.run(
        [sys.executable, str(TOOL), command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"devcloud {command}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")


@pytest.fixture(scope="session")
def devcloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCloud]:
    """A development cloud of this test process."""
    directory = tmp_path_factory.mktemp("devcloud")
    try:
        _run("up", directory)
        yield DevCloud(directory=directory)
    finally:
        _run("down", directory)

"""A private development cloud for tests: real Keystone and Glance, made by tools/devcloud.

Every test process has one of its own, started at the first test that wants it and stopped at the
end; the virtual environment with Keystone and Glance is shared (DEVCLOUD_VENV). Tests that need
it carry the mark `real`, and with pytest-xdist the group "devcloud", so that one process starts it:

    from tests.realparts.devcloud import DevCloud, devcloud  # noqa: F401
    pytestmark = [pytest.mark.real, pytest.mark.xdist_group("devcloud")]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from keystoneauth1.session import Session
from openstack.config import OpenStackConfig

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "devcloud"
REGIONS = ("RegionOne", "RegionTwo")
#: Where Glance has limits for projects; without them its answers come sooner.
LIMITED = "RegionTwo"
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

    def image_url(self, region: str) -> str:
        """Where a region's image service listens."""
        ports = json.loads((self.directory / "state.json").read_text())["ports"]
        return f"http://127.0.0.1:{ports[f'glance-{region}']}"

    def clouds_yaml_with(self, path: Path, image_urls: Mapping[str, str]) -> Path:
        """Write a clouds.yaml with one cloud more, "broken", whose regions have other image services,
        such as a proxy before their own."""
        content = yaml.safe_load(self.clouds_yaml.read_text())
        regions = [
            {"name": region, "values": {"image_endpoint_override": url}} for region, url in image_urls.items()
        ]
        content["clouds"]["broken"] = {**content["clouds"][self.cloud], "regions": regions}
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    @contextmanager
    def limit(self, name: str, value: int) -> Iterator[None]:
        """Give the project another limit in the region LIMITED, by Glance's name; sizes in MiB."""
        admin, url = self._login(f"{self.cloud}-admin")
        ours, _ = self._login(self.cloud)
        service = admin.get(f"{url}/services?type=image").json()["services"][0]["id"]
        wanted = {"resource_name": name, "resource_limit": value, "project_id": ours.get_project_id()}
        where = {"service_id": service, "region_id": LIMITED}
        made = admin.post(f"{url}/limits", json={"limits": [{**wanted, **where}]}).json()["limits"]
        try:
            yield
        finally:
            for limit in made:
                if (limit["resource_name"], limit["region_id"]) == (name, LIMITED):
                    admin.delete(f"{url}/limits/{limit['id']}")

    def _login(self, cloud: str) -> tuple[Session, str]:
        """A session and Keystone's URL."""
        config = OpenStackConfig(config_files=[str(self.clouds_yaml)], load_envvars=False)
        region = config.get_one(cloud, region_name=self.regions[0])
        return region.get_session(), str(region.auth["auth_url"])


def _run(command: str, directory: Path) -> None:
    environment = {**os.environ, "DEVCLOUD_DIR": str(directory), "DEVCLOUD_LIMITS": LIMITED}
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

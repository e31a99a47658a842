"""Where the quickstart keeps its things, and what it remembers of what it started."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devcloud.errors import DevCloudError
from devcloud.place import Place, Running, write_private

_PROJECT = Path(__file__).resolve().parents[3]
_TEMPLATE = _PROJECT / "config" / "quickstart.yaml"
_INCLUDED = "platforms.yaml"
_STATE_VARIABLE = "%(IMAGEPOOL_STATE_DIR)"


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """The directories of one quickstart and of the cloud it uses."""

    root: Path
    cloud: Place
    project: Path = _PROJECT

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Quickstart:
        """From QUICKSTART_DIR and the variables of the development cloud."""
        root = Path(environ.get("QUICKSTART_DIR") or _PROJECT / ".quickstart").absolute()
        return cls(root=root, cloud=Place.from_environment(environ, _PROJECT))

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.root / "imagepool.yaml"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.root / "imagepool.log"

    @property
    def state_dir(self) -> Path:
        """The daemon's state directory."""
        return self.root / "state"

    @property
    def endpoint(self) -> Path:
        """Where the daemon writes the address of its private ZooKeeper."""
        return self.state_dir / "zookeeper" / "endpoint"

    @property
    def tools(self) -> Path:
        """Commands for the user's shell that live outside the project's own virtual environment."""
        return self.root / "bin"

    def variables(self) -> dict[str, str]:
        """What `imagepool` and `openstack` need in their environment, PATH aside."""
        return {
            "IMAGEPOOL_CONFIG": str(self.config),
            "OS_CLIENT_CONFIG_FILE": str(self.cloud.clouds_file),
        }

    def path(self) -> str:
        """The directories that go first into PATH."""
        return f"{self.project / '.venv' / 'bin'}:{self.tools}"

    def environment(self) -> dict[str, str]:
        """A whole environment for `imagepool`: the caller's, without what would lead it elsewhere."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OS_", "IMAGEPOOL_", "PYTHON", "QUICKSTART_"))
        }
        # Tools such as losetup are missing from an ordinary user's PATH.
        path = f"{self.path()}:{kept.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        return {**kept, **self.variables(), "PATH": path}

    def create(self) -> None:
        """Make directory, configuration and tools; a configuration that is there stays, it may be edited."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.tools.mkdir(exist_ok=True)
        if not self.config.exists():
            text = _TEMPLATE.read_text().replace(_STATE_VARIABLE, str(self.state_dir))
            # What it includes is not copied, and so not edited there.
            write_private(self.config, text.replace(_INCLUDED, str(_TEMPLATE.parent / _INCLUDED)))
        openstack = self.tools / "openstack"
        openstack.unlink(missing_ok=True)
        openstack.symlink_to(self.cloud.tool("openstack"))


@dataclass(kw_only=True)
class Memory:
    """What one command leaves for the next: the daemon's process, and whether the cloud is ours to stop."""

    daemon: Running | None = None
    started_cloud: bool = False

    @classmethod
    def load(cls, place: Quickstart) -> Memory:
        """What was saved, nothing when nothing was; DevCloudError when it can't be read."""
        try:
            raw = json.loads((place.root / "started.json").read_text())
            daemon = Running(**raw["daemon"]) if raw["daemon"] else None
            return cls(daemon=daemon, started_cloud=raw["started_cloud"])
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, KeyError) as error:
            raise DevCloudError(
                f"{place.root / 'started.json'} can't be read ({error}); remove it"
            ) from error

    def save(self, place: Quickstart) -> None:
        """Write it down."""
        raw = {"daemon": vars(self.daemon) if self.daemon else None, "started_cloud": self.started_cloud}
        write_private(place.root / "started.json", json.dumps(raw) + "\n")


def export(name: str, value: str) -> str:
    """A line for a shell's `eval`."""
    return f"export {name}={shlex.quote(value)}"

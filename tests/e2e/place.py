"""A state directory, a daemon over it, and the commands for both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.realparts.devcloud import DevCloud

IMAGEPOOL: Final = Path(sys.executable).with_name("imagepool")
CONFIG: Final = Path(__file__).parents[2] / "config"
#: Seconds for a build, its boot test and its uploads; most of them are the emulator's.
LIMIT: Final = 1400.0


class Place:
    """Everything below one directory, with a configuration of whoever made it."""

    def __init__(self, directory: Path, cloud: DevCloud, config: Path) -> None:
        self.directory = directory
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml),
            "IMAGEPOOL_CONFIG": str(config),
            "IMAGEPOOL_STATE_DIR": str(directory),
        }
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the daemon."""
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [str(IMAGEPOOL), "run"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.daemon

    def stop(self) -> None:
        """Stop the daemon, if it runs."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(60)

    def imagepool(self, *arguments: str, code: int = 0) -> str:
        """What a command prints; it must end with `code`."""
        done = subprocess.run(
            [str(IMAGEPOOL), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.story()}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON a command prints."""
        return json.loads(self.imagepool(*arguments, "-f", "json"))

    def until(self, *command: str, shows: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until a list shows what is looked for; fails when a build fails in earnest."""
        deadline = time.monotonic() + LIMIT
        while not shows(self._rows(*command)):
            reasons = [row["reason"] for row in self._rows("build", "list") if row["state"] == "failed"]
            assert all("interrupted" in reason for reason in reasons), reasons
            assert time.monotonic() < deadline, self.story()
            # The commands are what is tested here, so they are asked, not the tree; and not too often, for
            # each takes the time of a CPU that the build needs.
            time.sleep(2)

    def _rows(self, *command: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [str(IMAGEPOOL), *command, "-f", "json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        # Until ZooKeeper is up there is nobody to ask.
        rows: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
        return rows

    def story(self) -> str:
        """What the daemon said."""
        return (self.directory / "daemon.log").read_text()[-4000:]

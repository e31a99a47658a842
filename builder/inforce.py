"""Holds the configuration that is in force, and takes a changed one as a whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from builder.cloud import openstack
from builder.config import loader
from builder.config.model import Config
from builder.errors import ConfigError

LOG = logging.getLogger(__name__)

#: What can't change while the daemon runs, and its keys in the file; a configuration in which one of these
#: is another is not taken.
FIXED: Final[Mapping[str, str]] = {
    "state_dir": "state-dir",
    "images_dir": "images-dir",
    "work_dir": "work-dir",
    "zookeeper": "zookeeper-servers, -tls, -auth or -timeout",
    "embedded_open": "embedded-zookeeper",
}
#: What keeps its old value until a restart; the rest of a changed configuration is taken.
KEPT: Final[Mapping[str, str]] = {"build_workers": "build-workers", "artifact_server": "artifact-server"}


class Configuration:
    """The configuration in force: reloaded as a whole or not at all. Thread-safe by replacement."""

    def __init__(self, path: Path, secure: Path | None) -> None:
        """Raises ConfigError when there is none to begin with."""
        self._path = path
        self._secure = secure
        self._config = _load(path, secure)

    def current(self) -> Config:
        """What is in force now."""
        return self._config

    def reload(self) -> bool:
        """Take what the files say now; keep the last good configuration when they are broken."""
        try:
            fresh = _load(self._path, self._secure)
        except ConfigError as error:
            LOG.error("the changed configuration is not taken, the last good one stays in force:")
            for problem in error.problems:
                LOG.error("%s", problem)
            return False
        if fixed := self._changed(fresh, FIXED):
            LOG.error(
                "the changed configuration is not taken, the last good one stays in force until a"
                " restart: %s can't change while the daemon runs",
                ", ".join(fixed),
            )
            return False
        if kept := self._changed(fresh, KEPT):
            LOG.warning("%s changed: the old value stays in force until a restart", ", ".join(kept))
        self._config = replace(fresh, **{name: getattr(self._config, name) for name in KEPT})
        LOG.info("the changed configuration is in force")
        return True

    def _changed(self, fresh: Config, names: Mapping[str, str]) -> list[str]:
        """The keys of the file whose values are others now."""
        return [key for name, key in names.items() if getattr(fresh, name) != getattr(self._config, name)]


def _load(path: Path, secure: Path | None) -> Config:
    """The configuration, checked against clouds.yaml as well; ConfigError has every problem."""
    return loader.load(path, image_format_of=openstack.image_format_of, environ=os.environ, secure=secure)

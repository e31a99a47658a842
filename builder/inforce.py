"""Holds the configuration that is in force, and takes a changed one as a whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from builder.cloud import openstack
from builder.config import loader
from builder.config.model import Config
from builder.errors import ConfigError

LOG = logging.getLogger(__name__)

#: What can't change while the daemon runs: a configuration that changes one of these is not taken.
FIXED: Final = ("state_dir", "images_dir", "work_dir", "zookeeper", "embedded_open")
#: What keeps its old value until a restart; the rest of a changed configuration is taken.
KEPT: Final = ("build_workers", "artifact_server")


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

    def _changed(self, fresh: Config, names: Sequence[str]) -> list[str]:
        changed = [name for name in names if getattr(fresh, name) != getattr(self._config, name)]
        return [name.replace("_", "-") for name in changed]


def _load(path: Path, secure: Path | None) -> Config:
    """The configuration, checked against clouds.yaml as well; ConfigError has every problem."""
    return loader.load(path, image_format_of=openstack.image_format_of, environ=os.environ, secure=secure)

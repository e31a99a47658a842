"""Writes beside the files of this machine's builds who withheld them, and takes it away when that is over.

So a quarantine outlives the records: `imagepool recover` finds it there, and in the images in the clouds.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Config
from builder.dib.output import withheld
from builder.errors import RefusedError
from builder.model import Build, BuildState, ImageRecords, Snapshot, Withholding
from builder.workers.base import World

LOG = logging.getLogger(__name__)

#: How long until another try after the disk would not take it.
AGAIN: Final = timedelta(minutes=1)


class Beside:
    """What the files say by now; for one thread."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[str, ImageRecords] = {}
        self._again: dict[str, datetime] = {}  #: by image: when to try what the disk would not take
        self._said: dict[str, dict[str, tuple[Withholding, ...]]] = {}  #: by image and build id

    def keep(self, config: Config, snapshot: Snapshot, now: datetime) -> datetime | None:
        """Let every file say what is on record; when to try again what the disk would not take."""
        for name, records in snapshot.images.items():
            # Not at each change of the tree: there are several in a second, and each failure is logged.
            if self._seen.get(name) is not records and self._again.get(name, now) <= now:
                self._keep_image(config, records, now)
        for known in (self._seen, self._again, self._said):
            for gone in known.keys() - snapshot.images.keys():
                del known[gone]
        return min(self._again.values(), default=None)

    def _keep_image(self, config: Config, records: ImageRecords, now: datetime) -> None:
        name, ours = records.name, [build for build in records.builds if self._is_ours(build)]
        said = self._said.setdefault(name, {})
        for gone in said.keys() - {build.id for build in ours}:
            del said[gone]
        told = [self._tell(config, build, said) for build in ours]
        if all(told):
            self._seen[name] = records
            self._again.pop(name, None)
        else:
            self._again[name] = now + AGAIN

    def _is_ours(self, build: Build) -> bool:
        return build.builder_id == self._world.identity.builder_id and build.state is BuildState.READY

    def _tell(self, config: Config, build: Build, said: dict[str, tuple[Withholding, ...]]) -> bool:
        """Let the file of one build say it, if it does not; whether it does now. `said`: what files say."""
        where = (config.images_dir, build.image, build.id)
        try:
            known = said.get(build.id)
            if known is None:
                known = withheld.read(*where)
            if known != build.withheld:
                withheld.write(*where, build.withheld)
        except (RefusedError, OSError) as error:
            LOG.warning("%s of build %s can't be written: %s", withheld.NAME, build.id, error)
            return False
        said[build.id] = build.withheld
        return True

"""Takes away the files that stayed on this machine of builds that failed over budget, to be looked at.

They stay as long as theirs is the last build of its image here, and while nobody needs the disk: nothing else
is kept from being built for their sake. What becomes of the others is the janitor's, with their records.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from builder.config.model import Config, DiskImage
from builder.dib.checks import space
from builder.errors import ConflictError, NotFoundError
from builder.model import Build, Snapshot
from builder.workers.base import World
from builder.workers.building import delete_files

LOG = logging.getLogger(__name__)


def make_room(world: World, config: Config, snapshot: Snapshot, image: DiskImage | None = None) -> None:
    """Take them away, the oldest first, until their disk has its reserve free. With the image that is built
    next: all of that one, and of others until there is room for its build as well."""
    here, name = world.identity.builder_id, image.name if image is not None else None
    stay = [build for build in snapshot.builds() if build.kept is not None and build.builder_id == here]
    for build in sorted(stay, key=lambda build: (build.image != name, build.state_time, build.id)):
        if build.image == name or _is_short(config, snapshot, image):
            LOG.info("the files that stayed of the failed build %s of %s go", build.id, build.image)
            _take_away(world, config, build)


def _take_away(world: World, config: Config, build: Build) -> None:
    delete_files(world, config, build)
    try:
        world.store.update_build(replace(build, kept=None))
    except (ConflictError, NotFoundError) as error:
        LOG.info("build %s still says that its files stay: %s", build.id, error.message)


def _is_short(config: Config, snapshot: Snapshot, image: DiskImage | None) -> bool:
    """Whether the disk has less free than that; not when it can't be looked at, which who builds is told."""
    try:
        needed = 0 if image is None else _needed(config, image, snapshot.image(image.name).ready_builds)
        return space.file_system(config.images_dir).free < needed + config.disk_reserve
    except OSError:
        return False


def _needed(config: Config, image: DiskImage, earlier: Sequence[Build]) -> int:
    """Bytes that a build of the image takes on the disk of the finished files."""
    needs = space.needs(image.formats, earlier, space.on_disk(config.images_dir, earlier))
    # On one disk, finished files are among what the work directory takes.
    disks = {space.existing(each).stat().st_dev for each in (config.images_dir, config.work_dir)}
    return needs.work if len(disks) == 1 else needs.artifacts

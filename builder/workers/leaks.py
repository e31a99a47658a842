"""Looks for images of ours that no record knows, in each provider from time to time, and removes leaks.

What a leak is and when it may go is planning's to judge; here the clouds are listed, what was seen is
written down for the next look, and what may go is proven to be ours once more before it goes. The
same list tells which images are gone that records have (vanished.py).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from builder.cloud import ownership
from builder.cloud.base import Cloud
from builder.cloudimage import (
    BUILD_ID,
    IMAGE,
    INSTALLATION,
    NODEPOOL_PROVIDER,
    PROVIDER,
    UPLOAD_ID,
    CloudImage,
    Sighting,
)
from builder.config.model import Config, Provider
from builder.errors import ImagepoolError, NotFoundError
from builder.model import Snapshot, Upload, UploadState, name_problem
from builder.planning.actions import Leak, Verdict
from builder.planning.leaks import judge_leaks
from builder.workers.base import Pass, Worker, World, earliest
from builder.workers.lanes import Lanes
from builder.workers.vanished import Missing

LOG = logging.getLogger(__name__)

#: The first look comes within so long after the start: not all at once, and not in the rush of the start.
FIRST_WITHIN: Final = timedelta(minutes=5)
#: So long it is remembered that a build is gone: a cloud that was away for less has its leaks removed.
REMEMBERED: Final = timedelta(days=400)


class LeakSweeper(Worker):
    """Sweeps each provider every `leak-sweep`, in a lane of its own."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._lanes = Lanes(name, world.store.wake)
        self._due: dict[str, datetime] = {}
        self._missing = Missing(world)

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start the sweeps that are due; returns without waiting for them."""
        first = min(FIRST_WITHIN, config.leak_sweep)
        self._due = {
            name: self._due.get(name) or now + first * random.uniform(0.2, 1.0) for name in config.providers
        }
        busy = self._lanes.busy()
        for name, due in self._due.items():
            if due <= now and name not in busy:
                self._due[name] = now + config.leak_sweep
                self._lanes.start(name, partial(self._sweep, config, config.providers[name], now))
        return Pass(due=earliest(due for name, due in self._due.items() if name not in busy))

    def drain(self) -> bool:
        """Wait until no sweep runs; whether any removed something since the last drain."""
        return self._lanes.drain()

    # -- one sweep ----------------------------------------------------------------------------

    def _sweep(self, config: Config, provider: Provider, now: datetime) -> bool:
        """Look at one provider; whether anything was removed. `now` is when the sweep was due."""
        try:
            claim = self.world.store.claim_sweep(provider.name)
            if claim is None:
                return False
            with claim:
                return self._look(config, provider, now)
        except ImagepoolError as error:
            self.count_failure()
            LOG.warning(
                "the search of %s for leaked and missing images ended early: %s", provider.name, error.message
            )
            return False

    def _look(self, config: Config, provider: Provider, now: datetime) -> bool:
        world, cloud = self.world, self.world.cloud(provider)
        images = self._list(cloud, provider, adopt_nodepool=config.adopt_nodepool)
        # After the list: what was made before it was listed has its record by now.
        snapshot = world.store.snapshot()
        seen = {sighting.external_id: sighting for sighting in world.store.sightings(provider.name)}
        gone = world.store.builds_gone()
        if not (world.store.connected and world.at_home(snapshot)):
            LOG.info("%s is not judged: our records can't be read", provider.name)
            return False
        leaks = judge_leaks(
            provider.name,
            images,
            snapshot,
            installation_id=world.identity.installation_id,
            sightings=tuple(seen.values()),
            builds_gone=gone,
            now=now,
            sweep=config.leak_sweep,
            adopt_nodepool=config.adopt_nodepool,
        )
        removed = [
            leak.image.id for leak in leaks if leak.verdict is Verdict.NOW and self._remove(cloud, leak)
        ]
        self._write_down(provider, [leak for leak in leaks if leak.image.id not in removed], seen, now)
        for build_id, when in gone.items():
            if when + REMEMBERED <= now:
                world.store.forget_build_gone(build_id)
        for _ in range(self._missing.look(config, provider, images, snapshot, now)):
            self.count_failure()
        return bool(removed)

    def _list(self, cloud: Cloud, provider: Provider, *, adopt_nodepool: bool) -> tuple[CloudImage, ...]:
        found = list(cloud.find({INSTALLATION: self.world.identity.installation_id}))
        if adopt_nodepool:
            found += cloud.find({NODEPOOL_PROVIDER: provider.name})
        images = {image.id: image for image in found}
        for image_id in [each for each in images if name_problem(each)]:
            # Nothing of that name could be written down, so it would be new at every look.
            LOG.warning("%s has an image whose id is no id: %r", provider.name, image_id)
            del images[image_id]
        return tuple(images.values())

    def _write_down(
        self, provider: Provider, leaks: Iterable[Leak], seen: dict[str, Sighting], now: datetime
    ) -> None:
        """What is unowned was seen so; of the rest nothing needs to be remembered."""
        store, leaked = self.world.store, {leak.image.id for leak in leaks}
        for image_id in sorted(leaked):
            first = seen[image_id].first if image_id in seen else now
            store.put_sighting(Sighting(provider=provider.name, external_id=image_id, first=first, last=now))
        for image_id in sorted(seen.keys() - leaked):
            store.delete_sighting(provider.name, image_id)

    def _remove(self, cloud: Cloud, leak: Leak) -> bool:
        """Delete a leaked image, if it still has no record and is provably ours; whether it went."""
        lost = _lost_upload(leak)
        try:
            if self._is_known(lost):
                return False
            image = cloud.get(leak.image.id)
            if image is None:
                return True
            doubt = ownership.why_not_ours(image, lost, self.world.identity.installation_id)
            if doubt:
                LOG.warning(
                    "image %s (%s) in %s is left alone: %s", image.id, image.name, leak.provider, doubt
                )
                return False
            cloud.delete(image.id)
        except ImagepoolError as error:
            self.count_failure()
            LOG.warning("leaked image %s in %s stays: %s", leak.image.id, leak.provider, error.message)
            return False
        LOG.warning(
            "leaked image %s (%s) in %s is deleted: %s", image.id, image.name, leak.provider, leak.reason
        )
        return True

    def _is_known(self, lost: Upload) -> bool:
        """Whether the build has a record after all; also when it could have none."""
        if name_problem(lost.image):
            return True
        try:
            self.world.store.get_build(lost.image, lost.build_id)
        except NotFoundError:
            # In another tree there is a record of nothing.
            return not self.world.at_home(self.world.store.snapshot())
        return True


def _lost_upload(leak: Leak) -> Upload:
    """The record that the image had, as its properties tell. Without its id: then nothing but a name
    that matches proves that it is no copy of ours."""
    properties = leak.image.properties
    return Upload(
        id=properties.get(UPLOAD_ID, ""),
        build_id=properties.get(BUILD_ID, ""),
        image=properties.get(IMAGE, ""),
        provider=properties.get(PROVIDER, ""),
        state=UploadState.DELETING,
        state_time=datetime.min.replace(tzinfo=UTC),
    )

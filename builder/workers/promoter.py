"""The promoter moves stable names and tags to the newest good images, region by region.

The new image gets them first, then the old one loses them: whoever boots by name never finds none, and
for a moment two. Which crash leaves what, step by step:
    after the new image got them        the record does not say so yet: the next pass finds nothing
                                        to change in the cloud, and writes it
    after the record                    the old images have them still: the next pass takes them away
    after an old image lost them        its record says that it serves: the next pass mends that
Old images are found by their properties as well as by their records, so what was promoted without a
record, and superseded before the next pass, loses its name too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from builder.cloud import ownership
from builder.cloud.base import Change, Cloud
from builder.cloudimage import (
    IMAGE,
    INSTALLATION,
    PROVIDER,
    SERVING,
    CloudImage,
)
from builder.config.model import Config
from builder.errors import CloudError, NotFoundError, RefusedError
from builder.model import FailureClass, Snapshot, Upload, UploadState
from builder.planning.actions import Promotion, Verdict
from builder.planning.promotion import plan_promotions
from builder.workers.base import Pass, Worker, World, earliest
from builder.workers.lanes import Job, Lanes, PacedLanes
from builder.workers.reading import fresh_records

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What tells the newest good image of a diskimage from the others, in every region."""

    name: str | None
    tag: str | None

    def to_give(self, image: CloudImage) -> Change | None:
        """What an image lacks of it, None when it has all."""
        name = self.name if image.name != self.name else None
        tags = frozenset({self.tag} if self.tag else ()) - image.tags
        # By its own id, which no copy has, it is known to be ours while it has another name.
        mark = {SERVING: image.id} if image.properties.get(SERVING) != image.id else None
        return Change(name=name, add_tags=tags, properties=mark) if name or tags or mark else None

    def to_take(self, image: CloudImage, own_name: str | None) -> Change | None:
        """What an image has of it and loses, None when it has nothing."""
        name = own_name if self.name and image.name == self.name else None
        tags = frozenset({self.tag} if self.tag else ()) & image.tags
        mark = {SERVING: ""} if image.serving else None
        return Change(name=name, remove_tags=tags, properties=mark) if name or tags or mark else None


class Promoter(Worker):
    """Carries out the promotions that are due, each provider's in a lane of its own."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._lanes = PacedLanes(
            Lanes(name, world.store.wake),
            clock=world.clock,
            stopping=world.stopping,
            on_failure=self.count_failure,
        )

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start every promotion that is due; returns without waiting for them."""
        jobs = [
            Job(
                lane=promotion.provider,
                key=f"promotion of {promotion.upload.name}",
                reason=promotion.reason,
                do=partial(self._promote, config, promotion, promotion.upload),
            )
            for promotion in plan_promotions(config, snapshot, now)
            if promotion.verdict is Verdict.NOW and promotion.upload
        ]
        return Pass(due=earliest([self._lanes.start(jobs, now)]))

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any of them did anything since the last drain."""
        return self._lanes.drain()

    # -- one promotion ------------------------------------------------------------------------

    def _promote(self, config: Config, promotion: Promotion, upload: Upload) -> bool:
        # Nobody else promotes it meanwhile, and no janitor takes it away.
        claim = self.world.store.claim_upload(upload)
        if claim is None:
            return False  # when they let go, the tree changes and wakes us
        with claim:
            planned = self._plan_again(config, promotion)
            if planned is None:
                return False
            image, provider = config.diskimages[planned.image], config.providers[planned.provider]
            sign = Sign(name=image.stable_name, tag=image.stable_tag)
            cloud = self.world.cloud(provider)
            self._give(cloud, sign, upload)
            for predecessor in planned.predecessors:
                self._take(cloud, sign, predecessor)
            for other in self._others(cloud, sign, upload):
                self._strip(cloud, sign, other, None)
            return True

    def _plan_again(self, config: Config, promotion: Promotion) -> Promotion | None:
        """The promotion as it is planned on what is true under the claim; None when it no longer is."""
        fresh = fresh_records(self.world.store, config, promotion.image)
        plan = plan_promotions(config, Snapshot(images={promotion.image: fresh}), self.world.clock())
        for again in plan:
            same = (again.image, again.provider) == (promotion.image, promotion.provider)
            if same and again.verdict is Verdict.NOW and again.upload and promotion.upload:
                return again if again.upload.name == promotion.upload.name else None
        return None

    def _give(self, cloud: Cloud, sign: Sign, upload: Upload) -> None:
        """Let an image have the sign, see that it has, and write it."""
        current = self._current(upload)
        if current.state is not UploadState.READY or current.external_id is None:
            raise NotFoundError(f"upload {current.name} is {current.state}")
        image = cloud.get(current.external_id)
        if image is None:
            raise CloudError(f"image {current.external_id} is gone", failure_class=FailureClass.CLOUD)
        self._demand_ours(image, current)
        if change := sign.to_give(image):
            image = cloud.update(image.id, change)
            if sign.to_give(image):
                raise CloudError(
                    f"image {image.id} has the name {image.name!r} and the tags {sorted(image.tags)},"
                    f" although it was given the name {sign.name!r} and the tag {sign.tag!r}",
                    failure_class=FailureClass.CLOUD,
                )
        if current.serving is None:
            self.world.store.update_upload(replace(current, serving=self.world.clock()))

    def _take(self, cloud: Cloud, sign: Sign, upload: Upload) -> None:
        """Take the sign from the image of an upload that was superseded, and write it."""
        claim = self.world.store.claim_upload(upload)
        if claim is None:
            return  # its janitor has it: in the end it is gone, or it is planned again
        with claim:
            current = self._current(upload)
            image = cloud.get(current.external_id) if current.external_id else None
            if image is not None:
                self._demand_ours(image, current)
                self._strip(cloud, sign, image, current.external_name)
            self.world.store.update_upload(replace(current, serving=None))

    def _strip(self, cloud: Cloud, sign: Sign, image: CloudImage, known_name: str | None) -> None:
        """Take the sign from an image, which gets back the name that it was made with."""
        own_name = image.original_name or known_name
        change = sign.to_take(image, own_name)
        if change is None:
            return
        try:
            cloud.update(image.id, change)
        except NotFoundError:
            return
        LOG.info("image %s is %s again, and no longer %s", image.id, own_name, sign.name or sign.tag)

    def _others(self, cloud: Cloud, sign: Sign, upload: Upload) -> Iterator[CloudImage]:
        """Further images of ours with the sign, which no record says to have it."""
        ours = {
            INSTALLATION: self.world.identity.installation_id,
            IMAGE: upload.image,
            PROVIDER: upload.provider,
        }
        for image in list(cloud.find(ours)):
            # Snapshots of servers that run from our images have our properties, too, and so have copies.
            copy = image.properties.get(SERVING) not in (None, "", image.id)
            if image.id != upload.external_id and image.snapshot_mark is None and not copy:
                yield image

    # -- parts of it --------------------------------------------------------------------------

    def _current(self, upload: Upload) -> Upload:
        return self.world.store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)

    def _demand_ours(self, image: CloudImage, upload: Upload) -> None:
        doubt = ownership.why_not_ours(image, upload, self.world.identity.installation_id)
        if doubt:
            raise RefusedError(f"image {image.id} is not provably of upload {upload.name}: {doubt}")

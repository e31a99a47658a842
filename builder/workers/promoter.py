"""The promoter moves stable names and tags to the newest good images, region by region.

The new image gets them first, then the old one loses them: whoever boots by name never finds none, and
for a moment two. Which crash leaves what, step by step:
    after the new image got them        the record does not say so yet: the next pass finds nothing
                                        to change in the cloud, and writes it
    after the record                    the old images have them still: the next pass takes them away
    after an old image lost them        its record says that it serves: the next pass mends that
Old images are found by their properties as well as by their records, so what was promoted without a
record, and superseded before the next pass, loses its name too. What an image was given is written
down: when the configuration says something else, the old tag goes after the new one has come.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
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
from builder.config.model import Config, DiskImage
from builder.errors import CloudError, NotFoundError, RefusedError
from builder.model import FailureClass, Snapshot, Upload, UploadState
from builder.planning.actions import Promotion, Verdict
from builder.planning.planner import Planner
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

    @classmethod
    def of(cls, owner: DiskImage | Upload) -> Sign:
        """What a diskimage has, or what an upload was given as far as its record says."""
        return cls(name=owner.stable_name, tag=owner.stable_tag)

    def to_give(self, image: CloudImage, former: Sign, own_name: str | None) -> Change | None:
        """What an image lacks of it, or has of a `former` one and loses; None when all is right."""
        wanted = self.name or (own_name if former.name and image.name == former.name else None)
        name = wanted if image.name != wanted else None
        tags = frozenset({self.tag} if self.tag else ()) - image.tags
        late = frozenset({former.tag} if former.tag else ()) & image.tags - {self.tag}
        # By its own id, which no copy has, it is known to be ours while it has another name.
        mark = {SERVING: image.id} if image.properties.get(SERVING) != image.id else None
        if not (name or tags or late or mark):
            return None
        return Change(name=name, add_tags=tags, remove_tags=late, properties=mark)


def to_take(signs: Collection[Sign], image: CloudImage, own_name: str | None) -> Change | None:
    """What an image has of any of the signs and loses, None when it has nothing.

    One with our mark loses its name whatever that is: without the mark it would count as a copy.
    """
    named = image.name in {sign.name for sign in signs if sign.name} or image.serving
    name = own_name if named and image.name != own_name else None
    tags = frozenset(sign.tag for sign in signs if sign.tag) & image.tags
    mark = {SERVING: ""} if image.serving else None
    return Change(name=name, remove_tags=tags, properties=mark) if name or tags or mark else None


class Promoter(Worker):
    """Carries out the promotions that are due, each provider's in a lane of its own."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._planner = Planner()
        self._lanes = PacedLanes(
            Lanes(name, world.store.wake),
            clock=world.clock,
            ending=lambda: world.ending,
            on_failure=self.count_failure,
        )

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start every promotion that is due; returns without waiting for them."""
        plan = self._planner.promotions(config, snapshot, now)
        jobs = [
            Job(
                lane=promotion.provider,
                key=f"promotion of {_subject(promotion)}",
                reason=promotion.reason,
                do=partial(self._do, config, promotion),
            )
            for promotion in plan
            if promotion.verdict is Verdict.NOW
        ]
        return Pass(due=earliest([self._lanes.start(jobs, now), *(each.due for each in plan)]))

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any of them did anything since the last drain."""
        return self._lanes.drain()

    # -- one promotion ------------------------------------------------------------------------

    def _do(self, config: Config, promotion: Promotion) -> bool:
        if promotion.upload is None:
            return self._end(config, promotion)
        # Nobody else promotes it meanwhile, and no janitor takes it away.
        claim = self.world.store.claim_upload(promotion.upload)
        if claim is None:
            return False  # when they let go, the tree changes and wakes us
        with claim:
            planned = self._plan_again(config, promotion)
            if planned is None or planned.upload is None:
                return False
            self._promote(config, planned, planned.upload)
            return True

    def _promote(self, config: Config, planned: Promotion, upload: Upload) -> None:
        """Let the image of an upload have its diskimage's sign, then let all others lose theirs."""
        cloud = self.world.cloud(config.providers[planned.provider])
        sign, former = Sign.of(config.diskimages[planned.image]), Sign.of(upload)
        self._give(cloud, sign, upload)
        for predecessor in planned.predecessors:
            self._take(cloud, sign, predecessor)
        # What nobody wrote down may have the sign of before, too.
        signs = {sign, former, *map(Sign.of, planned.predecessors)}
        for other in self._others(cloud, upload):
            self._strip(cloud, signs, other, None)

    def _end(self, config: Config, promotion: Promotion) -> bool:
        """Let the images of a diskimage that has no sign any more lose what they have."""
        planned = self._plan_again(config, promotion)
        if planned is None:
            return False
        cloud = self.world.cloud(config.providers[planned.provider])
        sign = Sign.of(config.diskimages[planned.image])
        return sum(self._take(cloud, sign, upload) for upload in planned.predecessors) > 0

    def _plan_again(self, config: Config, promotion: Promotion) -> Promotion | None:
        """The promotion as it is planned on what is true under the claim; None when it no longer is."""
        seen = self.world.store.snapshot()
        fresh = fresh_records(self.world.store, config, promotion.image)
        plan = plan_promotions(config, replace(seen, images={promotion.image: fresh}), self.world.clock())
        for again in plan:
            if again.verdict is Verdict.NOW and _whose(again) == _whose(promotion):
                return again
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
        former, own_name = Sign.of(current), image.original_name or current.external_name
        change = sign.to_give(image, former, own_name)
        if change:
            image = cloud.update(image.id, change)
            if sign.to_give(image, former, own_name):
                raise CloudError(
                    f"image {image.id} has the name {image.name!r} and the tags {sorted(image.tags)},"
                    f" although it was given the name {sign.name!r} and the tag {sign.tag!r}",
                    failure_class=FailureClass.CLOUD,
                )
        # It has had them since before when there was nothing to change, whatever the record says.
        serving = self.world.clock() if change or current.serving is None else current.serving
        self._write(current, serving, sign)

    def _take(self, cloud: Cloud, sign: Sign, upload: Upload) -> bool:
        """Take the sign, and what its record says, from the image of an upload that no longer serves, and
        write it; whether nobody else was at it."""
        claim = self.world.store.claim_upload(upload)
        if claim is None:
            return False  # its janitor has it: in the end it is gone, or it is planned again
        with claim:
            current = self._current(upload)
            image = cloud.get(current.external_id) if current.external_id else None
            if image is not None:
                self._demand_ours(image, current)
                self._strip(cloud, {sign, Sign.of(current)}, image, current.external_name)
            self._write(current, None, Sign(name=None, tag=None))
            return True

    def _strip(
        self, cloud: Cloud, signs: Collection[Sign], image: CloudImage, known_name: str | None
    ) -> None:
        """Take the signs from an image, which gets back the name that it was made with."""
        own_name = image.original_name or known_name
        change = to_take(signs, image, own_name)
        if change is None:
            return
        try:
            cloud.update(image.id, change)
        except NotFoundError:
            return
        LOG.info("image %s is %s again, and has no stable name or tag any more", image.id, own_name)

    def _others(self, cloud: Cloud, upload: Upload) -> Iterator[CloudImage]:
        """Further images of ours, of which some may have a sign although no record says so."""
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

    def _write(self, current: Upload, serving: datetime | None, sign: Sign) -> None:
        written = replace(current, serving=serving, stable_name=sign.name, stable_tag=sign.tag)
        if written != current:
            self.world.store.update_upload(written)

    def _demand_ours(self, image: CloudImage, upload: Upload) -> None:
        doubt = ownership.why_not_ours(image, upload, self.world.identity.installation_id)
        if doubt:
            raise RefusedError(f"image {image.id} is not provably of upload {upload.name}: {doubt}")


def _whose(promotion: Promotion) -> tuple[str, str, str | None]:
    """What it is about, whoever loses something by it."""
    upload = promotion.upload
    return promotion.image, promotion.provider, upload.name if upload else None


def _subject(promotion: Promotion) -> str:
    upload = promotion.upload
    return upload.name if upload else f"none of {promotion.image} in {promotion.provider}"

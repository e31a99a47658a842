"""Lets one image serve a provider in the place of others, in the order that leaves no region without one.

The heir gets everything first, then those before it lose theirs: who boots by name never finds none, and for
a moment two. Which crash leaves what, step by step:
    after its record names the sign             if another one is to serve by then, the next pass takes that
                                                from it, whether or not its image got it
    after the heir's image is shown, and        its record does not say so: the next pass finds nothing to
    after it has its stable name and tag        change in the cloud, and goes on
    after its turn was begun in the history     the next pass finds that very turn open, and goes on
    after its record                            nodepool's launcher takes it from here on; the others have
                                                the name and the tag still: the next pass takes them away
    after another one lost them, or was hidden  its record says that it serves, or that it is not hidden:
                                                the next pass finds the image so, and mends that
Others are found by their images' properties as well as by their records, so what was given a name without a
record, and superseded before the next pass, loses it too. What an image was given is written down: when the
configuration says something else, the old tag goes after the new one has come.

A diskimage with neither stable name nor tag has nodepool's sense alone, which is in the records. Where builds
wait for other providers, a word or canaries, its image is marked all the same, so that what waits does not
serve when the records are lost; where they don't, its cloud is only asked whether the heir's image is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import datetime

from builder.cloud import ownership, transfer
from builder.cloudimage import IMAGE, INSTALLATION, PROVIDER, SERVING, CloudImage, GlanceStatus
from builder.config.model import Config
from builder.errors import CloudError, NotFoundError, RefusedError
from builder.model import FailureClass, Turn, Upload, UploadState
from builder.planning.actions import IMAGEPOOL, Promotion
from builder.workers.base import World
from builder.workers.signs import Sign, to_take

LOG = logging.getLogger(__name__)


class Promoting:
    """One promotion, as it was planned on what is true under the claim of its heir."""

    def __init__(self, world: World, config: Config, planned: Promotion, heir: Upload) -> None:
        self._world = world
        self._planned = planned
        self._heir = heir
        self._cloud = world.cloud(config.providers[planned.provider])
        image, listed = config.diskimages[planned.image], config.providers[planned.provider].images
        self._sign = Sign.of(image)
        self._hides = image.hide_old and not listed[planned.image].sharing.hidden
        self._hidden = {upload.name for upload in planned.hide}

    def promote(self) -> bool:
        """Let the heir have all that tells who serves, then let all others lose theirs; whether that is all
        done. The caller has claimed the heir; of the others, those that somebody else is at are left to them,
        and planned again."""
        planned = self._planned
        self._give()
        done = True
        for predecessor in planned.predecessors:
            done &= self._take(predecessor)
        # What nobody wrote down may have the sign of before, too.
        known = (self._sign, *map(Sign.of, (self._heir, *planned.predecessors)))
        signs = {*filter(None, known)}
        for other in self._others() if signs else ():
            self._strip(signs, other, None)
        seen = {upload.name for upload in planned.predecessors}
        for upload in planned.hide:
            if upload.name not in seen:
                done &= self._hide(upload)
        return done

    # -- the heir -----------------------------------------------------------------------------

    def _give(self) -> None:
        """Let it serve, see that it does, and write it."""
        current = self._current(self._heir)
        if current.state is not UploadState.READY or current.external_id is None:
            raise NotFoundError(f"upload {current.name} is {current.state}")
        current, changed = self._give_image(current, current.external_id)
        now = self._world.clock()
        self._begin_turn(current, current.serving or now)
        written = replace(
            self._signed(current),
            # It has had them since before when there was nothing to change.
            serving=now if changed else current.serving or now,
            hidden=current.hidden and not self._planned.show,
        )
        if self._planned.renewed is not None:
            # nodepool's launcher takes the ready upload with the newest `state_time`, and asks nothing else.
            written = written.renewed(max(now, self._planned.renewed))
        self._write(current, written)

    def _give_image(self, current: Upload, image_id: str) -> tuple[Upload, bool]:
        """Let the heir's image have the sign, in its cloud; the record, and whether that changed anything."""
        former, show = Sign.of(current), self._planned.show
        if current.serving is not None and not (self._sign or former or show):
            return current, False  # it serves, and nothing in its cloud tells that
        image = self._cloud.get(image_id)
        if image is None or image.status is not GlanceStatus.ACTIVE:
            now = "gone" if image is None else str(image.status)
            raise CloudError(f"image {image_id} is {now}", failure_class=FailureClass.CLOUD)
        self._demand_ours(image, current)
        if current.serving is None and self._sign and not former:
            current = self._world.store.update_upload(self._signed(current))
        if show or (image.hidden and self._hides):  # by somebody who was broken off, without a record
            transfer.show(self._cloud, current, installation_id=self._world.identity.installation_id)
        own_name = image.original_name or current.external_name
        change = self._sign.to_give(image, former, own_name)
        if change is None:
            return current, False
        image = self._cloud.update(image.id, change)
        if self._sign.to_give(image, former, own_name):
            raise CloudError(
                f"image {image.id} has the name {image.name!r} and the tags {sorted(image.tags)},"
                f" although it was given the name {self._sign.name!r} and the tag {self._sign.tag!r}",
                failure_class=FailureClass.CLOUD,
            )
        return current, True

    def _signed(self, upload: Upload) -> Upload:
        """An upload whose record says that its image has the sign, or may have it."""
        return replace(upload, stable_name=self._sign.name, stable_tag=self._sign.tag)

    def _begin_turn(self, current: Upload, since: datetime) -> None:
        """Let the history say that it serves. Before the record does, for nobody looks at the history again
        where that is right."""
        planned, store = self._planned, self._world.store
        # An earlier version kept none; and it may have been lost with all other records.
        before = next((upload for upload in planned.predecessors if upload.serving is not None), None)
        if before is not None and planned.provider not in store.history(planned.image):
            store.begin_turn(planned.image, planned.provider, _turn(before, before.serving or since))
        turn = _turn(current, since, by=planned.by, why=planned.reason)
        store.begin_turn(planned.image, planned.provider, turn)

    # -- the others ---------------------------------------------------------------------------

    def _take(self, upload: Upload) -> bool:
        """Take the sign, and what its record says, from the image of an upload that no longer serves, and
        write it; whether nobody else was at it."""

        def take(current: Upload) -> Upload:
            signs = {*filter(None, (self._sign, Sign.of(current)))}
            image = self._cloud.get(current.external_id) if signs and current.external_id else None
            if image is not None:
                self._demand_ours(image, current)
                self._strip(signs, image, current.external_name)
            hidden = self._hide_image(current)
            return replace(current, serving=None, stable_name=None, stable_tag=None, hidden=hidden)

        return self._change(upload, take)

    def _hide(self, upload: Upload) -> bool:
        """Hide an image that neither serves nor did before; whether nobody else was at it."""

        def hide(current: Upload) -> Upload:
            if current.state is not UploadState.READY or current.serving is not None:
                raise NotFoundError(f"upload {current.name} is {current.state} by now, or serves")
            return replace(current, hidden=self._hide_image(current))

        return self._change(upload, hide)

    def _hide_image(self, upload: Upload) -> bool:
        """Hide an upload's image, if the plan says so, or its record, when it was shown for a turn that it
        did not get; whether one of them does."""
        if upload.name not in self._hidden and not upload.hidden:
            return False
        transfer.hide(self._cloud, upload, installation_id=self._world.identity.installation_id)
        return True

    def _change(self, upload: Upload, change: Callable[[Upload], Upload]) -> bool:
        """Change an upload's image and then its record, under its claim; False while somebody else has it."""
        claim = self._world.store.claim_upload(upload)
        if claim is None:
            return False  # its janitor has it: in the end it is gone, or it is planned again
        with claim:
            current = self._current(upload)
            self._write(current, change(current))
            return True

    def _strip(self, signs: Collection[Sign], image: CloudImage, known_name: str | None) -> None:
        """Take the signs from an image, which gets back the name that it was made with."""
        own_name = image.original_name or known_name
        change = to_take(signs, image, own_name)
        if change is None:
            return
        try:
            self._cloud.update(image.id, change)
        except NotFoundError:
            return
        LOG.info("image %s is %s again, and has no stable name or tag any more", image.id, own_name)

    def _others(self) -> Iterator[CloudImage]:
        """Further images of ours, of which some may have a sign although no record says so."""
        ours = {
            INSTALLATION: self._world.identity.installation_id,
            IMAGE: self._heir.image,
            PROVIDER: self._heir.provider,
        }
        for image in list(self._cloud.find(ours)):
            # Snapshots of servers that run from our images have our properties, too, and so have copies.
            copy = image.properties.get(SERVING) not in (None, "", image.id)
            if image.id != self._heir.external_id and image.snapshot_mark is None and not copy:
                yield image

    # -- parts of it --------------------------------------------------------------------------

    def _current(self, upload: Upload) -> Upload:
        return self._world.store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)

    def _write(self, current: Upload, written: Upload) -> None:
        if written != current:
            self._world.store.update_upload(written)

    def _demand_ours(self, image: CloudImage, upload: Upload) -> None:
        doubt = ownership.why_not_ours(image, upload, self._world.identity.installation_id)
        if doubt:
            raise RefusedError(f"image {image.id} is not provably of upload {upload.name}: {doubt}")


def _turn(upload: Upload, since: datetime, *, by: str = IMAGEPOOL, why: str = "") -> Turn:
    return Turn(build_id=upload.build_id, upload=upload.name, since=since, by=by, why=why)

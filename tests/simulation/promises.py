"""What must hold at every moment, whatever happens; and what must hold once all is calm.

Each write and each deletion is judged when it happens, the rest when `check` looks at everything. What is
found broken is kept in `broken`, for an exception would only be handled by the code under test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from builder.cloudimage import (
    BUILD_ID,
    IMAGE,
    INSTALLATION,
    PROVIDER,
    UPLOAD_ID,
    WITHHELD,
    CloudImage,
    GlanceStatus,
)
from builder.config.model import Canary, DiskImage, Provider
from builder.dib.output import artifacts
from builder.model import (
    BUILD_TRANSITIONS,
    UPLOAD_TRANSITIONS,
    Build,
    BuildState,
    Request,
    Upload,
    UploadState,
)
from builder.planning.records import newest_good, newest_ready, picked
from tests.simulation.cloud import SimCloud
from tests.simulation.engine import Running

if TYPE_CHECKING:
    from tests.simulation.daemon import Life
    from tests.simulation.world import Simulation

#: Seconds for a word to reach everybody: what was begun by then may go on.
WORD_OF_MOUTH = 10.0
#: A clean-up that was begun may take its clouds one after the other.
UNDER_WAY = 120.0
#: What became ready so short a time before may not be seen yet by who writes the next one.
NOT_SEEN_YET = 1.0


@dataclass(frozen=True)
class Tick:
    """A time of an entry of a diskimage's schedule."""

    image: str
    entry: str
    time: datetime


class Promises:
    """The judge of one simulation."""

    def __init__(self, world: Simulation) -> None:
        self.broken: list[str] = []
        self.fired: dict[Tick, float] = {}
        self.was_ready: set[str] = set()  #: ids of cloud images that an upload was ready with
        self._retired: set[str] = set()  #: ids of cloud images that went when another one was there
        self.wished_away: set[str] = set()  #: ids of builds, and names of uploads, that somebody let go
        self.stolen: set[str] = set()  #: ids of cloud images that somebody deleted behind our back
        self.lost_disks: set[str] = set()  #: builder ids whose files are gone
        self.built = 0
        self.uploaded = 0
        self._fires: set[Tick] = set()  #: within the request that is being filed
        self._ready_since: dict[str, float] = {}  #: by build id
        self._ready_at: dict[str, float] = {}  #: by the name of the upload
        self._frozen_since: float | None = None
        self._paused_since: dict[str, float] = {}
        self._world = world
        world.engine.on_begin = self.on_build
        for cloud in world.clouds.values():
            cloud.on_delete = self.on_delete
        world.tree.on_build = self.on_build_record
        world.tree.on_upload = self.on_upload_record
        world.tree.on_ticks = self.on_ticks
        world.tree.on_asked = self.on_asked

    def breaks(self, promise: str) -> None:
        """A promise is broken."""
        self.broken.append(f"{self._world.kernel.clock():%m-%d %H:%M:%S.%f}: {promise}")

    # -- words of people, which change what is right ----------------------------------------------

    def note_word(self) -> None:
        """Look at who stands still now."""
        now, snapshot = self._world.kernel.now, self._world.outside.snapshot()
        self._frozen_since = None if snapshot.frozen is None else self._frozen_since or now
        self._paused_since = {name: self._paused_since.get(name, now) for name in snapshot.paused_providers}

    def _is_frozen(self, grace: float) -> bool:
        since = self._frozen_since
        return since is not None and since + grace < self._world.kernel.now

    def _find_build(self, build_id: str) -> Build | None:
        return next((build for build in self._world.tree.builds.values() if build.id == build_id), None)

    def _here(self) -> str | None:
        """The builder id of the machine whose daemon acts."""
        life: Life | None = self._world.kernel.owner
        return None if life is None else life.machine.builder_id

    # -- builds -----------------------------------------------------------------------------------

    def on_build(self, running: Running) -> None:
        """A build begins to run."""
        others = [each for each in self._world.engine.running if each.image == running.image]
        if sum(each.rightful for each in others) > 1:
            self.breaks(f"{running.image} is built twice at once, both under valid claims")
        build = self._find_build(running.build_id)
        request = build.request if build else None
        if self._is_frozen(WORD_OF_MOUTH) and not (request and request.force):
            self.breaks(f"a build of {running.image} begins while everything is frozen")
        if request is not None and request.tick is not None and not request.manual:
            self._once_only(running, request)

    def _once_only(self, running: Running, request: Request) -> None:
        for other in self._world.tree.builds.values():
            same = other.image == running.image and other.id != running.build_id
            served = other.request is not None and other.request.tick == request.tick
            if same and served and other.state is BuildState.READY:
                since = self._ready_since.get(other.id)
                if since is not None and since + WORD_OF_MOUTH < self._world.kernel.now:
                    self.breaks(f"the tick of {request.tick} of {running.image} is built a second time")

    def on_build_record(self, before: Build | None, after: Build | None) -> None:
        """A build's record changes."""
        if after is None:
            assert before is not None
            left = [u.name for u in self._world.tree.uploads.values() if u.build_id == before.id]
            if left:
                self.breaks(f"build {before.id} loses its record before its uploads {left}")
            return
        if before is not None and before.state is not after.state:
            adopted = before.interrupted and after.state is BuildState.READY
            if after.state is BuildState.FAILED and self._runs_elsewhere(after):
                self.breaks(f"build {after.id} is failed while it runs under a valid claim")
            if after.state not in BUILD_TRANSITIONS[before.state] and not adopted:
                self.breaks(f"build {after.id} goes from {before.state} to {after.state}")
            if adopted and self._here() != after.builder_id:
                self.breaks(f"build {after.id} is adopted by {self._here()}, not by {after.builder_id}")
        self._on_cleared(before, after)
        if after.state is BuildState.FAILED and after.reason is None:
            self.breaks(f"build {after.id} failed without a reason")
        if after.state is BuildState.READY and (before is None or before.state is not BuildState.READY):
            self._on_ready_build(after)

    def _on_ready_build(self, build: Build) -> None:
        self.built += 1
        self._ready_since[build.id] = self._world.kernel.now
        for wrong in self._wrong_files(build):
            self.breaks(f"build {build.id} becomes ready, but {wrong}")
        if build.id in self._world.engine.held and build.quarantine is None:
            self.breaks(f"build {build.id} becomes ready over its budget, and is not held")

    def _runs_elsewhere(self, build: Build) -> bool:
        """Whether another one's daemon has it running, and has not lost its claim."""
        return any(
            running.build_id == build.id and running.rightful and running.life is not self._world.kernel.owner
            for running in self._world.engine.running
        )

    def _wrong_files(self, build: Build) -> Iterator[str]:
        machine = next((m for m in self._world.machines if m.builder_id == build.builder_id), None)
        if machine is None or machine.builder_id in self.lost_disks:
            return
        if not build.artifacts:
            yield "it has no artifacts"
        for artifact in build.artifacts:
            if artifact.format in build.pruned:
                continue
            file = artifacts.path(machine.config().images_dir, build.image, build.id, artifact.format)
            if wrong := artifacts.check(file, artifact, hashes=True):
                yield wrong

    # -- uploads ----------------------------------------------------------------------------------

    def on_upload_record(self, before: Upload | None, after: Upload | None) -> None:
        """An upload's record changes."""
        if after is None:
            assert before is not None
            if before.external_id in self._world.clouds[before.provider].images:
                self.breaks(f"upload {before.name} loses its record before its image")
            return
        if before is None:
            self._on_new_upload(after)
        elif before.state is not after.state:
            self._on_new_state(before, after)
        if after.state is UploadState.FAILED and after.reason is None:
            self.breaks(f"upload {after.name} failed without a reason")
        if after.serving is not None and (before is None or before.serving is None):
            self._on_turn(after)
        if after.state is UploadState.READY and (before is None or before.state is not UploadState.READY):
            self.uploaded += 1
            self._on_ready(after)

    def _on_ready(self, upload: Upload) -> None:
        now = self._world.kernel.now
        if upload.external_id is not None:
            self.was_ready.add(upload.external_id)
        if wrong := self._wrong_image(upload):
            self.breaks(f"upload {upload.name} becomes ready, but {wrong}")
        seen = [u for u in self._ready_there(upload) if self._ready_at.get(u.name, now) + NOT_SEEN_YET < now]
        if seen and picked([*seen, upload]) == upload:
            self.breaks(f"nodepool takes {upload.name} as soon as it is ready, before it is to serve")
        self._ready_at[upload.name] = now

    def _on_turn(self, upload: Upload) -> None:
        """It begins to serve."""
        if upload.state is not UploadState.READY:
            self.breaks(f"upload {upload.name} begins to serve, and is {upload.state}")
        if picked([*self._ready_there(upload), upload]) != upload:
            self.breaks(f"upload {upload.name} begins to serve, and nodepool takes another one")
        others = [u for u in self._ready_there(upload) if u.external_id not in self.stolen]
        if self._is_withheld(upload, WORD_OF_MOUTH) and not all(self._is_withheld(u, 0.0) for u in others):
            self.breaks(f"upload {upload.name} begins to serve, although it is withheld and others are there")
        self._on_turn_after_canaries(upload, others)

    def _on_turn_after_canaries(self, upload: Upload, others: list[Upload]) -> None:
        """It begins to serve where others are to serve a build first: it was let out, or it is gone back to,
        or there is nothing else."""
        image, build = self._world.config.diskimages.get(upload.image), self._find_build(upload.build_id)
        if image is None or build is None or not isinstance(image.promote, Canary):
            return
        if upload.provider in image.promote.providers or build.clearance(upload.provider) is not None:
            return
        turns = self._world.outside.history(upload.image).get(upload.provider, ())
        served = {turn.build_id for turn in turns if turn.upload != upload.name}
        known = [b for b in self._world.tree.builds.values() if b.id in served]
        goes_back = any((b.began, b.id) > (build.began, build.id) for b in known)
        good = [u for u in others if not self._is_withheld(u, 0.0) and u.build_id in served]
        if good and not goes_back:
            self.breaks(f"upload {upload.name} begins to serve, and did not go through the canaries")

    def _on_cleared(self, before: Build | None, build: Build) -> None:
        """If it is let out by that: all canaries serve it."""
        image = self._world.config.diskimages.get(build.image)
        said = before.cleared if before is not None else ()
        if build.cleared == said or image is None or not isinstance(image.promote, Canary):
            return
        if build.hold is not None:
            self.breaks(f"build {build.id} is let out, although it is held")
        serving = {
            u.provider
            for u in self._world.tree.uploads.values()
            if u.build_id == build.id and u.serving is not None
        }
        if lacking := sorted(set(image.promote.providers) - serving):
            self.breaks(f"build {build.id} is let out, and {lacking} did not serve it")

    def _ready_there(self, upload: Upload) -> list[Upload]:
        """The other ready uploads of the image in the provider whose builds are not to go."""
        return [
            other
            for other in self._world.tree.uploads.values()
            if (other.image, other.provider) == (upload.image, upload.provider)
            and other.name != upload.name
            and other.state is UploadState.READY
        ]

    def _is_withheld(self, upload: Upload, grace: float) -> bool:
        """Whether its build has been withheld there for so many seconds."""
        build = self._find_build(upload.build_id)
        word = build.withheld_from(upload.provider) if build is not None else None
        return word is not None and (self._world.kernel.clock() - word.time).total_seconds() >= grace

    def _on_new_upload(self, upload: Upload) -> None:
        now, paused = self._world.kernel.now, self._paused_since.get(upload.provider)
        if self._is_frozen(WORD_OF_MOUTH):
            self.breaks(f"upload {upload.name} begins while everything is frozen")
        if paused is not None and paused + WORD_OF_MOUTH < now:
            self.breaks(f"upload {upload.name} begins while {upload.provider} is paused")
        if self._is_withheld(upload, WORD_OF_MOUTH):
            self.breaks(f"upload {upload.name} begins although its build is withheld from there")
        build = self._find_build(upload.build_id)
        if build is not None and build.hold is not None:
            # Nobody has ever seen it without.
            self.breaks(f"upload {upload.name} begins although its build is held")

    def _on_new_state(self, before: Upload, after: Upload) -> None:
        if after.state not in UPLOAD_TRANSITIONS[before.state]:
            self.breaks(f"upload {after.name} goes from {before.state} to {after.state}")
        by_itself = before.state is UploadState.READY and self._here() is not None
        if by_itself and after.state is UploadState.DELETING:
            self._on_retired(after)

    def _on_retired(self, upload: Upload) -> None:
        """From here on nobody takes it for a good one, so now it is that another has to be."""
        if self._is_frozen(UNDER_WAY):
            self.breaks(f"upload {upload.name} is retired while everything is frozen")
        if upload.external_id is None or upload.external_id in self.stolen:
            return
        self._retired.add(upload.external_id)
        image = self._world.clouds[upload.provider].images.get(upload.external_id)
        if image is None or self._wished_away(image):
            return
        if not self._successor(self._world.clouds[upload.provider], image):
            self.breaks(f"upload {upload.name} is retired, the last good one in {upload.provider}")

    def _wrong_image(self, upload: Upload) -> str | None:
        if upload.external_id in self.stolen:
            return None
        image = self._world.clouds[upload.provider].images.get(upload.external_id or "")
        if image is None:
            return f"its image {upload.external_id} is not there"
        if image.status is not GlanceStatus.ACTIVE:
            return f"its image is {image.status}"
        build = self._find_build(upload.build_id)
        artifact = build.artifact(upload.format or "") if build else None
        if build is None or artifact is None:
            return "its build has no such file"
        if build.state is BuildState.FAILED:
            return "its build has failed"
        content = self._world.clouds[upload.provider].contents.get(image.id, b"")
        if hashlib.sha512(content).hexdigest() != artifact.sha512:
            return "its image has other bytes"
        return None

    # -- deletions --------------------------------------------------------------------------------

    def on_delete(self, cloud: SimCloud, image: CloudImage) -> None:
        """Somebody of ours deletes a cloud image: whether it may go."""
        if image.properties.get(INSTALLATION) != self._world.installation_id or image.snapshot_mark:
            self.breaks(f"{image.id} in {cloud.name} is deleted, which is none of ours")
            return
        record = self._owner(cloud, image)
        if record is None and image.properties[BUILD_ID] not in self._world.tree.gone:
            self.breaks(f"{image.id} in {cloud.name} is deleted, of which nobody knows whose it is")
        retired = record is None or record.state is UploadState.DELETING
        if retired and self._is_frozen(UNDER_WAY):
            self.breaks(f"{image.id} in {cloud.name} is deleted while everything is frozen")
        good = image.id in self.was_ready - self._retired and not self._wished_away(image)
        if good and not self._successor(cloud, image):
            self.breaks(f"{image.id} in {cloud.name} is deleted, the last good image there")

    def _owner(self, cloud: SimCloud, image: CloudImage) -> Upload | None:
        named = tuple(image.properties.get(mark) for mark in (BUILD_ID, PROVIDER, UPLOAD_ID))
        for upload in self._world.tree.uploads.values():
            if upload.provider != cloud.name:
                continue
            if upload.external_id == image.id or (upload.build_id, upload.provider, upload.id) == named:
                return upload
        return None

    def _wished_away(self, image: CloudImage) -> bool:
        marks = [image.properties.get(mark, "") for mark in (BUILD_ID, PROVIDER, UPLOAD_ID)]
        return "/".join(marks) in self.wished_away or marks[0] in self.wished_away

    def _successor(self, cloud: SimCloud, image: CloudImage) -> bool:
        """Whether another good one of the same diskimage is there; in the place of one that is not withheld
        another one that is not."""
        mine = self._find_build(image.properties[BUILD_ID])
        withheld = mine is not None and mine.withheld_from(cloud.name) is not None
        name = mine.image if mine else image.properties[IMAGE]
        return any(
            upload.state is UploadState.READY
            and upload.external_id != image.id
            and not self._wrong_image(upload)
            and (withheld or not self._is_withheld(upload, UNDER_WAY))
            for upload in self._world.tree.uploads.values()
            if upload.image == name
            and upload.provider == cloud.name
            and upload.external_id not in self.stolen
        )

    # -- the schedule -----------------------------------------------------------------------------

    def on_ticks(self, image: str, fired: Mapping[str, datetime]) -> None:
        """Times of the schedule are remembered that were not before: builds are asked for."""
        for entry, time in fired.items():
            tick = Tick(image, entry, time)
            if tick in self.fired:
                self.breaks(f"the tick {time} of `{entry}` of {image} fires a second time")
            self.fired[tick] = self._world.kernel.now
            self._fires.add(tick)

    def on_asked(self, image: str, ticks: Mapping[str, datetime]) -> None:
        """A build is asked for because of these times: of one of them at least for the first time."""
        asked = {Tick(image, entry, time) for entry, time in ticks.items()}
        if asked and not asked & self._fires:
            self.breaks(f"the ticks {ticks} of {image} fire a second time")
        self._fires.clear()

    # -- all of it --------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at everything; AssertionError tells what is broken."""
        tree = self._world.tree
        for build in tree.builds.values():
            if build.state is BuildState.READY:
                for wrong in self._wrong_files(build):
                    self.breaks(f"build {build.id} of {build.image} is ready, but {wrong}")
        for upload in tree.uploads.values():
            if upload.state is UploadState.READY and (wrong := self._wrong_image(upload)):
                self.breaks(f"upload {upload.name} is ready, but {wrong}")
        assert not self.broken, "\n".join(self.broken[:20])

    def unsettled(self) -> Iterator[str]:
        """What is still to be done, or was left behind: nothing once all is calm."""
        world = self._world
        yield from self._open_work()
        for cloud in world.clouds.values():
            known = {u.external_id for u in world.tree.uploads.values() if u.provider == cloud.name}
            for image in cloud.images.values():
                ours = image.properties.get(INSTALLATION) == world.installation_id
                if ours and not image.snapshot_mark and image.id not in known:
                    yield f"image {image.id} ({image.status}) in {cloud.name} has no record"
        for machine in world.machines:
            if machine.builder_id not in self.lost_disks:
                yield from self._stray_files(machine.builder_id, machine.config().images_dir)
        yield from self._missing()
        yield from self._disagreements()

    def _open_work(self) -> Iterator[str]:
        tree = self._world.tree
        for build in tree.builds.values():
            if build.state in (BuildState.BUILDING, BuildState.DELETING):
                yield f"build {build.id} of {build.image} is {build.state}"
        for upload in tree.uploads.values():
            if upload.state in (UploadState.UPLOADING, UploadState.DELETING):
                yield f"upload {upload.name} is {upload.state}"
            if upload.may_linger:
                yield f"upload {upload.name} may have left an image"
        for image, records in self._world.outside.snapshot().images.items():
            if records.request is not None:
                yield f"{image} has an open request: {records.request.why}"
            if records.cancellation is not None or records.upload_cancellations:
                yield f"{image} has a wish to cancel something"
            if records.build_claimed or records.uploads_claimed:
                yield f"{image} is claimed by somebody"

    def _stray_files(self, builder_id: str, images_dir) -> Iterator[str]:
        known = {
            build.id
            for build in self._world.tree.builds.values()
            if build.builder_id == builder_id and build.state is BuildState.READY
        }
        for file in sorted(images_dir.iterdir()) if images_dir.is_dir() else ():
            if file.name.rpartition(".")[0].rpartition("-")[2] not in known:
                yield f"the file {file.name} on {builder_id} belongs to no build"

    def _missing(self) -> Iterator[str]:
        """What is wanted and not there."""
        world, snapshot = self._world, self._world.outside.snapshot()
        for name in world.config.diskimages:
            records = snapshot.image(name)
            if newest_ready(records) is None:
                yield f"{name} has no ready build"
            for provider in world.config.providers_of(name):
                newest = newest_good(records, provider.name)
                wish = newest.wish(provider.name) if newest is not None else None
                if newest is None or (wish is not None and not wish.wanted):
                    continue
                states = {u.state for u in records.uploads_of(newest.id, provider.name)}
                if UploadState.READY not in states:
                    yield f"build {newest.id} of {name} is not in {provider.name}"

    def _disagreements(self) -> Iterator[str]:
        """Where record, history, cloud and nodepool's sense don't say the same of what serves."""
        world = self._world
        for name, image in world.config.diskimages.items():
            history = world.outside.history(name)
            for provider in world.config.providers_of(name):
                there = [
                    u for u in world.tree.uploads.values() if (u.image, u.provider) == (name, provider.name)
                ]
                ready = [upload for upload in there if upload.state is UploadState.READY]
                if (taken := picked(ready)) is None:
                    continue
                where = f"{name} in {provider.name}"
                if [u for u in there if u.serving is not None] != [taken]:
                    yield f"nodepool takes {taken.name} for {where}, and that is not what serves"
                if self._is_withheld(taken, 0.0) and not all(self._is_withheld(u, 0.0) for u in ready):
                    yield f"{taken.name} serves {where} although it is withheld"
                turns = history.get(provider.name, ())
                if [turn.upload for turn in turns if turn.until is None] != [taken.name]:
                    yield f"the history of {where} does not say that {taken.name} serves"
                yield from self._wrong_clouds(image, provider, ready, taken)

    def _wrong_clouds(
        self, image: DiskImage, provider: Provider, ready: list[Upload], taken: Upload
    ) -> Iterator[str]:
        cloud = self._world.clouds[provider.name]
        named = [each.id for each in cloud.images.values() if image.stable_name == each.name]
        if image.stable_name and named != [taken.external_id]:
            yield f"{named} in {cloud.name} have the name {image.stable_name}, not {taken.external_id}"
        for upload in ready:
            told = cloud.images.get(upload.external_id or "")
            if told is None:
                yield f"the image of {upload.name} is gone"
                continue
            if bool(told.properties.get(WITHHELD)) != self._is_withheld(upload, 0.0):
                yield f"image {told.id} in {cloud.name} tells {told.properties.get(WITHHELD)!r} of its build"
            if told.hidden != upload.hidden:
                yield f"image {told.id} in {cloud.name} is hidden, or not, against its record"
            if upload is taken and told.hidden:
                yield f"image {told.id} in {cloud.name} serves, and is hidden"

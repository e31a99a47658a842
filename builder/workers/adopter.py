"""The adopter gives builds that are done, but for the last word on their records, that last word.

What it works on is in `World.unsettled`. A build of this machine's last life is looked at first: only what
its own proof says was finished, and has the hashes on record there, is taken for done. Nobody builds the
image meanwhile, for the adopter holds its claim; while somebody else does, it waits. It keeps beside the
files, too, what their records say of them (beside.py).
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

from builder.config.model import Config
from builder.dib.contents import inputs
from builder.dib.output import artifacts, kept
from builder.dib.output.kept import Found
from builder.errors import RefusedError
from builder.model import Build, BuildState, Snapshot
from builder.workers.base import Pass, Worker, World
from builder.workers.beside import Beside
from builder.workers.building import conclude, delete_files
from builder.workers.settle import Ending, Settler
from builder.workers.unsettled import Open

LOG = logging.getLogger(__name__)


def look_back(world: World) -> None:
    """At the start: find what this machine's last life left of its builds.

    A build that was done, but for the last word, is kept for the adopter. The files of one that others have
    recorded as failed are deleted, unless they stay to be looked at, and so are those of one whose record is
    gone: who removed it took this machine for gone for good. What was broken off is the janitor's.
    """
    config, here = world.config(), world.identity
    delete_gone(world, config)
    lost = [
        build
        for build in world.store.snapshot().builds()
        if build.builder_id == here.builder_id and build.state in (BuildState.BUILDING, BuildState.FAILED)
    ]
    if not lost:
        return
    proven = {found.build_id: found for found in _finished(config, here.installation_id)}
    for build in lost:
        if build.id in proven and (build.state is BuildState.BUILDING or build.interrupted):
            hold = ExitStack()
            hold.enter_context(world.active.hold(build.id))
            world.unsettled.add(Open(record=build, known=False, hold=hold))
        elif build.state is BuildState.FAILED and build.kept is None:
            delete_files(world, config, build)


def delete_gone(world: World, config: Config) -> None:
    """Delete the files of builds whose records went while this machine counted as gone; only what is proven
    to be ours, and known to have had a record."""
    here = world.identity.installation_id
    there = _on_disk(config, here)
    gone = world.store.builds_gone() if there else {}
    for found in there:
        if found.build_id in gone:
            LOG.info("build %s of %s has no record any more: its files go", found.build_id, found.image)
            try:
                artifacts.delete(config.images_dir, found.image, found.build_id, here)
            except (RefusedError, OSError) as error:
                LOG.warning("files of build %s stay until the next start: %s", found.build_id, error)


def _finished(config: Config, installation_id: str) -> tuple[Found, ...]:
    """The builds on disk that have all they should have, as far as their proofs say."""
    return tuple(
        found
        for found in _on_disk(config, installation_id)
        if found.finished is not None
        and found.artifacts
        and {artifact.format for artifact in found.artifacts} <= set(found.formats)
    )


def _on_disk(config: Config, installation_id: str) -> tuple[Found, ...]:
    """The builds of this installation that have a proof."""
    try:
        there = kept.find(config.images_dir)
    except OSError as error:
        LOG.warning("the images directory can't be read: %s", error)
        return ()
    return tuple(found for found in there if found.installation_id == installation_id)


class Adopter(Worker):
    """Settles each open build as soon as its image is nobody else's."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._settler = Settler(world.store, world.stopping, at_home=world.at_home)
        self._beside = Beside(world)

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Settle what can be settled."""
        did = False
        for waiting in self.world.unsettled.all().values():
            # For as long as somebody builds it, each change of the tree would be another vain attempt.
            if not self.world.ending and not snapshot.image(waiting.record.image).build_claimed:
                did |= self._settle(config, waiting)
        return Pass(did=did, due=self._beside.keep(config, snapshot, now))

    def _settle(self, config: Config, waiting: Open) -> bool:
        """Settle one; False when somebody else was quicker, and when the daemon stops meanwhile."""
        claim = self.world.store.claim_image(waiting.record.image)
        if claim is None:
            return False
        with claim:
            final = waiting.record if waiting.known else self._look_at(config, waiting.record)
            ending = Ending.OVERRULED if final is None else self._settler.finish_build(final, claim)
            if ending in (Ending.TAKEN, Ending.UNKNOWN):
                return False
            if final is None:
                delete_files(self.world, config, waiting.record)
            else:
                conclude(self.world, config, final, ending)
        self.world.unsettled.discard(waiting.record.id)
        if ending is Ending.WRITTEN and final is not None and final.state is BuildState.READY:
            self.count_done()
        return True

    def _look_at(self, config: Config, record: Build) -> Build | None:
        """The last word on a build of the last life, None when its files are not what they should be."""
        proven = _finished(config, self.world.identity.installation_id)
        found = next((each for each in proven if each.build_id == record.id), None)
        if found is None:
            return None
        for artifact in found.artifacts:
            file = artifacts.path(config.images_dir, record.image, record.id, artifact.format)
            if wrong := artifacts.check(file, artifact, hashes=True):
                LOG.warning("build %s of %s was finished, but %s", record.id, record.image, wrong)
                return None
        LOG.info("build %s of %s had been finished, and its files are whole", record.id, record.image)
        return _ready(record, found, config, self.world.clock())


def _ready(record: Build, found: Found, config: Config, now: datetime) -> Build:
    known = inputs.read(artifacts.directory(config.images_dir, record.image, record.id))
    return replace(
        record,
        state=BuildState.READY,
        state_time=now,
        ended=found.finished,
        phase=None,
        reason=None,
        next_try=None,
        bytes_done=0,
        bytes_total=0,
        inputs=known.digests if known else {},
        # What holds it was written beside its files before these counted as whole.
        withheld=found.withheld or record.withheld,
        artifacts=found.artifacts,
        formats=tuple(sorted(artifact.format for artifact in found.artifacts)),
        raw_sha256=found.raw_sha256,
        raw_size=found.raw_size,
        tools=found.tools,
    )

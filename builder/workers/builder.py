"""The builder takes a request under the image's claim, builds, and records how it ended and why.

Which crash leaves what, step by step:
    after the claim                      nothing: the lock dies with the session
    after the record, before the end     `building` without a lock: the janitor fails it as
                                         interrupted, the request is still there and is taken again
    after the last word on the record    the request, which the record answers: it is withdrawn
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime

from builder.config.model import Config, DiskImage
from builder.dib import artifacts, engine, logfiles
from builder.errors import ActionFailedError
from builder.model import (
    Build,
    BuildPhase,
    BuildState,
    Failure,
    FailureClass,
    ImageRecords,
    Request,
    Snapshot,
)
from builder.planning.actions import Verdict
from builder.planning.builds import decide_build, decide_builds
from builder.store.base import Claim
from builder.workers.base import Pass, Worker, World, blame, earliest, unforeseen
from builder.workers.progress import Progress
from builder.workers.settle import Ending, Settler

LOG = logging.getLogger(__name__)


class Builder(Worker):
    """Builds one requested image per pass."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._settler = Settler(world.store, world.stopping)

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Take the first request that nobody else has."""
        asked = [d for d in decide_builds(config, snapshot, now) if snapshot.image(d.image).request]
        for decision in asked:
            if decision.verdict is not Verdict.NOW:
                continue
            # A thread of ours may build it still, although its claim was lost with a session.
            with self.world.active.hold(f"image {decision.image}") as free:
                if free and self._claim(config, config.diskimages[decision.image]):
                    return Pass(did=True)
        # The scheduler's clock may be ahead of ours: what it asked for is due here a moment later.
        return Pass(due=earliest(d.due for d in asked if d.verdict is Verdict.LATER))

    def _claim(self, config: Config, image: DiskImage) -> bool:
        claim = self.world.store.claim_image(image.name)
        if claim is None:
            return False
        with claim:
            return self._take(config, image, claim)

    def _take(self, config: Config, image: DiskImage, claim: Claim) -> bool:
        """Decide again on what is true under the claim, then build; whether there was anything to do."""
        store, now = self.world.store, self.world.clock()
        request = store.get_request(image.name)
        if request is None:
            return False
        builds = tuple(self._fail_abandoned(build, now) for build in store.list_builds(image.name))
        paused = self.world.store.snapshot().image(image.name).paused
        records = ImageRecords(name=image.name, builds=builds, request=request, paused=paused)
        decision = decide_build(image, records, config, now)
        if decision.verdict is not Verdict.NOW:
            return False
        LOG.info("%s: building: %s", image.name, decision.reason)
        self._build(config, image, request, claim)
        return True

    def _fail_abandoned(self, build: Build, now: datetime) -> Build:
        # We hold the image's claim, so nobody else can be building it: whoever wrote this is gone.
        if build.state is not BuildState.BUILDING:
            return build
        return self.world.store.update_build(abandoned(build, now))

    def _build(self, config: Config, image: DiskImage, request: Request, claim: Claim) -> None:
        world = self.world
        record = self._new_record(config, image, request)
        with world.active.hold(record.id):
            record = world.store.create_build(record)
            progress = Progress(record, world.store.update_build, world.clock)
            final = self._run(config, image, progress)
            ending = self._settler.finish_build(final, claim)
            if ending is Ending.OVERRULED or final.state is BuildState.FAILED:
                # Not when the ending is unknown: the record may say `ready`, and then it must be so.
                artifacts.delete(config.images_dir, image.name, record.id, world.identity.installation_id)
            if ending is Ending.WRITTEN and not _interrupted(final):
                world.store.withdraw_request(request)
            logfiles.prune(config.log_dir, image.name, config.log_retention)

    def _new_record(self, config: Config, image: DiskImage, request: Request) -> Build:
        now, build_id = self.world.clock(), uuid.uuid4().hex
        return Build(
            id=build_id,
            image=image.name,
            state=BuildState.BUILDING,
            state_time=now,
            builder=self.world.identity.hostname,
            builder_id=self.world.identity.builder_id,
            username=image.username,
            python_path=image.python_path,
            shell_type=image.shell_type,
            phase=BuildPhase.PREPARE,
            started=now,
            elements=image.elements,
            log=str(logfiles.path(config.log_dir, image.name, build_id)),
            request=request,
        )

    def _run(self, config: Config, image: DiskImage, progress: Progress[Build]) -> Build:
        """Run the build to its end; the last word on its record, whatever happens."""
        world, record = self.world, progress.record
        job = engine.Job(
            image=image,
            build_id=record.id,
            installation_id=world.identity.installation_id,
            images_dir=config.images_dir,
            work_dir=config.work_dir,
            cache_dir=config.cache_dir,
            log_path=logfiles.path(config.log_dir, image.name, record.id),
            elements_dirs=config.elements_dirs,
        )
        try:
            product = engine.run(job, on_phase=progress.phase, cancelled=world.stopping)
        except ActionFailedError as error:
            return self._failed(progress, error.failure or unforeseen(error, progress.record.phase))
        except Exception as error:
            # A bug or a broken disk: the record must say so all the same, or nobody ever learns.
            LOG.exception("build %s of %s broke", record.id, image.name)
            return self._failed(progress, unforeseen(error, progress.record.phase))
        now = world.clock()
        LOG.info("build %s of %s is ready", record.id, image.name)
        self.done += 1
        return progress.timed().become(
            BuildState.READY,
            now,
            ended=now,
            phase=None,
            artifacts=product.artifacts,
            formats=tuple(sorted(a.format for a in product.artifacts)),
            tools=product.tools,
        )

    def _failed(self, progress: Progress[Build], failure: Failure) -> Build:
        self.failures += 1
        failure = blame(failure, self.world.stopping)
        now = self.world.clock()
        record = progress.timed()
        LOG.error("build %s of %s failed: %s", record.id, record.image, failure.summary)
        return record.become(BuildState.FAILED, now, ended=now, reason=failure)


def _interrupted(build: Build) -> bool:
    return build.reason is not None and build.reason.failure_class is FailureClass.INTERRUPTED


def abandoned(build: Build, now: datetime) -> Build:
    """The record of a build whose builder went away: failed, as interrupted, due again at once."""
    return build.become(
        BuildState.FAILED,
        now,
        ended=now,
        reason=Failure(
            failure_class=FailureClass.INTERRUPTED,
            message=f"the builder {build.builder or 'of unknown name'} went away while it built",
            phase=build.phase,
        ),
    )

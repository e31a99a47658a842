"""Run one build under its claim, and keep its record true from the first word to the last."""

from __future__ import annotations

import logging
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from builder.config.model import Config, DiskImage
from builder.dib import cache, engine
from builder.dib.checks import space
from builder.dib.job import Job
from builder.dib.logs import logfiles
from builder.dib.output import artifacts
from builder.dib.product import Product
from builder.errors import (
    ActionFailedError,
    ConflictError,
    ImagepoolError,
    RefusedError,
    StoreUnavailableError,
)
from builder.model import Build, BuildPhase, BuildState, Failure, ImageRecords, Request
from builder.planning.builds import next_try, served
from builder.store.base import Claim
from builder.workers.base import World, unforeseen
from builder.workers.judging import Judge
from builder.workers.progress import BuildProgress
from builder.workers.settle import Ending, Settler
from builder.workers.stopping import BuildStop, severity
from builder.workers.unsettled import Open

LOG = logging.getLogger(__name__)

#: Phases whose build will take more disk than it has.
_GROWING: Final = frozenset(
    {BuildPhase.RENDER, BuildPhase.PREFLIGHT, BuildPhase.BOOTSTRAP, BuildPhase.PACKAGES}
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be built, for whom, and what is true under the claim."""

    config: Config
    image: DiskImage
    request: Request
    records: ImageRecords
    claim: Claim
    changes: tuple[str, ...] = ()  #: what is known to have changed since the build before


def job_for(world: World, task: Task, build_id: str) -> Job:
    """The engine's view of a task."""
    config = task.config
    return Job(
        image=task.image,
        build_id=build_id,
        installation_id=world.identity.installation_id,
        state_dir=config.state_dir,
        images_dir=config.images_dir,
        work_dir=config.work_dir,
        cache_dir=config.cache_dir,
        log_path=logfiles.path(config.log_dir, task.image.name, build_id),
        elements_dirs=config.elements_dirs,
        config_dir=config.path.parent,
        limits=config.build_limits,
        disk_reserve=config.disk_reserve,
        earlier=task.records.ready_builds,
        promised=_promised(world, build_id),
    )


def _promised(world: World, build_id: str) -> int:
    """Bytes of the work directory that this machine's other builds will still take.

    A build takes most of what it needs when it copies the tree into the image; from then on what it
    has is what it takes.
    """
    snapshot, active = world.store.snapshot(), world.active.names() - {build_id}
    growing = (b for b in snapshot.builds() if b.id in active and b.phase in _GROWING)
    return sum(space.needs((), snapshot.image(b.image).ready_builds).work for b in growing)


def build(world: World, settler: Settler, task: Task) -> Build:
    """Build, and write how it ended; the last word, whether or not it could be written."""
    record = _new_record(world, task)
    with ExitStack() as hold:
        hold.enter_context(world.active.hold(record.id))
        record = world.store.create_build(record)
        final = _run(world, task, BuildProgress(record, partial(_write, world), world.clock))
        ending = settler.finish_build(final, task.claim)
        if ending is Ending.TAKEN:
            LOG.warning("build %s has ended, and %s is somebody else's: it waits", final.id, final.image)
            world.unsettled.add(Open(record=final, known=True, hold=hold.pop_all()))
        else:
            conclude(world, task.config, final, ending)
    return final


def conclude(world: World, config: Config, final: Build, ending: Ending) -> None:
    """Do what follows from a build's end, once its last word is written or somebody else's holds."""
    known = world.store.snapshot().image(final.image)
    builds = (final, *(build for build in known.builds if build.id != final.id))
    request = final.request
    if ending is Ending.WRITTEN and request and served(replace(known, builds=builds), request):
        world.store.withdraw_request(request)
    _forget_cancellation(world, final)
    _tidy(world, config, final, ending)


def _write(world: World, record: Build) -> Build:
    """Put a running build on record; what people wished of it meanwhile stays there."""
    if not world.store.connected:
        # A request would wait for as long as the session lives, and the build with it.
        raise StoreUnavailableError("ZooKeeper can't be reached now")
    try:
        return world.store.update_build(record)
    except ConflictError:
        current = world.store.get_build(record.image, record.id)
        if current.state is not BuildState.BUILDING:
            raise  # somebody took the build for dead
        return world.store.update_build(record.over(current))


def _tidy(world: World, config: Config, record: Build, ending: Ending) -> None:
    """Take away what nobody needs any more; what can't be is told in the log, and the build is none
    the worse: the next start, or the next build, tries again."""
    image = record.image
    try:
        if ending is Ending.OVERRULED:
            # Not when the ending is unknown: the record may say `ready`, and then it must be so.
            artifacts.delete(config.images_dir, image, record.id, world.identity.installation_id)
        logfiles.prune(config.log_dir, image, keep=config.log_retention, limit=config.log_limit)
        cache.prune(config.cache_dir, config.cache_limit)
    except (ImagepoolError, OSError) as error:
        LOG.warning("after build %s of %s: %s", record.id, image, error)


def delete_files(world: World, config: Config, build: Build) -> None:
    """Take away what a build that went nowhere had published on this machine. What can't be is told in the
    log, and keeps nobody from building: the next start tries again."""
    if build.builder_id != world.identity.builder_id:
        return
    try:
        artifacts.delete(config.images_dir, build.image, build.id, world.identity.installation_id)
    except (RefusedError, OSError) as error:
        LOG.warning("files of the failed build %s stay until the next start: %s", build.id, error)


def _new_record(world: World, task: Task) -> Build:
    now, build_id, image = world.clock(), uuid.uuid4().hex, task.image
    return Build(
        id=build_id,
        image=image.name,
        state=BuildState.BUILDING,
        state_time=now,
        builder=world.identity.hostname,
        builder_id=world.identity.builder_id,
        username=image.username,
        python_path=image.python_path,
        shell_type=image.shell_type,
        phase=BuildPhase.RENDER,
        started=now,
        elements=image.elements,
        log=str(logfiles.path(task.config.log_dir, image.name, build_id)),
        request=task.request,
        changes=task.changes,
    )


def _run(world: World, task: Task, progress: BuildProgress) -> Build:
    """Run the build to its end; the last word on its record, whatever happens."""
    record = progress.record
    job = job_for(world, task, record.id)
    judge = Judge(world, task.config, task.image, task.records, progress)
    try:
        stop = BuildStop(world, lambda: progress.record, task.records)
        product = engine.run(
            job,
            on_phase=progress.phase,
            on_bytes=progress.bytes,
            on_disk=progress.disk,
            on_artifact=progress.artifact,
            on_test=progress.tested,
            judge=judge,
            stop=stop,
        )
    except ActionFailedError as error:
        failed = _failed(world, task, progress, error.failure or unforeseen(error, progress.record.phase))
        return _with_files(world, task, judge, failed) if judge.has_failed else failed
    except Exception as error:
        # A bug or a broken disk: the record must say so all the same, or nobody ever learns.
        LOG.exception("build %s of %s broke", record.id, record.image)
        return _failed(world, task, progress, unforeseen(error, progress.record.phase))
    ready = _ready(world, progress, product)
    LOG.info("build %s of %s is %s", record.id, record.image, "held" if ready.hold else "ready")
    return ready


def _ready(world: World, progress: BuildProgress, product: Product) -> Build:
    now, record = world.clock(), progress.timed()
    return record.become(
        BuildState.READY,
        now,
        ended=now,
        phase=None,
        bytes_done=0,
        bytes_total=0,
        timings={**record.timings, **product.timings},
        inputs=product.inputs,
        work_bytes=product.work_bytes,
        artifacts=product.artifacts,
        formats=tuple(sorted(artifact.format for artifact in product.artifacts)),
        raw_sha256=product.disk.sha256 if product.disk else None,
        raw_size=product.disk.size if product.disk else None,
        tools=product.tools,
    )


def _failed(world: World, task: Task, progress: BuildProgress, failure: Failure) -> Build:
    now, record = world.clock(), progress.timed()
    LOG.log(severity(failure), "build %s of %s failed: %s", record.id, record.image, failure.summary)
    # Files that were there before the end are not any more, and there is nothing to decide on.
    undecided = record.without_hold()
    failed = undecided.become(BuildState.FAILED, now, ended=now, reason=failure, artifacts=())
    snapshot = world.store.snapshot().with_image(task.records)
    return replace(failed, next_try=next_try(task.image, snapshot, failed, task.config, now))


def _with_files(world: World, task: Task, judge: Judge, failed: Build) -> Build:
    """A build that failed over budget, and where its files stay; else they go."""
    kept = judge.kept()
    if kept is None:
        delete_files(world, task.config, failed)
    return replace(failed, kept=kept)


def _forget_cancellation(world: World, build: Build) -> None:
    """Take away the wish that the build ends, now that it has; the janitor does it if we can't."""
    try:
        world.store.withdraw_cancellation(build.image, build.id)
    except StoreUnavailableError as error:
        LOG.info("the wish to cancel build %s stays for now: %s", build.id, error.message)

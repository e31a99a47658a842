"""Run one build from the diskimage to published artifacts, and leave nothing else behind.

This is the order of its steps, and says of what fails where it was; `preparing` and `finishing` have the
steps before and after diskimage-builder's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from builder.dib import preparing, tools
from builder.dib.contents import unchanged
from builder.dib.contents.unchanged import Comparison
from builder.dib.failures import failure_of, usable
from builder.dib.finishing import Finishing, Told
from builder.dib.isolation import cgroups, sandbox
from builder.dib.job import Job, render
from builder.dib.limits import Limits, Stop
from builder.dib.logs.log import LogFile, Output
from builder.dib.logs.reasons import Reader
from builder.dib.output import artifacts
from builder.dib.output.hashing import Disk
from builder.dib.product import Finished, Judgement, Product, Work
from builder.errors import ActionFailedError, ImagepoolError
from builder.model import Artifact, BootResult, Build, BuildPhase, Failure, FailureClass

LOG = logging.getLogger(__name__)

#: Seconds that disk-image-create gets to clean up after TERM. What it does not, we do.
GRACE: Final = 8.0
#: Of whoever has no budgets: whatever was made is good.
GOOD: Final = Judgement()
_IN_DIB: Final = frozenset({BuildPhase.BOOTSTRAP, BuildPhase.PACKAGES, BuildPhase.IMAGE, BuildPhase.FINALISE})


def run(
    job: Job,
    *,
    on_phase: Callable[[BuildPhase], None],
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    on_disk: Callable[[Disk], None] = lambda disk: None,
    on_artifact: Callable[[Artifact], None] = lambda artifact: None,
    on_test: Callable[[BootResult], None] = lambda result: None,
    judge: Callable[[Finished], Judgement] = lambda finished: GOOD,
    stop: Stop,
) -> Product:
    """Build, convert, hash, describe, test, have it judged, and publish.

    `on_phase` is told each phase as it begins, `on_bytes` how much of it is done where bytes can be
    counted, `on_disk` what all files will have in them, and after it `on_artifact` each file as soon as it
    is in the images directory, while others are still made, or, where the image must prove itself first, once
    it has; `on_test` what came of booting it, also when that is what ends the build: all on this thread.
    `judge` is asked on it what becomes of all that was made and measured, before anything is told of an image
    that has budgets to keep to. `stop` is asked from any thread whether to go on.

    Call it on a thread that outlives it: disk-image-create dies with the thread. Raises
    ActionFailedError, with the Failure, for whatever ends the build: a failing step, a full disk,
    a missing tool, the diskimage's build-timeout, `stop`. What the callbacks raise passes through. In
    every case the build's work directory, devices and processes are gone by then, and only a build
    that succeeded, or that `judge` failed, still has files in the images directory: those of the latter are
    never whole by their proof.
    """
    return _Run(job, Told(on_phase, on_bytes, on_disk, on_artifact, on_test, judge), stop).run()


def compare(job: Job, last: Build, *, here: bool, stop: Stop) -> Comparison:
    """Whether the build of `job` would come out as `last` did; see `unchanged.compare`.

    `here`: the files of `last` are this machine's. What keeps a build from being rendered is in `unknown`
    as well: the build itself will fail with it.
    """
    records = artifacts.directory(job.images_dir, last.image, last.id) if here else None
    nowhere = job.work_dir / last.id
    try:
        wanted = unchanged.CompareJob(
            image=job.image,
            rendered=render(job, output=nowhere, work_dir=nowhere),
            key=preparing.secret_key(job),
            last=last,
            records=records,
            cache_dir=job.cache_dir,
        )
    except (ImagepoolError, OSError) as error:
        return Comparison(same=False, unknown=failure_of(error).message)
    return unchanged.compare(wanted, stop)


class _Run:
    def __init__(self, job: Job, told: Told, stop: Stop) -> None:
        self._job = job
        self._told = told
        self._limits = Limits(stop=stop, allowed=job.image.build_timeout.total_seconds())
        self._reader = Reader()
        self._phase: BuildPhase | None = None
        self._started = datetime.now(UTC)
        self._began = time.monotonic()

    def run(self) -> Product:
        ending = "imagepool: the build was broken off"
        log = self._open_log()
        try:
            product = self._build(log)
            ending = f"imagepool: the build is done after {time.monotonic() - self._began:.0f} s"
            return product
        except (ImagepoolError, OSError) as error:
            failure = self._located(failure_of(error))
            for line in failure.lines:
                LOG.debug("build %s: %s", self._job.build_id, line)
            ending = f"imagepool: the build failed: {failure.summary}"
            raise ActionFailedError(failure.summary, failure) from error
        finally:
            log.close(ending)
            if log.broken is not None:
                LOG.warning("the log of build %s is not whole: %s", self._job.build_id, log.broken)

    def _open_log(self) -> LogFile:
        try:
            with usable("build-log-dir", self._job.log_path.parent):
                return LogFile(self._job.log_path)
        except (ImagepoolError, OSError) as error:
            failure = self._located(failure_of(error))
            raise ActionFailedError(failure.summary, failure) from error

    def _build(self, log: LogFile) -> Product:
        self._enter(BuildPhase.RENDER)
        # Before anything is made that only they could take away again.
        tools.require()
        with preparing.work_directory(self._job) as place:
            work = preparing.prepare(self._job, place)
            preparing.introduce(log, self._job, work)
            self._enter(BuildPhase.PREFLIGHT)
            preparing.check(self._job, work, self._limits)
            with preparing.caches(self._job, work.rendered, self._limits):
                self._create(work, log)
            return self._finish(work, log)

    # -- steps --------------------------------------------------------------------------------

    def _create(self, work: Work, log: LogFile) -> None:
        child = sandbox.start(
            work.rendered.argv,
            env=work.rendered.environment,
            workspace=work.space,
            on_line=Output(self._reader, log, work.mask).take,
            limits=self._job.limits,
        )
        code = self._limits.watch(child, grace=GRACE, on_look=self._follow)
        self._follow()
        if code != 0:
            failure = self._reader.diagnose(code, oom_killed=cgroups.ran_out_of_memory(work.space))
            raise ActionFailedError(failure.summary, failure)
        if not work.raw.is_file():
            message = "disk-image-create reported success but made no image"
            raise ActionFailedError(
                message,
                Failure(failure_class=FailureClass.UNKNOWN, message=message, lines=self._reader.tail),
            )

    def _finish(self, work: Work, log: LogFile) -> Product:
        told = replace(self._told, on_phase=self._enter)
        return Finishing(self._job, work, told, self._limits, log, started=self._started).run()

    # -- phases -------------------------------------------------------------------------------

    def _follow(self) -> None:
        # Lines are read on another thread; the phase is told on ours, where it may raise.
        if self._reader.phase is not None:
            self._enter(self._reader.phase)

    def _enter(self, phase: BuildPhase) -> None:
        if phase is not self._phase:
            self._phase = phase
            self._told.on_phase(phase)

    def _located(self, failure: Failure) -> Failure:
        """The failure with where the build was, as far as it does not say so itself."""
        in_dib = self._phase in _IN_DIB
        return replace(
            failure,
            phase=failure.phase or self._phase,
            step=failure.step or (self._reader.step if in_dib else None),
            lines=failure.lines or (self._reader.tail if in_dib else ()),
        )

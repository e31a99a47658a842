"""Judges one finished build by the budgets of its diskimage: it goes on, is held, or fails."""

from __future__ import annotations

import logging
from dataclasses import replace

from builder.config.model import Config, DiskImage
from builder.dib.checks import space
from builder.dib.output import artifacts
from builder.dib.product import Finished, Judgement
from builder.errors import RefusedError, StoreUnavailableError
from builder.model import (
    BudgetAction,
    BudgetCheck,
    Build,
    BuildPhase,
    Failure,
    FailureClass,
    ImageRecords,
    Withholding,
)
from builder.planning.actions import IMAGEPOOL
from builder.planning.budgets import judge, last_good, sentence, worst
from builder.workers.base import World
from builder.workers.progress import BuildProgress

LOG = logging.getLogger(__name__)


class Judge:
    """What the engine asks when a build has all it is measured by; puts what comes of it on record."""

    def __init__(
        self, world: World, config: Config, image: DiskImage, records: ImageRecords, progress: BuildProgress
    ) -> None:
        """`records` are those of the image when the build was begun."""
        self._world = world
        self._config = config
        self._image = image
        self._records = records
        self._progress = progress
        self._failed: Build | None = None  #: with its files, if it fails

    def __call__(self, finished: Finished) -> Judgement:
        """What becomes of it. The word that holds it is written beside its files, and goes on record with the
        next phase: whichever of both a crash leaves, the build goes nowhere."""
        now, record = self._world.clock(), self._progress.record
        measured = replace(record, artifacts=finished.artifacts, measures=finished.measures, ended=now)
        checks = judge(self._image.budgets, measured, last_good(self._known(), record))
        action = worst(checks)
        hold = None
        if action is BudgetAction.HOLD:
            hold = Withholding(provider=None, by=IMAGEPOOL, time=now, why=sentence(checks), held=True)
        self._progress.judged(finished.measures, checks, hold)
        if action is not None:
            LOG.warning("build %s of %s (%s) is %s", record.id, record.image, action, sentence(checks))
        failure = _failure(checks) if action is BudgetAction.FAIL else None
        self._failed = measured if failure is not None else None
        return Judgement(withheld=(hold,) if hold is not None else (), failure=failure)

    def kept(self) -> str | None:
        """The directory beside which the files of a build that fails over budget can stay, to be looked at:
        only while the disk has room for as much again. None when they are to go, or it did not fail so."""
        build = self._failed
        if build is None:
            return None
        images_dir = self._config.images_dir
        try:
            taken = sum(space.on_disk(images_dir, [build]).values())
            free = space.file_system(images_dir).free
            if not taken:
                return None  # what broke after it was judged has taken them away
            if free < taken + self._config.disk_reserve:
                LOG.info("the files of build %s go: there is no room for as much again", build.id)
                return None
            return str(artifacts.directory(images_dir, build.image, build.id))
        except (RefusedError, OSError) as error:
            LOG.warning("the files of build %s go: %s", build.id, error)
            return None

    @property
    def has_failed(self) -> bool:
        """Whether the build fails over budget, and has left its files."""
        return self._failed is not None

    def _known(self) -> ImageRecords:
        """What is known now: the last good build may have been put in quarantine while this one was made. A
        tree that does not have this one either has lost its records, and tells nothing."""
        try:
            known = self._world.store.snapshot().image(self._image.name)
        except StoreUnavailableError:
            return self._records
        return self._records if known.build(self._progress.record.id) is None else known


def _failure(checks: tuple[BudgetCheck, ...]) -> Failure:
    failing = [check for check in checks if check.over is BudgetAction.FAIL]
    return Failure(
        failure_class=FailureClass.TEST,
        message=sentence(failing),
        phase=BuildPhase.TEST,
        step=f"budget {failing[0].measure}",
        lines=tuple(check.sentence for check in checks),
    )

"""Do all that is due now and stop: what `imagepool run --once` does instead of running the workers' loops."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from builder.workers.adopter import Adopter
from builder.workers.base import Worker, World
from builder.workers.builder import Builder
from builder.workers.janitor import Janitor
from builder.workers.keeper import Keeper
from builder.workers.notifier import Notifier
from builder.workers.promoter import Promoter
from builder.workers.scheduler import Scheduler
from builder.workers.uploader import Uploader

LOG = logging.getLogger(__name__)

#: The order of a round: each stage finds what the one before it made due.
STAGES: Final = (Keeper, Adopter, Scheduler, Builder, Uploader, Promoter, Notifier, Janitor)


def run_once(workers: Sequence[Worker], world: World) -> int:
    """Round after round until one has nothing to do; the exit code, 1 if anything failed.

    The workers of a stage work side by side. Their store has to read the tree anew each time, for
    a snapshot that lags would end a round too early. Raises what a pass raised.
    """
    stages = [[worker for worker in workers if isinstance(worker, role)] for role in STAGES]
    busy = True
    while busy and not world.ending:
        busy = False
        for stage in stages:
            busy |= _run_stage(stage)
    done, failed = sum(worker.done for worker in workers), sum(worker.failures for worker in workers)
    LOG.info("nothing more is due: %d builds and uploads done, %d failures", done, failed)
    return 1 if failed or world.ending else 0


def _run_stage(stage: Sequence[Worker]) -> bool:
    """The workers of a stage until each finds nothing to do; whether any did something."""
    with ThreadPoolExecutor(max_workers=max(1, len(stage)), thread_name_prefix="once") as pool:
        ended = [pool.submit(_exhaust, worker) for worker in stage]
    results = [future.result() for future in ended]
    return any(results)


def _exhaust(worker: Worker) -> bool:
    did = False
    while not worker.world.ending and worker.step().did:
        did = True
    return worker.drain() or did

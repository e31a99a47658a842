"""A simulated installation: machines, clouds, a tree and a configuration, and what is broken in them.

with simulated(root, seed=7) as world:
    world.machine("nb01").start()
    world.run(hours=3)
    world.promises.check()
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.cloud import transfer
from builder.cloud.transfer import removal
from builder.cloudimage import INSTALLATION, CloudImage, GlanceStatus
from builder.config.model import Config, DiskImage, Provider, ProviderImage, RetryPolicy, ScheduleEntry
from builder.dib.output import artifacts
from builder.errors import ActionFailedError
from builder.model import Artifact, Failure, FailureClass, ImageFormat
from builder.workers import builder as builder_module
from builder.workers import building, files, uploading
from tests.simulation.cloud import Pace, SimCloud
from tests.simulation.daemon import Machine
from tests.simulation.engine import SimEngine
from tests.simulation.kernel import EPOCH, Crash, Kernel
from tests.simulation.promises import Promises
from tests.simulation.store import SimStore, SimTree

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0
#: Seconds between two looks of somebody who waits for an answer; fewer make it quicker to simulate.
LOOK = 1.0


class Simulation:
    """Everything there is."""

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 0,
        images: int = 2,
        providers: int = 2,
        machines: int = 2,
        pace: Pace | None = None,
        **settings: Any,
    ) -> None:
        self.root = root
        self.kernel = Kernel(seed)
        self.tree = SimTree(now=self.kernel.clock)
        self.engine = SimEngine(self.kernel)
        self.config = configuration(root, images, providers, **settings)
        self.clouds = {
            name: SimCloud(self.kernel, name, replace(pace or Pace())) for name in self.config.providers
        }
        self.machines = [self._machine(f"nb{number:02}") for number in range(1, machines + 1)]
        #: How somebody beside all daemons sees and changes the tree: a command, nodepool, the test.
        self.outside = SimStore(self.tree, self.kernel)
        self.installation_id = self.outside.installation_id()
        self.promises = Promises(self)

    def _machine(self, name: str) -> Machine:
        return Machine(
            self.kernel,
            self.tree,
            self.clouds,
            lambda: self.config,
            name=name,
            root=self.root / name,
        )

    def run(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Let time pass."""
        self.kernel.run(seconds + minutes * MINUTE + hours * HOUR + days * DAY)

    def start(self) -> None:
        """Start every daemon that does not run."""
        for machine in self.machines:
            machine.start()

    def calm(self, config: Config) -> None:
        """Mend all that is broken, take back all that was stopped, and start every daemon."""
        self.config = config
        self.engine.fails, self.engine.unchanged = (lambda image: 0.0), 0.0
        self.engine.packages = lambda: 300.0
        for cloud in self.clouds.values():
            cloud.trouble, cloud.lose_answers = None, 0
            cloud.in_use.clear()
        for image in self.outside.snapshot().images:
            self.outside.unpause(image)
        for provider in self.clouds:
            self.outside.unpause_provider(provider)
        self.outside.unfreeze()
        self.promises.note_word()
        for machine in self.machines:
            machine.skew, machine.unfit = timedelta(), None
            if machine.life is not None and machine.life.alive:
                machine.life.store.lose_answers = 0
                machine.life.crash_in = None
                if machine.life.draining.is_set():
                    machine.crash()
        self.run(minutes=1)
        self.start()

    def foreign_images(self) -> None:
        """Put images into each cloud that imagepool may never touch."""
        for cloud in self.clouds.values():
            for name, properties in (
                ("somebody-elses", {}),
                ("another-installation", {INSTALLATION: "f" * 32}),
                ("snapshot", {INSTALLATION: self.installation_id, "image_type": "snapshot"}),
            ):
                image_id = f"{name}-{cloud.name}"
                cloud.images[image_id] = CloudImage(
                    id=image_id,
                    name=name,
                    status=GlanceStatus.ACTIVE,
                    size=1,
                    hash_algorithm=None,
                    hash_value=None,
                    checksum=None,
                    visibility="private",
                    properties=properties,
                    created=EPOCH,
                )


def configuration(
    root: Path, images: int, providers: int, *, schedule: Sequence[str] = ("14 14 * * *",), **settings: Any
) -> Config:
    """So many diskimages, each in so many providers, with retries that are done within a day."""
    names = [f"image-{number}" for number in range(1, images + 1)]
    entries = tuple(ScheduleEntry(text=text, cron=text) for text in schedule)
    basic = Config(
        path=root / "imagepool.yaml",
        state_dir=root,
        images_dir=root / "images",
        work_dir=root / "work",
        cache_dir=root / "cache",
        log_dir=root / "logs",
        diskimages={
            name: DiskImage(name=name, elements=("vm",), formats=(ImageFormat.RAW,), schedule=entries)
            for name in names
        },
        providers={
            name: Provider(
                name=name,
                cloud="simulated",
                region=name,
                image_format=ImageFormat.RAW,
                max_uploads=2,
                images={image: ProviderImage(diskimage=image) for image in names},
            )
            for name in (f"region-{number}" for number in range(1, providers + 1))
        },
        build_retry=RetryPolicy(first=timedelta(minutes=1), longest=timedelta(hours=1), limit=50),
        upload_retry=RetryPolicy(first=timedelta(seconds=30), longest=timedelta(hours=1), limit=50),
    )
    return replace(basic, **settings)


# -- what is real, and what is not ----------------------------------------------------------------


class _Judge(logging.Handler):
    """Whatever the code under test did not foresee is a flaw."""

    def __init__(self, promises: Promises) -> None:
        super().__init__(logging.ERROR)
        self._promises = promises

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] and not isinstance(record.exc_info[1], Crash):
            told = "".join(traceback.format_exception(record.exc_info[1])[-6:])
            self._promises.breaks(f"nobody foresaw this: {record.getMessage()}\n{told}")


@contextmanager
def simulated(root: Path, **how: Any) -> Iterator[Simulation]:
    """A simulation; while the block runs, the code under test lives in its time."""
    world = Simulation(root, **how)
    with pytest.MonkeyPatch.context() as patch:
        _put_into_simulated_time(patch, world)
        judge, log = _Judge(world.promises), logging.getLogger("builder")
        log.addHandler(judge)
        try:
            yield world
        finally:
            log.removeHandler(judge)
            for machine in world.machines:
                machine.crash()
            world.kernel.run(0.0)


def _put_into_simulated_time(patch: pytest.MonkeyPatch, world: Simulation) -> None:
    kernel = world.kernel
    shims = kernel.shims()
    ids = SimpleNamespace(uuid4=lambda: uuid.UUID(int=kernel.random.getrandbits(128), version=4))
    for name, module in list(sys.modules.items()):
        if name.startswith(("builder.workers", "builder.bounded", "builder.cloud.transfer")):
            for attribute, real in (("time", time), ("threading", threading)):
                if getattr(module, attribute, None) is real:
                    patch.setattr(module, attribute, shims[attribute])
            for attribute in {"wait", "Future"} & vars(module).keys():
                patch.setattr(module, attribute, shims[attribute])
        if name.startswith(("builder.workers", "tests.fakes.cloud")) and hasattr(module, "uuid"):
            patch.setattr(module, "uuid", ids)
    patch.setattr(sys.modules["builder.bounded"], "_LOOK", LOOK)
    # Their defaults were bound to the real time when they were made.
    clocked = functools.partial(transfer.upload, clock=lambda: kernel.now, sleep=kernel.sleep)
    patched = SimpleNamespace(**{**vars(transfer), "upload": clocked, "discard": _discard(kernel)})
    patch.setattr(uploading, "transfer", patched)
    for module in (building, builder_module):
        patch.setattr(module, "engine", world.engine)
    patch.setattr(files, "inspect", SimpleNamespace(check=_check_file))
    # A power cut is simulated only between two steps of a daemon, so nothing has to be on disk.
    patch.setattr(artifacts, "_sync", lambda file: None)


def _discard(kernel: Kernel) -> Any:
    return functools.partial(removal.discard, sleep=kernel.sleep)


def _check_file(path: Path, artifact: Artifact, image_format: ImageFormat) -> None:
    """What `inspect.check` finds out with qemu-img."""
    if wrong := artifacts.check(path, artifact):
        raise ActionFailedError(wrong, Failure(failure_class=FailureClass.DISK, message=wrong))


__all__ = ["DAY", "HOUR", "MINUTE", "UTC", "Simulation", "configuration", "simulated"]

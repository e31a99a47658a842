"""A machine and the daemons that live on it, one after the other, with the real workers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cloud.transfer import Limiter
from builder.config.model import Config, Provider
from builder.model import Daemon
from builder.ways import Capabilities
from builder.workers.adopter import Adopter, look_back
from builder.workers.base import Active, Identity, Worker, World
from builder.workers.builder import Builder
from builder.workers.fitness import Fitness
from builder.workers.janitor import Janitor
from builder.workers.keeper import Keeper
from builder.workers.leaks import LeakSweeper
from builder.workers.presence import Presence
from builder.workers.promoter import Promoter
from builder.workers.scheduler import Scheduler
from builder.workers.uploader import Uploader
from tests.simulation.cloud import SimCloud
from tests.simulation.kernel import Crash, Kernel, SimEvent
from tests.simulation.store import SimStore, SimTree

if TYPE_CHECKING:
    from builder.cloud.base import Cloud

#: Below the code under test, whose log is judged.
LOG = logging.getLogger("builder.simulated")
#: Seconds after which the server gives up the session of a daemon that died.
SESSION_TIMEOUT = 10.0


class Machine:
    """What survives a daemon: its name, its files, its clock."""

    def __init__(
        self,
        kernel: Kernel,
        tree: SimTree,
        clouds: Mapping[str, SimCloud],
        config: Callable[[], Config],
        *,
        name: str,
        root: Path,
        roles: tuple[str, ...] = ("scheduler", "builder", "uploader", "janitor"),
    ) -> None:
        self.kernel = kernel
        self.tree = tree
        self.clouds = clouds
        self.name = name
        self.builder_id = f"id-of-{name}"
        self.root = root
        self.roles = roles
        self.disks = 1
        self.skew = timedelta()
        self.unfit: str | None = None
        self.life: Life | None = None
        self.interleave = 0.1  #: how often others come first where they may
        self._config = config

    def config(self) -> Config:
        """The configuration in force, with this machine's own directories."""
        return self.placed(self._config())

    def placed(self, config: Config) -> Config:
        """The same object for the same configuration, as a daemon has it."""
        known = getattr(self, "_placed", None)
        if known is None or known[0] is not config:
            directories = {
                "state_dir": self.root,
                "images_dir": self.root / "images",
                "work_dir": self.root / "work",
                "cache_dir": self.root / "cache",
                "log_dir": self.root / "logs",
            }
            known = self._placed = (config, replace(config, **directories))
        return known[1]

    @property
    def up(self) -> bool:
        """Whether a daemon runs."""
        return self.life is not None and self.life.alive

    def clock(self) -> datetime:
        """What this machine takes for the time."""
        return self.kernel.clock() + self.skew

    def start(self) -> None:
        """Start a daemon, unless one runs."""
        if not self.up:
            self.life = Life(self)

    def lose_disk(self) -> None:
        """Whatever was on it is gone."""
        shutil.rmtree(self.root, ignore_errors=True)

    def new_disk(self) -> None:
        """An empty one, whose files are another builder's."""
        self.disks += 1
        self.builder_id = f"id-of-{self.name}-{self.disks}"

    def crash(self) -> None:
        """The power is cut."""
        if self.life is not None and self.life.alive:
            self.life.crash()


class Life:
    """One daemon from its start to its end; the owner of its tasks."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self.alive = True
        self.crash_in: int | None = None  #: so many moments from now
        self.store = SimStore(machine.tree, machine.kernel, self)
        self.workers: tuple[Worker, ...] = ()
        self.draining = SimEvent(self.kernel)
        self.stopping = SimEvent(self.kernel)
        self.ended = 0  #: workers that have come to their end by themselves
        self.kernel.spawn(self._begin, self, f"{machine.name}/start")

    def clock(self) -> datetime:
        """What this machine takes for the time."""
        return self.machine.clock()

    # -- dying --------------------------------------------------------------------------------

    def check(self) -> None:
        """Crash when this daemon is dead."""
        if not self.alive:
            raise Crash

    def moment(self, what: str) -> None:
        """A moment at which the daemon may die, or others may come first."""
        self.check()
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crash()
                raise Crash
        if self.kernel.random.random() < self.machine.interleave:
            self.kernel.give_way()
        self.check()

    def crash(self) -> None:
        """All of its tasks end where they are; its session outlives it for a while."""
        self.alive = False
        self.kernel.kill(self)
        self.kernel.later(SESSION_TIMEOUT, self.store.end)

    def stop(self) -> None:
        """As SIGTERM: let short work end, then cut the rest."""
        self.draining.set()
        self.store.wake()
        grace = self.machine.config().shutdown_grace.total_seconds()
        self.kernel.later(grace, self._cut)

    def _cut(self) -> None:
        self.stopping.set()
        self.store.wake()

    # -- living -------------------------------------------------------------------------------

    def _begin(self) -> None:
        machine = self.machine
        config = machine.config()
        config.images_dir.mkdir(parents=True, exist_ok=True)
        identity = Identity(
            hostname=machine.name,
            builder_id=machine.builder_id,
            installation_id=self.store.installation_id(),
        )
        daemon = Daemon(
            hostname=machine.name,
            roles=machine.roles,
            version="1",
            started=machine.clock(),
            builder_id=machine.builder_id,
            labels=config.builder_labels,
            build_workers=config.build_workers,
        )
        world = World(
            store=self.store,
            identity=identity,
            config=machine.config,
            cloud=self._cloud,
            capabilities=self._capabilities,
            known_capabilities=lambda _: dict(self._told),
            limiter=Limiter(None),
            clock=machine.clock,
            active=Active(),
            presence=Presence(self.store, daemon),
            fitness=Fitness(lambda _: machine.unfit),
            draining=self.draining,  # type: ignore[arg-type]
            stopping=self.stopping,  # type: ignore[arg-type]
        )
        self._told: dict[str, Capabilities] = {}
        world.presence.show()
        look_back(world)
        self.workers = tuple(self._workers(world, config))
        for worker in self.workers:
            self.kernel.spawn(self._running(worker), self, f"{machine.name}/{worker.name}")

    def _workers(self, world: World, config: Config) -> list[Worker]:
        roles = self.machine.roles
        workers: list[Worker] = [Keeper(world, "keeper", where="simulated"), Adopter(world, "adopter")]
        if "scheduler" in roles:
            workers.append(Scheduler(world, "scheduler"))
        if "builder" in roles:
            workers += [Builder(world, f"builder-{n}") for n in range(config.build_workers)]
        if "uploader" in roles:
            workers += [Uploader(world, "uploader"), Promoter(world, "promoter")]
        if "janitor" in roles:
            workers += [Janitor(world, "janitor"), LeakSweeper(world, "leaks")]
        return workers

    def _running(self, worker: Worker) -> Callable[[], None]:
        def run() -> None:
            try:
                worker.run()
            except Exception:
                LOG.exception("%s died", worker.name)
            self.ended += 1
            if self.ended == len(self.workers):
                self.alive = False
                self.store.end()

        return run

    def _cloud(self, provider: Provider) -> Cloud:
        return self.machine.clouds[provider.name]

    def _capabilities(self, provider: Provider) -> Capabilities:
        told = self._told.get(provider.name)
        if told is None:
            told = self._told[provider.name] = self.machine.clouds[provider.name].capabilities()
        return told

"""The daemon: wires configuration, store, clouds and workers, and owns their threads.

It alone names the concrete parts (ZooKeeperStore, EmbeddedZooKeeper, OpenStackCloud). Its main
thread does nothing but wait for a signal or a changed configuration; everything else happens in
the workers.

The first signal to stop lets what runs end, as far as it can within `shutdown-grace`, and nothing begins any
more; the second one, or the end of that time, cuts it. Stopping is safe at any moment: what does not
end in time is found and cleaned up by the next start, exactly as after a crash.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import builder
from builder import signals
from builder.cloud import openstack
from builder.cloud.pool import CloudPool
from builder.cloud.transfer import Limiter
from builder.config.model import BOOT_TEST_LABEL, Config
from builder.config.sources import files_of
from builder.config.watch import ConfigWatch
from builder.dib import tools
from builder.dib.boot import program
from builder.dib.isolation import workspace
from builder.dib.logs import logfiles
from builder.errors import StoreUnavailableError, UsageError
from builder.host import architectures, host_name
from builder.inforce import Configuration
from builder.metrics import statsd
from builder.metrics.base import Sink
from builder.model import Daemon
from builder.serving.server import ArtifactServer
from builder.store import embedded
from builder.store.answering import AnswerServer
from builder.store.wire import SERVERS_VARIABLE
from builder.store.zookeeper import ZooKeeperStore
from builder.workers import statedir
from builder.workers.adopter import Adopter, look_back
from builder.workers.base import Active, Identity, Worker, World
from builder.workers.builder import Builder
from builder.workers.fitness import Fitness
from builder.workers.janitor import Janitor
from builder.workers.keeper import Keeper
from builder.workers.leaks import LeakSweeper
from builder.workers.meter import Meter
from builder.workers.notifier import Notifier
from builder.workers.once import run_once
from builder.workers.presence import Presence
from builder.workers.promoter import Promoter
from builder.workers.scheduler import Scheduler
from builder.workers.uploader import Uploader

LOG = logging.getLogger(__name__)

ROLES: Final = ("scheduler", "builder", "uploader", "janitor")
#: Seconds for the workers to give their work back once it is cut; then they are left.
CUT_GRACE: Final = 30.0
#: Seconds between two tries to reach ZooKeeper at the start.
CONNECT_PAUSE: Final = 5.0
#: Seconds for a watch to tell of what we have just written; in vain, the workers wait for it.
HOME_PATIENCE: Final = 5.0
#: Seconds for the session of a daemon that has died to time out; ZooKeeper grants no more than 40 by default.
TWIN_PATIENCE: Final = 45.0
#: Roles that see to what this machine has on its disk.
_TENDING: Final = frozenset({"builder", "janitor"})
#: Seconds between two looks at workers that end, of which any may be the last.
JOIN_PAUSE: Final = 0.5

_PRIVATE: Final = ", our own server: its log is zookeeper/server.log in the state directory"

RELOAD: Final = "reload"
STOP: Final = "stop"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the daemon was started."""

    config_path: Path
    secure_path: Path | None = None
    roles: tuple[str, ...] = ROLES
    once: bool = False

    def __post_init__(self) -> None:
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown or not self.roles:
            raise UsageError(
                f"no such role: {', '.join(unknown) or 'none given'}", hint=f"Roles are {', '.join(ROLES)}."
            )


class Service:
    """One daemon, from start to stop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._commands: SimpleQueue[str] = SimpleQueue()
        # Before the files are read: it may take hours until ZooKeeper is there and anybody listens.
        self._watch = ConfigWatch(self._watched, self._reload_soon)
        self._configuration = Configuration(options.config_path, options.secure_path)
        self._draining = threading.Event()
        self._stopping = threading.Event()
        self._wake: Callable[[], None] = lambda: None  #: whoever waits for a change of the tree
        self._where = ""  #: which ZooKeeper it is
        self._clouds = CloudPool(openstack.OpenStackCloud)
        self._limiter = Limiter(self._configuration.current().upload_bandwidth)

    def run(self) -> int:
        """Run until told to stop (or, with `once`, until nothing is due); the exit code.

        Raises RefusedError when another daemon has the state directory, and UnavailableError when
        a tool or, with `once`, ZooKeeper is missing.
        """
        config = self._configuration.current()
        if "builder" in self._options.roles:
            tools.require()
        with ExitStack() as stack:
            stack.enter_context(signals.heard(on_stop=self._stop_soon, on_reload=self._reload_soon))
            stack.enter_context(statedir.locked(config.state_dir))
            # They may be outside of it, and what is in them counts as this daemon's alone.
            for directory in sorted({config.images_dir, config.work_dir}):
                stack.enter_context(statedir.alone_in(directory))
            if "builder" in self._options.roles:
                released = workspace.sweep(config.work_dir)
                for text in released:
                    LOG.warning("left behind by an interrupted build, released: %s", text)
                logfiles.finish_all(config.log_dir)
            store = stack.enter_context(self._store(config))
            if store is None:
                return 0  # told to stop before ZooKeeper answered
            offers = stack.enter_context(self._artifact_server(config))
            world = self._world(config, store, offers)
            workers = self._workers(world, stack.enter_context(_metrics()))
            LOG.info(
                "imagepool %s runs as %s for %s",
                builder.__version__,
                ", ".join(self._options.roles),
                self._options.config_path,
            )
            if self._options.once:
                return run_once(workers, world)
            stack.enter_context(self._answers(config, store))
            return self._serve(workers, world)

    # -- parts --------------------------------------------------------------------------------

    def _stop_soon(self) -> None:
        """Let what runs end; told a second time, cut it."""
        if self._draining.is_set():
            self._cut()
            return
        self._draining.set()
        grace = self._configuration.current().shutdown_grace.total_seconds()
        timer = threading.Timer(grace, self._cut)
        timer.daemon = True
        timer.start()
        self._commands.put(STOP)
        self._wake()

    def _cut(self) -> None:
        self._stopping.set()
        self._wake()

    def _reload_soon(self) -> None:
        self._commands.put(RELOAD)

    @contextmanager
    def _store(self, config: Config) -> Iterator[ZooKeeperStore | None]:
        """A started store, on the configured servers or on a private one; None when told to stop."""
        with ExitStack() as stack:
            private = embedded.resolve(config, os.environ) is None
            where = stack.enter_context(embedded.serving(config, os.environ))
            self._where = f"{where.hosts}{where.chroot}" + (_PRIVATE if private else "")
            store = ZooKeeperStore(where, watch=not self._options.once)
            stack.callback(store.close)
            self._wake = store.wake
            while not self._try_start(store):
                if self._draining.wait(CONNECT_PAUSE):
                    yield None
                    return
            yield store

    def _try_start(self, store: ZooKeeperStore) -> bool:
        try:
            store.start()
        except StoreUnavailableError as error:
            if self._options.once:
                raise
            LOG.error("%s; trying again in %.0f s", error.message, CONNECT_PAUSE)
            return False
        return True

    def _answers(self, config: Config, store: ZooKeeperStore) -> AnswerServer:
        """What commands on this machine ask instead of ZooKeeper."""
        servers = os.environ.get(SERVERS_VARIABLE, "")
        return AnswerServer(config.state_dir, store, self._configuration.current, servers)

    @contextmanager
    def _artifact_server(self, config: Config) -> Iterator[ArtifactServer | None]:
        """A started artifact server, where one is configured and anything is uploaded from here."""
        wanted = config.artifact_server
        if wanted is None or "uploader" not in self._options.roles:
            yield None
            return
        server = ArtifactServer(wanted.host, wanted.port, wanted.url)
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def _world(self, config: Config, store: ZooKeeperStore, offers: ArtifactServer | None) -> World:
        fitness = Fitness()
        identity = Identity(
            hostname=host_name(),
            builder_id=statedir.builder_id(config.images_dir),
            installation_id=store.installation_id(),
        )
        statedir.check_installation(config.state_dir, identity.installation_id)
        _wait_for_home(store, identity.installation_id)
        statedir.check_twin(store, identity.builder_id, identity.hostname, TWIN_PATIENCE)
        world = World(
            store=store,
            identity=identity,
            config=self._configuration.current,
            cloud=self._clouds.get,
            capabilities=self._clouds.capabilities,
            known_capabilities=self._clouds.known,
            limiter=self._limiter,
            offers=offers,
            clock=lambda: datetime.now(UTC),
            active=Active(),
            presence=Presence(store, self._daemon(identity, fitness)),
            fitness=fitness,
            draining=self._draining,
            stopping=self._stopping,
        )
        world.presence.show()
        if _TENDING.intersection(self._options.roles):
            look_back(world)
        return world

    def _daemon(self, identity: Identity, fitness: Fitness) -> Daemon:
        config = self._configuration.current()
        unfit = fitness.unfit(config) if "builder" in self._options.roles else None
        if unfit is not None:
            LOG.error("this machine takes no builds: %s", unfit)
        return Daemon(
            hostname=identity.hostname,
            roles=self._options.roles,
            version=builder.__version__,
            started=datetime.now(UTC),
            builder_id=identity.builder_id,
            labels=_labels(config, self._options.roles),
            build_workers=config.build_workers,
            unfit=unfit,
        )

    def _workers(self, world: World, sink: Sink | None) -> tuple[Worker, ...]:
        config, roles = world.config(), self._options.roles
        workers: list[Worker] = [Keeper(world, "keeper", where=self._where)]
        if _TENDING.intersection(roles):
            workers.append(Adopter(world, "adopter"))
        if "scheduler" in roles:
            workers.append(Scheduler(world, "scheduler"))
        if "builder" in roles:
            workers += [Builder(world, f"builder-{n}") for n in range(config.build_workers)]
            workers.append(Notifier(world, "notifier"))
        if "uploader" in roles:
            workers += [Uploader(world, "uploader"), Promoter(world, "promoter")]
        if "janitor" in roles:
            workers += [Janitor(world, "janitor"), LeakSweeper(world, "leaks")]
        if sink is not None:
            workers.append(Meter(world, "meter", sink))
        return tuple(workers)

    def _serve(self, workers: Sequence[Worker], world: World) -> int:
        threads = [threading.Thread(target=w.run, name=w.name, daemon=True) for w in workers]
        for thread in threads:
            thread.start()
        self._watch.start()
        try:
            while self._commands.get() != STOP:
                self._reload(world)
        finally:
            self._watch.stop()
            self._stop(threads, world)
        return 0

    def _reload(self, world: World) -> None:
        self._clouds.forget()
        self._configuration.reload()
        config = self._configuration.current()
        self._limiter.set_total(config.upload_bandwidth)
        world.presence.show(labels=_labels(config, self._options.roles))
        self._wake()

    def _watched(self) -> tuple[Path, ...]:
        secure = self._options.secure_path
        files = files_of(self._options.config_path, os.environ)
        return (*files, *((secure,) if secure else ()), *openstack.config_files())

    def _stop(self, threads: Sequence[threading.Thread], world: World) -> None:
        """Wait for the workers, which begin nothing any more."""
        self._draining.set()
        LOG.info("stopping: what runs gets up to %s", world.config().shutdown_grace)
        world.presence.show(draining=True)
        self._wake()
        deadline = None
        while alive := [thread for thread in threads if thread.is_alive()]:
            if deadline is None and self._stopping.is_set():
                deadline = time.monotonic() + CUT_GRACE
            if deadline is not None and time.monotonic() >= deadline:
                break
            alive[0].join(JOIN_PAUSE)
        for thread in alive:
            LOG.warning("%s did not end in time; the next start cleans up after it", thread.name)


def _wait_for_home(store: ZooKeeperStore, installation_id: str) -> None:
    """Wait for our own view of the tree to show the installation that may just have been made."""
    give_up, seen = time.monotonic() + HOME_PATIENCE, -1
    while store.snapshot().installation != installation_id and time.monotonic() < give_up:
        seen = store.wait(seen, 1.0)


@contextmanager
def _metrics() -> Iterator[Sink | None]:
    """Who takes metrics, None when nobody does."""
    sink = statsd.from_environment(os.environ)
    with nullcontext() if sink is None else closing(sink):
        yield sink


def _labels(config: Config, roles: Sequence[str]) -> frozenset[str]:
    """What diskimages may require of this machine, and whether it boots those that are to be booted."""
    labels = config.builder_labels | architectures()
    if "builder" not in roles or not any(image.boot_test.is_done for image in config.diskimages.values()):
        return labels
    why = program.why_not()
    if why is None:
        return labels | {BOOT_TEST_LABEL}
    LOG.error("this machine takes no builds of images with a boot-test: %s", why)
    return labels


def run(options: Options) -> int:
    """Run a daemon to its end; the exit code."""
    return Service(options).run()

"""The daemon: wires configuration, store, clouds and workers, and owns their threads.

It alone names the concrete parts (ZooKeeperStore, EmbeddedZooKeeper, OpenStackCloud). Its main
thread does nothing but wait for a signal or a changed configuration; everything else happens in
the workers. Stopping is safe at any moment: what does not end in time is found and cleaned up by
the next start, exactly as after a crash.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import builder
from builder import signals
from builder.cloud import openstack
from builder.cloud.pool import CloudPool
from builder.cloud.transfer import Limiter
from builder.config import loader
from builder.config.model import Config
from builder.config.watch import ConfigWatch
from builder.dib import tools
from builder.dib.isolation import workspace
from builder.dib.logs import logfiles
from builder.dib.output import artifacts
from builder.errors import ConfigError, RefusedError, StoreUnavailableError, UsageError
from builder.host import host_name
from builder.model import BuildState
from builder.serving.server import ArtifactServer
from builder.store import embedded
from builder.store.zookeeper import ZooKeeperStore
from builder.workers import statedir
from builder.workers.base import Active, Identity, Worker, World
from builder.workers.builder import Builder
from builder.workers.janitor import Janitor
from builder.workers.leaks import LeakSweeper
from builder.workers.once import run_once
from builder.workers.promoter import Promoter
from builder.workers.scheduler import Scheduler
from builder.workers.uploader import Uploader

LOG = logging.getLogger(__name__)

ROLES: Final = ("scheduler", "builder", "uploader", "janitor")
#: Seconds for the workers to give their work back once the daemon stops; then they are left.
SHUTDOWN_GRACE: Final = 30.0
#: Seconds between two tries to reach ZooKeeper at the start.
CONNECT_PAUSE: Final = 5.0
#: What can't change while the daemon runs: a configuration that changes one of these is not taken.
FIXED: Final = ("state_dir", "images_dir", "work_dir", "zookeeper", "embedded_open")
#: What keeps its old value until a restart; the rest of a changed configuration is taken.
KEPT: Final = ("build_workers", "upload_workers", "artifact_server")

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


def load_config(path: Path, secure: Path | None) -> Config:
    """The configuration, checked against clouds.yaml as well; ConfigError has every problem."""
    return loader.load(path, image_format_of=openstack.image_format_of, environ=os.environ, secure=secure)


class Configuration:
    """The configuration in force: reloaded as a whole or not at all. Thread-safe by replacement."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._config = load_config(options.config_path, options.secure_path)

    def current(self) -> Config:
        """What is in force now."""
        return self._config

    def reload(self) -> bool:
        """Take what the files say now; keep the last good configuration when they are broken."""
        try:
            fresh = load_config(self._options.config_path, self._options.secure_path)
        except ConfigError as error:
            LOG.error("the changed configuration is not taken, the last good one stays in force:")
            for problem in error.problems:
                LOG.error("%s", problem)
            return False
        if fixed := self._changed(fresh, FIXED):
            LOG.error(
                "the changed configuration is not taken, the last good one stays in force until a"
                " restart: %s can't change while the daemon runs",
                ", ".join(fixed),
            )
            return False
        if kept := self._changed(fresh, KEPT):
            LOG.warning("%s changed: the old value stays in force until a restart", ", ".join(kept))
        self._config = replace(fresh, **{name: getattr(self._config, name) for name in KEPT})
        LOG.info("the changed configuration is in force")
        return True

    def _changed(self, fresh: Config, names: Sequence[str]) -> list[str]:
        changed = [name for name in names if getattr(fresh, name) != getattr(self._config, name)]
        return [name.replace("_", "-") for name in changed]


class Service:
    """One daemon, from start to stop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._configuration = Configuration(options)
        self._commands: SimpleQueue[str] = SimpleQueue()
        self._stopping = threading.Event()
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
            workers = self._workers(self._world(config, store, offers))
            LOG.info(
                "imagepool %s runs as %s for %s",
                builder.__version__,
                ", ".join(self._options.roles),
                self._options.config_path,
            )
            if self._options.once:
                return run_once(workers, self._stopping)
            return self._serve(workers, store)

    # -- parts --------------------------------------------------------------------------------

    def _stop_soon(self) -> None:
        self._stopping.set()
        self._commands.put(STOP)

    def _reload_soon(self) -> None:
        self._commands.put(RELOAD)

    @contextmanager
    def _store(self, config: Config) -> Iterator[ZooKeeperStore | None]:
        """A started store, on the configured servers or on a private one; None when told to stop."""
        with ExitStack() as stack:
            where = stack.enter_context(embedded.serving(config, os.environ))
            store = ZooKeeperStore(where, watch=not self._options.once)
            stack.callback(store.close)
            while not self._try_start(store):
                if self._stopping.wait(CONNECT_PAUSE):
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
        identity = Identity(
            hostname=host_name(),
            builder_id=statedir.builder_id(config.images_dir),
            installation_id=store.installation_id(),
        )
        statedir.check_installation(config.state_dir, identity.installation_id)
        store.register(identity.hostname, self._options.roles, builder.__version__)
        self._remove_failed_files(config, store, identity)
        return World(
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
            stopping=self._stopping,
        )

    def _remove_failed_files(self, config: Config, store: ZooKeeperStore, identity: Identity) -> None:
        """Delete what builds of this machine left that others recorded as failed while it was down."""
        for build in store.snapshot().builds():
            if build.state is BuildState.FAILED and build.builder_id == identity.builder_id:
                try:
                    artifacts.delete(config.images_dir, build.image, build.id, identity.installation_id)
                except (RefusedError, OSError) as error:
                    LOG.warning("files of the failed build %s stay until the next start: %s", build.id, error)

    def _workers(self, world: World) -> tuple[Worker, ...]:
        config, roles = world.config(), self._options.roles
        workers: list[Worker] = []
        if "scheduler" in roles:
            workers.append(Scheduler(world, "scheduler"))
        if "builder" in roles:
            workers += [Builder(world, f"builder-{n}") for n in range(config.build_workers)]
        if "uploader" in roles:
            workers += [Uploader(world, "uploader"), Promoter(world, "promoter")]
        if "janitor" in roles:
            workers += [Janitor(world, "janitor"), LeakSweeper(world, "leaks")]
        return tuple(workers)

    def _serve(self, workers: Sequence[Worker], store: ZooKeeperStore) -> int:
        threads = [threading.Thread(target=w.run, name=w.name, daemon=True) for w in workers]
        for thread in threads:
            thread.start()
        watch = ConfigWatch(self._watched(), self._reload_soon)
        watch.start()
        try:
            while self._commands.get() != STOP:
                self._clouds.forget()
                self._configuration.reload()
                self._limiter.set_total(self._configuration.current().upload_bandwidth)
                store.wake()
        finally:
            watch.stop()
            self._stop(threads, store)
        return 0

    def _watched(self) -> tuple[Path, ...]:
        secure = self._options.secure_path
        return (self._options.config_path, *((secure,) if secure else ()), *openstack.config_files())

    def _stop(self, threads: Sequence[threading.Thread], store: ZooKeeperStore) -> None:
        LOG.info("stopping")
        self._stopping.set()
        deadline = time.monotonic() + SHUTDOWN_GRACE
        for thread in threads:
            store.wake()
            thread.join(max(0.0, deadline - time.monotonic()))
        for thread in threads:
            if thread.is_alive():
                LOG.warning("%s did not end in time; the next start cleans up after it", thread.name)


def run(options: Options) -> int:
    """Run a daemon to its end; the exit code."""
    return Service(options).run()

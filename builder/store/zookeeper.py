"""The Store over ZooKeeper: its life, and what is seen of the tree from one moment to the next.

What is read and written in it is for the parts to know: records, wishes, unowned, restoring.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult

from builder.config.model import ZooKeeper
from builder.errors import ConflictError
from builder.model import Snapshot
from builder.store import paths
from builder.store.mirror import Mirror
from builder.store.nodes import Nodes
from builder.store.restoring import Restoring
from builder.store.session import Session
from builder.store.unowned import Unowned
from builder.store.wishes import Wishes

LOG = logging.getLogger(__name__)

#: Roles that nodepool's readers know as the component "builder".
_NODEPOOL_BUILDER_ROLES: Final = frozenset({"builder", "uploader"})


@dataclass(frozen=True)
class _Daemon:
    """What `register` was called with, to do it again in the next session."""

    hostname: str
    roles: tuple[str, ...]
    version: str
    started: datetime


class ZooKeeperStore(Wishes, Unowned, Restoring):
    """Records, claims and changes of all images, in ZooKeeper.

    `watch=True` is for whoever stays: the tree is kept in memory and changes wake `wait`.
    `watch=False` is for whoever looks once: `snapshot` reads the tree each time.
    """

    def __init__(self, zookeeper: ZooKeeper, *, watch: bool) -> None:
        self._zookeeper = zookeeper
        self._session = Session(zookeeper, self._on_connection)
        self._nodes = Nodes(self._session)
        self._mirror = Mirror(self._session, self.wake, watch=True) if watch else None
        self._daemon: _Daemon | None = None
        self._registered_in: int | None = None  #: the session whose end takes the registration away
        self._changed = threading.Condition()
        self._generation = 0

    # -- life ---------------------------------------------------------------------------------

    def start(self, timeout: float = 15.0) -> None:
        deadline = time.monotonic() + timeout
        self._session.start(timeout)
        try:
            self._nodes.ensure(paths.IMAGES)
            if self._mirror is not None:
                self._mirror.connected()
                self._mirror.wait_synced(max(1.0, deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._daemon = None
        self._session.close()

    @property
    def connected(self) -> bool:
        return self._session.connected and (self._mirror is None or self._mirror.synced)

    def installation_id(self) -> str:
        # Whoever comes second reads what the first one made.
        made = uuid.uuid4().hex.encode()
        try:
            self._nodes.create(paths.INSTALLATION, made)
        except ConflictError:
            return self._nodes.read(paths.INSTALLATION).data.decode()
        return made.decode()

    def register(self, hostname: str, roles: tuple[str, ...], version: str) -> None:
        daemon = _Daemon(hostname, roles, version, datetime.now(UTC))
        for path, record in _registrations(daemon):
            self._session.call(partial(_create_ephemeral, path, record))
        self._daemon, self._registered_in = daemon, self._session.id

    # -- reading ------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        if self._mirror is not None:
            return self._mirror.snapshot()
        self._nodes.ensure(paths.IMAGES)
        once = Mirror(self._session, lambda: None, watch=False)
        once.connected()
        once.wait_synced(self._zookeeper.timeout)
        return once.snapshot()

    def wait(self, seen: int, timeout: float | None = None) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._generation != seen, timeout)
            return self._generation

    def wake(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    # -- inside -------------------------------------------------------------------------------

    def _on_connection(self, connected: bool) -> None:
        """Called in a thread of kazoo's: sends requests and waits for none."""
        if self._mirror is not None:
            if connected:
                self._mirror.connected()
            else:
                self._mirror.disconnected()
        if connected:
            self._register_again()
        self.wake()

    def _register_again(self) -> None:
        daemon, session = self._daemon, self._session.id
        if daemon is None or session is None or session == self._registered_in:
            return
        self._registered_in = session
        for path, record in _registrations(daemon):
            result = self._session.send(partial(_create_ephemeral, path, record))
            if result is not None:
                result.rawlink(self._registered_again)

    def _registered_again(self, result: IAsyncResult) -> None:
        if result.exception is not None:
            LOG.warning("can't show this daemon in ZooKeeper: %r", result.exception)
            # The next connect tries anew.
            self._registered_in = None


def _registrations(daemon: _Daemon) -> list[tuple[str, bytes]]:
    """What shows a daemon: the node's path without its sequence, and its data."""
    ours = {
        "hostname": daemon.hostname,
        "roles": list(daemon.roles),
        "version": daemon.version,
        "started": daemon.started.timestamp(),
    }
    records: list[tuple[str, dict[str, Any]]] = [(paths.daemon(daemon.hostname), ours)]
    if _NODEPOOL_BUILDER_ROLES.intersection(daemon.roles):
        # nodepool's builder never leaves its first state, "stopped", so its readers look for nothing else.
        nodepools = {
            "hostname": daemon.hostname,
            "state": "running",
            "kind": "builder",
            "version": daemon.version,
            "model_api": 0,
        }
        records.append((paths.component(daemon.hostname), nodepools))
    return [(path, json.dumps(record, sort_keys=True).encode()) for path, record in records]


def _create_ephemeral(path: str, data: bytes, client: KazooClient) -> IAsyncResult:
    return client.create_async(path, data, ephemeral=True, sequence=True, makepath=True)

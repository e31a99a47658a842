"""The Store over ZooKeeper: its life, and what is seen of the tree from one moment to the next.

What is read and written in it is for the parts to know: records, wishes, history, unowned, restoring.
"""

from __future__ import annotations

import threading
import time
import uuid

from builder.config.model import ZooKeeper
from builder.errors import ConflictError
from builder.model import Daemon, Snapshot
from builder.store import paths
from builder.store.base import Claim
from builder.store.fields import Stored
from builder.store.history import History
from builder.store.mirror import Mirror
from builder.store.nodes import Nodes
from builder.store.presence import Candidacy, Presence
from builder.store.requests import Requests
from builder.store.restoring import Restoring
from builder.store.session import Session
from builder.store.standing import Standing
from builder.store.unowned import Unowned
from builder.store.wishes import Wishes


class ZooKeeperStore(Requests, Wishes, Standing, History, Unowned, Restoring):
    """Records, claims and changes of all images, in ZooKeeper.

    `watch=True` is for whoever stays: the tree is kept in memory and changes wake `wait`.
    `watch=False` is for whoever looks once: `snapshot` reads the tree each time.
    """

    def __init__(self, zookeeper: ZooKeeper, *, watch: bool) -> None:
        self._zookeeper = zookeeper
        self._session = Session(zookeeper, self._on_connection)
        self._nodes = Nodes(self._session)
        self._mirror = Mirror(self._session, self.wake, watch=True) if watch else None
        self._presence = Presence(self._session)
        self._candidacy = Candidacy(self._session, self._first_candidate)
        self._changed = threading.Condition()
        self._generation = 0
        self._started = False

    # -- life ---------------------------------------------------------------------------------

    def start(self, timeout: float = 15.0) -> None:
        deadline = time.monotonic() + timeout
        self._session.start(timeout)
        try:
            self._nodes.ensure(paths.IMAGES)
            self._started = True
            if self._mirror is not None:
                self._mirror.connected()
                self._mirror.wait_synced(max(1.0, deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._presence.hide()
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

    def register(self, daemon: Daemon) -> None:
        self._presence.show(daemon)

    def claim_lead(self, hostname: str) -> Claim | None:
        paths.daemon(hostname)
        return self._candidacy.claim(hostname)

    def stand_down(self) -> None:
        self._candidacy.leave()

    # -- reading ------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        if self._mirror is not None:
            return self._mirror.snapshot()
        self._nodes.ensure(paths.IMAGES)
        once = Mirror(self._session, lambda: None, watch=False)
        once.connected()
        once.wait_synced(self._zookeeper.timeout)
        return once.snapshot()

    def fresh_nodes(self, timeout: float, *, uploads: bool = True) -> list[tuple[str, Stored | None]] | None:
        """All nodes that a Snapshot shows, or all but those of uploads, as they are now; None when that can't
        be had within `timeout` seconds, or without `watch`. Raises StoreUnavailableError."""
        if self._mirror is None or not self.connected or not self._mirror.settle(timeout):
            return None
        return self._mirror.nodes(uploads=uploads)

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
        # Until the session has started, it wants to be alone with the server, and there may be no chroot.
        if self._mirror is not None and self._started:
            if connected:
                self._mirror.connected()
            else:
                self._mirror.disconnected()
        if connected:
            self._presence.connected()
        self.wake()

    def _first_candidate(self) -> str | None:
        return self._mirror.first_candidate if self._mirror is not None and self.connected else None

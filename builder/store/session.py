"""One session with ZooKeeper: the kazoo client, whether it is connected, and the claims bound to it.

What there is to know of kazoo, so that nobody is caught by it again:

- A write whose writer has long given up must not be carried out at the reconnect. So every request
  here waits for a connection first, at most one session timeout; the client refuses whatever comes
  without one (client.py); and no answer is waited for longer than that either.
- A request without an answer may still be carried out, but only by the session that made it: kazoo
  drops its queue when the session ends. Writes name a version, so a late one changes nothing new.
- A lock attempt that fails half-way may leave its contender behind, which then blocks everybody for
  as long as the session lives. kazoo's own Lock does that, https://github.com/python-zk/kazoo/issues/732,
  and retries without an end while SUSPENDED, so the recipe is played here with bounded requests, and
  a contender whose fate is unknown is looked up by its uuid and removed at the next reconnect.
- kazoo learns that its session expired only when it reaches a server again. The rest of the world
  knows earlier, so a connection gone for a session timeout counts as a lost session.
- Listeners and completions run in kazoo's own threads and must never wait for an answer there.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    KazooException,
    MarshallingError,
    NoAuthError,
    NoNodeError,
    UnimplementedError,
)
from kazoo.interfaces import IAsyncResult
from kazoo.security import ACL, OPEN_ACL_UNSAFE, make_digest_acl

from builder.config.model import ZooKeeper
from builder.errors import RefusedError, StoreUnavailableError
from builder.store.base import Claim
from builder.store.bulk import read
from builder.store.client import NO_ANSWER, a_client, connect, disconnect, make_chroot

LOG = logging.getLogger(__name__)

#: Nobody but a superuser may change it, not even its ACL.
_SERVERS_OWN: Final = "/zookeeper/config"
_CONTENDER = re.compile(r"__lock__(-?[0-9]{10})\Z")

Operation = Callable[[KazooClient], IAsyncResult]


class Session:
    """A connection that comes back by itself, and the sessions it has had, one after the other.

    `listener` is called with "connected" true or false, in a thread of kazoo's: it must not wait.
    """

    def __init__(self, zookeeper: ZooKeeper, listener: Callable[[bool], None]) -> None:
        self.zookeeper = zookeeper
        self._listener = listener
        self._changed = threading.Condition()
        self._client: KazooClient | None = None
        self._connected = False
        self._silent_since: float | None = None
        self._sessions_lost = 0
        self._orphans: set[tuple[str, str]] = set()

    # -- life ---------------------------------------------------------------------------------

    def start(self, timeout: float) -> None:
        """Connect within `timeout` seconds, making the chroot if there is none yet.

        Raises StoreUnavailableError, which names the servers, also of one that is too old.
        """
        deadline = time.monotonic() + timeout
        client = a_client(self.zookeeper, self.zookeeper.chroot)
        client.add_listener(self._on_state)
        self._client = client
        try:
            connect(client, self.zookeeper, timeout)
            self._require_reading()
            if self.zookeeper.chroot and self.call(lambda c: c.exists_async("/")) is None:
                make_chroot(self.zookeeper, max(1.0, deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise

    def _require_reading(self) -> None:
        """StoreUnavailableError when the server does not know the request that reads many nodes.

        It is asked to read none, and while nothing else is under way: a server answers what it does not know
        before all that came earlier, upon which kazoo's connection is gone for good, and hangs up.
        """
        try:
            self.call(partial(read, (), None))
        except UnimplementedError as error:
            raise StoreUnavailableError(
                f"the server is older than ZooKeeper 3.6: {self.zookeeper.hosts}",
                hint="Upgrade its servers.",
            ) from error

    def close_tree(self) -> None:
        """Give the whole tree, the root included, to our user alone; quick when it is his already."""
        digest = make_digest_acl(self.zookeeper.username or "", self.zookeeper.password or "", all=True)
        self._close_node("/", [digest])

    def _close_node(self, path: str, acl: list[ACL]) -> None:
        if path == _SERVERS_OWN or self.call(lambda c: c.get_acls_async(path))[0] == acl:
            return
        for name in self.call(partial(_children, path)):
            self._close_node(_below(path, name), acl)
        # Last: below a closed node all is closed, and a crash on the way is made good by the next start.
        self.call(lambda c: c.set_acls_async(path, acl))

    def open_tree(self, path: str = "/") -> None:
        """Give the whole tree to everybody."""
        if path == _SERVERS_OWN:
            return
        # First, so that nothing below a closed node is open.
        self.call(lambda c: c.set_acls_async(path, OPEN_ACL_UNSAFE))
        for name in self.call(partial(_children, path)):
            self.open_tree(_below(path, name))

    def close(self) -> None:
        """End the session; may be called twice, and before `start`."""
        client, self._client = self._client, None
        if client is None:
            return
        disconnect(client)
        # A client that never got through tells no listener that it is gone.
        self._on_state(KazooState.LOST)

    @property
    def connected(self) -> bool:
        """Whether a server answers right now."""
        return self._connected

    @property
    def id(self) -> int | None:
        """ZooKeeper's id of the session; None while not connected."""
        client = self._client
        identity = None if client is None else client.client_id
        return None if identity is None else int(identity[0])

    @property
    def sessions_lost(self) -> int:
        """How many sessions ended so far: what was bound to an earlier one is gone."""
        with self._changed:
            silent = self._silent_since
            if silent is not None and time.monotonic() - silent > self.zookeeper.timeout:
                self._silent_since = None
                self._sessions_lost += 1
            return self._sessions_lost

    # -- requests -----------------------------------------------------------------------------

    def call(self, operation: Operation) -> Any:
        """The answer to one request. Raises StoreUnavailableError when there is none in time, RefusedError
        when it writes more than ZooKeeper takes, and kazoo's own exception for an answer that is an error
        (NoNodeError, BadVersionError...)."""
        return self.answer(self.submit(operation))

    def submit(self, operation: Operation) -> IAsyncResult:
        """Send a request without waiting for the answer; several may be under way."""
        return operation(self._reachable())

    def wait_connected(self) -> None:
        """Wait until there is a connection; StoreUnavailableError when there is none in time."""
        self._reachable()

    def _reachable(self) -> KazooClient:
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._client is None, self.zookeeper.timeout)
            if self._client is None or not self._connected:
                raise self._unreachable()
            return self._client

    def send(self, operation: Operation) -> IAsyncResult | None:
        """Send a request from one of kazoo's threads, where nothing may wait; None without a client."""
        client = self._client
        return None if client is None else operation(client)

    def answer(self, result: IAsyncResult) -> Any:
        """The answer to a submitted request; raises as `call` does."""
        try:
            return result.get(timeout=self.zookeeper.timeout)
        except NoAuthError as error:
            raise StoreUnavailableError(
                f"ZooKeeper ({self.zookeeper.hosts}) refuses access to the records",
                hint="Check the user name and password for ZooKeeper, and who made the records.",
            ) from error
        except MarshallingError as error:
            raise RefusedError(
                "ZooKeeper takes no more than a megabyte at once, and this is more",
                hint="Something that is very large got into a record, or stood there already.",
            ) from error
        except NO_ANSWER as error:
            raise self._unreachable() from error

    # -- claims -------------------------------------------------------------------------------

    def claim(self, lock: str) -> SessionClaim | None:
        """Take the lock at a path if nobody holds it, by kazoo's recipe; never waits for others.

        Raises NoNodeError when there is no such lock node; none is made.
        """
        session = self.sessions_lost
        # Looking first keeps a held lock quiet: an attempt is a change that wakes every watcher.
        if contenders(self.call(lambda c: c.get_children_async(lock))):
            return None
        contender = f"{uuid.uuid4().hex}__lock__"
        try:
            self.call(lambda c: c.create_async(f"{lock}/{contender}", b"", ephemeral=True, sequence=True))
            first = contenders(self.call(lambda c: c.get_children_async(lock)))[:1]
        except StoreUnavailableError:
            self._abandon(lock, contender)
            raise
        if not first or not first[0].startswith(contender):
            self.discard(lock, contender)
            return None
        if session != self.sessions_lost:
            self._abandon(lock, contender)
            raise self._unreachable()
        return SessionClaim(self, session, lock, first[0])

    def discard(self, lock: str, contender: str) -> None:
        """Remove a contender by its name or the uuid it starts with, now or at the next reconnect."""
        if not self._connected:
            self._abandon(lock, contender)
            return
        try:
            for child in self._named(lock, contender):
                self.call(partial(_delete, f"{lock}/{child}"))
        except NoNodeError:
            return
        except StoreUnavailableError:
            self._abandon(lock, contender)

    def _named(self, lock: str, contender: str) -> list[str]:
        """The contenders of that name, or whose names start with that uuid."""
        if _CONTENDER.search(contender):
            return [contender]
        children = self.call(lambda c: c.get_children_async(lock))
        return [child for child in children if child.startswith(contender)]

    def _abandon(self, lock: str, contender: str) -> None:
        with self._changed:
            self._orphans.add((lock, contender))
        if self._connected:
            self._sweep()

    def _sweep(self) -> None:
        """Remove what `_abandon` noted. Requests are served in order, so this one sees what became of
        those before it; it only sends, for it also runs in kazoo's threads."""
        with self._changed:
            orphans = tuple(self._orphans)
        for lock, contender in orphans:
            result = self.send(partial(_children, lock))
            if result is not None:
                result.rawlink(partial(self._sweep_found, lock, contender))

    def _sweep_found(self, lock: str, contender: str, result: IAsyncResult) -> None:
        try:
            children = result.get()
        except NoNodeError:
            children = []
        except KazooException:
            return
        for child in children:
            if child.startswith(contender):
                self.send(partial(_delete, f"{lock}/{child}"))
        with self._changed:
            self._orphans.discard((lock, contender))

    # -- connection ---------------------------------------------------------------------------

    def _on_state(self, state: str) -> None:
        with self._changed:
            self._connected = state == KazooState.CONNECTED
            if state == KazooState.SUSPENDED:
                self._silent_since = time.monotonic()
            else:
                self._silent_since = None
            if state == KazooState.LOST:
                self._sessions_lost += 1
                self._orphans.clear()
            self._changed.notify_all()
        if state == KazooState.CONNECTED:
            self._sweep()
        self._listener(state == KazooState.CONNECTED)

    def _unreachable(self) -> StoreUnavailableError:
        if self._client is None:
            return StoreUnavailableError("the connection to ZooKeeper is closed")
        return StoreUnavailableError(
            f"ZooKeeper can't be reached or lost the session: {self.zookeeper.hosts}"
            " (what was being written may or may not be there)"
        )


class SessionClaim(Claim):
    """A lock held by a contender node of one session."""

    def __init__(self, session: Session, number: int, lock: str, contender: str) -> None:
        self._session = session
        self._number = number
        self._lock = lock
        self._contender = contender
        self._released = False

    @property
    def valid(self) -> bool:
        return not self._released and self._session.sessions_lost == self._number

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        self._session.discard(self._lock, self._contender)


def contenders(children: Iterable[str]) -> list[str]:
    """The contenders of a lock, the holder first."""
    found = [(match[1], child) for child in children if (match := _CONTENDER.search(child))]
    return [child for _, child in sorted(found)]


def _below(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


def _children(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_children_async(path)


def _delete(path: str, client: KazooClient) -> IAsyncResult:
    return client.delete_async(path)

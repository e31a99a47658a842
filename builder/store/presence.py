"""Shows a daemon to all others for as long as its session lasts: that it is alive, and whether it leads."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.interfaces import IAsyncResult

from builder.model import Daemon
from builder.store import notes, paths
from builder.store.session import Session, SessionClaim, contenders

LOG = logging.getLogger(__name__)

#: Roles that nodepool's readers know as the component "builder".
_NODEPOOL_BUILDER_ROLES: Final = frozenset({"builder", "uploader"})


@dataclass(eq=False)
class _Shown:
    """An ephemeral node of one session's."""

    session: int
    data: bytes
    making: IAsyncResult | None = None
    path: str | None = None  #: None while it is being made


class Presence:
    """The nodes that show a daemon: shown anew in each session, and changed in place within one.

    Nobody but the session that made them writes them, so no version needs to be named.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.RLock()
        self._wanted: dict[str, bytes] = {}  #: by path without its sequence
        self._shown: dict[str, _Shown] = {}

    def show(self, daemon: Daemon) -> None:
        """Show a daemon, or what changed of it; StoreUnavailableError."""
        wanted = _registrations(daemon)
        self._session.wait_connected()
        with self._lock:
            self._wanted = wanted
            results = self._update()
        for result in results:
            self._session.answer(result)

    def hide(self) -> None:
        """Show nothing in sessions to come."""
        with self._lock:
            self._wanted = {}

    def connected(self) -> None:
        """Show in a new session what was shown in the last one; waits for nothing."""
        with self._lock:
            self._update()

    def _update(self) -> list[IAsyncResult]:
        session = self._session.id
        if session is None:
            return []  # the next connect does it
        results = [self._bring_about(base, data, session) for base, data in self._wanted.items()]
        for base in set(self._shown) - set(self._wanted):
            path = self._shown.pop(base).path
            if path is not None:
                results.append(self._session.send(partial(_delete, path)))
        return [result for result in results if result is not None]

    def _bring_about(self, base: str, data: bytes, session: int) -> IAsyncResult | None:
        """The request under way that makes a node say this; None when it does."""
        shown = self._shown.get(base)
        if shown is None or shown.session != session:
            shown = self._shown[base] = _Shown(session=session, data=data)
            shown.making = self._session.send(partial(_create, base, data))
            if shown.making is not None:
                shown.making.rawlink(partial(self._made, base, shown))
            return shown.making
        if shown.path is None:
            # `_made` finds that another text is wanted by now.
            return shown.making
        if shown.data != data:
            shown.data = data
            writing = self._session.send(partial(_set, shown.path, data))
            if writing is not None:
                writing.rawlink(partial(self._written, shown))
            return writing
        return None

    def _written(self, shown: _Shown, result: IAsyncResult) -> None:
        """Called in a thread of kazoo's."""
        if result.exception is not None:
            with self._lock:
                shown.data = b""  # for the next connect to do it again

    def _made(self, base: str, shown: _Shown, result: IAsyncResult) -> None:
        """Called in a thread of kazoo's: sends requests and waits for none."""
        with self._lock:
            if self._shown.get(base) is not shown:
                return
            try:
                shown.path = result.get()
            except KazooException as error:
                LOG.warning("can't show this daemon in ZooKeeper: %r", error)
                # The next connect tries anew.
                del self._shown[base]
                return
            self._update()


class Candidacy:
    """A place in the line of those who would lead; the first one does.

    `first` tells the node of whoever was first when last seen, if that is known without asking.
    """

    def __init__(self, session: Session, first: Callable[[], str | None]) -> None:
        self._session = session
        self._first = first
        self._lock = threading.Lock()
        self._contender = _a_contender()
        self._stands_in: int | None = None  #: the session, by how many were lost before, in which we stand
        self._claim: SessionClaim | None = None

    def claim(self, hostname: str) -> SessionClaim | None:
        """The lead, if it is our turn; None, and we stand in line, if it is not. StoreUnavailableError."""
        with self._lock:
            if self._claim is not None:
                if self._claim.valid:
                    return None
                # Not before it is gone for sure: nobody shall wait for a place that nobody holds.
                self._claim.release()
                self._claim, self._contender, self._stands_in = None, _a_contender(), None
            number = self._session.sessions_lost
            if self._stands_in == number and self._others_turn():
                return None
            ours = self._stand(hostname)
            self._stands_in = number
            if ours is not None:
                self._claim = SessionClaim(self._session, number, paths.LEAD, ours)
            return self._claim

    def leave(self) -> None:
        """Stand in line no more; never raises, for a place that can't be given up dies with the session."""
        with self._lock:
            if self._claim is None and self._stands_in is not None:
                self._session.discard(paths.LEAD, self._contender)
                self._contender, self._stands_in = _a_contender(), None

    def _others_turn(self) -> bool:
        first = self._first()
        return first is not None and not first.startswith(f"{paths.LEAD}/{self._contender}")

    def _stand(self, hostname: str) -> str | None:
        """Our own node if it is the first in line; made if there is none, whatever became of an attempt."""
        line = self._line()
        if not any(node.startswith(self._contender) for node in line):
            path, data = f"{paths.LEAD}/{self._contender}", hostname.encode()
            self._session.call(
                lambda c: c.create_async(path, data, ephemeral=True, sequence=True, makepath=True)
            )
            line = self._line()
        return line[0] if line and line[0].startswith(self._contender) else None

    def _line(self) -> list[str]:
        try:
            return contenders(self._session.call(lambda c: c.get_children_async(paths.LEAD)))
        except NoNodeError:
            return []


def _registrations(daemon: Daemon) -> dict[str, bytes]:
    """What shows a daemon: the data by the node's path without its sequence."""
    records = {paths.daemon(daemon.hostname): notes.encode_daemon(daemon)}
    if _NODEPOOL_BUILDER_ROLES.intersection(daemon.roles):
        # nodepool's builder never leaves its first state, "stopped", so its readers look for nothing else.
        nodepools = {
            "hostname": daemon.hostname,
            "state": "running",
            "kind": "builder",
            "version": daemon.version,
            "model_api": 0,
        }
        records[paths.component(daemon.hostname)] = json.dumps(nodepools, sort_keys=True).encode()
    return records


def _a_contender() -> str:
    return f"{uuid.uuid4().hex}__lock__"


def _create(path: str, data: bytes, client: KazooClient) -> IAsyncResult:
    return client.create_async(path, data, ephemeral=True, sequence=True, makepath=True)


def _set(path: str, data: bytes, client: KazooClient) -> IAsyncResult:
    return client.set_async(path, data)


def _delete(path: str, client: KazooClient) -> IAsyncResult:
    return client.delete_async(path)

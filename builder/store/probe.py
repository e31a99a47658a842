"""Look at a ZooKeeper without leaving a trace: whether it answers, how fast, and what tree is there."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult

from builder.config.model import ZooKeeper
from builder.store import paths
from builder.store.session import Session


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said."""

    latency: float  #: seconds for a request and its answer
    has_records: bool  #: whether there is a tree of images, nodepool's or ours
    installation: str | None  #: whose tree it is; None for one that imagepool never worked on


def probe(zookeeper: ZooKeeper, timeout: float) -> Answer:
    """Ask a server within `timeout` seconds. Nothing is made, not even a chroot that is missing.

    Raises StoreUnavailableError when none answers, or it refuses access to the records.
    """
    # Without its chroot, which a session would make.
    session = Session(replace(zookeeper, chroot=""), lambda connected: None)
    session.start(timeout)
    try:
        images, installation = (zookeeper.chroot + path for path in (paths.IMAGES, paths.INSTALLATION))
        began = time.monotonic()
        there = session.call(partial(_exists, images)) is not None
        latency = time.monotonic() - began
        if there:
            session.call(partial(_children, images))
        owner = None
        if session.call(partial(_exists, installation)) is not None:
            owner = session.call(partial(_get, installation))[0].decode(errors="replace")
        return Answer(latency=latency, has_records=there, installation=owner)
    finally:
        session.close()


def _exists(path: str, client: KazooClient) -> IAsyncResult:
    return client.exists_async(path)


def _children(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_children_async(path)


def _get(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_async(path)

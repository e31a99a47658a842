"""The Store over ZooKeeper.

Every write of a record names the version that was read; whatever takes several nodes away does it
in one transaction, so that it happens whole or not at all.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
)
from kazoo.interfaces import IAsyncResult

from builder.config.model import ZooKeeper
from builder.errors import ConflictError, NotFoundError, RefusedError
from builder.model import Build, Cancellation, Request, Snapshot, Upload
from builder.store import codec, paths
from builder.store.base import Claim, Store, builds_newest_first, uploads_newest_first
from builder.store.codec import RecordError, Stored
from builder.store.mirror import Mirror, stored
from builder.store.session import Session

LOG = logging.getLogger(__name__)

#: How often a transaction that somebody got in the way of is tried anew before we call it a conflict.
_ATTEMPTS: Final = 5
#: Roles that nodepool's readers know as the component "builder".
_NODEPOOL_BUILDER_ROLES: Final = frozenset({"builder", "uploader"})


@dataclass(frozen=True)
class _Daemon:
    """What `register` was called with, to do it again in the next session."""

    hostname: str
    roles: tuple[str, ...]
    version: str
    started: datetime


class ZooKeeperStore(Store):
    """Records, claims and changes of all images, in ZooKeeper.

    `watch=True` is for whoever stays: the tree is kept in memory and changes wake `wait`.
    `watch=False` is for whoever looks once: `snapshot` reads the tree each time.
    """

    def __init__(self, zookeeper: ZooKeeper, *, watch: bool) -> None:
        self._zookeeper = zookeeper
        self._session = Session(zookeeper, self._on_connection)
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
            self._session.call(partial(_ensure, paths.IMAGES))
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
            self._session.call(lambda c: c.create_async(paths.INSTALLATION, made, makepath=True))
        except NodeExistsError:
            data, _ = self._session.call(partial(_get, paths.INSTALLATION))
            return bytes(data).decode()
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
        self._session.call(partial(_ensure, paths.IMAGES))
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

    def get_build(self, image: str, build_id: str) -> Build:
        return codec.decode_build(self._read(paths.build(image, build_id)), image=image, build_id=build_id)

    def get_upload(self, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
        return codec.decode_upload(
            self._read(paths.upload(image, build_id, provider, upload_id)),
            image=image,
            build_id=build_id,
            provider=provider,
            upload_id=upload_id,
        )

    def list_builds(self, image: str) -> tuple[Build, ...]:
        nodes = self._read_children(paths.builds(image), paths.Kind.BUILD)
        return builds_newest_first(
            _readable(
                lambda place, node: codec.decode_build(node, image=image, build_id=place.build_id), nodes
            )
        )

    def list_uploads(self, image: str, build_id: str, provider: str) -> tuple[Upload, ...]:
        nodes = self._read_children(paths.uploads(image, build_id, provider), paths.Kind.UPLOAD)
        return uploads_newest_first(
            _readable(
                lambda place, node: codec.decode_upload(
                    node, image=image, build_id=build_id, provider=provider, upload_id=place.upload_id
                ),
                nodes,
            )
        )

    def get_request(self, image: str) -> Request | None:
        try:
            node = self._read(paths.request(image))
        except NotFoundError:
            return None
        return codec.decode_request(node, image=image)

    # -- claims -------------------------------------------------------------------------------

    def claim_image(self, image: str) -> Claim | None:
        lock = paths.image_lock(image)
        try:
            return self._session.claim(lock)
        except NoNodeError:
            self._session.call(partial(_ensure, lock))
            return self._session.claim(lock)

    def claim_build(self, build: Build) -> Claim | None:
        return self._claim_existing(paths.build_lock(build.image, build.id))

    def claim_uploads(self, image: str, build_id: str, provider: str) -> Claim | None:
        lock = paths.uploads_lock(image, build_id, provider)
        try:
            return self._session.claim(lock)
        except NoNodeError:
            return self._session.claim(lock) if self._make_uploads(image, build_id, provider) else None

    def claim_upload(self, upload: Upload) -> Claim | None:
        lock = paths.upload_lock(upload.image, upload.build_id, upload.provider, upload.id)
        return self._claim_existing(lock)

    # -- records ------------------------------------------------------------------------------

    def create_build(self, build: Build) -> Build:
        build = codec.bounded(build)
        path = paths.build(build.image, build.id)
        data = codec.encode_build(build)
        try:
            self._session.call(lambda c: c.create_async(path, data, makepath=True))
        except NodeExistsError as error:
            raise ConflictError(f"{path} exists already") from error
        return replace(build, version=0)

    def update_build(self, build: Build) -> Build:
        build = codec.bounded(build)
        path = paths.build(build.image, build.id)
        return replace(build, version=self._write(path, codec.encode_build(build), build.version))

    def delete_build(self, build: Build) -> None:
        uploads = paths.providers(build.image, build.id)

        def check(path: str) -> None:
            place = paths.place(path)
            if place and place.kind in (paths.Kind.UPLOAD, paths.Kind.UPLOADS_CONTENDER):
                raise RefusedError(
                    f"build {build.id} of {build.image} still has uploads: {path.removeprefix(uploads)}",
                    hint="Delete its uploads first.",
                )

        self._delete_tree(paths.build(build.image, build.id), check)

    def create_upload(self, upload: Upload) -> Upload:
        upload = codec.bounded(upload)
        parent = paths.uploads(upload.image, upload.build_id, upload.provider)
        data = codec.encode_upload(upload)

        def create(client: KazooClient) -> IAsyncResult:
            return client.create_async(f"{parent}/", data, sequence=True)

        try:
            path = self._session.call(create)
        except NoNodeError:
            if not self._make_uploads(upload.image, upload.build_id, upload.provider):
                build = paths.build(upload.image, upload.build_id)
                raise NotFoundError(f"there is no {build}") from None
            path = self._session.call(create)
        return replace(upload, id=path.rpartition("/")[2], version=0)

    def update_upload(self, upload: Upload) -> Upload:
        upload = codec.bounded(upload)
        data = codec.encode_upload(upload)
        return replace(upload, version=self._write(_upload_path(upload), data, upload.version))

    def delete_upload(self, upload: Upload) -> None:
        self._delete_tree(_upload_path(upload), lambda path: None)

    # -- wishes -------------------------------------------------------------------------------

    def request_build(self, request: Request) -> Request:
        path = paths.request(request.image)
        data = codec.encode_request(request)
        for _ in range(_ATTEMPTS):
            try:
                _, stat = self._session.call(
                    lambda c: c.create_async(path, data, makepath=True, include_data=True)
                )
                return replace(request, stamp=stat.mzxid)
            except NodeExistsError:
                pass
            try:
                node = self._read(path)
                open_one = codec.decode_request(node, image=request.image)
                if open_one.manual or not request.manual:
                    return open_one
                # Written over in place, for a version then tells `withdraw_request` of the change.
                stat = self._session.call(partial(_set, path, data, node.version))
                return replace(request, stamp=stat.mzxid)
            except (NotFoundError, NoNodeError, BadVersionError):
                continue
        raise ConflictError(f"{path} keeps changing")

    def withdraw_request(self, request: Request) -> bool:
        path = paths.request(request.image)
        try:
            node = self._read(path)
            if node.written_by != request.stamp:
                return False
            self._session.call(lambda c: c.delete_async(path, version=node.version))
        except (NotFoundError, NoNodeError, BadVersionError):
            return False
        return True

    def cancel_build(self, cancellation: Cancellation) -> None:
        path = paths.cancellation(cancellation.image)
        data = codec.encode_cancellation(codec.bounded_cancellation(cancellation))
        for _ in range(_ATTEMPTS):
            try:
                self._session.call(lambda c: c.create_async(path, data, makepath=True))
                return
            except NodeExistsError:
                pass
            try:
                self._session.call(lambda c: c.set_async(path, data))
                return
            except NoNodeError:
                continue
        raise ConflictError(f"{path} keeps changing")

    def withdraw_cancellation(self, image: str, build_id: str | None = None) -> None:
        path = paths.cancellation(image)
        try:
            node = self._read(path)
            if build_id is None or codec.decode_cancellation(node, image=image).build_id == build_id:
                self._session.call(lambda c: c.delete_async(path, version=node.version))
        except (NotFoundError, NoNodeError):
            return  # gone, or there is nothing in it that names this build
        except BadVersionError:
            LOG.info("the wish that a build of %s ends was followed by another, which stays", image)

    def pause(self, image: str) -> None:
        self._session.call(partial(_ensure, paths.pause(image)))

    def unpause(self, image: str) -> None:
        path = paths.pause(image)
        try:
            self._session.call(lambda c: c.delete_async(path))
        except NoNodeError:
            return

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

    def _read(self, path: str) -> Stored:
        try:
            return stored(*self._session.call(partial(_get, path)))
        except NoNodeError as error:
            raise NotFoundError(f"there is no {path}") from error

    def _read_children(self, parent: str, kind: paths.Kind) -> list[tuple[paths.Place, Stored]]:
        try:
            names = self._session.call(partial(_list, parent))
        except NoNodeError:
            return []
        places = [(path, paths.place(path)) for path in (f"{parent}/{name}" for name in names)]
        wanted = [(path, place) for path, place in places if place is not None and place.kind is kind]
        # All requests are under way before the first answer is waited for.
        results = [(place, self._session.submit(partial(_get, path))) for path, place in wanted]
        found = []
        for place, result in results:
            try:
                found.append((place, stored(*self._session.answer(result))))
            except NoNodeError:
                continue
        return found

    def _write(self, path: str, data: bytes, version: int) -> int:
        # ZooKeeper takes -1 for "whatever is there".
        if version < 0:
            raise ConflictError(f"{path} was never read, so it can't be written over")
        try:
            return int(self._session.call(partial(_set, path, data, version)).version)
        except BadVersionError as error:
            raise ConflictError(f"{path} changed since it was read") from error
        except NoNodeError as error:
            raise NotFoundError(f"there is no {path}") from error

    def _claim_existing(self, lock: str) -> Claim | None:
        """Claim the lock of a record; None when the record is gone, which must not bring it back:
        nodepool's way of making the lock's parents left empty nodes behind."""
        try:
            return self._session.claim(lock)
        except NoNodeError:
            return self._session.claim(lock) if self._make_node(lock) else None

    def _make_uploads(self, image: str, build_id: str, provider: str) -> bool:
        """Make the parents of uploads below a build, if that still exists; whether it does.

        The lock comes first in `images`, as nodepool has it: the first upload then is 0000000001.
        """
        return all(
            self._make_node(path)
            for path in (
                paths.providers(image, build_id),
                paths.provider(image, build_id, provider),
                paths.uploads(image, build_id, provider),
                paths.uploads_lock(image, build_id, provider),
            )
        )

    def _make_node(self, path: str) -> bool:
        """Make an empty node unless it is there; False when its parent is gone."""
        try:
            self._session.call(lambda c: c.create_async(path, b""))
        except NodeExistsError:
            return True
        except NoNodeError:
            return False
        return True

    def _delete_tree(self, path: str, check: Callable[[str], None]) -> None:
        """Delete a node and all below it, in one transaction; `check` may refuse each of them."""
        for _ in range(_ATTEMPTS):
            nodes = self._subtree(path)
            for node in nodes:
                check(node)
            if self._delete_all(nodes):
                return
        raise ConflictError(f"{path} keeps changing while it is deleted")

    def _subtree(self, path: str) -> list[str]:
        """A node and all below it, children first."""
        try:
            names = self._session.call(partial(_list, path))
        except NoNodeError:
            return []
        return [node for name in names for node in self._subtree(f"{path}/{name}")] + [path]

    def _delete_all(self, nodes: list[str]) -> bool:
        """Delete all nodes or none; whether they went."""
        if not nodes:
            return True

        def delete(client: KazooClient) -> IAsyncResult:
            transaction = client.transaction()
            for node in nodes:
                transaction.delete(node)
            return transaction.commit_async()

        problems = [answer for answer in self._session.call(delete) if isinstance(answer, KazooException)]
        for problem in problems:
            if isinstance(problem, NotEmptyError | NoNodeError):
                return False
        if problems:
            raise problems[0]
        return True


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


def _readable(
    decode: Callable[[paths.Place, Stored], Any], nodes: list[tuple[paths.Place, Stored]]
) -> list[Any]:
    found = []
    for place, node in nodes:
        try:
            found.append(decode(place, node))
        except RecordError as error:
            LOG.debug("skipped: %s", error)
    return found


def _upload_path(upload: Upload) -> str:
    return paths.upload(upload.image, upload.build_id, upload.provider, upload.id)


def _get(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_async(path)


def _list(path: str, client: KazooClient) -> IAsyncResult:
    return client.get_children_async(path)


def _set(path: str, data: bytes, version: int, client: KazooClient) -> IAsyncResult:
    return client.set_async(path, data, version=version)


def _ensure(path: str, client: KazooClient) -> IAsyncResult:
    return client.ensure_path_async(path)


def _create_ephemeral(path: str, data: bytes, client: KazooClient) -> IAsyncResult:
    return client.create_async(path, data, ephemeral=True, sequence=True, makepath=True)

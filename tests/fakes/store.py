"""A Store in memory that keeps the contract of builder/store/base.py, for tests of everything above it.

    store = FakeStore()              started, connected, empty
    other = store.another_daemon()   another session on the same tree
    store.lose_session()             its claims are gone, records stay; connected again at once
    store.disconnect()               every call raises StoreUnavailableError until reconnect()

Records may be put there without any ceremony: `store.put(build)`, `store.put(upload)`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self, TypeVar

from builder.cloudimage import Sighting
from builder.errors import ConflictError, NotFoundError, RefusedError, StoreUnavailableError
from builder.model import (
    Build,
    Cancellation,
    ImageRecords,
    Request,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadWish,
)
from builder.store import bounds, paths
from builder.store.base import (
    HIGHEST_UPLOAD_ID,
    Claim,
    Store,
    builds_newest_first,
    remembered,
    uploads_newest_first,
    wished,
)

Record = TypeVar("Record")


@dataclass
class FakeTree:
    """What all sessions share: the server's side."""

    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    installation: str = field(default_factory=lambda: uuid.uuid4().hex)
    images: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    requests: dict[str, Request] = field(default_factory=dict)
    cancellations: dict[str, Cancellation] = field(default_factory=dict)
    upload_cancellations: dict[str, tuple[UploadCancellation, ...]] = field(default_factory=dict)
    gone: dict[str, datetime] = field(default_factory=dict)  #: by build id
    builds: dict[str, Build] = field(default_factory=dict)  #: by path, like all below
    uploads: dict[str, Upload] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    sightings: dict[str, Sighting] = field(default_factory=dict)
    claims: dict[str, FakeClaim] = field(default_factory=dict)
    daemons: dict[FakeStore, tuple[str, tuple[str, ...], str]] = field(default_factory=dict)
    stores: list[FakeStore] = field(default_factory=list)
    clock: int = 0
    now: Callable[[], datetime] = lambda: datetime.now(UTC)  #: the server's

    def tick(self) -> int:
        """The id of one more change; every session learns of it."""
        self.clock += 1
        for store in self.stores:
            store._generation += 1
        self.changed.notify_all()
        return self.clock

    def drop_claims(self, below: str) -> None:
        """Forget the locks of a node that is deleted; whoever holds one finds nothing to give back."""
        for path in [p for p in self.claims if p.startswith(f"{below}/")]:
            del self.claims[path]


class FakeClaim(Claim):
    """A lock in a FakeTree."""

    def __init__(self, store: FakeStore, path: str) -> None:
        self._store = store
        self._path = path
        self.lost = False

    @property
    def valid(self) -> bool:
        return not self.lost

    def release(self) -> None:
        tree = self._store.tree
        with tree.changed:
            self.lost = True
            if tree.claims.get(self._path) is self:
                del tree.claims[self._path]
                # Nobody watches anything else.
                if self._path.startswith(paths.IMAGES):
                    tree.tick()


class FakeStore(Store):
    """One daemon's session on a FakeTree; started and connected from the beginning."""

    def __init__(self, tree: FakeTree | None = None) -> None:
        self.tree = tree or FakeTree()
        self._generation = 0
        self._open = True
        self._reachable = True
        self._last_seen = Snapshot()
        self._identity: tuple[str, tuple[str, ...], str] | None = None
        self.tree.stores.append(self)

    # -- what a test does to it ---------------------------------------------------------------

    def another_daemon(self) -> FakeStore:
        """A session of somebody else on the same tree."""
        return FakeStore(self.tree)

    def put(self, record: Build | Upload) -> None:
        """Place a record as it is (`version` apart), claims and parents or not."""
        with self.tree.changed:
            self.tree.images.add(record.image)
            if isinstance(record, Build):
                self.tree.builds[paths.build(record.image, record.id)] = replace(record, version=0)
            else:
                path = _upload_path(record)
                parent = paths.uploads(record.image, record.build_id, record.provider)
                self.tree.sequences[parent] = max(self.tree.sequences.get(parent, 0), int(record.id))
                self.tree.uploads[path] = replace(record, version=0)
            self.tree.tick()

    def lose_session(self) -> None:
        """Expire the session: its claims are gone for good; a new one is there at once."""
        with self.tree.changed:
            self._end_session()
            if self._identity is not None:
                self.tree.daemons[self] = self._identity
            self.tree.tick()

    def disconnect(self) -> None:
        """Cut the connection; the session, and so its claims, live on."""
        with self.tree.changed:
            self._last_seen = self._read()
            self._reachable = False
            self.tree.tick()

    def reconnect(self) -> None:
        """Mend the connection."""
        with self.tree.changed:
            self._reachable = True
            self.tree.tick()

    # -- life ---------------------------------------------------------------------------------

    def start(self, timeout: float = 15.0) -> None:
        with self.tree.changed:
            if not self._reachable:
                raise StoreUnavailableError(f"no ZooKeeper server answers within {timeout:g} s: fake:2181")
            self._open = True
            self.tree.tick()

    def close(self) -> None:
        with self.tree.changed:
            self._end_session()
            self._identity = None
            self._open = False
            self.tree.tick()

    @property
    def connected(self) -> bool:
        return self._open and self._reachable

    def installation_id(self) -> str:
        with self._connected_tree() as tree:
            return tree.installation

    def register(self, hostname: str, roles: tuple[str, ...], version: str) -> None:
        paths.daemon(hostname)
        with self._connected_tree() as tree:
            self._identity = (hostname, roles, version)
            tree.daemons[self] = self._identity
            tree.tick()

    # -- reading ------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        with self.tree.changed:
            if not self._open:
                raise StoreUnavailableError("the store is closed")
            return self._read() if self._reachable else self._last_seen

    def wait(self, seen: int, timeout: float | None = None) -> int:
        with self.tree.changed:
            self.tree.changed.wait_for(lambda: self._generation != seen, timeout)
            return self._generation

    def wake(self) -> None:
        with self.tree.changed:
            self._generation += 1
            self.tree.changed.notify_all()

    def get_build(self, image: str, build_id: str) -> Build:
        path = paths.build(image, build_id)
        with self._connected_tree() as tree:
            return _found(tree.builds.get(path), path)

    def get_upload(self, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
        path = paths.upload(image, build_id, provider, upload_id)
        with self._connected_tree() as tree:
            return _found(tree.uploads.get(path), path)

    def list_builds(self, image: str) -> tuple[Build, ...]:
        paths.builds(image)
        with self._connected_tree() as tree:
            return builds_newest_first(b for b in tree.builds.values() if b.image == image)

    def list_uploads(self, image: str, build_id: str, provider: str) -> tuple[Upload, ...]:
        parent = paths.uploads(image, build_id, provider)
        with self._connected_tree() as tree:
            return uploads_newest_first(u for p, u in tree.uploads.items() if p.startswith(f"{parent}/"))

    def get_request(self, image: str) -> Request | None:
        paths.request(image)
        with self._connected_tree() as tree:
            return tree.requests.get(image)

    # -- claims -------------------------------------------------------------------------------

    def claim_image(self, image: str) -> Claim | None:
        lock = paths.image_lock(image)
        with self._connected_tree() as tree:
            tree.images.add(image)
            return self._claim(lock)

    def claim_build(self, build: Build) -> Claim | None:
        lock = paths.build_lock(build.image, build.id)
        with self._connected_tree() as tree:
            return self._claim(lock) if paths.build(build.image, build.id) in tree.builds else None

    def claim_uploads(self, image: str, build_id: str, provider: str) -> Claim | None:
        lock = paths.uploads_lock(image, build_id, provider)
        with self._connected_tree() as tree:
            return self._claim(lock) if paths.build(image, build_id) in tree.builds else None

    def claim_share(self, provider: str, shares: int) -> Claim | None:
        locks = [paths.share(provider, number) for number in range(shares)]
        with self._connected_tree() as tree:
            free = next((lock for lock in locks if lock not in tree.claims), None)
            if free is None:
                return None
            claim = tree.claims[free] = FakeClaim(self, free)
            return claim

    def claim_sweep(self, provider: str) -> Claim | None:
        with self._connected_tree():
            return self._claim(paths.sweep(provider))

    def claim_upload(self, upload: Upload) -> Claim | None:
        lock = paths.upload_lock(upload.image, upload.build_id, upload.provider, upload.id)
        with self._connected_tree() as tree:
            return self._claim(lock) if _upload_path(upload) in tree.uploads else None

    # -- records ------------------------------------------------------------------------------

    def create_build(self, build: Build) -> Build:
        build = bounds.bounded(build)
        path = paths.build(build.image, build.id)
        with self._connected_tree() as tree:
            if path in tree.builds:
                raise ConflictError(f"{path} exists already")
            tree.images.add(build.image)
            tree.builds[path] = replace(build, version=0)
            tree.tick()
            return tree.builds[path]

    def update_build(self, build: Build) -> Build:
        build = bounds.bounded(build)
        path = paths.build(build.image, build.id)
        with self._connected_tree() as tree:
            _same_version(_found(tree.builds.get(path), path), build, path)
            tree.builds[path] = replace(build, version=build.version + 1)
            tree.tick()
            return tree.builds[path]

    def delete_build(self, build: Build) -> None:
        path = paths.build(build.image, build.id)
        with self._connected_tree() as tree:
            below = f"{path}/providers/"
            if any(p.startswith(below) for p in [*tree.uploads, *tree.claims]):
                raise RefusedError(f"build {build.id} of {build.image} still has uploads")
            if tree.builds.pop(path, None) is None:
                return
            tree.drop_claims(path)
            for parent in [p for p in tree.sequences if p.startswith(below)]:
                del tree.sequences[parent]
            if remembered(build):
                tree.gone[build.id] = tree.now()
            tree.tick()

    def create_upload(self, upload: Upload) -> Upload:
        upload = bounds.bounded(upload)
        parent = paths.uploads(upload.image, upload.build_id, upload.provider)
        with self._connected_tree() as tree:
            build = paths.build(upload.image, upload.build_id)
            _found(tree.builds.get(build), build)
            number = tree.sequences.get(parent, 0) + 1
            tree.sequences[parent] = number
            stored = replace(upload, id=f"{number:010d}", version=0)
            tree.uploads[_upload_path(stored)] = stored
            tree.tick()
            return stored

    def update_upload(self, upload: Upload) -> Upload:
        upload = bounds.bounded(upload)
        path = _upload_path(upload)
        with self._connected_tree() as tree:
            _same_version(_found(tree.uploads.get(path), path), upload, path)
            tree.uploads[path] = replace(upload, version=upload.version + 1)
            tree.tick()
            return tree.uploads[path]

    def delete_upload(self, upload: Upload) -> None:
        path = _upload_path(upload)
        with self._connected_tree() as tree:
            if tree.uploads.pop(path, None) is not None:
                tree.drop_claims(path)
                tree.tick()

    # -- wishes -------------------------------------------------------------------------------

    def request_build(self, request: Request) -> Request:
        paths.request(request.image)
        with self._connected_tree() as tree:
            open_one = tree.requests.get(request.image)
            if open_one is not None and (open_one.manual or not request.manual):
                return open_one
            tree.images.add(request.image)
            tree.requests[request.image] = replace(request, stamp=tree.tick())
            return tree.requests[request.image]

    def withdraw_request(self, request: Request) -> bool:
        paths.request(request.image)
        with self._connected_tree() as tree:
            open_one = tree.requests.get(request.image)
            if open_one is None or open_one.stamp != request.stamp:
                return False
            del tree.requests[request.image]
            tree.tick()
            return True

    def cancel_build(self, cancellation: Cancellation) -> None:
        paths.cancellation(cancellation.image)
        with self._connected_tree() as tree:
            tree.images.add(cancellation.image)
            tree.cancellations[cancellation.image] = bounds.bounded_signed(cancellation)
            tree.tick()

    def withdraw_cancellation(self, image: str, build_id: str | None = None) -> None:
        paths.cancellation(image)
        with self._connected_tree() as tree:
            there = tree.cancellations.get(image)
            if there is not None and build_id in (None, there.build_id):
                del tree.cancellations[image]
                tree.tick()

    def cancel_upload(self, cancellation: UploadCancellation) -> None:
        paths.upload_named(cancellation.image, cancellation.upload)
        with self._connected_tree():
            others = self._upload_cancellations_but(cancellation.image, cancellation.upload)
            self._set_upload_cancellations(cancellation.image, (*others, cancellation))

    def withdraw_upload_cancellation(self, image: str, upload: str) -> None:
        paths.upload_named(image, upload)
        with self._connected_tree() as tree:
            others = self._upload_cancellations_but(image, upload)
            if others != tree.upload_cancellations.get(image, ()):
                self._set_upload_cancellations(image, others)

    def wish_upload(self, image: str, build_id: str, wish: UploadWish) -> Build:
        paths.provider(image, build_id, wish.provider)
        with self._connected_tree():
            return self.update_build(wished(self.get_build(image, build_id), wish))

    def pause(self, image: str) -> None:
        paths.pause(image)
        with self._connected_tree() as tree:
            tree.images.add(image)
            tree.paused.add(image)
            tree.tick()

    def unpause(self, image: str) -> None:
        paths.pause(image)
        with self._connected_tree() as tree:
            tree.paused.discard(image)
            tree.tick()

    # -- what is known of images without records -----------------------------------------------

    def builds_gone(self) -> Mapping[str, datetime]:
        with self._connected_tree() as tree:
            there = {build.id for build in tree.builds.values()}
            return {build_id: time for build_id, time in tree.gone.items() if build_id not in there}

    def forget_build_gone(self, build_id: str) -> None:
        paths.gone(build_id)
        with self._connected_tree() as tree:
            tree.gone.pop(build_id, None)

    def sightings(self, provider: str) -> tuple[Sighting, ...]:
        paths.strays(provider)
        with self._connected_tree() as tree:
            seen = [sighting for sighting in tree.sightings.values() if sighting.provider == provider]
            return tuple(sorted(seen, key=lambda sighting: sighting.external_id))

    def put_sighting(self, sighting: Sighting) -> None:
        path = paths.stray(sighting.provider, sighting.external_id)
        with self._connected_tree() as tree:
            tree.sightings[path] = sighting

    def delete_sighting(self, provider: str, external_id: str) -> None:
        path = paths.stray(provider, external_id)
        with self._connected_tree() as tree:
            tree.sightings.pop(path, None)

    # -- starting again after the tree was lost ------------------------------------------------

    def restore_installation(self, installation_id: str) -> None:
        paths.checked_installation(installation_id)
        with self._connected_tree() as tree:
            if tree.installation == installation_id:
                return
            if tree.builds or tree.uploads:
                raise RefusedError(f"the tree is that of installation {tree.installation} and has builds")
            tree.installation = installation_id

    def restore_build(self, build: Build) -> Build:
        with self._connected_tree() as tree:
            restored = self.create_build(build)
            tree.gone.pop(build.id, None)
            return restored

    def restore_upload(self, upload: Upload) -> Upload:
        upload = bounds.bounded(upload)
        path = _upload_path(upload)
        if int(upload.id) > HIGHEST_UPLOAD_ID:
            raise RefusedError(f"{upload.id} is no upload's id: none gets above {HIGHEST_UPLOAD_ID}")
        parent = paths.uploads(upload.image, upload.build_id, upload.provider)
        with self._connected_tree() as tree:
            build = paths.build(upload.image, upload.build_id)
            _found(tree.builds.get(build), build)
            if path in tree.uploads:
                raise ConflictError(f"{path} exists already")
            tree.sequences[parent] = max(tree.sequences.get(parent, 0), int(upload.id))
            tree.uploads[path] = replace(upload, version=0)
            tree.tick()
            return tree.uploads[path]

    # -- inside -------------------------------------------------------------------------------

    @contextmanager
    def _connected_tree(self) -> Iterator[FakeTree]:
        with self.tree.changed:
            if not self.connected:
                raise StoreUnavailableError("ZooKeeper can't be reached: fake:2181")
            yield self.tree

    def _upload_cancellations_but(self, image: str, upload: str) -> tuple[UploadCancellation, ...]:
        there = self.tree.upload_cancellations.get(image, ())
        return tuple(wish for wish in there if wish.upload != upload)

    def _set_upload_cancellations(self, image: str, wishes: Iterable[UploadCancellation]) -> None:
        self.tree.images.add(image)
        self.tree.upload_cancellations[image] = bounds.bounded_cancellations(wishes)
        self.tree.tick()

    def _claim(self, path: str) -> Claim | None:
        if path in self.tree.claims:
            return None
        claim = self.tree.claims[path] = FakeClaim(self, path)
        self.tree.tick()
        return claim

    def _end_session(self) -> None:
        self.tree.daemons.pop(self, None)
        for path, claim in list(self.tree.claims.items()):
            if claim._store is self:
                claim.lost = True
                del self.tree.claims[path]

    def _read(self) -> Snapshot:
        return Snapshot(images={name: self._records(name) for name in self.tree.images})

    def _records(self, image: str) -> ImageRecords:
        tree = self.tree
        places = [place for place in map(paths.place, _contenders(tree)) if place and place.image == image]
        return ImageRecords(
            name=image,
            paused=image in tree.paused,
            request=tree.requests.get(image),
            cancellation=tree.cancellations.get(image),
            upload_cancellations=tree.upload_cancellations.get(image, ()),
            builds=builds_newest_first(b for b in tree.builds.values() if b.image == image),
            uploads=uploads_newest_first(u for u in tree.uploads.values() if u.image == image),
            build_claimed=any(p.kind is paths.Kind.IMAGE_CONTENDER for p in places),
            uploads_claimed=frozenset(
                (p.build_id, p.provider) for p in places if p.kind is paths.Kind.UPLOADS_CONTENDER
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _contenders(tree: FakeTree) -> list[str]:
    return [f"{path}/contender" for path in tree.claims]


def _upload_path(upload: Upload) -> str:
    return paths.upload(upload.image, upload.build_id, upload.provider, upload.id)


def _found(record: Record | None, path: str) -> Record:
    if record is None:
        raise NotFoundError(f"there is no {path}")
    return record


def _same_version(stored: Build | Upload, written: Build | Upload, path: str) -> None:
    if stored.version != written.version:
        raise ConflictError(f"{path} changed since it was read")

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
from types import MappingProxyType
from typing import Any, Self, TypeVar

from builder.cloudimage import Sighting
from builder.errors import ConflictError, NotFoundError, RefusedError, StoreUnavailableError
from builder.model import (
    NO_TICKS,
    Build,
    Cancellation,
    Clearance,
    Daemon,
    Pause,
    Release,
    Request,
    Snapshot,
    Turn,
    Upload,
    UploadCancellation,
    UploadWish,
    Withholding,
)
from builder.store import bounds, paths
from builder.store.base import (
    HIGHEST_UPLOAD_ID,
    Claim,
    Store,
    builds_newest_first,
    joined,
    not_remembered,
    remembered,
    uploads_newest_first,
    wished,
)
from builder.store.turns import begun, ended
from builder.store.view import Record as Shown
from builder.store.view import View

Record = TypeVar("Record")
#: Whoever holds a lock: one at a time here, and nobody waits for it.
_CONTENDER = "contender"


@dataclass
class FakeTree:
    """What all sessions share: the server's side."""

    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    installation: str = field(default_factory=lambda: uuid.uuid4().hex)
    gone: dict[str, datetime] = field(default_factory=dict)  #: by build id
    builds: dict[str, Build] = field(default_factory=dict)  #: by path, like all below
    uploads: dict[str, Upload] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  #: wishes, pauses, daemons: what else there is to see
    sequences: dict[str, int] = field(default_factory=dict)
    sightings: dict[str, Sighting] = field(default_factory=dict)
    turns: dict[str, dict[str, tuple[Turn, ...]]] = field(default_factory=dict)  #: by image, then provider
    claims: dict[str, FakeClaim] = field(default_factory=dict)
    line: dict[FakeStore, str] = field(default_factory=dict)  #: who would lead, in order
    daemons: dict[FakeStore, str] = field(default_factory=dict)
    view: View = field(default_factory=View)
    stores: list[FakeStore] = field(default_factory=list)
    clock: int = 0
    now: Callable[[], datetime] = lambda: datetime.now(UTC)  #: the server's

    def __post_init__(self) -> None:
        self.show(paths.INSTALLATION, self.installation)

    def belong_to(self, installation: str) -> None:
        """From now on it is the tree of that installation, or with "" of none."""
        with self.changed:
            self.installation = installation
            self.show(paths.INSTALLATION, installation)
            self.tick()

    def tick(self) -> int:
        """The id of one more change; every session learns of it."""
        self.clock += 1
        for store in self.stores:
            store._generation += 1
        self.changed.notify_all()
        return self.clock

    def show(self, path: str, record: Shown | None = None) -> None:
        """There is such a node from now on, and so is the image it belongs to."""
        place = paths.place(path)
        if place is None:
            return
        if place.image and place.kind is not paths.Kind.TICKS:
            self._keep(paths.image(place.image), paths.Place(kind=paths.Kind.IMAGE, image=place.image))
        self._keep(path, place, record)

    def _keep(self, path: str, place: paths.Place, record: Shown | None = None) -> None:
        if isinstance(record, Build):
            self.builds[path] = record
        elif isinstance(record, Upload):
            self.uploads[path] = record
        elif record is not None:
            self.notes[path] = record
        self.view.put(path, place, record)

    def remove(self, path: str) -> bool:
        """There is no such node any more; whether there was one."""
        place = paths.place(path)
        found = [found.pop(path, None) for found in (self.builds, self.uploads, self.notes)]
        if place is not None:
            self.view.drop(path, place)
        return any(record is not None for record in found)

    def count(self, parent: str) -> int:
        """ZooKeeper's sequence below a node."""
        self.sequences[parent] = self.sequences.get(parent, 0) + 1
        return self.sequences[parent]

    def drop_claim(self, path: str) -> bool:
        """Forget a lock that is held; whether somebody who watches sees that it is free."""
        del self.claims[path]
        place = paths.place(f"{path}/{_CONTENDER}")
        if place is not None:
            self.view.drop(f"{path}/{_CONTENDER}", place)
        return path.startswith(paths.IMAGES)

    def drop_claims(self, below: str) -> None:
        """Forget the locks of a node that is deleted; whoever holds one finds nothing to give back."""
        for path in [p for p in self.claims if p.startswith(f"{below}/")]:
            self.drop_claim(path)


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
            # Nobody watches anything else.
            if tree.claims.get(self._path) is self and tree.drop_claim(self._path):
                tree.tick()


class FakeLead(Claim):
    """The first place in a FakeTree's line."""

    def __init__(self, store: FakeStore, place: str) -> None:
        self._store = store
        self._place = place

    @property
    def valid(self) -> bool:
        return self._store.tree.line.get(self._store) == self._place

    def release(self) -> None:
        with self._store.tree.changed:
            if self.valid:
                self._store._leave_the_line()
                self._store.tree.tick()


class FakeStore(Store):
    """One daemon's session on a FakeTree; started and connected from the beginning."""

    def __init__(self, tree: FakeTree | None = None) -> None:
        self.tree = tree or FakeTree()
        self._generation = 0
        self._open = True
        self._reachable = True
        self._last_seen = Snapshot()
        self._identity: Daemon | None = None
        self._lead: FakeLead | None = None
        self.tree.stores.append(self)

    # -- what a test does to it ---------------------------------------------------------------

    def another_daemon(self) -> FakeStore:
        """A session of somebody else on the same tree."""
        return FakeStore(self.tree)

    def put(self, record: Build | Upload) -> None:
        """Place a record as it is (`version` apart), claims and parents or not."""
        with self.tree.changed:
            if isinstance(record, Upload):
                parent = paths.uploads(record.image, record.build_id, record.provider)
                self.tree.sequences[parent] = max(self.tree.sequences.get(parent, 0), int(record.id))
            self.tree.show(_path(record), replace(record, version=0))
            self.tree.tick()

    def lose_session(self) -> None:
        """Expire the session: its claims are gone for good; a new one is there at once."""
        with self.tree.changed:
            self._end_session()
            if self._identity is not None:
                self._show(self._identity)
            self.tree.tick()

    def disconnect(self) -> None:
        """Cut the connection; the session, and so its claims, live on."""
        with self.tree.changed:
            self._last_seen = self.tree.view.snapshot()
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

    def register(self, daemon: Daemon) -> None:
        paths.daemon(daemon.hostname)
        with self._connected_tree() as tree:
            self._identity = daemon
            self._show(daemon)
            tree.tick()

    # -- reading ------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        with self.tree.changed:
            if not self._open:
                raise StoreUnavailableError("the store is closed")
            return self.tree.view.snapshot() if self._reachable else self._last_seen

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
            return builds_newest_first(tree.view.snapshot().image(image).builds)

    def list_uploads(self, image: str, build_id: str, provider: str) -> tuple[Upload, ...]:
        paths.uploads(image, build_id, provider)
        with self._connected_tree() as tree:
            seen = tree.view.snapshot().image(image).uploads
            return uploads_newest_first(u for u in seen if (u.build_id, u.provider) == (build_id, provider))

    def get_request(self, image: str) -> Request | None:
        path = paths.request(image)
        with self._connected_tree() as tree:
            return tree.notes.get(path)

    # -- claims -------------------------------------------------------------------------------

    def claim_image(self, image: str) -> Claim | None:
        lock = paths.image_lock(image)
        with self._connected_tree():
            return self._claim(lock)

    def claim_lead(self, hostname: str) -> Claim | None:
        paths.daemon(hostname)
        with self._connected_tree() as tree:
            if self._lead is not None and self._lead.valid:
                return None
            if self not in tree.line:
                tree.line[self] = f"{paths.LEAD}/{uuid.uuid4().hex}__lock__{tree.count(paths.LEAD):010d}"
                tree.show(tree.line[self], hostname)
                if len(tree.line) == 1:
                    tree.tick()
            if next(iter(tree.line)) is not self:
                return None
            self._lead = FakeLead(self, tree.line[self])
            return self._lead

    def stand_down(self) -> None:
        with self.tree.changed:
            if self in self.tree.line and not (self._lead is not None and self._lead.valid):
                self._leave_the_line()
                self.tree.tick()

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
            return self._claim(lock) if _path(upload) in tree.uploads else None

    # -- records ------------------------------------------------------------------------------

    def create_build(self, build: Build) -> Build:
        build = bounds.bounded(build)
        path = paths.build(build.image, build.id)
        with self._connected_tree() as tree:
            if path in tree.builds:
                raise ConflictError(f"{path} exists already")
            tree.show(path, replace(build, version=0))
            tree.tick()
            return tree.builds[path]

    def update_build(self, build: Build) -> Build:
        build = bounds.bounded(build)
        path = paths.build(build.image, build.id)
        with self._connected_tree() as tree:
            _same_version(tree.builds.get(path), build, path)
            tree.show(path, replace(build, version=build.version + 1))
            tree.tick()
            return tree.builds[path]

    def delete_build(self, build: Build) -> None:
        path = paths.build(build.image, build.id)
        with self._connected_tree() as tree:
            below = f"{path}/providers/"
            if any(p.startswith(below) for p in [*tree.uploads, *tree.claims]):
                raise RefusedError(f"build {build.id} of {build.image} still has uploads")
            if path not in tree.builds:
                return
            _same_state(tree.builds[path], build, path)
            tree.remove(path)
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
            stored = replace(upload, id=f"{tree.count(parent):010d}", version=0)
            tree.show(_path(stored), stored)
            tree.tick()
            return stored

    def update_upload(self, upload: Upload) -> Upload:
        upload = bounds.bounded(upload)
        path = _path(upload)
        with self._connected_tree() as tree:
            _same_version(tree.uploads.get(path), upload, path)
            tree.show(path, replace(upload, version=upload.version + 1))
            tree.tick()
            return tree.uploads[path]

    def delete_upload(self, upload: Upload) -> None:
        path = _path(upload)
        with self._connected_tree() as tree:
            if path not in tree.uploads:
                return
            _same_state(tree.uploads[path], upload, path)
            tree.remove(path)
            tree.drop_claims(path)
            tree.tick()

    # -- wishes -------------------------------------------------------------------------------

    def request_build(self, request: Request, *, ticks: Mapping[str, datetime] = NO_TICKS) -> Request | None:
        request = bounds.bounded_signed(request)
        path, schedule = paths.request(request.image), paths.ticks(request.image)
        with self._connected_tree() as tree:
            open_one, marks = tree.notes.get(path), tree.notes.get(schedule, NO_TICKS)
            fresh = not_remembered(ticks, marks, request.time)
            if ticks and not fresh:
                return None
            wanted = joined(request, open_one)
            if wanted is open_one and not fresh:
                return open_one
            changed = tree.tick()
            if fresh:
                tree.show(schedule, MappingProxyType(bounds.bounded_ticks({**marks, **fresh})))
            tree.show(path, wanted if wanted.stamp else replace(wanted, stamp=changed))
            stored: Request = tree.notes[path]
            return stored

    def withdraw_request(self, request: Request) -> bool:
        path = paths.request(request.image)
        with self._connected_tree() as tree:
            open_one = tree.notes.get(path)
            if open_one is None or open_one.stamp != request.stamp:
                return False
            tree.remove(path)
            tree.tick()
            return True

    def cancel_build(self, cancellation: Cancellation) -> None:
        path = paths.cancellation(cancellation.image)
        self._put_note(path, bounds.bounded_signed(cancellation))

    def withdraw_cancellation(self, image: str, build_id: str | None = None) -> None:
        path = paths.cancellation(image)
        with self._connected_tree() as tree:
            there = tree.notes.get(path)
            if there is not None and build_id in (None, there.build_id):
                tree.remove(path)
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
            if others != tree.notes.get(paths.upload_cancellations(image), ()):
                self._set_upload_cancellations(image, others)

    def wish_upload(self, image: str, build_id: str, wish: UploadWish) -> Build:
        paths.provider(image, build_id, wish.provider)
        with self._connected_tree():
            return self.update_build(wished(self.get_build(image, build_id), wish))

    def withhold(self, image: str, build_id: str, word: Withholding) -> Build:
        if word.provider is not None:
            paths.provider(image, build_id, word.provider)
        return self._change_build(image, build_id, lambda build: build.withhold(word))

    def release(self, image: str, build_id: str, provider: str | None) -> Build:
        return self._change_build(image, build_id, lambda build: build.released(provider))

    def clear(self, image: str, build_id: str, word: Clearance) -> Build:
        if word.provider is not None:
            paths.provider(image, build_id, word.provider)
        return self._change_build(image, build_id, lambda build: build.clear(word))

    def let_go(self, image: str, build_id: str, release: Release) -> Build:
        return self._change_build(image, build_id, lambda build: build.let_go(release))

    # -- who served what -----------------------------------------------------------------------

    def history(self, image: str) -> Mapping[str, tuple[Turn, ...]]:
        paths.history(image)
        with self._connected_tree() as tree:
            return dict(sorted(tree.turns.get(image, {}).items()))

    def begin_turn(self, image: str, provider: str, turn: Turn) -> None:
        self._change_turns(image, provider, lambda there: begun(there, turn))

    def end_turn(self, image: str, provider: str, upload: str, until: datetime, why: str) -> None:
        self._change_turns(image, provider, lambda there: ended(there, upload, until, why))

    def forget_history(self, image: str) -> None:
        paths.history(image)
        with self._connected_tree() as tree:
            tree.turns.pop(image, None)

    # -- what stands until somebody takes it back ------------------------------------------------

    def pause(self, image: str, pause: Pause) -> None:
        self._put_note(paths.pause(image), bounds.bounded_signed(pause))

    def unpause(self, image: str) -> None:
        self._remove_note(paths.pause(image))

    def pause_provider(self, provider: str, pause: Pause) -> None:
        self._put_note(paths.paused_provider(provider), bounds.bounded_signed(pause))

    def unpause_provider(self, provider: str) -> None:
        self._remove_note(paths.paused_provider(provider))

    def freeze(self, pause: Pause) -> None:
        self._put_note(paths.FROZEN, bounds.bounded_signed(pause))

    def unfreeze(self) -> None:
        self._remove_note(paths.FROZEN)

    def forget_builder(self, builder_id: str, word: Pause) -> None:
        self._put_note(paths.forgotten(builder_id), bounds.bounded_signed(word))

    def recall_builder(self, builder_id: str) -> None:
        self._remove_note(paths.forgotten(builder_id))

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
            tree.belong_to(installation_id)

    def restore_build(self, build: Build) -> Build:
        with self._connected_tree() as tree:
            restored = self.create_build(build)
            tree.gone.pop(build.id, None)
            return restored

    def restore_upload(self, upload: Upload) -> Upload:
        upload = bounds.bounded(upload)
        path = _path(upload)
        if int(upload.id) > HIGHEST_UPLOAD_ID:
            raise RefusedError(f"{upload.id} is no upload's id: none gets above {HIGHEST_UPLOAD_ID}")
        parent = paths.uploads(upload.image, upload.build_id, upload.provider)
        with self._connected_tree() as tree:
            build = paths.build(upload.image, upload.build_id)
            _found(tree.builds.get(build), build)
            if path in tree.uploads:
                raise ConflictError(f"{path} exists already")
            tree.sequences[parent] = max(tree.sequences.get(parent, 0), int(upload.id))
            tree.show(path, replace(upload, version=0))
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
        there = self.tree.notes.get(paths.upload_cancellations(image), ())
        return tuple(wish for wish in there if wish.upload != upload)

    def _set_upload_cancellations(self, image: str, wishes: Iterable[UploadCancellation]) -> None:
        self.tree.show(paths.upload_cancellations(image), bounds.bounded_cancellations(wishes))
        self.tree.tick()

    def _change_build(self, image: str, build_id: str, change: Callable[[Build], Build]) -> Build:
        with self._connected_tree():
            build = self.get_build(image, build_id)
            changed = change(build)
            return build if changed == build else self.update_build(changed)

    def _change_turns(
        self, image: str, provider: str, change: Callable[[tuple[Turn, ...]], tuple[Turn, ...]]
    ) -> None:
        paths.turns(image, provider)
        with self._connected_tree() as tree:
            there = tree.turns.get(image, {})
            if turns := change(there.get(provider, ())):
                tree.turns[image] = {**there, provider: turns}

    def _put_note(self, path: str, record: Shown) -> None:
        with self._connected_tree() as tree:
            tree.show(path, record)
            tree.tick()

    def _remove_note(self, path: str) -> None:
        with self._connected_tree() as tree:
            if tree.remove(path):
                tree.tick()

    def _claim(self, path: str) -> Claim | None:
        if path in self.tree.claims:
            return None
        claim = self.tree.claims[path] = FakeClaim(self, path)
        self.tree.show(f"{path}/{_CONTENDER}")
        self.tree.tick()
        return claim

    def _show(self, daemon: Daemon) -> None:
        """As ZooKeeper does, in a node of its own in each session."""
        if self not in self.tree.daemons:
            base = paths.daemon(daemon.hostname)
            self.tree.daemons[self] = f"{base}{self.tree.count(paths.DAEMONS):010d}"
        self.tree.show(self.tree.daemons[self], daemon)

    def _leave_the_line(self) -> None:
        self.tree.remove(self.tree.line.pop(self))

    def _end_session(self) -> None:
        if self in self.tree.daemons:
            self.tree.remove(self.tree.daemons.pop(self))
        if self in self.tree.line:
            self._leave_the_line()
        for path, claim in list(self.tree.claims.items()):
            if claim._store is self:
                claim.lost = True
                self.tree.drop_claim(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _path(record: Build | Upload) -> str:
    if isinstance(record, Build):
        return paths.build(record.image, record.id)
    return paths.upload(record.image, record.build_id, record.provider, record.id)


def _found(record: Record | None, path: str) -> Record:
    if record is None:
        raise NotFoundError(f"there is no {path}")
    return record


def _same_version(stored: Build | Upload | None, written: Build | Upload, path: str) -> None:
    if written.version < 0:
        raise ConflictError(f"{path} was never read, so it can't be written over")
    if stored is None:
        raise NotFoundError(f"there is no {path}")
    if stored.version != written.version:
        raise ConflictError(f"{path} changed since it was read")


def _same_state(stored: Build | Upload, seen: Build | Upload, path: str) -> None:
    if stored.state != seen.state:
        raise ConflictError(f"{path} is no longer {seen.state}: it changed since it was read")

"""Reads, claims and writes builds and uploads in ZooKeeper.

Every write of a record names the version that was read; whatever takes several nodes away does it
in one transaction, so that it happens whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.interfaces import IAsyncResult

from builder.errors import ConflictError, NotFoundError, RefusedError
from builder.model import Build, Request, Upload
from builder.store import codec, notes, paths
from builder.store.base import Claim, builds_newest_first, remembered, uploads_newest_first
from builder.store.bounds import bounded
from builder.store.fields import RecordError, Stored
from builder.store.nodes import ATTEMPTS, Part, Step, deleting
from builder.store.unowned import remembering

LOG = logging.getLogger(__name__)


class Records(Part):
    """Builds and uploads: reading, claims, changes."""

    # -- reading ------------------------------------------------------------------------------

    def get_build(self, image: str, build_id: str) -> Build:
        return codec.decode_build(
            self._nodes.read(paths.build(image, build_id)), image=image, build_id=build_id
        )

    def get_upload(self, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
        return codec.decode_upload(
            self._nodes.read(paths.upload(image, build_id, provider, upload_id)),
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
            node = self._nodes.read(paths.request(image))
        except NotFoundError:
            return None
        return notes.decode_request(node, image=image)

    # -- claims -------------------------------------------------------------------------------

    def claim_image(self, image: str) -> Claim | None:
        return self._claim_made(paths.image_lock(image))

    def claim_build(self, build: Build) -> Claim | None:
        return self._claim_existing(paths.build_lock(build.image, build.id))

    def claim_uploads(self, image: str, build_id: str, provider: str) -> Claim | None:
        lock = paths.uploads_lock(image, build_id, provider)
        try:
            return self._session.claim(lock)
        except NoNodeError:
            return self._session.claim(lock) if self._make_uploads(image, build_id, provider) else None

    def claim_share(self, provider: str, shares: int) -> Claim | None:
        for lock in [paths.share(provider, number) for number in range(shares)]:
            claim = self._claim_made(lock)
            if claim is not None:
                return claim
        return None

    def claim_sweep(self, provider: str) -> Claim | None:
        return self._claim_made(paths.sweep(provider))

    def claim_upload(self, upload: Upload) -> Claim | None:
        lock = paths.upload_lock(upload.image, upload.build_id, upload.provider, upload.id)
        return self._claim_existing(lock)

    # -- records ------------------------------------------------------------------------------

    def create_build(self, build: Build) -> Build:
        build = bounded(build)
        path = paths.build(build.image, build.id)
        self._nodes.create(path, codec.encode_build(build))
        return replace(build, version=0)

    def update_build(self, build: Build) -> Build:
        build = bounded(build)
        path = paths.build(build.image, build.id)
        return replace(build, version=self._nodes.write(path, codec.encode_build(build), build.version))

    def delete_build(self, build: Build) -> None:
        uploads = paths.providers(build.image, build.id)

        def check(path: str) -> None:
            place = paths.place(path)
            if place and place.kind in (paths.Kind.UPLOAD, paths.Kind.UPLOADS_CONTENDER):
                raise RefusedError(
                    f"build {build.id} of {build.image} still has uploads: {path.removeprefix(uploads)}",
                    hint="Delete its uploads first.",
                )

        also = (lambda: [remembering(self._nodes, build)]) if remembered(build) else list
        self._delete_tree(paths.build(build.image, build.id), build.state, check, also)

    def create_upload(self, upload: Upload) -> Upload:
        upload = bounded(upload)
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
        upload = bounded(upload)
        data = codec.encode_upload(upload)
        return replace(upload, version=self._nodes.write(upload_path(upload), data, upload.version))

    def delete_upload(self, upload: Upload) -> None:
        self._delete_tree(upload_path(upload), upload.state, lambda path: None, list)

    # -- inside -------------------------------------------------------------------------------

    def _read_children(self, parent: str, kind: paths.Kind) -> list[tuple[paths.Place, Stored]]:
        found = [f"{parent}/{name}" for name in self._nodes.children(parent)]
        places = [(paths.place(path), path) for path in found]
        return list(
            self._nodes.read_all(
                (place, path) for place, path in places if place is not None and place.kind is kind
            )
        )

    def _claim_made(self, lock: str) -> Claim | None:
        """Claim a lock, which is made if there is none yet."""
        try:
            return self._session.claim(lock)
        except NoNodeError:
            # In one go where only the last two are missing, as in a provider's first share.
            if not self._nodes.make_down((lock.rpartition("/")[0], lock)):
                self._nodes.ensure(lock)
            return self._session.claim(lock)

    def _claim_existing(self, lock: str) -> Claim | None:
        """Claim the lock of a record; None when the record is gone, which must not bring it back:
        nodepool's way of making the lock's parents left empty nodes behind."""
        try:
            return self._session.claim(lock)
        except NoNodeError:
            return self._session.claim(lock) if self._nodes.make(lock) else None

    def _delete_tree(
        self, path: str, state: str, check: Callable[[str], None], also: Callable[[], list[Step]]
    ) -> None:
        """Delete a record and all below it, and do in the same step what is `also` to be done; `check` may
        refuse each node. ConflictError when somebody has brought the record into another state."""
        for _ in range(ATTEMPTS):
            nodes = self._nodes.subtree(path)
            for node in nodes:
                check(node)
            if not nodes:
                return
            try:
                record = self._nodes.read(path)
            except NotFoundError:
                return
            if codec.state_in(record) not in (state, None):
                raise ConflictError(f"{path} is no longer {state}: it changed since it was read")
            if self._nodes.commit([*also(), *map(deleting, nodes[:-1]), deleting(path, record.version)]):
                return
        raise ConflictError(f"{path} keeps changing while it is deleted")

    def _make_uploads(self, image: str, build_id: str, provider: str) -> bool:
        """Make the parents of uploads below a build, if that still exists; whether it does.

        The lock comes first in `images`, as nodepool has it: the first upload then is 0000000001.
        """
        return self._nodes.make_down(
            (
                paths.providers(image, build_id),
                paths.provider(image, build_id, provider),
                paths.uploads(image, build_id, provider),
                paths.uploads_lock(image, build_id, provider),
            )
        )


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


def upload_path(upload: Upload) -> str:
    """Where the record of an upload is."""
    return paths.upload(upload.image, upload.build_id, upload.provider, upload.id)

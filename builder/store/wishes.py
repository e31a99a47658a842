"""Keeps in ZooKeeper what people wish of builds and uploads that there are."""

from __future__ import annotations

import logging
from collections.abc import Callable

from builder.errors import ConflictError, NotFoundError
from builder.model import Build, Cancellation, Clearance, Release, UploadCancellation, UploadWish, Withholding
from builder.store import notes, paths
from builder.store.base import wished
from builder.store.bounds import bounded_cancellations, bounded_signed
from builder.store.fields import RecordError, Stored
from builder.store.nodes import ATTEMPTS, Part

LOG = logging.getLogger(__name__)


class Wishes(Part):
    """Cancellations, wishes for uploads, and words that builds are withheld, or may serve."""

    def cancel_build(self, cancellation: Cancellation) -> None:
        path = paths.cancellation(cancellation.image)
        self._nodes.put(path, notes.encode_cancellation(bounded_signed(cancellation)))

    def withdraw_cancellation(self, image: str, build_id: str | None = None) -> None:
        path = paths.cancellation(image)
        try:
            node = self._nodes.read(path)
            if build_id is None or notes.decode_cancellation(node, image=image).build_id == build_id:
                self._nodes.delete(path, node.version)
        except NotFoundError:
            return  # gone, or there is nothing in it that names this build
        except ConflictError:
            LOG.info("the wish that a build of %s ends was followed by another, which stays", image)

    def cancel_upload(self, cancellation: UploadCancellation) -> None:
        name = cancellation.upload
        paths.upload_named(cancellation.image, name)
        self._change_upload_cancellations(
            cancellation.image, lambda there: (*_without(there, name), cancellation)
        )

    def withdraw_upload_cancellation(self, image: str, upload: str) -> None:
        paths.upload_named(image, upload)
        self._change_upload_cancellations(image, lambda there: _without(there, upload))

    def wish_upload(self, image: str, build_id: str, wish: UploadWish) -> Build:
        paths.provider(image, build_id, wish.provider)
        return self._change_build(image, build_id, lambda build: wished(build, wish))

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
        return self._change_build(image, build_id, lambda build: build.let_go(bounded_signed(release)))

    def _change_build(self, image: str, build_id: str, change: Callable[[Build], Build]) -> Build:
        for _ in range(ATTEMPTS):
            build = self.get_build(image, build_id)
            changed = change(build)
            if changed == build:
                return build
            try:
                return self.update_build(changed)
            except ConflictError:
                continue
        raise ConflictError(f"{paths.build(image, build_id)} keeps changing")

    def _change_upload_cancellations(
        self, image: str, change: Callable[[_UploadCancellations], _UploadCancellations]
    ) -> None:
        path = paths.upload_cancellations(image)
        for _ in range(ATTEMPTS):
            try:
                node = self._nodes.read(path)
            except NotFoundError:
                node = None
            there = () if node is None else _readable(node, image)
            wishes = bounded_cancellations(change(there))
            if wishes == there:
                return None
            data = notes.encode_upload_cancellations(wishes)
            try:
                if node is None:
                    return self._nodes.create(path, data)
                self._nodes.write(path, data, node.version)
                return None
            except (ConflictError, NotFoundError):
                continue
        raise ConflictError(f"{path} keeps changing")


_UploadCancellations = tuple[UploadCancellation, ...]


def _readable(node: Stored, image: str) -> _UploadCancellations:
    try:
        return notes.decode_upload_cancellations(node, image=image)
    except RecordError:
        return ()  # it says nothing, and is written over


def _without(wishes: _UploadCancellations, upload: str) -> _UploadCancellations:
    return tuple(wish for wish in wishes if wish.upload != upload)

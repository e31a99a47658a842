"""Writes records into an empty tree as they were in one that was lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kazoo.exceptions import NodeExistsError, NoNodeError

from builder.errors import ConflictError, NotFoundError, RefusedError
from builder.model import Build, Upload
from builder.store import codec, paths
from builder.store.base import HIGHEST_UPLOAD_ID
from builder.store.bounds import bounded
from builder.store.nodes import ATTEMPTS, creating, deleting
from builder.store.records import Records, upload_path
from builder.store.unowned import recalling

#: Nodes made and removed in one transaction, whose request has to stay far below a megabyte.
_AT_ONCE: Final = 500


class Restoring(Records):
    """The installation, builds and uploads there were before."""

    def restore_installation(self, installation_id: str) -> None:
        wanted = paths.checked_installation(installation_id)
        if self.installation_id() == wanted:
            return
        node = self._nodes.read(paths.INSTALLATION)
        for image in self._nodes.children(paths.IMAGES):
            if set(self._nodes.children(f"{paths.IMAGES}/{image}/builds")) - {paths.LOCK}:
                raise RefusedError(
                    f"the records in ZooKeeper are those of installation {self.installation_id()},"
                    f" and {image} has builds",
                    hint="Only a tree without builds can become that of another installation.",
                )
        self._nodes.write(paths.INSTALLATION, wanted.encode(), node.version)

    def restore_build(self, build: Build) -> Build:
        build = bounded(build)
        path, data = paths.build(build.image, build.id), codec.encode_build(build)
        for _ in range(ATTEMPTS):
            self._nodes.ensure(paths.builds(build.image))
            if self._nodes.exist([path]) == [True]:
                raise ConflictError(f"{path} exists already")
            if self._nodes.commit([creating(path, data), *recalling(self._nodes, build)]):
                return replace(build, version=0)
        raise ConflictError(f"{path} keeps changing")

    def restore_upload(self, upload: Upload) -> Upload:
        upload = bounded(upload)
        path = upload_path(upload)
        number = int(upload.id)
        if number > HIGHEST_UPLOAD_ID:
            raise RefusedError(f"{upload.id} is no upload's id: none gets above {HIGHEST_UPLOAD_ID}")
        if not self._make_uploads(upload.image, upload.build_id, upload.provider):
            raise NotFoundError(f"there is no {paths.build(upload.image, upload.build_id)}")
        self._count_to(paths.uploads(upload.image, upload.build_id, upload.provider), number)
        try:
            self._session.call(lambda c: c.create_async(path, codec.encode_upload(upload)))
        except NodeExistsError as error:
            raise ConflictError(f"{path} exists already") from error
        except NoNodeError as error:
            raise NotFoundError(f"there is no {paths.build(upload.image, upload.build_id)}") from error
        return replace(upload, version=0)

    def _count_to(self, parent: str, number: int) -> None:
        """Bring ZooKeeper's sequence below a node to `number`, so that the node made next gets past it.

        The sequence counts the nodes that were made. What is made and removed in one transaction counts,
        and no reader ever sees it.
        """
        passing = f"{parent}/passing"
        for _ in range(ATTEMPTS + number // _AT_ONCE):
            missing = min(number - self._nodes.children_made(parent), _AT_ONCE)
            if missing <= 0:
                return
            self._nodes.commit([creating(passing), deleting(passing)] * missing)
        raise ConflictError(f"{parent} keeps changing")

"""Keeps in ZooKeeper what is known of images that no record owns: builds that are gone, and sightings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime

from builder.cloudimage import Sighting
from builder.errors import NotFoundError
from builder.model import Build, name_problem
from builder.store import notes, paths
from builder.store.fields import RecordError
from builder.store.nodes import Nodes, Part, Step, creating, deleting, setting

LOG = logging.getLogger(__name__)


class Unowned(Part):
    """Builds that are gone, and sightings of images without a record."""

    def builds_gone(self) -> Mapping[str, datetime]:
        names = self._nodes.children(paths.GONE)
        found = []
        for build_id, node in self._nodes.read_all((name, f"{paths.GONE}/{name}") for name in names):
            try:
                image = notes.decode_gone(node, build_id=build_id)
                found.append((paths.build(image, build_id), build_id, node.modified))
            except (RecordError, ValueError) as error:
                # Where its record would be can't be told, so neither can that there is none.
                LOG.warning("skipped: %s", error)
        there = self._nodes.exist(path for path, _, _ in found)
        return {
            build_id: time for (_, build_id, time), exists in zip(found, there, strict=True) if not exists
        }

    def forget_build_gone(self, build_id: str) -> None:
        self._nodes.remove(paths.gone(build_id))

    def sightings(self, provider: str) -> tuple[Sighting, ...]:
        parent = paths.strays(provider)
        found = []
        names = [name for name in self._nodes.children(parent) if name_problem(name) is None]
        for external_id, node in self._nodes.read_all((name, f"{parent}/{name}") for name in sorted(names)):
            try:
                found.append(notes.decode_sighting(node, provider=provider, external_id=external_id))
            except RecordError as error:
                # Seen for the first time, then, whenever it is seen next: the side on which to be wrong.
                LOG.warning("skipped: %s", error)
        return tuple(found)

    def put_sighting(self, sighting: Sighting) -> None:
        path = paths.stray(sighting.provider, sighting.external_id)
        self._nodes.put(path, notes.encode_sighting(sighting))

    def delete_sighting(self, provider: str, external_id: str) -> None:
        self._nodes.remove(paths.stray(provider, external_id))


def remembering(nodes: Nodes, build: Build) -> Step:
    """What belongs into the transaction that removes a build, so that it is known to be gone."""
    path, data = paths.gone(build.id), notes.encode_gone(build.image)
    nodes.ensure(paths.GONE)
    try:
        return setting(path, data, nodes.read(path).version)
    except NotFoundError:
        return creating(path, data)


def recalling(nodes: Nodes, build: Build) -> list[Step]:
    """What belongs into the transaction that brings a build back, so that it isn't gone any more."""
    path = paths.gone(build.id)
    return [deleting(path)] if nodes.exist([path]) == [True] else []

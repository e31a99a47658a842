"""Puts the Snapshot together from the nodes that are known, and does again only what changed.

What an image has is kept apart from what all others have: a change of one node costs a look through the
records of its image, and the ImageRecords of all other images stay the very same objects, by which planners
know that they have nothing to reconsider.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from builder.model import (
    NO_TICKS,
    Build,
    Cancellation,
    Daemon,
    ImageRecords,
    Pause,
    Request,
    Snapshot,
    Upload,
    UploadCancellation,
)
from builder.store.base import builds_newest_first, uploads_newest_first
from builder.store.paths import Kind, Place

#: What a node can say: for a contender of `claim_lead`, its host name.
Record = (
    Build
    | Upload
    | Request
    | Pause
    | Cancellation
    | tuple[UploadCancellation, ...]
    | Mapping[str, datetime]
    | Daemon
    | str
)
_SEQUENCE = re.compile(r"[0-9]{10}\Z")
#: Of these an image has one each.
_NOTES: Final = frozenset(
    {Kind.IMAGE, Kind.PAUSE, Kind.REQUEST, Kind.CANCELLATION, Kind.UPLOAD_CANCELLATIONS, Kind.TICKS}
)


@dataclass(kw_only=True)
class _Parts:
    """What is known of one image; the contenders by their paths, for there may be several for one lock."""

    notes: dict[Kind, Any] = field(default_factory=dict)
    builds: dict[str, Build] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    building: set[str] = field(default_factory=set)
    uploading: dict[str, tuple[str, str]] = field(default_factory=dict)

    def put(self, path: str, place: Place, record: Record | None) -> None:
        if place.kind in _NOTES:
            self.notes[place.kind] = record
        elif place.kind is Kind.IMAGE_CONTENDER:
            self.building.add(path)
        elif place.kind is Kind.UPLOADS_CONTENDER:
            self.uploading[path] = (place.build_id, place.provider)
        elif isinstance(record, Build):
            self.builds[path] = record
        elif isinstance(record, Upload):
            self.uploads[path] = record
        else:
            self.drop(path, place)

    def drop(self, path: str, place: Place) -> None:
        if place.kind in _NOTES:
            self.notes.pop(place.kind, None)
        elif place.kind is Kind.IMAGE_CONTENDER:
            self.building.discard(path)
        for found in (self.builds, self.uploads, self.uploading):
            found.pop(path, None)

    def together(self, name: str) -> ImageRecords | None:
        """None when there is nothing of the image, not even its node."""
        if not self.notes and not self.builds and not self.uploads:
            return None
        return ImageRecords(
            name=name,
            pause=self.notes.get(Kind.PAUSE),
            request=self.notes.get(Kind.REQUEST),
            ticks=self.notes.get(Kind.TICKS) or NO_TICKS,
            cancellation=self.notes.get(Kind.CANCELLATION),
            upload_cancellations=self.notes.get(Kind.UPLOAD_CANCELLATIONS) or (),
            builds=builds_newest_first(self.builds.values()),
            uploads=uploads_newest_first(self.uploads.values()),
            build_claimed=bool(self.building),
            uploads_claimed=frozenset(self.uploading.values()),
        )


class View:
    """The nodes that are known, and the Snapshot of them. Not for several threads at once."""

    def __init__(self) -> None:
        self._images: defaultdict[str, _Parts] = defaultdict(_Parts)
        self._ours: defaultdict[Kind, dict[str, tuple[str, Any]]] = defaultdict(dict)
        self._stale: set[str] = set()  #: images to be put together anew
        self._stale_kinds: set[Kind] = set()
        self._snapshot = Snapshot(installation="")

    def put(self, path: str, place: Place, record: Record | None = None) -> bool:
        """There is a node, which says that, or nothing that can be read; whether a Snapshot shows it."""
        if place.image:
            self._images[place.image].put(path, place, record)
            self._stale.add(place.image)
            return True
        if place.kind in (Kind.ROOT, Kind.PARENT):
            return False
        before = self._lead()
        self._ours[place.kind][path] = (place.name, record)
        return self._news(place.kind, before)

    def drop(self, path: str, place: Place) -> bool:
        """The node is gone; whether a Snapshot shows it."""
        if place.image:
            self._images[place.image].drop(path, place)
            self._stale.add(place.image)
            return True
        if place.kind in (Kind.ROOT, Kind.PARENT):
            return False
        before = self._lead()
        self._ours[place.kind].pop(path, None)
        return self._news(place.kind, before)

    def snapshot(self) -> Snapshot:
        """All of it, now. The same object as before when nothing changed."""
        if self._stale_kinds:
            self._snapshot = replace(self._snapshot, **self._all_of_ours())
            self._stale_kinds.clear()
        if self._stale:
            self._snapshot = replace(self._snapshot, images=self._all_images())
            self._stale.clear()
        return self._snapshot

    @property
    def first_candidate(self) -> str | None:
        """The node of whoever leads."""
        lead = self._lead()
        return None if lead is None else lead[0]

    def _news(self, kind: Kind, before: tuple[str, str | None] | None) -> bool:
        # Who stands in line for the lead is nobody's concern until the line moves up.
        if kind is Kind.CANDIDATE and self._lead() == before:
            return False
        self._stale_kinds.add(kind)
        return True

    def _all_images(self) -> Mapping[str, ImageRecords]:
        images = dict(self._snapshot.images)
        known = len(images)
        for name in self._stale:
            records = self._images[name].together(name)
            if records is None:
                images.pop(name, None)
                if self._images[name] == _Parts():
                    del self._images[name]
            else:
                images[name] = records
        if len(images) != known or not images.keys() <= self._snapshot.images.keys():
            images = {name: images[name] for name in sorted(images)}
        return MappingProxyType(images)

    def _all_of_ours(self) -> dict[str, Any]:
        lead = self._lead()
        frozen = [record for _, record in self._ours[Kind.FROZEN].values()]
        installation = [record for _, record in self._ours[Kind.INSTALLATION].values()]
        return {
            "installation": installation[0] if installation else "",
            "frozen": frozen[0] if frozen else None,
            "paused_providers": self._by_name(Kind.PAUSED_PROVIDER),
            "forgotten": self._by_name(Kind.FORGOTTEN),
            "daemons": self._daemons(),
            "leader": None if lead is None else lead[1],
        }

    def _by_name(self, kind: Kind) -> Mapping[str, Any]:
        return MappingProxyType(
            {name: record for name, record in sorted(self._ours[kind].values()) if record is not None}
        )

    def _daemons(self) -> tuple[Daemon, ...]:
        """By host name. Of one that has just started again, not what its session before has left."""
        found: dict[object, Daemon] = {}
        nodes = self._ours[Kind.DAEMON]
        for path in sorted(nodes, key=_sequence):
            record = nodes[path][1]
            if isinstance(record, Daemon):
                # Several of one machine may share the roles among them.
                found[(record.builder_id, record.roles) if record.builder_id else path] = record
        return tuple(sorted(found.values(), key=lambda daemon: (daemon.hostname, daemon.started)))

    def _lead(self) -> tuple[str, str | None] | None:
        """The node of whoever leads, and its host name."""
        nodes = self._ours[Kind.CANDIDATE]
        first = min(nodes, key=_sequence, default=None)
        return None if first is None else (first, nodes[first][1])


def _sequence(path: str) -> tuple[int, str]:
    """What ZooKeeper counted a node as among those made below its parent."""
    match = _SEQUENCE.search(path)
    return int(match[0]) if match else 0, path

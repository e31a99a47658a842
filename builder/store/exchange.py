"""Writes what is on record as nodepool's `export-image-data` does, and reads such a file; pure.

One JSON object: the path of a node to its data, for the pause of an image (""), builds and uploads. Records
stand there as ZooKeeper has them, with the fields that nodepool ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from builder.model import Build, Snapshot, Upload
from builder.store import codec, paths
from builder.store.base import HIGHEST_UPLOAD_ID
from builder.store.fields import RecordError, Stored
from builder.store.reading import read


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """What such a file says; `unreadable` has the path of each entry that says nothing, and why."""

    paused: tuple[str, ...]
    builds: tuple[Build, ...]
    uploads: tuple[Upload, ...]
    unreadable: Mapping[str, str]


def image_data(snapshot: Snapshot) -> dict[str, str]:
    """Everything on record, by path. Requests are not in it: nodepool leaves them out as well."""
    data: dict[str, str] = {}
    for name in sorted(snapshot.images):
        if snapshot.images[name].paused:
            data[paths.pause(name)] = ""
    for build in snapshot.builds():
        data[paths.build(build.image, build.id)] = codec.encode_build(build).decode()
    for upload in snapshot.uploads():
        path = paths.upload(upload.image, upload.build_id, upload.provider, upload.id)
        data[path] = codec.encode_upload(upload).decode()
    return data


def read_image_data(data: Mapping[str, Any], now: datetime) -> ImageData:
    """The records in it, uploads in the order of their numbers. `now` is for those that have no time."""
    paused: list[str] = []
    builds: list[Build] = []
    uploads: list[Upload] = []
    unreadable: dict[str, str] = {}
    for path in sorted(data):
        try:
            match _read(path, data[path], now):
                case Build() as build:
                    builds.append(build)
                case Upload() as upload:
                    uploads.append(upload)
                case str() as image:
                    paused.append(image)
        except RecordError as error:
            unreadable[path] = error.message
    return ImageData(
        paused=tuple(paused), builds=tuple(builds), uploads=tuple(uploads), unreadable=unreadable
    )


def _read(path: str, text: Any, now: datetime) -> Build | Upload | str:
    """The build, the upload, or the image that is paused; RecordError when it is none of these."""
    place = paths.place(path)
    if place is None or not isinstance(text, str):
        raise RecordError("it is no node of an image")
    # JSON knows texts that no node can hold; what is left of them is no record.
    data = text.encode(errors="replace")
    stored = Stored(data=data, version=0, written_by=0, created=now, modified=now)
    if place.kind is paths.Kind.PAUSE:
        return place.image
    known = place.kind is paths.Kind.BUILD or (
        place.kind is paths.Kind.UPLOAD and int(place.upload_id) <= HIGHEST_UPLOAD_ID
    )
    record = read(place, stored) if known else None
    if isinstance(record, Build | Upload):
        return record
    raise RecordError("it is no pause, build or upload")

"""nodepool's lists under nodepool's names: what is on record, in the columns its scripts know.

Columns are named as the JSON of nodepool's web page names them. An age is there the second of the epoch
since which it counts, and is that in every format for programs; in a table it is `dd:hh:mm:ss`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from builder.cli import lookup, render
from builder.cli.base import Lister
from builder.cli.cells import Cell, Words
from builder.cli.commands.leak import ListLeaks
from builder.model import BuildState, ImageRecords, Request, Snapshot

UPLOAD_COLUMNS: Final = (
    *("id", "upload_id", "provider", "image", "external_name", "external_id", "state", "age"),
)
BUILD_COLUMNS: Final = ("id", "image", "builder", "formats", "state", "age")
STATUS_COLUMNS: Final = ("image", "paused", "build_request", "build_request_age")
ALIEN_COLUMNS: Final = ("provider", "name", "id")
INFO_COLUMNS: Final = ("image", "build_id", "upload_ids")
#: What nodepool shows in the place of a build's state while its image is paused by hand.
PAUSED: Final = "paused"


class Since(Cell):
    """A time: whole seconds of the epoch for machines, how long ago for people."""

    def __init__(self, when: datetime | None, now: datetime) -> None:
        super().__init__(None if when is None else int(when.timestamp()))
        self._now = int(now.timestamp())

    def shown(self) -> str:
        minutes, seconds = divmod(max(0, self._now - self._value), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        return f"{days:02}:{hours:02}:{minutes:02}:{seconds:02}"


class ListImages(Lister):
    """List uploads, with nodepool's columns

    `id` is that of the build. The age counts from the last change of the state. 'imagepool upload list' says
    more.
    """

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each upload."""
        snapshot, now = _snapshot(self), self.context.now()
        rows: list[render.Row] = [
            {
                "id": Cell(upload.build_id),
                "upload_id": Cell(upload.id),
                "provider": Cell(upload.provider),
                "image": Cell(upload.image),
                "external_name": Cell(upload.external_name),
                "external_id": Cell(upload.external_id),
                "state": Cell(upload.state),
                "age": Since(upload.state_time, now),
            }
            for upload in snapshot.uploads()
        ]
        return render.table(UPLOAD_COLUMNS, rows)


class ListDibImages(Lister):
    """List builds, with nodepool's columns

    The state is `paused` while the image is paused by hand. The age counts from the last change of the state.
    'imagepool build list' says more.
    """

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each build."""
        snapshot, now = _snapshot(self), self.context.now()
        rows: list[render.Row] = [
            {
                "id": Cell(f"{build.image}-{build.id}"),
                "image": Cell(build.image),
                "builder": Cell(build.builder),
                "formats": Words(build.formats),
                "state": Cell(PAUSED if snapshot.image(build.image).paused else build.state),
                "age": Since(build.state_time, now),
            }
            for build in snapshot.builds()
        ]
        return render.table(BUILD_COLUMNS, rows)


class ListStatus(Lister):
    """List which images are paused or asked for

    Every image that ZooKeeper knows. A build request is `pending`, or `building` while a build runs for it.
    'imagepool image list' says more.
    """

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each image on record."""
        snapshot, now = _snapshot(self), self.context.now()
        images = [snapshot.images[name] for name in sorted(snapshot.images)]
        return render.table(STATUS_COLUMNS, [_status(image, now) for image in images])


class ListAliens(ListLeaks):
    """List images in the clouds that no record knows

    Those that carry this installation's mark or nodepool's for that provider, whatever `adopt-nodepool` says.
    An image that is being uploaded or deleted is no alien. 'imagepool leak list' says what becomes of them.
    A cloud that can't be asked is named on stderr, and the exit code is 5.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Where to look."""
        parser.add_argument("provider", metavar="PROVIDER", nargs="?", help="in this provider only")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each image."""
        config = replace(self.context.config_for_records(), adopt_nodepool=True)
        rows: list[render.Row] = [
            {"provider": Cell(leak.provider), "name": Cell(leak.image.name), "id": Cell(leak.image.id)}
            for leak in self.found(config, options.provider)
        ]
        return render.table(ALIEN_COLUMNS, rows)


class Info(Lister):
    """List the uploads to a provider, by build

    The servers of a provider are its launcher's, and not listed.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which provider."""
        parser.add_argument("provider", metavar="PROVIDER", help="the name of a provider")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each build that was uploaded there."""
        config = self.context.config_for_records()
        snapshot = self.records(config)
        name = lookup.provider_name(snapshot, tuple(config.providers), options.provider)
        ids: dict[tuple[str, str], list[str]] = {}
        for upload in snapshot.uploads():
            if upload.provider == name:
                ids.setdefault((upload.image, upload.build_id), []).append(upload.id)
        return render.table(INFO_COLUMNS, [_info(*build, ids[build]) for build in sorted(ids)])


def _snapshot(command: Lister) -> Snapshot:
    return command.records(command.context.config_for_records())


def _status(image: ImageRecords, now: datetime) -> render.Row:
    request = image.request
    return {
        "image": Cell(image.name),
        "paused": Cell(image.paused),
        "build_request": Cell(None if request is None else _progress(image, request)),
        "build_request_age": Since(None if request is None else request.time, now),
    }


def _progress(image: ImageRecords, request: Request) -> str:
    """Whether a build runs for the request; of one that doesn't say what for, its begin has to tell."""
    running = [build for build in image.builds if build.state is BuildState.BUILDING]
    for_it = any(
        build.request == request or (build.request is None and build.began >= request.time)
        for build in running
    )
    return "building" if for_it else "pending"


def _info(image: str, build_id: str, upload_ids: Sequence[str]) -> render.Row:
    return {"image": Cell(image), "build_id": Cell(build_id), "upload_ids": Words(sorted(upload_ids))}

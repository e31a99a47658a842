"""`imagepool image resolve`: the ids by which consumers boot the newest image."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from builder.cli import lookup, render
from builder.cli.base import Lister
from builder.cli.cells import BuildId, Cell, Moment, Seconds
from builder.config.model import DiskImage
from builder.errors import NotFoundError
from builder.model import ImageRecords, Upload
from builder.planning.records import newest_first, ready_uploads
from builder.planning.retention import lasting_uploads

RESOLVE_COLUMNS: Final = ("provider", "id", "name", "build", "age", "region", "serving")


class ResolveImage(Lister):
    """Print the cloud's id of the image that serves in each provider

    It is the one that nodepool-launcher takes, the newest that may serve there. Where the diskimage
    has a stable-name or stable-tag, it is the image that has it now. With --provider and -f value, the bare
    id is printed. Exit code 3 when there is none.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, and where."""
        parser.add_argument("image", metavar="IMAGE", help="the name of an image")
        parser.add_argument("--provider", metavar="PROVIDER", help="in this provider only")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each provider that has it."""
        config, now = self.context.config_for_records(), self.context.now()
        snapshot = self.context.snapshot(config)
        image = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        diskimage, records = config.diskimages.get(image), snapshot.image(image)
        if options.provider is not None:
            names = [lookup.provider_name(snapshot, tuple(config.providers), options.provider)]
        else:
            listed = [p.name for p in config.providers_of(image)]
            names = [*listed, *sorted({u.provider for u in records.uploads} - set(listed))]
        found = {name: _in_service(diskimage, records, name) for name in names}
        there = [upload for upload in found.values() if upload is not None]
        if not there:
            raise _nowhere(image, records, names)
        if missing := [name for name, upload in found.items() if upload is None]:
            self.note(f"{image} has nothing to boot in {', '.join(missing)}")
        bare = options.provider is not None and options.formatter == "value" and not options.columns
        rows = [_row(diskimage, upload, now) for upload in there]
        return render.table(("id",) if bare else RESOLVE_COLUMNS, rows)


def _in_service(diskimage: DiskImage | None, records: ImageRecords, provider: str) -> Upload | None:
    """The upload to boot from there: with a stable name or tag the one that has it, else the newest."""
    ready = _with_id(ready_uploads(lasting_uploads(records, provider)))
    if diskimage is not None and (diskimage.stable_name or diskimage.stable_tag):
        serving = [u for u in ready if u.serving is not None]
        return max(serving, key=lambda u: (u.serving or u.state_time, u.build_id, u.id), default=None)
    return next(iter(ready), None)


def _with_id(uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    return newest_first(u for u in uploads if u.external_id is not None)


def _nowhere(image: str, records: ImageRecords, names: list[str]) -> NotFoundError:
    where = ", ".join(names) or "any provider"
    waiting = [u for name in names for u in ready_uploads(lasting_uploads(records, name))]
    why = "its stable name or tag has not moved to an image there yet" if waiting else "none is ready there"
    return NotFoundError(
        f"there is no image of {image} to boot in {where}: {why}",
        hint=f"'imagepool image explain {image}' says what comes next.",
    )


def _row(diskimage: DiskImage | None, upload: Upload, now: datetime) -> render.Row:
    # The record keeps the name that the image was made with, and gets back once it is superseded.
    stable = upload.stable_name
    if not (stable or upload.stable_tag) and upload.serving is not None and diskimage is not None:
        stable = diskimage.stable_name  # an older record, which does not say
    return {
        "provider": Cell(upload.provider),
        "id": Cell(upload.external_id),
        "name": Cell(stable or upload.external_name),
        "build": BuildId(upload.build_id),
        "age": Seconds((now - upload.since).total_seconds()),
        "region": Cell(upload.region),
        "serving": Moment(upload.serving),
    }

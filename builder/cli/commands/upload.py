"""`imagepool upload list` and `show`: what is in which provider, and what moves."""

from __future__ import annotations

import argparse

from builder.cli import lookup, render, render_uploads
from builder.cli.base import Lister, Shower
from builder.model import UploadState


class ListUploads(Lister):
    """List uploads

    Newest first. Age counts from the beginning of the upload. `left` is for the bytes that still have to
    leave; what the cloud does with them afterwards is not in it.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which uploads."""
        parser.add_argument("--image", metavar="IMAGE", help="uploads of this image only")
        parser.add_argument("--provider", metavar="PROVIDER", help="uploads to this provider only")
        parser.add_argument("--active", action="store_true", help="uploads that are in progress only")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each upload."""
        known, now = self.known(), self.context.now()
        snapshot = known.snapshot
        image, provider = options.image, options.provider
        if image is not None:
            image = lookup.image_name(snapshot, known.images, image)
        if provider is not None:
            provider = lookup.provider_name(snapshot, known.providers, provider)
        rows = [
            render_uploads.upload_row(u, snapshot.image(u.image), now)
            for u in snapshot.uploads()
            if image in (None, u.image)
            and provider in (None, u.provider)
            and (u.state is UploadState.UPLOADING or not options.active)
        ]
        return render.table(render_uploads.UPLOAD_COLUMNS, rows)


class ShowUpload(Shower):
    """Show everything on record about an upload

    Without a number, the last of several tries of a build in a provider.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which upload."""
        upload_argument(parser)

    def row(self, options: argparse.Namespace) -> render.Row:
        """All fields of its record."""
        snapshot = self.records(self.context.config_for_records())
        upload = lookup.upload(snapshot, options.upload, newest=True)
        return render_uploads.upload_details(upload, snapshot.image(upload.image), self.context.now())


def upload_argument(parser: argparse.ArgumentParser) -> None:
    """The argument UPLOAD of every command on one upload."""
    parser.add_argument(
        "upload",
        metavar="UPLOAD",
        help="the id of an upload, BUILD/PROVIDER/NUMBER; each part may be shortened, the last ones left out",
    )

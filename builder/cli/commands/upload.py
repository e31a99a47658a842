"""`imagepool upload ...`: what is in which provider."""

from __future__ import annotations

import argparse

from builder.cli import guard, lookup, render
from builder.cli.base import Action, Lister, Shower
from builder.errors import ConflictError, NotFoundError, RefusedError
from builder.model import Snapshot, Upload, UploadState
from builder.store.base import Store


class ListUploads(Lister):
    """List uploads

    Newest first. Age counts from the beginning of the upload.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which uploads."""
        parser.add_argument("--image", metavar="IMAGE", help="uploads of this image only")
        parser.add_argument("--provider", metavar="PROVIDER", help="uploads to this provider only")

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each upload."""
        config, now = self.context.config_for_records(), self.context.now()
        with self.context.store(config) as store:
            snapshot = store.snapshot()
        image, provider = options.image, options.provider
        if image is not None:
            image = lookup.image_name(snapshot, tuple(config.diskimages), image)
        if provider is not None:
            _check_provider(snapshot, tuple(config.providers), provider)
        uploads = [
            u for u in snapshot.uploads() if image in (None, u.image) and provider in (None, u.provider)
        ]
        return render.table(render.UPLOAD_COLUMNS, [render.upload_row(u, now) for u in uploads])


class ShowUpload(Shower):
    """Show everything on record about an upload"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which upload."""
        _upload_argument(parser)

    def row(self, options: argparse.Namespace) -> render.Row:
        """All fields of its record."""
        with self.context.store(self.context.config_for_records()) as store:
            upload = lookup.upload(store.snapshot(), options.upload)
        return render.upload_details(upload, self.context.now())


class DeleteUpload(Action):
    """Delete an upload from its provider

    The record goes to `deleting` at once; the daemon's janitor removes the cloud image. The newest
    build of an image is uploaded again: to keep it away, pause the image in the configuration.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which upload, and whether to insist."""
        _upload_argument(parser)
        parser.add_argument("--force", action="store_true", help="even the last good image of its provider")

    def act(self, options: argparse.Namespace) -> int:
        """Write `deleting`."""
        with self.context.store(self.context.config_for_records()) as store:
            upload = lookup.upload(store.snapshot(), options.upload)
            try:
                done = self._delete(store, upload, options.force)
            except ConflictError:
                # Somebody was faster: decide again on what is true now, once.
                done = self._delete(store, upload, options.force)
        self.say(f"upload {upload.name} of {upload.image} {done}")
        return 0

    def _delete(self, store: Store, upload: Upload, force: bool) -> str:
        current = store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
        if current.state is UploadState.DELETING:
            return "is being deleted already"
        _refuse_to_delete(store.snapshot(), current, force)
        store.update_upload(current.become(UploadState.DELETING, self.context.now()))
        return "will be deleted"


def _upload_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "upload",
        metavar="UPLOAD",
        help="the id of an upload, BUILD/PROVIDER/NUMBER; each part may be shortened, the last ones left out",
    )


def _check_provider(snapshot: Snapshot, configured: tuple[str, ...], name: str) -> None:
    known = sorted({*configured, *(u.provider for u in snapshot.uploads())})
    if name not in known:
        hint = f"There is: {', '.join(known)}." if known else "No provider is configured."
        raise NotFoundError(f"there is no provider {name!r}", hint=hint)


def _refuse_to_delete(snapshot: Snapshot, upload: Upload, force: bool) -> None:
    if upload.state is UploadState.UPLOADING:
        raise RefusedError(f"upload {upload.name} is in progress", hint="Delete it when it has ended.")
    reasons = guard.against_deleting_upload(snapshot.image(upload.image), upload)
    if reasons and not force:
        raise RefusedError(
            f"upload {upload.name} is still needed: {'; '.join(reasons)}",
            hint="Use --force to delete it all the same.",
        )

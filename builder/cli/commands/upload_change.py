"""`imagepool upload cancel`, `delete` and `retry`: what a person wants of an upload."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Final

from builder.cli import guard, lookup, text, withheld
from builder.cli.base import Action, words_on_record
from builder.cli.commands.upload import upload_argument
from builder.config.model import Config, Provider
from builder.errors import ActionFailedError, ConflictError, NotFoundError, RefusedError
from builder.model import (
    Build,
    Deletion,
    ImageRecords,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadState,
)
from builder.planning import words
from builder.planning.records import is_there, newest_good, unwanted
from builder.planning.uploads import decide_uploads
from builder.store.base import Store

#: Seconds that a cancelled upload may take to end before it is worth a word.
CANCEL_PATIENCE: Final = 20.0


class CancelUpload(Action):
    """Cancel an upload that runs

    It ends within 15 seconds, in the state failed, with who cancelled it and why on its record, and what
    had arrived is deleted. The command waits for that (exit code 0); it ends with 1 when the upload ended
    otherwise, or not yet.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which upload, why, and whether to wait."""
        upload_argument(parser)
        parser.add_argument("--why", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("--no-wait", action="store_true", help="don't wait for the upload to end")

    def act(self, options: argparse.Namespace) -> int:
        """Write the wish, and wait until it has come true."""
        why = words_on_record("--why", options.why)
        with self.context.store(self.context.config_for_records(), watch=not options.no_wait) as store:
            snapshot = store.snapshot()
            upload = lookup.upload(snapshot, options.upload, rather=UploadState.UPLOADING)
            upload = _as_it_is(store, upload)
            if guard.is_cancelled(upload):
                self.say(_was_cancelled(upload))
                return 0
            if upload.state is not UploadState.UPLOADING:
                raise RefusedError(
                    f"upload {upload.name} of {upload.image} is {upload.state}, not in progress"
                )
            records = snapshot.image(upload.image)
            self._wish(store, records, upload, why)
            if not guard.is_moving(records, upload):
                self.note("no uploader works on it any more; the janitor of a running daemon ends it")
            if options.no_wait:
                self.say(f"upload {upload.name} of {upload.image} will be cancelled")
                return 0
            self.say(_was_cancelled(self._ended(store, upload)))
        return 0

    def _wish(self, store: Store, records: ImageRecords, upload: Upload, why: str) -> None:
        """Put on record who cancels it; who did so first stays."""
        first = next((w for w in records.upload_cancellations if w.upload == upload.name), None)
        if first is not None:
            self.note(text.one_line(f"it was {words.cancelled(first)} already"))
            return
        store.cancel_upload(
            UploadCancellation(
                upload=upload.name,
                image=upload.image,
                by=self.context.who(),
                time=self.context.now(),
                why=why,
            )
        )

    def _ended(self, store: Store, upload: Upload) -> Upload:
        """The upload once it was cancelled; ActionFailedError when it ended otherwise, or does not end."""
        seen, deadline = -1, time.monotonic() + CANCEL_PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            seen = store.wait(seen, left)
            uploads = store.snapshot().image(upload.image).uploads
            now = next((u for u in uploads if u.name == upload.name), None)
            if now is None or now.state is UploadState.DELETING:
                raise ActionFailedError(f"upload {upload.name} of {upload.image} was deleted meanwhile")
            if guard.is_cancelled(now):
                return now
            if now.state is not UploadState.UPLOADING:
                why = f": {text.summary(now.reason)}" if now.reason is not None else ""
                raise ActionFailedError(
                    f"upload {upload.name} was {now.state} before it could be cancelled{why}"
                )
        raise ActionFailedError(
            f"upload {upload.name} has not ended yet after {CANCEL_PATIENCE:.0f} s; it stays cancelled",
            hint=f"See 'imagepool upload show {upload.name}'; its daemon, or a janitor, ends it.",
        )


class DeleteUpload(Action):
    """Delete an upload from its provider, and keep it away

    The record goes to `deleting` at once; the daemon's janitor removes the cloud image. The build is not
    uploaded there again unless 'imagepool upload retry' asks for it; newer builds are.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which upload, why, and whether to insist."""
        upload_argument(parser)
        parser.add_argument("--why", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("--force", action="store_true", help="even the last good image of its provider")

    def act(self, options: argparse.Namespace) -> int:
        """Put the wish that it stays away on record, then write `deleting`."""
        why = words_on_record("--why", options.why)
        with self.context.store(self.context.config_for_records()) as store:
            upload = self._named(store.snapshot(), options)
            try:
                done = self._delete(store, upload, why, options.force)
            except ConflictError:
                # Somebody was faster: decide again on what is true now, once.
                done = self._delete(store, upload, why, options.force)
        self.say(f"upload {upload.name} of {upload.image} {done}")
        return 0

    def _named(self, snapshot: Snapshot, options: argparse.Namespace) -> Upload:
        """The upload that is meant; NotFoundError."""
        return lookup.upload(snapshot, options.upload)

    def _delete(self, store: Store, upload: Upload, why: str, force: bool) -> str:
        current = _as_it_is(store, upload)
        if current.state is UploadState.DELETING and current.deletion is not None:
            return "is being deleted already"
        records = store.snapshot().image(current.image)
        _refuse_to_delete(records, current, force)
        # First: between the two, nobody shall find the build missing there and upload it again.
        stays_away = self._keep_away(store, records, current, why)
        if current.state is UploadState.DELETING:
            return f"is being deleted already{stays_away}"
        deletion = Deletion(by=self.context.who(), time=self.context.now(), why=why)
        store.update_upload(current.become(UploadState.DELETING, self.context.now(), deletion=deletion))
        return f"will be deleted{stays_away}"

    def _keep_away(self, store: Store, records: ImageRecords, upload: Upload, why: str) -> str:
        """Wish that its build stays out of the provider; what that means, as the end of a sentence."""
        others = [u for u in records.uploads_of(upload.build_id, upload.provider) if u.id != upload.id]
        if any(u.state in (UploadState.READY, UploadState.UPLOADING) for u in others):
            return f"; another upload of its build to {upload.provider} stays"
        wish = self.context.wish(upload.provider, why, wanted=False)
        try:
            store.wish_upload(upload.image, upload.build_id, wish)
        except NotFoundError:
            return ""  # without its build it can't come back
        return (
            f"; its build stays away from there until 'imagepool upload retry {upload.image}"
            f" --provider {upload.provider}' asks for it"
        )


class RetryUpload(Action):
    """Upload the newest ready build now, whatever failed before

    To every provider that lists the image and doesn't have that build yet, or to those named. Failures
    until now don't count any more, and a deletion by hand no longer keeps the build away. A build that is
    withheld from a provider is not uploaded there; the newest that may go there is.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, where, and why."""
        listing_arguments(parser)
        parser.add_argument("--why", metavar="TEXT", default="", help="the reason to put on record")

    def act(self, options: argparse.Namespace) -> int:
        """Wish for it, and say what comes of that in each provider."""
        why = words_on_record("--why", options.why)
        config = self.context.config_to_show(self.note)
        with self.context.store(config) as store:
            snapshot = store.snapshot()
            image = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
            providers = listing_providers(config, image, options.provider)
            for provider, build in _wanted(snapshot.image(image), providers).items():
                if _is_missing(snapshot.image(image), build, provider):
                    store.wish_upload(image, build.id, self.context.wish(provider, why, wanted=True))
            decisions = decide_uploads(config, store.snapshot(), self.context.now())
        asked = {provider.name for provider in providers}
        for decision in decisions:
            if decision.image == image and decision.provider in asked:
                self.say(text.one_line(f"{decision.provider}: {decision.verdict}: {decision.reason}"))
        return 0


def _as_it_is(store: Store, upload: Upload) -> Upload:
    return store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)


def _was_cancelled(upload: Upload) -> str:
    how = upload.reason.message if upload.reason is not None else "cancelled"
    return text.one_line(f"upload {upload.name} of {upload.image} was {how}")


def _refuse_to_delete(records: ImageRecords, upload: Upload, force: bool) -> None:
    if upload.state is UploadState.UPLOADING:
        raise RefusedError(
            f"upload {upload.name} is in progress",
            hint=f"Delete it when it has ended; 'imagepool upload cancel {upload.name}' ends it.",
        )
    reasons = guard.against_deleting_upload(records, upload)
    if reasons and not force:
        raise RefusedError(
            f"upload {upload.name} is still needed: {'; '.join(reasons)}",
            hint="Use --force to delete it all the same.",
        )


def listing_arguments(parser: argparse.ArgumentParser) -> None:
    """An image, and some of the providers that list it."""
    parser.add_argument("image", metavar="IMAGE", help="the name of an image")
    parser.add_argument(
        "--provider",
        metavar="PROVIDER",
        action="append",
        default=[],
        help="only there; may be given several times",
    )


def listing_providers(config: Config, image: str, names: list[str]) -> tuple[Provider, ...]:
    """The named providers of an image, or all; NotFoundError when one does not list it."""
    listing = {p.name: p for p in config.providers_of(image)}
    if image not in config.diskimages or not listing:
        raise NotFoundError(
            f"the configuration {config.path} lets {image} go to no provider",
            hint="Add it to the diskimages of a provider.",
        )
    for name in names:
        if name not in listing:
            raise NotFoundError(
                f"the configuration {config.path} has no provider {name!r} that lists {image}",
                hint=f"There is: {', '.join(listing)}.",
            )
    return tuple(p for p in listing.values() if not names or p.name in names)


def _wanted(records: ImageRecords, providers: Sequence[Provider]) -> Mapping[str, Build]:
    """The newest ready build that each provider may get, by its name; NotFoundError when none may get any."""
    found = {p.name: build for p in providers if (build := newest_good(records, p.name)) is not None}
    if not found and records.ready_builds:
        raise NotFoundError(
            f"every ready build of {records.name} is withheld: {withheld.of_build(records.ready_builds[0])}",
            hint="'imagepool build list' shows them, 'imagepool build unquarantine BUILD' lets one out; one"
            " that is held goes with 'imagepool build release BUILD'.",
        )
    if not found:
        raise NotFoundError(
            f"there is no ready build of {records.name} to upload",
            hint=f"'imagepool image build {records.name}' asks for one.",
        )
    return found


def _is_missing(records: ImageRecords, build: Build, provider: str) -> bool:
    """Whether a wish would change anything there."""
    kept_away = unwanted(records, build, provider) is not None
    return kept_away or not is_there(records, build, provider)

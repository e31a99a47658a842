"""`imagepool cleanup`: remove what belongs to images and providers that left the configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Final

from builder.cli import render, text
from builder.cli.base import Lister, words_on_record
from builder.cli.context import builder_id
from builder.cli.render_cleanup import CLEANUP_COLUMNS, Action, By, Line, line_row
from builder.config.model import Config
from builder.errors import ConflictError, NotFoundError, RefusedError
from builder.model import Build, BuildState, Deletion, Snapshot, Upload, UploadState, name_problem
from builder.planning.actions import Verdict
from builder.planning.cleanup import plan_cleanup
from builder.planning.departed import forgettable, plan_departed
from builder.planning.reach import provider_of, whereabouts
from builder.store.base import Store

EXIT_LEFT_UNDONE: Final = 1


class Cleanup(Lister):
    """Remove what belongs to nothing in the configuration any more

    That an image or a provider was taken out of the configuration is no reason for the daemon to delete
    anything: this command is. It writes `deleting` on the records, and the daemon's janitor deletes images
    and files. With --dry-run it only lists that, and what the janitor does by itself besides. --forget
    removes the records of a provider whose cloud is gone for good, without a look at it, and lists what
    stays behind there.
    """

    _left_undone = False

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """What, and whether to ask."""
        parser.add_argument("--dry-run", action="store_true", help="list what would be done, and do nothing")
        parser.add_argument(
            "--forget", metavar="PROVIDER", help="remove the records of uploads to this provider instead"
        )
        parser.add_argument("--why", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("-y", "--yes", action="store_true", help="don't ask before doing it")

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List what was done; the exit code."""
        super().run(parsed_args)
        return EXIT_LEFT_UNDONE if self._left_undone else 0

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each action."""
        why = words_on_record("--why", options.why)
        config = self.configuration(options)
        with self.context.store(config) as store:
            snapshot = store.snapshot()
            if options.forget is None:
                lines = self._departed(config, snapshot)
            else:
                lines = _to_forget(config, store, snapshot, options.forget)
            if options.dry_run:
                janitors = () if options.forget else self._janitors(config, snapshot)
                return self._listed([*lines, *janitors])
            due = [line for line in lines if line.verdict is Verdict.NOW]
            if due and not options.yes:
                self._ask(due, options.forget)
            done = [self._do(store, line, why) if line in due else line for line in lines]
            if options.forget:
                _forget_sightings(store, options.forget)
                self._say_what_stays(done)
        return self._listed(done)

    # -- what there is to do ----------------------------------------------------------------------

    def configuration(self, options: argparse.Namespace) -> Config:
        """The configuration that says what still belongs to something."""
        return self.context.config_to_show(self.note)

    def _departed(self, config: Config, snapshot: Snapshot) -> list[Line]:
        plan = plan_departed(config, snapshot, self.context.now(), reachable=self._reachable(config))
        return [Line.of(action, By.PERSON) for action in plan]

    def _janitors(self, config: Config, snapshot: Snapshot) -> list[Line]:
        here = builder_id(config) or ""
        plan = plan_cleanup(config, snapshot, self.context.now(), builder_id=here, active=frozenset())
        return [Line.of(action, By.JANITOR) for action in plan]

    def _listed(self, lines: Sequence[Line]) -> render.Table:
        now = self.context.now()
        return render.table(CLEANUP_COLUMNS, [line_row(line, now) for line in lines])

    def _ask(self, due: Sequence[Line], forget: str | None) -> None:
        for line in due:
            amount = f", {text.size(line.bytes)}" if line.bytes is not None else ""
            self.note(text.one_line(f"{line.action} {line.name}{amount}: {line.reason}"))
        count = f"{len(due)} record{'' if len(due) == 1 else 's'}"
        amount = text.size(sum(line.bytes or 0 for line in due))
        if forget is None:
            self.confirm(f"Delete {count}, {amount} in all?")
        else:
            self.confirm(f"Forget {count} of {forget} and leave {amount} in its cloud?")

    # -- doing it ---------------------------------------------------------------------------------

    def _do(self, store: Store, line: Line, why: str) -> Line:
        try:
            forget = line.action is Action.FORGET
            outcome = self._forget(store, line, why) if forget else self._mark(store, line, why)
        except NotFoundError:
            outcome = "is gone already"
        except (ConflictError, RefusedError) as error:
            self._left_undone = True
            self.note(text.one_line(f"{line.name}: {error.message}"))
            outcome = "left: it changed meanwhile"
        return replace(line, outcome=outcome)

    def _mark(self, store: Store, line: Line, why: str) -> str:
        """Write `deleting`; what came of it."""
        if line.upload is not None:
            return self._mark_upload(store, line.upload, why or line.reason)
        return self._mark_build(store, line.build)

    def _mark_upload(self, store: Store, upload: Upload, why: str) -> str:
        now = self.context.now()
        current = store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
        if current.state is UploadState.DELETING:
            return "is being deleted already"
        if current.state is UploadState.UPLOADING:
            raise RefusedError("it is being uploaded")
        deletion = Deletion(by=self.context.who(), time=now, why=why)
        store.update_upload(current.become(UploadState.DELETING, now, deletion=deletion))
        return "will be deleted"

    def _mark_build(self, store: Store, build: Build | None) -> str:
        if build is None:
            return "is gone already"
        current = store.get_build(build.image, build.id)
        if current.state is BuildState.DELETING:
            return "is being deleted already"
        if current.state is BuildState.BUILDING:
            raise RefusedError("it is being built")
        store.update_build(current.become(BuildState.DELETING, self.context.now()))
        return "will be deleted"

    def _forget(self, store: Store, line: Line, why: str) -> str:
        """Remove the record of an upload, unless somebody works on it."""
        upload = line.upload
        if upload is None:
            return "is gone already"
        claim = store.claim_upload(upload)
        if claim is None:
            store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
            raise RefusedError("a janitor works on it just now")
        ended_why = f"It was forgotten by {self.context.who()}" + (f": {why}" if why else ".")
        with claim:
            # Before the record: who is broken off here comes again as long as there is one.
            store.end_turn(upload.image, upload.provider, upload.name, self.context.now(), ended_why)
            store.delete_upload(upload)
        return "forgotten"

    def _say_what_stays(self, lines: Sequence[Line]) -> None:
        left = [line.upload for line in lines if line.outcome == "forgotten" and line.upload is not None]
        for upload in left:
            if upload.external_id or upload.external_name:
                self.note(text.one_line(f"stays behind in {whereabouts(upload)}: {_image(upload)}"))

    def _reachable(self, config: Config) -> Callable[[Upload], bool]:
        """Tells whether there are credentials for the cloud that an upload is in."""
        known = cache(self.context.knows_cloud)

        def reachable(upload: Upload) -> bool:
            provider = provider_of(config, upload)
            return provider is not None and known(provider.cloud, provider.region)

        return reachable


def _to_forget(config: Config, store: Store, snapshot: Snapshot, provider: str) -> list[Line]:
    """The records of uploads to a provider that is not configured; RefusedError, NotFoundError."""
    if provider in config.providers:
        raise RefusedError(
            f"provider {provider} is in the configuration {config.path}",
            hint="Take it out of there first; then 'imagepool cleanup --dry-run' says what it left.",
        )
    uploads = [u for u in snapshot.uploads() if u.provider == provider]
    # What was typed may be no name at all.
    seen = name_problem(provider) is None and store.sightings(provider)
    if not uploads and not seen:
        raise NotFoundError(
            f"there is no record of a provider {provider!r}",
            hint="'imagepool upload list' shows which providers there are records of.",
        )
    free = {upload.name for upload in forgettable(config, snapshot, provider)}
    return [_forgotten(snapshot, upload, upload.name in free) for upload in uploads]


def _forgotten(snapshot: Snapshot, upload: Upload, free: bool) -> Line:
    if not free:
        verdict, reason = Verdict.NO, "It is being uploaded."
    elif upload.external_id or upload.external_name:
        verdict, reason = Verdict.NOW, f"The image {_image(upload)} stays behind in {whereabouts(upload)}."
    else:
        verdict, reason = Verdict.NOW, "Nothing that it left in the cloud is on record."
    build = snapshot.image(upload.image).build(upload.build_id)
    return Line(
        by=By.PERSON, action=Action.FORGET, verdict=verdict, reason=reason, build=build, upload=upload
    )


def _image(upload: Upload) -> str:
    if upload.external_id is None:
        return f"named {upload.external_name}"
    parts = f", with {' and '.join(upload.parts.values())}" if upload.parts else ""
    return f"{upload.external_id} ({upload.external_name or 'of unknown name'}){parts}"


def _forget_sightings(store: Store, provider: str) -> None:
    for sighting in store.sightings(provider):
        store.delete_sighting(provider, sighting.external_id)

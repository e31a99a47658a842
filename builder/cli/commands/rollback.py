"""`imagepool image rollback`, `build quarantine` and `build unquarantine`: which builds may serve, on
somebody's word."""

from __future__ import annotations

import argparse
from functools import partial

from builder.cli import lookup, render, withheld
from builder.cli.base import words_on_record
from builder.cli.commands.upload_change import listing_providers
from builder.cli.commands.withholding import (
    ChangeService,
    build_argument,
    providers_argument,
    reason_argument,
    waiting_arguments,
    waits,
)
from builder.config.model import Config
from builder.errors import RefusedError
from builder.model import Build, ImageRecords, Snapshot, UploadState
from builder.planning.rollback import Rollback, plan_quarantine, plan_release, plan_rollback
from builder.planning.words import at, listed, short
from builder.store.base import Store


class RollBack(ChangeService):
    """Let every region serve an earlier build again

    Without --to, the one before the one that serves. All newer builds go into quarantine: they are not
    uploaded, don't serve, and don't make others superfluous, until 'imagepool build unquarantine'; with
    --provider, in that provider alone. Builds that are made from now on serve as ever. Each change is
    reported on stderr until every region has moved, which takes seconds; then a row for each is listed.

    Exit codes: 0, no region serves what was taken back; 1, one still does, its row says why; 3, there is
    no such image, build or provider; 4, there is nothing to go back to; 5, no daemon runs that could move
    the images, which it does when it does.

        imagepool image rollback debian-bookworm --dry-run
        imagepool image rollback debian-bookworm --reason "no network since the new kernel"
        imagepool image rollback debian-bookworm --to 5b1e --provider devcloud-one
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, to which build, where, why, and whether to wait."""
        parser.add_argument("image", metavar="IMAGE", help="the name of an image")
        parser.add_argument("--to", metavar="BUILD", help="the id of the build to serve, or its beginning")
        providers_argument(parser)
        reason_argument(parser)
        waiting_arguments(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each region."""
        why = words_on_record("--reason", options.reason)
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config, watch=waits(options)) as store:
            snapshot = self.noted(store.snapshot())
            image = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
            listing = tuple(p.name for p in listing_providers(config, image, options.provider))
            to = None if options.to is None else lookup.build(snapshot, options.to, image=image).id
            plan = plan_rollback(
                config,
                snapshot,
                image,
                to,
                listing if options.provider else None,
                now,
                by=self.context.who(),
                why=why,
            )
            self._tell_how_far(plan, snapshot.image(image), options)
            return self.carry_out(config, store, plan, options)

    def _tell_how_far(self, plan: Rollback, records: ImageRecords, options: argparse.Namespace) -> None:
        """Say which build it goes back to, and that it is not the first time, if so: who typed it twice may
        have meant the first alone."""
        target = plan.target
        if target is None:
            return
        goes = "would go" if options.dry_run else "goes"
        since = f"ready since {at(target.state_time)}"
        self.note(f"{plan.image} {goes} back to build {short(target.id)}, {since}")
        if not plan.withhold:
            self.note("no newer build is left to withhold")
            return
        new = {build.id for build, _ in plan.withhold}
        # What is held never served: nobody went back from it.
        newer = [b for b in records.ready_builds if b.began > target.began and b.hold is None]
        before = [b for b in newer if b.id not in new]
        if before and options.to is None:
            said = f"build {short(before[0].id)} was {withheld.of_build(before[0])} before"
            self.note(f"this goes back further: {said}")


class QuarantineBuild(ChangeService):
    """Keep a build out of service, and from being uploaded

    It is not uploaded, does not serve, and does not make others superfluous, until 'imagepool build
    unquarantine'; with --provider, in that provider alone. Where it serves, the newest other one takes
    over, and that is reported as by 'imagepool image rollback', with its exit codes. Where there is no
    other, it goes on serving: a region is never left without any. Where the configuration no longer lets
    the image go, nothing moves, which is said. One that is still being made can be withheld as well. Who
    withheld it first stays on record.

        imagepool build quarantine 5b1e --reason "no network"
        imagepool build quarantine 5b1e --provider devcloud-one --no-wait
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, where, why, and whether to wait."""
        build_argument(parser)
        providers_argument(parser)
        reason_argument(parser)
        waiting_arguments(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each region."""
        why = words_on_record("--reason", options.reason)
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config, watch=waits(options)) as store:
            snapshot = self.noted(store.snapshot())
            build = lookup.build(snapshot, options.build)
            providers = _places(config, snapshot, build, options.provider)
            self._tell_what_is_said(build, providers)
            plan = plan_quarantine(config, snapshot, build, providers, now, by=self.context.who(), why=why)
            self._tell_what_stays(plan, snapshot.image(build.image), build, providers)
            return self.carry_out(config, store, plan, options)

    def _tell_what_is_said(self, build: Build, providers: tuple[str, ...] | None) -> None:
        """Say who withheld it before from where; a hold is nobody's word."""
        said = build.without_hold()
        words = [said.quarantine] if providers is None else [said.withheld_from(name) for name in providers]
        for word in dict.fromkeys(filter(None, words)):
            self.note(
                f"build {short(build.id)} of {build.image} was {withheld.told(word)} already; that stays"
            )

    def _tell_what_stays(
        self, plan: Rollback, records: ImageRecords, build: Build, providers: tuple[str, ...] | None
    ) -> None:
        """Say where the build is ready, or named, and nothing moves: the configuration has left it there."""
        ready = (u.provider for u in records.uploads_of(build.id) if u.state is UploadState.READY)
        left = sorted({*(ready if providers is None else providers)} - {move.provider for move in plan.moves})
        if left:
            self.note(
                f"the configuration does not let {build.image} go to {listed(left)}, so nothing moves there;"
                " 'imagepool cleanup' deletes what is left there"
            )


class UnquarantineBuild(ChangeService):
    """Let a build serve again that was kept out of service

    With --provider, only what was said for that provider is taken back. Where it is the newest that may
    serve, it takes over, or is uploaded again; that is reported as by 'imagepool image rollback'.

        imagepool build unquarantine 5b1e
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, where, and whether to wait."""
        build_argument(parser)
        providers_argument(parser)
        waiting_arguments(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each region."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config, watch=waits(options)) as store:
            snapshot = self.noted(store.snapshot())
            build = lookup.build(snapshot, options.build)
            providers = tuple(dict.fromkeys(options.provider))
            for name in providers:
                lookup.provider_name(snapshot, tuple(config.providers), name)
            becomes = "would be" if options.dry_run else "is"
            for where in providers or (None,):
                self._check(build, where, becomes)
            plan = plan_release(config, snapshot, build, providers or None, now)
            release = partial(_release, store, build, providers or (None,))
            return self.carry_out(config, store, plan, options, write=release)

    def _check(self, build: Build, provider: str | None, becomes: str) -> None:
        """Say what is taken back, or that there is nothing to take back; RefusedError when it would go on to
        hold all the same."""
        let_out = f"{becomes} let out: it was"
        name, word = f"build {short(build.id)} of {build.image}", build.quarantine
        there = next((each for each in build.withheld if provider and each.provider == provider), None)
        if build.hold is not None and there is None:
            raise RefusedError(
                f"{name} is not in quarantine: it was {withheld.told(build.hold)}",
                hint=f"'imagepool build release {short(build.id)}' lets it go, for good and on record.",
            )
        if provider is None:
            told = f"{let_out} {withheld.of_build(build)}" if build.withheld else "was not withheld"
            self.note(f"{name} {told}")
            return
        if there is None and word is not None:
            raise RefusedError(
                f"{name} is not withheld from {provider} alone: it was {withheld.told(word)}",
                hint="Without --provider it is let out everywhere. 'imagepool build quarantine "
                f"{short(build.id)} --provider PROVIDER' keeps it from one after that.",
            )
        told = (
            f"{let_out} {withheld.told(there)}" if there is not None else f"was not withheld from {provider}"
        )
        self.note(f"{name} {told}")
        if word is not None:
            state = "held" if word.held else "in quarantine"
            self.note(f"{name} stays {state}: it was {withheld.told(word)}")


def _release(store: Store, build: Build, places: tuple[str | None, ...]) -> Build:
    """Take back what withholds a build from each place; its record as it was written last."""
    for place in places:
        build = store.release(build.image, build.id, place)
    return build


def _places(config: Config, snapshot: Snapshot, build: Build, names: list[str]) -> tuple[str, ...] | None:
    """The providers that were named, each once, None when none was; NotFoundError for one that neither lists
    the image nor has anything of it."""
    there = {upload.provider for upload in snapshot.image(build.image).uploads}
    if strange := [name for name in names if name not in there]:
        listing_providers(config, build.image, strange)
    return tuple(dict.fromkeys(names)) or None

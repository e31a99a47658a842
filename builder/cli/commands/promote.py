"""`imagepool image promote`: a build serves now, on somebody's word, whatever it would wait for."""

from __future__ import annotations

import argparse

from builder.cli import lookup, render, withheld
from builder.cli.base import words_on_record
from builder.cli.commands.upload_change import listing_providers
from builder.cli.commands.withholding import (
    ChangeService,
    providers_argument,
    waiting_arguments,
    waits,
)
from builder.model import Build, ImageRecords
from builder.planning.byhand import plan_promote
from builder.planning.records import undecided
from builder.planning.rollback import Rollback
from builder.planning.words import listed, short
from builder.store.base import Store


class Promote(ChangeService):
    """Let a build serve now, whatever it would wait for

    Without --build, the newest that is ready. It takes over where it is ready, and elsewhere when it is: with
    'promote: manual' nothing new does so by itself, and with canaries it waits neither for them nor for the
    check. What is withheld, or held over its budget, is refused. Each change is reported on stderr until
    every region has moved; then a row for each is listed, as by 'imagepool image rollback', with its exit
    codes.

        imagepool image promote debian-bookworm --dry-run
        imagepool image promote debian-bookworm --reason "a fix that can't wait"
        imagepool image promote debian-bookworm --build 5b1e --provider devcloud-one
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, which build, where, why, and whether to wait."""
        parser.add_argument("image", metavar="IMAGE", help="the name of an image")
        parser.add_argument("--build", metavar="BUILD", help="the id of the build, or its beginning")
        providers_argument(parser)
        parser.add_argument("--reason", metavar="TEXT", default="", help="the reason to put on record")
        waiting_arguments(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each region."""
        why = words_on_record("--reason", options.reason)
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config, watch=waits(options)) as store:
            snapshot = self.noted(store.snapshot())
            image = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
            listing = tuple(p.name for p in listing_providers(config, image, options.provider))
            wanted = options.build
            build_id = None if wanted is None else lookup.build(snapshot, wanted, image=image).id
            if wanted is None:
                self._tell_what_is_held(snapshot.image(image))
            plan = plan_promote(
                config,
                snapshot,
                image,
                build_id,
                listing if options.provider else None,
                now,
                by=self.context.who(),
                why=why,
            )
            if options.dry_run:
                self._tell_what_serves(plan, "would be")
            return self.carry_out(config, store, plan, options, write=lambda: self._write(store, plan))

    def _write(self, store: Store, plan: Rollback) -> Build:
        """Put on record that the target may serve, and say so; its record as it was written last."""
        assert plan.target is not None  # a promotion is of a build
        build = plan.target
        for word in plan.clear:
            build = store.clear(plan.image, build.id, word)
        self._tell_what_serves(plan, "is")
        return build

    def _tell_what_is_held(self, records: ImageRecords) -> None:
        """Say that a newer build is held: whoever asks for the newest may mean that one."""
        held = undecided(records)
        if held is not None and (told := withheld.waits(held)) is not None:
            self.note(told)

    def _tell_what_serves(self, plan: Rollback, verb: str) -> None:
        target = plan.target
        if target is None:
            return
        name = f"build {short(target.id)} of {plan.image}"
        if not plan.clear:
            self.note(f"{name} was promoted already; that stays")
            return
        where = [word.provider for word in plan.clear if word.provider is not None]
        self.note(f"{name} {verb} promoted {f'in {listed(where)}' if where else 'everywhere'}")

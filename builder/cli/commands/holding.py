"""`imagepool build release` and `build reject`: decide on a build that is held over its budget."""

from __future__ import annotations

import argparse
from functools import partial

from builder.cli import lookup, render, withheld
from builder.cli.base import words_on_record
from builder.cli.commands.withholding import (
    ChangeService,
    build_argument,
    reason_argument,
    waiting_arguments,
    waits,
)
from builder.errors import RefusedError
from builder.model import Build, BuildState, Release
from builder.planning.records import turned_away
from builder.planning.rollback import plan_let_go, plan_quarantine
from builder.planning.words import by_whom, short


class ReleaseBuild(ChangeService):
    """Let a build go out that is held over its budget

    It is uploaded, and serves as 'promote' says, unless a newer build is good; what becomes of each region is
    listed, and not waited for: uploads take their time. Who released it stays on record. One that was
    released before stays so.

        imagepool build show 5b1e -c budgets
        imagepool build release 5b1e --reason "the new compiler is meant to be in it"
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, and why."""
        build_argument(parser)
        parser.add_argument("--reason", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("--dry-run", action="store_true", help="list what would follow, and do nothing")
        parser.set_defaults(no_wait=True)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each region."""
        why = words_on_record("--reason", options.reason)
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config) as store:
            snapshot = self.noted(store.snapshot())
            build = lookup.build(snapshot, options.build)
            self._check(build, "would be" if options.dry_run else "is")
            plan = plan_let_go(config, snapshot, build, now)
            if not plan.moves:
                self.note(f"the configuration lets {build.image} go to no provider, so nothing of it is sent")
            release = Release(by=self.context.who(), time=now, why=why)
            write = partial(store.let_go, build.image, build.id, release)
            return self.carry_out(config, store, plan, options, write=write)

    def _check(self, build: Build, becomes: str) -> None:
        """Say what it is released from, or that it was before; RefusedError when there is nothing to
        release."""
        name = f"build {short(build.id)} of {build.image}"
        if build.state is not BuildState.READY:
            raise _not_held(build)
        if build.hold is not None:
            self.note(f"{name} {becomes} released: it was {withheld.told(build.hold)}")
        elif build.quarantine is not None:
            raise RefusedError(
                f"{name} is not held: it was {withheld.told(build.quarantine)}",
                hint=f"'imagepool build unquarantine {short(build.id)}' lets it serve again.",
            )
        elif build.release is not None:
            self.note(f"{name} was released {by_whom(build.release)} already; that stays")
        else:
            raise _not_held(build)


class RejectBuild(ChangeService):
    """Keep a build that is held out of service

    It goes into quarantine, as by 'imagepool build quarantine', until 'imagepool build unquarantine'; what
    serves goes on serving. The next build is made by the schedule. One that was rejected before stays so.

        imagepool build reject 5b1e --reason "somebody left a compiler in it"
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, why, and whether to wait."""
        build_argument(parser)
        reason_argument(parser)
        waiting_arguments(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each region."""
        why = words_on_record("--reason", options.reason)
        config, now = self.context.config_to_show(self.note), self.context.now()
        with self.context.store(config, watch=waits(options)) as store:
            snapshot = self.noted(store.snapshot())
            build = lookup.build(snapshot, options.build)
            self._check(build)
            # Whoever looks at the quarantine later on wants to know what it was held for.
            why = why or (build.hold.why if build.hold is not None else "")
            plan = plan_quarantine(config, snapshot, build, None, now, by=self.context.who(), why=why)
            return self.carry_out(config, store, plan, options)

    def _check(self, build: Build) -> None:
        """Say what it is rejected for, or that it was before; RefusedError when it is not held."""
        name = f"build {short(build.id)} of {build.image}"
        if build.state is not BuildState.READY or build.quarantine is None or not turned_away(build):
            raise _not_held(build)
        stays = "" if build.hold is not None else " already; that stays"
        self.note(f"{name} was {withheld.told(build.quarantine)}{stays}")


def _not_held(build: Build) -> RefusedError:
    name = short(build.id)
    if build.state is not BuildState.READY:
        return RefusedError(f"build {name} of {build.image} is {build.state}: only ready builds are held")
    return RefusedError(
        f"build {name} of {build.image} is not held",
        hint=f"'imagepool build quarantine {name}' takes a build out of service that is.",
    )

"""Decide what somebody's word lets serve, whatever it would wait for, and foresee what each provider will.

As a rollback moves no image, so does this: the word is written on the build, and the promotions follow.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from builder.config.model import Config
from builder.errors import NotFoundError, RefusedError
from builder.model import Build, BuildState, Clearance, Snapshot, Upload
from builder.planning.actions import IMAGEPOOL
from builder.planning.records import by_age, in_service, is_there, may_go_out
from builder.planning.rollback import Case, Move, MoveFate, Rollback
from builder.planning.words import listed, short, withheld


def plan_promote(
    config: Config,
    snapshot: Snapshot,
    image: str,
    build_id: str | None,
    providers: Collection[str] | None,
    now: datetime,
    *,
    by: str,
    why: str,
) -> Rollback:
    """What serves where, once somebody's word is that the build of that full id may serve in `providers`, or
    with None everywhere, whatever `promote` has it wait for.

    With None that is the newest that is ready there and not withheld. Raises NotFoundError when there is no
    such build, and RefusedError when it is withheld, ready nowhere there, or older than all that serves, and
    where the configuration does not let the image go.
    """
    case = _ByHand(config, snapshot, image, providers)
    case.demand_listing()
    build = case.newest() if build_id is None else case.promotable(build_id)
    words = tuple(
        Clearance(provider=provider, by=by, time=now, why=why)
        for provider in case.scope
        if not case.is_said(build, provider)
    )
    changed = build
    for word in words:
        changed = changed.clear(word)
    plan = case.result(build, (), case.with_builds({build.id: changed}), now)
    return replace(plan, clear=words, moves=tuple(case.with_wait(build, move) for move in plan.moves))


class _ByHand(Case):
    """An image, the providers that are to serve a build of it, and what the records say of both."""

    def newest(self) -> Build:
        """The newest build that is ready in one of the providers and not withheld there."""
        ready = by_age(self.records, [u for p in self.providers for u in self.good(p)])
        build = self.records.build(ready[0].build_id) if ready else None
        if build is None:
            where = listed(p.name for p in self.providers)
            raise RefusedError(
                f"no image of {self.image} is ready in {where} that may serve",
                hint=f"`imagepool image explain {self.image}` says what is uploaded next,"
                " `imagepool build list` what is withheld.",
            )
        return build

    def promotable(self, build_id: str) -> Build:
        """The build that somebody wants to serve."""
        build = self.records.build(build_id)
        if build is None:
            raise NotFoundError(f"{self.image} has no build {build_id}")
        if build.state is not BuildState.READY:
            raise RefusedError(f"build {short(build.id)} is {build.state}, not ready")
        self._refuse_withheld(build)
        there = [p.name for p in self.providers if is_there(self.records, build, p.name)]
        if not there:
            where = listed(p.name for p in self.providers)
            raise RefusedError(
                f"build {short(build.id)} is not ready in {where}",
                hint="`imagepool upload list` shows what is ready where;"
                f" `imagepool image explain {self.image}` says what is uploaded next.",
            )
        newer = [u for name in there if (u := self._newer_good(build, name)) is not None]
        if len(newer) == len(there):
            raise RefusedError(
                f"build {short(newer[0].build_id)}, which is newer, serves in {newer[0].provider}",
                hint=f"`imagepool image rollback {self.image} --to {short(build.id)}` goes back.",
            )
        return build

    def is_said(self, build: Build, provider: str | None) -> bool:
        """Whether somebody's word is on record that a build may serve in a provider, or with None everywhere;
        one from before a freeze is to be said again."""
        word = next((each for each in build.cleared if each.provider == provider), None)
        frozen = self.snapshot.frozen
        return word is not None and word.by != IMAGEPOOL and (frozen is None or word.time >= frozen.time)

    def with_wait(self, build: Build, move: Move) -> Move:
        """The move; of a provider that lacks the build, it says that it takes over there later."""
        name = move.provider
        lacks = not is_there(self.records, build, name) and may_go_out(build, name)
        if move.fate is not MoveFate.STAYS or not lacks or self._newer_good(build, name) is not None:
            return move
        coming = move.build is not None and move.build.id == build.id
        then = "it takes over there when it is" if coming else "and a newer one is sent there by now"
        return replace(move, reason=f"{move.reason} Build {short(build.id)} is not ready there: {then}.")

    def _refuse_withheld(self, build: Build) -> None:
        for provider in self.scope:
            word = build.quarantine if provider is None else build.withheld_from(provider)
            if word is not None:
                ends = f"`imagepool build unquarantine {short(build.id)}` takes that back."
                keeps = f"`imagepool build reject {short(build.id)}` keeps it out."
                raise RefusedError(withheld(build.id, word), hint=keeps if word.held else ends)

    def _newer_good(self, build: Build, provider: str) -> Upload | None:
        """What serves a provider, if it is newer than a build and not withheld there."""
        serving = in_service(self.records, provider)
        other = self.records.build(serving.build_id) if serving is not None else None
        if other is None or not may_go_out(other, provider):
            return None
        return serving if (other.began, other.id) > (build.began, build.id) else None

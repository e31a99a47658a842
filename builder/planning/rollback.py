"""Decide what to withhold so that every provider serves an earlier build again, and foresee what each will.

Nothing here moves an image: who is withheld is written on the builds, and the promotions follow from that
(promotion.py). What will serve is found by deciding on the records as they will be, so that it is
what the daemon does.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from builder.config.model import Config, Provider
from builder.errors import NotFoundError, RefusedError
from builder.model import (
    Build,
    BuildState,
    Clearance,
    Daemon,
    ImageRecords,
    Snapshot,
    Upload,
    UploadState,
    Withholding,
)
from builder.planning.actions import Promotion, UploadDecision, Verdict
from builder.planning.canary import gate_of
from builder.planning.promotion import promotions_of
from builder.planning.records import by_age, good_builds, has_file, in_service, is_there, may_go_out, picked
from builder.planning.records import runs as is_running
from builder.planning.uploads import decide_uploads
from builder.planning.words import listed, short, withheld

_COMING = (Verdict.NOW, Verdict.LATER, Verdict.RUNNING)


class MoveFate(StrEnum):
    """What becomes of a provider."""

    STAYS = "stays"  #: it serves what it should, or nothing
    MOVES = "moves"  #: another image, which is ready there, takes over at once
    UPLOAD = "upload"  #: what it should serve is sent there first
    STUCK = "stuck"  #: it goes on serving what is withheld: nothing else is there or can be sent


@dataclass(frozen=True, kw_only=True)
class Move:
    """What a provider serves now, what it will serve at once, and why."""

    provider: str
    fate: MoveFate
    reason: str
    serving: Upload | None  #: now
    upload: Upload | None  #: as soon as what is withheld is on record
    build: Build | None  #: what is wanted there then


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """What is to be withheld, and what follows from it; nothing to withhold: it is so already."""

    image: str
    target: Build | None  #: the build that is gone back to; None where there is none in particular
    withhold: tuple[tuple[Build, Withholding], ...]  #: to be written in this order, the oldest first
    moves: tuple[Move, ...]
    running: Build | None  #: a build that is being made, which takes over when it is ready
    clear: tuple[Clearance, ...] = ()  #: by which the target may serve


def plan_rollback(
    config: Config,
    snapshot: Snapshot,
    image: str,
    to: str | None,
    providers: Collection[str] | None,
    now: datetime,
    *,
    by: str,
    why: str,
) -> Rollback:
    """How all `providers`, with None those that list the image, go back to the build of the full id `to`.

    With None that is the newest one before what serves that is ready in any of them and not withheld.
    Every ready build that is newer is withheld: from these providers, or with None put in quarantine; the
    oldest first, so that none of them serves when the rest is never written. Raises NotFoundError when there
    is no such build, and RefusedError when it can't serve anywhere, with what could be taken instead.
    """
    case = Case(config, snapshot, image, providers)
    case.demand_listing()
    target = case.earlier() if to is None else case.named(to)
    words = [
        (build, Withholding(provider=provider, by=by, time=now, why=why))
        for build in case.newer(target)
        for provider in case.scope
        if may_go_out(build, provider)
    ]
    clear = tuple(
        Clearance(provider=provider, by=by, time=now, why=why)
        for provider in case.scope
        if case.waits(target, provider)
    )
    return case.plan(target, words, now, clear)


def plan_quarantine(
    config: Config,
    snapshot: Snapshot,
    build: Build,
    providers: Collection[str] | None,
    now: datetime,
    *,
    by: str,
    why: str,
) -> Rollback:
    """How a build is withheld from `providers`, or with None put in quarantine, and what serves then instead.

    Where the configuration does not let it go, nothing moves; the word holds should it do so again. Raises
    RefusedError for a build of which nothing goes out anyway.
    """
    case = Case(config, snapshot, build.image, providers)
    if build.state not in (BuildState.READY, BuildState.BUILDING):
        raise RefusedError(f"build {short(build.id)} is {build.state}: nothing of it goes out")
    words = [
        (build, Withholding(provider=provider, by=by, time=now, why=why))
        for provider in case.scope
        # A hold is nobody's word yet: a quarantine takes its place, and it says nothing of who releases it.
        if may_go_out(build.without_hold(), provider)
    ]
    return case.plan(None, words, now)


def plan_release(
    config: Config, snapshot: Snapshot, build: Build, providers: Collection[str] | None, now: datetime
) -> Rollback:
    """What serves where, once a build is no longer withheld from `providers`, or with None from anywhere."""
    case = Case(config, snapshot, build.image, providers)
    released = build
    for provider in case.scope:
        released = released.released(provider)
    return case.result(None, (), case.with_builds({build.id: released}), now)


def plan_let_go(config: Config, snapshot: Snapshot, build: Build, now: datetime) -> Rollback:
    """What serves where, once a build is no longer held: it is nowhere yet, and is sent first. Who else
    withholds it from where has not said otherwise."""
    case = Case(config, snapshot, build.image, None)
    held = build if build.hold is not None else None
    return case.result(None, (), case.with_builds({build.id: build.without_hold()}), now, held=held)


def moved(move: Move, snapshot: Snapshot) -> bool:
    """Whether a provider no longer serves what it did when the move was planned, by the records and in
    nodepool's sense; nothing is waited for where nothing moves at once."""
    if move.upload is None or move.fate in (MoveFate.STAYS, MoveFate.STUCK):
        return True
    if move.serving is not None and move.serving.name == move.upload.name:
        return True
    uploads = snapshot.image(move.upload.image).uploads_to(move.provider)
    serving = {u.name for u in uploads if u.state is UploadState.READY and u.serving is not None}
    taken = picked(uploads)
    before = move.serving.name if move.serving is not None else None
    return taken is not None and serving == {taken.name} and taken.name != before


def too_old(snapshot: Snapshot) -> tuple[Daemon, ...]:
    """The daemons that know nothing of what is withheld, and would promote and upload it."""
    return tuple(daemon for daemon in snapshot.daemons if not daemon.withholds)


class Case:
    """An image, the providers that are to go back, and what the records say of both."""

    def __init__(
        self, config: Config, snapshot: Snapshot, image: str, providers: Collection[str] | None
    ) -> None:
        self.config = config
        self.snapshot = snapshot
        self.image = image
        self.records: ImageRecords = snapshot.image(image)
        listing = config.providers_of(image) if image in config.diskimages else ()
        #: What moves: where the configuration does not let the image go, nothing is promoted.
        self.providers = tuple(p for p in listing if providers is None or p.name in providers)
        #: Who tells what waits for a word, or the canaries.
        self.gate = gate_of(config.diskimages[image], self.records, listing) if listing else None
        #: What is named in the words that withhold.
        self.scope: tuple[str | None, ...] = (None,) if providers is None else tuple(dict.fromkeys(providers))

    def demand_listing(self) -> None:
        """RefusedError unless the image goes to all the providers by the configuration."""
        strange = sorted({*filter(None, self.scope)} - {provider.name for provider in self.providers})
        if self.image not in self.config.diskimages or strange:
            who = "the configuration" if self.image not in self.config.diskimages else listed(strange)
            raise RefusedError(f"{who} does not have {self.image}, so nothing of it is promoted there")

    # -- which build --------------------------------------------------------------------------

    def named(self, build_id: str) -> Build:
        """The build that somebody wants to go back to."""
        build = self.records.build(build_id)
        if build is None:
            raise NotFoundError(f"{self.image} has no build {build_id}", hint=self._instead())
        if build.state is not BuildState.READY:
            raise RefusedError(f"build {short(build.id)} is {build.state}, not ready", hint=self._instead())
        for provider in self.scope:
            word = build.quarantine if provider is None else build.withheld_from(provider)
            if word is not None:
                again = f"`imagepool build unquarantine {short(build.id)}` takes that back. "
                hint = f"{'' if word.held else again}{self._instead()}"
                raise RefusedError(withheld(build.id, word), hint=hint)
        if not self._can_serve(build):
            raise RefusedError(
                f"build {short(build.id)} is ready in no provider that goes back, and has no files to send",
                hint=self._instead(),
            )
        return build

    def earlier(self) -> Build:
        """The newest build before what serves that is ready somewhere and not withheld there."""
        serving = filter(None, (in_service(self.records, provider.name) for provider in self.providers))
        bad = next(iter(by_age(self.records, serving)), None)
        if bad is None:
            raise RefusedError(f"no image of {self.image} is in service", hint=self._instead())
        ready = by_age(self.records, [u for p in self.providers for u in self.good(p)])
        # What never served may wait between the two.
        served = [u for p in self.providers for u in self._served_before(p, bad)]
        ready = by_age(self.records, served) or ready
        older = by_age(self.records, [*ready, bad])
        target = next((u for u in older[older.index(bad) :] if u.build_id != bad.build_id), None)
        build = self.records.build(target.build_id) if target is not None else None
        if build is None:
            raise RefusedError(
                f"no image of {self.image} from before build {short(bad.build_id)}, which serves, is ready",
                hint=self._instead(but=bad.build_id),
            )
        return build

    def newer(self, target: Build) -> list[Build]:
        """The ready builds that are newer than one, the oldest first."""
        ready = [b for b in self.records.builds if b.state is BuildState.READY]
        after = [b for b in ready if (b.began, b.id) > (target.began, target.id)]
        return sorted(after, key=lambda build: (build.began, build.id))

    def good(self, provider: Provider) -> Iterator[Upload]:
        """The ready uploads to a provider of ready builds that are not withheld there."""
        good = {build.id for build in good_builds(self.records, provider.name)}
        for upload in self.records.uploads_to(provider.name):
            if upload.state is UploadState.READY and upload.build_id in good:
                yield upload

    def _served_before(self, provider: Provider, bad: Upload) -> Iterator[Upload]:
        """The upload to a provider that served last before a build."""
        good = self.gate.served_last(self.good(provider)) if self.gate is not None else ()
        yield from itertools.islice((u for u in good if u.build_id != bad.build_id), 1)

    def waits(self, target: Build, provider: str | None) -> bool:
        """Whether a build that is gone back to would wait for a word, or for the canaries."""
        said = [word.provider for word in target.cleared]
        return self.gate is not None and None not in said and provider not in said

    def _can_serve(self, build: Build) -> bool:
        """Whether one of the providers has a build, or can get it."""
        return any(
            is_there(self.records, build, p.name) or self._can_be_sent(build, p) for p in self.providers
        )

    def _can_be_sent(self, build: Build, provider: Provider) -> bool:
        return has_file(build, provider.image_format) and build.builder_id not in self.snapshot.forgotten

    def _instead(self, but: str | None = None) -> str:
        """The builds that could be taken, as a sentence."""
        found = []
        for build in good_builds(self.records):
            there = [
                p.name
                for p in self.providers
                if is_there(self.records, build, p.name) and may_go_out(build, p.name)
            ]
            if build.id == but or not (there or self._can_serve(build)):
                continue
            how = f"ready in {listed(there)}" if there else f"its files are on {build.builder or 'a builder'}"
            found.append(f"{short(build.id)} ({how})")
        return f"Could be taken: {', '.join(found)}." if found else "There is no other build to go back to."

    # -- what follows -------------------------------------------------------------------------

    def with_builds(self, changed: Mapping[str, Build]) -> Snapshot:
        """The snapshot as it will be when those builds are on record."""
        builds = tuple(changed.get(build.id, build) for build in self.records.builds)
        return self.snapshot.with_image(replace(self.records, builds=builds))

    def plan(
        self,
        target: Build | None,
        words: list[tuple[Build, Withholding]],
        now: datetime,
        clear: tuple[Clearance, ...] = (),
    ) -> Rollback:
        """What follows from those words, and from those by which the target may serve."""
        changed: dict[str, Build] = {}
        if target is not None:
            for allowed in clear:
                changed[target.id] = changed.get(target.id, target).clear(allowed)
        for build, word in words:
            changed[build.id] = changed.get(build.id, build).withhold(word)
        return replace(self.result(target, tuple(words), self.with_builds(changed), now), clear=clear)

    def result(
        self,
        target: Build | None,
        words: tuple[tuple[Build, Withholding], ...],
        after: Snapshot,
        now: datetime,
        *,
        held: Build | None = None,
    ) -> Rollback:
        """The whole plan, where `after` are the records as they will be, and `held` is a build that was."""
        image = self.config.diskimages.get(self.image)
        planned = promotions_of(image, self.config, after, now) if image is not None else ()
        promotions = {promotion.provider: promotion for promotion in planned}
        decisions = {d.provider: d for d in decide_uploads(self.config, after, now) if d.image == self.image}
        return Rollback(
            image=self.image,
            target=target,
            withhold=words,
            moves=tuple(
                _move(
                    self.records,
                    after.image(self.image),
                    promotions[provider.name],
                    decisions[provider.name],
                    held,
                )
                for provider in self.providers
            ),
            running=next((build for build in self.records.builds if is_running(build, self.records)), None),
        )


def _move(
    records: ImageRecords,
    after: ImageRecords,
    promotion: Promotion,
    decision: UploadDecision,
    held: Build | None,
) -> Move:
    """What becomes of a provider, by the promotion and the upload that are decided on `after`."""
    serving = in_service(records, promotion.provider)
    heir = serving if promotion.verdict is Verdict.NO else promotion.upload
    fate, reason = _fate(after, serving, heir, decision, held)
    return Move(
        provider=promotion.provider,
        fate=fate,
        reason=reason,
        serving=serving,
        upload=heir,
        build=decision.build,
    )


def _fate(
    after: ImageRecords,
    serving: Upload | None,
    heir: Upload | None,
    decision: UploadDecision,
    held: Build | None,
) -> tuple[MoveFate, str]:
    wanted, bad = decision.build, _is_withheld(after, serving)
    moves = heir is not None and (serving is None or heir.name != serving.name)
    meanwhile = f"{_build(heir)} serves until then" if heir is not None else "nothing serves until then"
    missing = wanted is not None and (heir is None or heir.build_id != wanted.id)
    if wanted is not None and missing and decision.verdict in _COMING:
        if moves or bad:
            return MoveFate.UPLOAD, f"Build {short(wanted.id)} is sent there first, and {meanwhile}."
        if held is not None and wanted.id == held.id:
            sent = f"Build {short(wanted.id)} is sent there; it serves as `promote` says"
            return MoveFate.UPLOAD, f"{sent}, and {meanwhile}."
    if moves:
        ends = f" from {_build(serving).lower()}" if serving is not None else ""
        return MoveFate.MOVES, f"{_build(heir)}, which is ready there, takes over{ends}."
    if bad:
        nothing = "nothing else is ready there or can be sent"
        return MoveFate.STUCK, f"{_build(serving)} goes on serving: {nothing}. {decision.reason}"
    return MoveFate.STAYS, "Nothing serves there." if serving is None else f"{_build(serving)} stays."


def _is_withheld(records: ImageRecords, upload: Upload | None) -> bool:
    return upload is not None and not may_go_out(records.build(upload.build_id), upload.provider)


def _build(upload: Upload | None) -> str:
    return f"Build {short(upload.build_id)}" if upload is not None else "Nothing"

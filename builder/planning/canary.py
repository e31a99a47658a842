"""Follow a new build through the canaries, and say what a build waits for that does not serve by itself.

With `promote: manual` a build serves where somebody said so. With canaries it serves in these first. Once all
of them have served it for the time of `soak`, and the check has found its image good in each, that is put on
its record (`Clearance`), and the other providers follow, each after the check there. What soaks is not
displaced by the next build: that waits until the one before it was let out or withheld, or can't get into
all canaries any more. Somebody's word (`imagepool image promote`) is the last: it waits for nothing.

Who takes back that a build is withheld has the last word as well: what a check refused is not refused again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from builder.config.model import Canary, Config, DiskImage, Provider
from builder.model import (
    Build,
    BuildState,
    CheckVerdict,
    Clearance,
    ImageRecords,
    Snapshot,
    Upload,
    UploadState,
)
from builder.planning.actions import IMAGEPOOL, Verdict
from builder.planning.checking import Checking, checking_of, told
from builder.planning.records import Place, may_go_out, may_serve, newest_first, place, unwanted
from builder.planning.words import at, by_whom, failure, frozen, lasting, line, listed, short

#: By which a build gets to a provider, or has.
_COMING: Final = frozenset({UploadState.READY, UploadState.UPLOADING})


@dataclass(frozen=True, kw_only=True)
class Clearing:
    """Whether the build that the canaries serve is let out to the others, and why.

    NOW: it is; LATER: when it has soaked, at `due`; NO: it waits for a canary, or for the check.
    """

    image: str
    build: Build
    verdict: Verdict
    reason: str
    due: datetime | None = None


def steps_of(
    image: DiskImage, config: Config, snapshot: Snapshot, now: datetime
) -> Iterator[Clearing | Checking]:
    """All that is to be done with the canaries of a diskimage, or has to wait."""
    clearing = clearing_of(image, config, snapshot, now)
    if clearing is not None:
        yield clearing
    yield from checkings_of(image, config, snapshot, now)


def clearing_of(image: DiskImage, config: Config, snapshot: Snapshot, now: datetime) -> Clearing | None:
    """What becomes of the build that soaks; None where none does."""
    canaries = canaries_of(image, config, snapshot.image(image.name))
    if canaries is None or canaries.build is None:
        return None
    build, due, verdict = canaries.build, None, Verdict.NO
    reason = canaries.why_not_out(snapshot)
    if reason is None and canaries.until > now:
        verdict, due = Verdict.LATER, canaries.until
        reason = f"Build {short(build.id)} soaks in {canaries.listed} until {at(due)}."
    elif reason is None:
        verdict, reason = Verdict.NOW, canaries.passed
    if snapshot.frozen is not None and verdict is not Verdict.NO:
        verdict, due, reason = Verdict.NO, None, f"{reason} {frozen(snapshot.frozen)}"
    return Clearing(image=image.name, build=build, verdict=verdict, reason=reason, due=due)


def checkings_of(image: DiskImage, config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Checking]:
    """Every image that waits for what the check says of it, in the order of the providers."""
    records = snapshot.image(image.name)
    canaries = canaries_of(image, config, records)
    if canaries is None or not canaries.policy.check:
        return
    for provider in config.providers_of(image.name):
        upload = canaries.to_check(provider.name)
        if upload is not None:
            checking = checking_of(upload, records, now)
            if snapshot.frozen is not None and checking.verdict is not Verdict.RUNNING:
                reason = f"{checking.reason} {frozen(snapshot.frozen)}"
                checking = Checking(upload=upload, verdict=Verdict.NO, reason=reason)
            yield checking


def gate_of(image: DiskImage, records: ImageRecords, providers: tuple[Provider, ...]) -> ByHand | None:
    """Who tells what waits for somebody's word or the canaries; None where nothing does. `providers`: those
    that list the image."""
    if isinstance(image.promote, Canary):
        return Canaries(image.promote, records, providers)
    return ByHand(records) if image.promote == "manual" else None


def canaries_of(image: DiskImage, config: Config, records: ImageRecords) -> Canaries | None:
    """The canaries of a diskimage; None when it has none."""
    gate = gate_of(image, records, config.providers_of(image.name))
    return gate if isinstance(gate, Canaries) else None


def why_out(word: Clearance) -> str:
    """Why a build may serve, as the end of a sentence."""
    if word.by != IMAGEPOOL:
        return f"it was promoted {by_whom(word)}"
    why = line(word.why)
    return f"{why[:1].lower()}{why[1:]}"


class ByHand:
    """The uploads of a diskimage whose builds serve where somebody says so."""

    def __init__(self, records: ImageRecords) -> None:
        self._records = records
        self._builds = {build.id: build for build in records.builds}

    def place(self, upload: Upload) -> Place:
        """What is newer has the greater place."""
        return place(self._builds.get(upload.build_id), upload)

    def served(self, provider: str) -> Place | None:
        """The place of the newest that serves a provider, also if it is to go; None where none does."""
        there = (self.place(u) for u in self._records.uploads if u.provider == provider and may_serve(u))
        return max(there, default=None)

    def waits(self, upload: Upload) -> str | None:
        """What a ready upload waits for, as a sentence; None when it may take over, or serves."""
        build = self._builds.get(upload.build_id)
        if upload.serving is not None or build is None or build.clearance(upload.provider) is not None:
            return None
        command = f"imagepool image promote {upload.image} --build {short(build.id)}"
        return f"Build {short(build.id)} waits for `{command}` (`promote: manual`)."

    def is_awaited(self, upload: Upload) -> bool:
        """Whether an upload is to take over where it is, however much is newer: it was let out last there."""
        there = filter(self._is_cleared, self._records.uploads_to(upload.provider))
        last = max(there, key=self.place, default=None)
        served = self.served(upload.provider)
        return upload == last and upload.serving is None and (served is None or self.place(upload) > served)

    def _is_cleared(self, upload: Upload) -> bool:
        """Whether it is ready, and there is a word that it may serve, and none that it may not."""
        build = self._builds.get(upload.build_id)
        if build is None or build.state is not BuildState.READY or upload.state is not UploadState.READY:
            return False
        return may_go_out(build, upload.provider) and build.clearance(upload.provider) is not None

    def otherwise(self, good: list[Upload], *, in_service: bool) -> Upload | None:
        """Which of the good uploads to a provider serves when none may take over: where nothing does, that
        which nodepool's launcher takes; else one that is older than what served, and must go."""
        if not in_service:
            return next(iter(newest_first(good)), None)
        return next(iter(self.served_last(good)), None)

    def served_last(self, good: Iterable[Upload]) -> tuple[Upload, ...]:
        """Of the good uploads to a provider those that are no newer than what serves there, that first which
        served last: each became ready behind the rest (`promotion.behind`), and got ahead as it served."""
        uploads = tuple(good)
        served = self.served(uploads[0].provider) if uploads else None
        return newest_first(u for u in uploads if served is not None and self.place(u) <= served)


class Canaries(ByHand):
    """The canaries of a diskimage, and which build is on its way through them."""

    def __init__(self, policy: Canary, records: ImageRecords, providers: tuple[Provider, ...]) -> None:
        super().__init__(records)
        self.policy = policy
        self._providers = providers
        listing = {provider.name for provider in providers}
        self._names = tuple(name for name in policy.providers if name in listing)
        self._serving = {
            u.provider: u
            for u in sorted(records.uploads, key=self.place)  # of two in one provider the newer counts
            if u.state is UploadState.READY and u.serving is not None and u.provider in self._names
        }
        #: The build that soaks, or begins to; None when there is none, or it was let out or withheld, or all
        #: others serve it already.
        self.build = self._soaking()

    @property
    def listed(self) -> str:
        """The names of the canaries, in a sentence."""
        return listed(self._names) if self._names else "no provider"

    def _soaking(self) -> Build | None:
        newest = max(self._serving.values(), key=self.place, default=None)
        build = None if newest is None else self._builds.get(newest.build_id)
        if build is None or build.state is not BuildState.READY or _is_out(build):
            return None
        return (
            build if all(may_go_out(build, name) for name in self._names) and self._has_aims(build) else None
        )

    def _has_aims(self, build: Build) -> bool:
        """Whether it is to go on to others; where all are canaries, it is checked for themselves."""
        alone = all(provider.name in self._names for provider in self._providers)
        return alone or any(self._is_to_go_to(build, provider) for provider in self._providers)

    # -- the build that soaks -----------------------------------------------------------------

    @property
    def missing(self) -> tuple[str, ...]:
        """The canaries that do not serve the build that soaks."""
        return tuple(name for name in self._names if self._mine(name) is None)

    @property
    def comes(self) -> bool:
        """Whether what soaks is in all canaries, or on its way to those that lack it."""
        there = (self._records.uploads_of(self.build.id, name) if self.build else () for name in self.missing)
        return all(any(u.state in _COMING for u in uploads) for uploads in there)

    @property
    def since(self) -> datetime:
        """Since when all canaries that serve it do."""
        times = (u.serving for name in self._names if (u := self._mine(name)) is not None)
        return max(time for time in times if time is not None)

    @property
    def until(self) -> datetime:
        """Until when it soaks."""
        return self.since + self.policy.soak

    @property
    def passed(self) -> str:
        """Why it is let out, to be put on record."""
        checked = ", and the check found it good there" if self.policy.check else ""
        soak = lasting(self.policy.soak)
        return f"It was served by {self.listed} since {at(self.since)} (`soak`: {soak}){checked}."

    def why_not_out(self, snapshot: Snapshot) -> str | None:
        """What keeps it in the canaries besides the time, as a sentence; None when nothing does."""
        if self.build is None:
            return None
        if self.missing:
            where = "; ".join(f"{name}, {self._why_missing(name, snapshot)}" for name in self.missing)
            return f"Build {short(self.build.id)} waits for {where}."
        for name in self._names:
            if (upload := self._unchecked(name)) is not None:
                return f"Build {short(self.build.id)} waits for the check in {name}: {told(upload)}."
        return None

    def _mine(self, name: str) -> Upload | None:
        """Its upload in a canary, if it serves there."""
        upload = self._serving.get(name)
        return upload if upload is not None and self.build and upload.build_id == self.build.id else None

    def _why_missing(self, name: str, snapshot: Snapshot) -> str:
        build = self.build
        assert build is not None  # asked of what soaks
        if (pause := snapshot.paused_providers.get(name)) is not None:
            return f"to which uploads are paused {by_whom(pause)}"
        if any(provider.name == name and self._is_paused(provider) for provider in self._providers):
            return "where the configuration pauses the image"
        if (wish := unwanted(self._records, build, name)) is not None:
            return f"from which it is kept away {by_whom(wish)}"
        last = next(iter(newest_first(self._records.uploads_of(build.id, name))), None)
        if last is None:
            return "to which it was not sent yet"
        if last.state is UploadState.FAILED:
            return f"where its upload failed: {failure(last)}"
        return "where it takes over" if last.state is UploadState.READY else "to which it is being sent"

    # -- who waits for it ---------------------------------------------------------------------

    def is_awaited(self, upload: Upload) -> bool:
        """Whether an upload is to take over where it is, however much is newer: it soaks, or was let out last
        there."""
        soaks = self.build is not None and upload.build_id == self.build.id
        return (soaks and upload.state is UploadState.READY) or super().is_awaited(upload)

    def waits(self, upload: Upload) -> str | None:
        """What a ready upload waits for, as a sentence; None when it may take over, or serves."""
        build = self._builds.get(upload.build_id)
        if upload.serving is not None or build is None:
            return None
        word = build.clearance(upload.provider)
        if word is not None:
            checks = word.by == IMAGEPOOL and upload.provider not in self._names
            return self._for_the_check(upload) if checks and self._is_unchecked(upload) else None
        if upload.provider in self._names:
            return self._for_its_turn(upload) if self._blocks(upload) else None
        return self._for_the_canaries(upload, build)

    def _for_the_check(self, upload: Upload) -> str:
        return f"Build {short(upload.build_id)} waits for the check there: {told(upload)}."

    def _for_its_turn(self, upload: Upload) -> str:
        assert self.build is not None  # which blocks it
        return (
            f"Build {short(upload.build_id)} takes over once build {short(self.build.id)} has gone through"
            f" the canaries, or is withheld: {self._state()}."
        )

    def _for_the_canaries(self, upload: Upload, build: Build) -> str:
        what, soak = f"Build {short(build.id)}", f"{self.listed} served it for {lasting(self.policy.soak)}"
        if self.build is not None and build.id == self.build.id:
            return f"{what} waits for its soak in {self.listed}: {self._state()}."
        return f"{what} takes over once {soak} (`promote: canary`)."

    def _state(self) -> str:
        """How far what soaks is, as part of a sentence."""
        if self.missing:
            return f"it waits for {listed(self.missing)}"
        waits = [name for name in self._names if self._unchecked(name) is not None]
        checks = f", and waits for the check in {listed(waits)}" if waits else ""
        return f"it soaks until {at(self.until)}{checks}"

    def _blocks(self, upload: Upload) -> bool:
        """Whether what soaks keeps a newer one waiting: it is still to go out, and can."""
        build = self.build
        if build is None or self.place(upload) <= self._place():
            return False
        return self.comes and any(self._is_to_go_to(build, provider) for provider in self._providers)

    def _is_to_go_to(self, build: Build, provider: Provider) -> bool:
        """Whether a provider that is no canary is to serve what soaks, and does not."""
        name = provider.name
        if name in self._names or build.clearance(name) is not None or not may_go_out(build, name):
            return False
        served = self.served(name)
        if served is not None and served >= self._place():
            return False
        gets = not self._is_paused(provider) and unwanted(self._records, build, name) is None
        there = any(u.state is UploadState.READY for u in self._records.uploads_of(build.id, name))
        return gets or there

    def _place(self) -> Place:
        return max(self.place(u) for u in self._serving.values())

    def _is_paused(self, provider: Provider) -> bool:
        return provider.images[self._records.name].pause

    # -- the check ----------------------------------------------------------------------------

    def to_check(self, provider: str) -> Upload | None:
        """The upload to a provider whose image is to be checked next; None when none is."""
        if provider in self._names:
            return self._unchecked(provider)
        served = self.served(provider)
        for upload in sorted(self._records.uploads_to(provider), key=self.place, reverse=True):
            if self._is_let_out(upload):
                newer = upload.serving is not None or served is None or self.place(upload) > served
                return upload if newer and self._is_unchecked(upload) else None
        return None

    def _unchecked(self, name: str) -> Upload | None:
        """The upload of what soaks in a canary, if its image is to be checked; not where somebody's word is
        that it may serve."""
        mine = self._mine(name)
        if mine is None or self.build is None or self.build.clearance(name) is not None:
            return None
        return mine if self._is_unchecked(mine) else None

    def _is_let_out(self, upload: Upload) -> bool:
        """Whether it is ready, and its build came out of the canaries by itself."""
        build = self._builds.get(upload.build_id)
        word = build.clearance(upload.provider) if build is not None and self._is_cleared(upload) else None
        return word is not None and word.by == IMAGEPOOL

    def _is_unchecked(self, upload: Upload) -> bool:
        """Whether the check has still to come to a verdict on it."""
        done = (CheckVerdict.GOOD, CheckVerdict.REFUSED)
        return bool(self.policy.check) and (upload.checked is None or upload.checked.verdict not in done)


def _is_out(build: Build) -> bool:
    return any(word.provider is None for word in build.cleared)

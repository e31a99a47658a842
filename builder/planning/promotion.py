"""Decide which image has the stable name and tag of its diskimage in each provider.

`promote` says when a new build takes over: in each provider as soon as it is ready there, or in all
of them once it is ready in all, or in so many, of the providers that list the image. A provider
that is paused for the image, or from which somebody keeps that build away, won't get it by itself:
nobody waits for it, but where it has the build all the same, it counts. When fewer providers are
left than the number asks for, all that are left are enough.

A build takes over once: what happens later, such as a provider that is added, takes nothing back.
Going back is another matter: where the image that has the name is to go or gone, the newest that
is ready there takes over at once, and rather one that had its time than one that still waits for
other providers.

What an image was given is on its record, so a name or tag that is changed in the configuration goes to
the image in service at once, and one that is taken out is taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Config, DiskImage, Provider
from builder.model import Build, ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import Promotion, Verdict
from builder.planning.records import NEVER, may_serve, newest_first, ready_uploads, unwanted
from builder.planning.retention import lasting_uploads, marks_of
from builder.planning.words import at, frozen, listed, short

#: So long an image keeps what it was given, whatever the configuration says meanwhile: daemons whose
#: configurations differ, while a new one is rolled out, would rename it in turns as fast as they can.
SETTLED: Final = timedelta(minutes=1)


def plan_promotions(config: Config, snapshot: Snapshot, now: datetime) -> tuple[Promotion, ...]:
    """For every diskimage with a stable name or tag and every provider that lists it, who should have them.

    NOW: `upload`, if there is one, gets them, then `predecessors` lose what they have; either may have
    happened already. NO: all is as it should be, or has to wait, or there is nothing to give them to.
    LATER, at `due`: they were changed or taken out of the configuration right after they had moved. Of a
    diskimage without them there is one where an image still has some, and nothing elsewhere. While
    everything is frozen, nothing moves.
    """
    return tuple(
        promotion
        for image in config.diskimages.values()
        for promotion in promotions_of(image, config, snapshot, now)
    )


def promotions_of(image: DiskImage, config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Promotion]:
    """The promotions of one diskimage, in the order of the providers."""
    freeze = snapshot.frozen
    for promotion in _of_records(image, config, snapshot.image(image.name), now):
        if freeze is None or promotion.verdict is Verdict.NO:
            yield promotion
        else:
            reason = f"{promotion.reason} {frozen(freeze)}"
            yield replace(promotion, verdict=Verdict.NO, due=None, reason=reason)


def _of_records(
    image: DiskImage, config: Config, records: ImageRecords, now: datetime
) -> Iterator[Promotion]:
    if not marks_of(image):
        yield from _farewells(image, config, records, now)
        return
    line = _Line(image, records, config.providers_of(image.name))
    for provider in line.providers:
        yield _decide(line, provider, now)


def _farewells(image: DiskImage, config: Config, records: ImageRecords, now: datetime) -> Iterator[Promotion]:
    """Where images still have what their diskimage has no more."""
    for provider in config.providers_of(image.name):
        serving = _serving(records, provider)
        if serving:
            had = " and ".join(sorted({marks_of(upload) or "stable name or tag" for upload in serving}))
            farewell = Promotion(
                image=image.name,
                provider=provider.name,
                verdict=Verdict.NOW,
                reason=f"{_builds(serving)} in {provider.name} loses the {had}: none is configured.",
                predecessors=serving,
            )
            yield _once_settled(farewell, serving, now)


def _once_settled(promotion: Promotion, changed: tuple[Upload, ...], now: datetime) -> Promotion:
    """The promotion, later if any of the uploads that it takes something from got it just now."""
    due = max(upload.serving or NEVER for upload in changed) + SETTLED
    return promotion if due <= now else replace(promotion, verdict=Verdict.LATER, due=due)


def _serving(records: ImageRecords, provider: Provider) -> tuple[Upload, ...]:
    """The uploads that have a stable name or tag in a provider, newest first."""
    return tuple(
        upload
        for upload in newest_first(records.uploads_to(provider.name))
        if upload.serving is not None and upload.state in (UploadState.READY, UploadState.DELETING)
    )


def _builds(uploads: tuple[Upload, ...]) -> str:
    return f"Build {listed(sorted({short(upload.build_id) for upload in uploads}))}"


class _Line:
    """The builds of an image in the order in which they take over from each other."""

    def __init__(self, image: DiskImage, records: ImageRecords, providers: tuple[Provider, ...]) -> None:
        self.image = image
        self.records = records
        self.providers = providers
        served = [self.place(u) for u in records.uploads if u.serving is not None]
        self._served = max(served, default=None)
        ready = (upload for upload in records.uploads if upload.state is UploadState.READY)
        self._there = frozenset((upload.build_id, upload.provider) for upload in ready)

    def place(self, upload: Upload) -> tuple[datetime, str]:
        """What is newer has the greater place."""
        build = self.records.build(upload.build_id)
        # When it began: a build that is to go has another time of state.
        return (build.began if build is not None else upload.started or NEVER, upload.build_id)

    def had_its_time(self, upload: Upload) -> bool:
        """Whether its build, or a newer one, has the marks in some provider."""
        return self._served is not None and self.place(upload) <= self._served

    def missing(self, upload: Upload) -> tuple[str, ...]:
        """The providers that the build of an upload still waits for, of which some or all must have it."""
        build = self.records.build(upload.build_id)
        if self.image.promote == "each" or build is None:
            return ()
        there = [p.name for p in self.providers if (build.id, p.name) in self._there]
        coming = [p.name for p in self.providers if p.name not in there and self._gets(build, p)]
        enough = self.image.promote != "all" and len(there) >= self.image.promote
        return () if enough else tuple(coming)

    def _gets(self, build: Build, provider: Provider) -> bool:
        """Whether a provider that does not have a build is going to get it."""
        paused = provider.images[self.image.name].pause
        return not paused and unwanted(self.records, build, provider.name) is None


def _decide(line: _Line, provider: Provider, now: datetime) -> Promotion:
    image, records = line.image, line.records
    ready = sorted(
        ready_uploads(lasting_uploads(records, provider.name)),
        key=lambda upload: (line.place(upload), upload.state_time, upload.id),
        reverse=True,
    )
    if not ready:
        return Promotion(
            image=image.name,
            provider=provider.name,
            verdict=Verdict.NO,
            reason=f"No image of it is ready in {provider.name} that could have the {marks_of(image)}.",
        )
    serving = _serving(records, provider)
    going = [u for u in records.uploads_to(provider.name) if u.state is UploadState.DELETING]
    heir = _heir(line, ready, in_service=bool(serving) or any(may_serve(upload) for upload in going))
    if heir is None:
        return Promotion(
            image=image.name,
            provider=provider.name,
            verdict=Verdict.NO,
            reason=f"No image in {provider.name} has the {marks_of(image)} yet. {_waits(line, ready[0])}",
        )
    predecessors = tuple(upload for upload in serving if upload.name != heir.name)
    what = f"Build {short(heir.build_id)}"
    # What does not say which it was given, is given them: that changes nothing where it has them.
    has_them = (heir.stable_name, heir.stable_tag) == (image.stable_name, image.stable_tag)
    if heir.serving is not None and has_them and not predecessors:
        reason = f"{what} has the {marks_of(image)} in {provider.name} since {at(heir.serving)}."
        if ready[0].name != heir.name:
            reason += f" {_waits(line, ready[0])}"
        verdict = Verdict.NO
    else:
        reason, verdict = _why(line, provider, heir, predecessors), Verdict.NOW
    promotion = Promotion(
        image=image.name,
        provider=provider.name,
        verdict=verdict,
        reason=reason,
        upload=heir,
        predecessors=predecessors,
    )
    renamed = verdict is Verdict.NOW and heir.serving is not None and not predecessors
    return _once_settled(promotion, (heir,), now) if renamed else promotion


def _heir(line: _Line, ready: list[Upload], *, in_service: bool) -> Upload | None:
    """Which of the ready uploads, newest first, should have the marks; None while all have to wait."""
    for upload in ready:
        # What has them had its time, so it keeps them until a newer one may take over.
        if line.had_its_time(upload) or not line.missing(upload):
            return upload
    # That image is to go: better one that others don't have yet than none.
    return ready[0] if in_service else None


def _why(line: _Line, provider: Provider, heir: Upload, predecessors: tuple[Upload, ...]) -> str:
    marks = marks_of(line.image)
    what = f"Build {short(heir.build_id)}"
    going = [u for u in predecessors if line.place(u) > line.place(heir)]
    if heir.serving is not None and not predecessors:
        had = marks_of(heir)
        instead = f" instead of the {had}" if had else ", as far as it has not: its record does not say"
        return f"{what} is in service in {provider.name}, and gets the {marks}{instead}."
    if heir.serving is not None:
        others = listed(sorted({short(u.build_id) for u in predecessors}))
        return f"{what} has the {marks} in {provider.name}; build {others} still has it too, and loses it."
    if going:
        return f"{what} takes the {marks} in {provider.name} back: build {short(going[0].build_id)} is to go."
    return f"{what} is the newest ready one in {provider.name} that may have the {marks}, and gets it."


def _waits(line: _Line, upload: Upload) -> str:
    missing = line.missing(upload)
    where = listed(missing) if missing else "other providers"
    if line.image.promote == "all":
        until = f"it is ready in {where} too"
    else:
        until = f"{line.image.promote} providers have it; {where} {_do(missing)} not yet"
    return f"Build {short(upload.build_id)} takes over once {until} (`promote: {line.image.promote}`)."


def _do(names: tuple[str, ...]) -> str:
    return "does" if len(names) == 1 else "do"

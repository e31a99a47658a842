"""Decide which image serves in each provider, by stable name and tag and in nodepool's sense.

`promote` says when a new build takes over: in each provider as soon as it is ready there, or in all
of them once it is ready in all, or in so many, of the providers that list the image; by hand, or after it
has gone through the canaries (canary.py). Somebody's word that it may serve goes before all of that. A
provider that is paused for the image, or from which somebody keeps that build away, won't get it by itself:
nobody waits for it, but where it has the build all the same, it counts. When fewer providers are
left than the number asks for, all that are left are enough.

A build takes over once: what happens later, such as a provider that is added, takes nothing back.
Going back is another matter: where the image that serves is withheld, to go or gone, the newest that
is ready there takes over at once, and rather one that had its time than one that still waits for
other providers. What is withheld serves only where nothing else is ready: a region must not have none.

nodepool's launcher knows neither names nor tags: it takes the ready upload with the newest `state_time`,
which is therefore renewed on what is to serve. An upload becomes ready behind all that may serve
(`behind`), so none is taken before its time. Of a diskimage without stable name and tag this is all.

What an image was given is on its record, so a name or tag that is changed in the configuration goes to
the image in service at once, and one that is taken out is taken back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from builder.config.model import Config, DiskImage, Provider
from builder.model import (
    Build,
    BuildState,
    Clearance,
    ImageRecords,
    Pause,
    Snapshot,
    Upload,
    UploadState,
    Withholding,
)
from builder.planning.actions import IMAGEPOOL, Promotion, Verdict
from builder.planning.canary import gate_of, why_out
from builder.planning.records import (
    Place,
    by_age,
    may_go_out,
    may_serve,
    newest_first,
    picked,
    place,
    ready_uploads,
    unwanted,
)
from builder.planning.retention import marks_of
from builder.planning.words import at, frozen, listed, short, withheld

#: So long an image keeps what it was given, whatever the configuration says meanwhile: daemons whose
#: configurations differ, while a new one is rolled out, would rename it in turns as fast as they can.
SETTLED: Final = timedelta(minutes=1)
#: What lies between two times by which nodepool's launcher picks; a record has seconds as a float.
_APART: Final = timedelta(milliseconds=1)
#: A record takes no time before or after: whoever is that far off can't be outdone.
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2199, 1, 1, tzinfo=UTC)


def plan_promotions(config: Config, snapshot: Snapshot, now: datetime) -> tuple[Promotion, ...]:
    """For every diskimage and every provider that lists it, what should serve there.

    NOW: `upload` begins to serve, or lacks something of it, then `predecessors` lose what they have, and
    those of `hide` are hidden; any of it may have happened already. NO: all is as it should be, or has to
    wait, or nothing is ready there. LATER, at `due`: the stable name or tag was changed in the configuration
    right after it had moved. While everything is frozen, only that moves which follows from somebody's word
    that a build is withheld, or which was said after that.
    """
    return tuple(
        promotion
        for image in config.diskimages.values()
        for promotion in promotions_of(image, config, snapshot, now)
    )


def promotions_of(image: DiskImage, config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Promotion]:
    """The promotions of one diskimage, in the order of the providers."""
    freeze = snapshot.frozen
    line = _Line(image, snapshot.image(image.name), config.providers_of(image.name))
    for provider in line.providers:
        promotion = _decide(line, provider, now)
        acts = promotion.verdict is not Verdict.NO
        if freeze is not None and acts and not _is_asked(line, promotion, freeze):
            reason = f"{promotion.reason} {frozen(freeze)}"
            promotion = replace(promotion, verdict=Verdict.NO, due=None, reason=reason)
        yield promotion


def _is_asked(line: _Line, promotion: Promotion, freeze: Pause) -> bool:
    """Whether it follows from a word that goes before a freeze."""
    words = line.words(promotion.upload) if promotion.cleared is not None and promotion.upload else ()
    after = any(word.by != IMAGEPOOL and word.time >= freeze.time for word in words)
    return promotion.word is not None or after


def behind(records: ImageRecords, upload: Upload, now: datetime) -> datetime:
    """The `state_time` with which an upload becomes ready at that moment, so that nodepool's launcher does
    not take it before it is to serve; `now`, where there is nothing else to take.

    It stands behind all that may serve there, for what serves may go before its turn comes; and ahead of what
    is withheld, unless it is so itself.
    """
    ready = ready_uploads(records.uploads_to(upload.provider))
    bad = {build.id for build in records.builds if not may_go_out(build, upload.provider)}
    before = (u for u in ready if u == ready[0] or u.build_id not in bad or upload.build_id in bad)
    return min([now, *(max(_FIRST, u.state_time - _APART) for u in before)])


class _Line:
    """The builds of an image in the order in which they take over from each other."""

    def __init__(self, image: DiskImage, records: ImageRecords, providers: tuple[Provider, ...]) -> None:
        self.image = image
        self.records = records
        self.providers = providers
        self.marks = marks_of(image)
        self._builds = {build.id: build for build in records.builds}
        self._uploads: defaultdict[str, list[Upload]] = defaultdict(list)
        for upload in records.uploads:
            self._uploads[upload.provider].append(upload)
        served = [self.place(u) for u in records.uploads if u.serving is not None]
        self._served = max(served, default=None)
        ready = (upload for upload in records.uploads if upload.state is UploadState.READY)
        self._there = frozenset((upload.build_id, upload.provider) for upload in ready)
        #: Who tells what waits, where that is not told by who has it.
        self.gate = gate_of(image, records, providers)

    def place(self, upload: Upload) -> Place:
        """What is newer has the greater place."""
        return place(self._builds.get(upload.build_id), upload)

    def uploads_to(self, provider: Provider, *states: UploadState) -> list[Upload]:
        """The uploads to a provider in those states."""
        return [upload for upload in self._uploads[provider.name] if upload.state in states]

    def lasting(self, uploads: list[Upload]) -> tuple[Upload, ...]:
        """Those whose builds are not to go, the newest first."""
        gone = {build.id for build in self.records.builds if build.state is BuildState.DELETING}
        return by_age(self.records, (upload for upload in uploads if upload.build_id not in gone))

    def withheld(self, upload: Upload) -> Withholding | None:
        """The word that an upload is not to serve where it is."""
        build = self._builds.get(upload.build_id)
        return build.withheld_from(upload.provider) if build is not None else None

    def cleared(self, upload: Upload) -> Clearance | None:
        """The word that an upload may serve where it is."""
        build = self._builds.get(upload.build_id)
        return build.clearance(upload.provider) if build is not None else None

    def words(self, upload: Upload) -> tuple[Clearance, ...]:
        """All words that an upload may serve where it is, that for everywhere as well."""
        build = self._builds.get(upload.build_id)
        cleared = build.cleared if build is not None else ()
        return tuple(word for word in cleared if word.provider in (None, upload.provider))

    def may_take_over(self, upload: Upload) -> bool:
        """Whether an upload that is good waits for nothing."""
        if self.gate is not None:
            return self.gate.waits(upload) is None
        # What serves had its time, so it goes on until a newer one may take over.
        return self.had_its_time(upload) or self.cleared(upload) is not None or not self.missing(upload)

    def had_its_time(self, upload: Upload) -> bool:
        """Whether its build, or a newer one, serves in some provider."""
        return self._served is not None and self.place(upload) <= self._served

    def missing(self, upload: Upload) -> tuple[str, ...]:
        """The providers that the build of an upload still waits for, of which some or all must have it."""
        build = self._builds.get(upload.build_id)
        policy = self.image.promote
        if build is None or not (policy == "all" or isinstance(policy, int)):
            return ()
        there = [p.name for p in self.providers if (build.id, p.name) in self._there]
        coming = [p.name for p in self.providers if p.name not in there and self._gets(build, p)]
        enough = isinstance(policy, int) and len(there) >= policy
        return () if enough else tuple(coming)

    def _gets(self, build: Build, provider: Provider) -> bool:
        """Whether a provider that does not have a build is going to get it."""
        paused = provider.images[self.image.name].pause
        kept_away = unwanted(self.records, build, provider.name) is not None
        return not paused and not kept_away and may_go_out(build, provider.name)


def _decide(line: _Line, provider: Provider, now: datetime) -> Promotion:
    image = line.image
    everything = line.uploads_to(provider, UploadState.READY)
    ready = line.lasting(everything)
    going = line.uploads_to(provider, UploadState.DELETING)
    serving = tuple(u for u in newest_first([*everything, *going]) if u.serving is not None)
    heir = _heir(line, ready, in_service=bool(serving) or any(map(may_serve, going)))
    if heir is None:
        reason = _none_serves(line, provider, ready)
        return Promotion(
            image=image.name,
            provider=provider.name,
            verdict=Verdict.NO,
            reason=reason,
            waits=_newest_waits(line, ready),
        )
    promotion = Promotion(
        image=image.name,
        provider=provider.name,
        verdict=Verdict.NO,
        reason="",
        upload=heir,
        predecessors=_predecessors(heir, [*everything, *going]),
        renewed=_renewed(heir, everything),
        hide=_old(line, provider, heir, ready),
        show=heir.hidden and not provider.images[image.name].sharing.hidden,
        word=_word(line, heir, [*serving, *everything]),
        cleared=line.cleared(heir) if heir.serving is None else None,
        waits=_newest_waits(line, ready),
    )
    if heir.serving is not None and _has_its_marks(line, heir) and not _changes(promotion):
        return replace(promotion, reason=_as_it_should_be(line, provider, heir, ready))
    promotion = replace(promotion, verdict=Verdict.NOW, reason=_why(line, promotion, heir, serving))
    renamed = heir.serving is not None and not _has_its_marks(line, heir) and not _changes(promotion)
    return _once_settled(promotion, heir, now) if renamed else promotion


def _heir(line: _Line, ready: tuple[Upload, ...], *, in_service: bool) -> Upload | None:
    """Which of the ready uploads, newest first, should serve; None while all have to wait, or none may."""
    good = [upload for upload in ready if line.withheld(upload) is None]
    for upload in good:
        if line.may_take_over(upload):
            return upload
    older = line.gate.otherwise(good, in_service=in_service) if line.gate is not None else None
    if older is not None:
        return older
    if good:
        # That which serves is to go, or withheld: better one that others don't have yet than none.
        return good[0] if in_service else None
    serves = next((upload for upload in ready if upload.serving is not None), None)
    return serves or (ready[0] if ready and in_service else None)


def _predecessors(heir: Upload, others: list[Upload]) -> tuple[Upload, ...]:
    """What has, or may have, what the heir is to have alone: it serves, or was to and another one is now."""
    signed = (u for u in others if u.serving is not None or u.stable_name or u.stable_tag)
    return newest_first(upload for upload in signed if upload.name != heir.name)


def _newest_waits(line: _Line, ready: tuple[Upload, ...]) -> str | None:
    newest = next((upload for upload in ready if line.withheld(upload) is None), None)
    return None if line.gate is None or newest is None else line.gate.waits(newest)


def _has_its_marks(line: _Line, heir: Upload) -> bool:
    # What does not say which it was given, is given them: that changes nothing where it has them.
    return (heir.stable_name, heir.stable_tag) == (line.image.stable_name, line.image.stable_tag)


def _changes(promotion: Promotion) -> bool:
    """Whether there is more to do than to give the heir its name and tag."""
    return bool(promotion.predecessors or promotion.renewed or promotion.hide or promotion.show)


def _renewed(heir: Upload, everything: list[Upload]) -> datetime | None:
    """The time from which on nodepool's launcher takes the heir, None when it does."""
    newest = max((u.state_time for u in everything if u.name != heir.name), default=None)
    if newest is None or newest < heir.state_time or newest > _LAST:
        return None
    return newest + _APART


def _old(line: _Line, provider: Provider, heir: Upload, ready: tuple[Upload, ...]) -> tuple[Upload, ...]:
    """What is to be hidden; not what is newer and waits for other providers."""
    if not line.image.hide_old or provider.images[line.image.name].sharing.hidden:
        return ()
    return tuple(
        upload
        for upload in ready
        if upload.name != heir.name
        and not upload.hidden
        and (line.place(upload) <= line.place(heir) or line.withheld(upload) is not None)
    )


def _word(line: _Line, heir: Upload, others: list[Upload]) -> Withholding | None:
    """Somebody's word because of which the heir takes over from what serves, or would in nodepool's sense."""
    serve = [u for u in others if u.serving is not None] or list(filter(None, [picked(others)]))
    words = [word for u in serve if (word := line.withheld(u)) is not None]
    return max(words, key=lambda word: word.time) if words and line.withheld(heir) is None else None


def _once_settled(promotion: Promotion, changed: Upload, now: datetime) -> Promotion:
    """The promotion, later if the upload that gets another name or tag got one just now."""
    due = (changed.serving or now) + SETTLED
    return promotion if due <= now else replace(promotion, verdict=Verdict.LATER, due=due)


# -- in words -------------------------------------------------------------------------------------


def _what(upload: Upload) -> str:
    return f"Build {short(upload.build_id)}"


def _none_serves(line: _Line, provider: Provider, ready: tuple[Upload, ...]) -> str:
    where, for_what = provider.name, f" that could have the {line.marks}" if line.marks else ""
    if not ready:
        return f"No image of it is ready in {where}{for_what}."
    none = f"No image in {where} {f'has the {line.marks}' if line.marks else 'was put in service'} yet."
    if (word := line.withheld(ready[0])) is not None and all(map(line.withheld, ready)):
        return f"{none} Nothing else is ready there: {withheld(ready[0].build_id, word)}."
    return f"{none} {_waits(line, next(u for u in ready if line.withheld(u) is None))}"


def _as_it_should_be(line: _Line, provider: Provider, heir: Upload, ready: tuple[Upload, ...]) -> str:
    since = f"in {provider.name} since {at(heir.serving or heir.since)}"
    reason = f"{_what(heir)} {f'has the {line.marks}' if line.marks else 'is in service'} {since}"
    if (word := line.withheld(heir)) is not None:
        return f"{reason}, for nothing else is ready there: {withheld(heir.build_id, word)}."
    newer = [u for u in ready if line.place(u) > line.place(heir)]
    waiting = [u for u in newer if line.withheld(u) is None]
    if waiting:
        return f"{reason}. {_waits(line, waiting[0])}"
    if newer and (word := line.withheld(newer[0])) is not None:
        return f"{reason}. The newer {withheld(newer[0].build_id, word)}."
    return f"{reason}."


def _why(line: _Line, promotion: Promotion, heir: Upload, serving: tuple[Upload, ...]) -> str:
    """Why something is to be done."""
    if heir.serving is None:
        return _takes_over(line, promotion, heir, serving)
    what, where = _what(heir), f"in {promotion.provider}"
    if promotion.predecessors:
        others = listed(sorted({short(u.build_id) for u in promotion.predecessors}))
        if not line.marks:
            return f"{what} is in service {where}; build {others} no longer is."
        return f"{what} has the {line.marks} {where}; build {others} still has it too, and loses it."
    if not _has_its_marks(line, heir):
        return _gets_others(line, heir, where)
    if promotion.renewed is not None:
        return f"{what} is in service {where}, but nodepool's launcher would take another one."
    if promotion.show:
        return f"{what} is in service {where}, and is hidden no more."
    old = sorted({short(u.build_id) for u in promotion.hide})
    hidden = f"build {old[0]} is" if len(old) == 1 else f"builds {listed(old)} are"
    return f"{what} is in service {where}, and {hidden} hidden (`hide-old`)."


def _takes_over(line: _Line, promotion: Promotion, heir: Upload, serving: tuple[Upload, ...]) -> str:
    what, where = _what(heir), f"in {promotion.provider}"
    going = [u for u in promotion.predecessors if line.place(u) > line.place(heir)]
    ends = [(u, word) for u in (going or serving) if (word := line.withheld(u)) is not None]
    if ends and promotion.word is not None:
        back = f"takes the {line.marks} {where} back" if line.marks else f"is in service {where} again"
        return f"{what} {back}: {withheld(ends[0][0].build_id, ends[0][1])}."
    if going:
        back = f"takes the {line.marks} {where} back" if line.marks else f"is in service {where} again"
        return f"{what} {back}: build {short(going[0].build_id)} is to go."
    if promotion.cleared is not None:
        return f"{what} {_gets(line)} {where}: {why_out(promotion.cleared)}."
    if not line.marks:
        return f"{what} is the newest ready one {where} that may serve, and goes into service."
    return f"{what} is the newest ready one {where} that may have the {line.marks}, and gets it."


def _gets(line: _Line) -> str:
    return f"gets the {line.marks}" if line.marks else "goes into service"


def _gets_others(line: _Line, heir: Upload, where: str) -> str:
    """That the configuration has another stable name or tag, or none any more, than what is in service."""
    had = marks_of(heir)
    if not line.marks:
        return f"{_what(heir)} {where} loses the {had}: none is configured."
    instead = f" instead of the {had}" if had else ", as far as it has not: its record does not say"
    return f"{_what(heir)} is in service {where}, and gets the {line.marks}{instead}."


def _waits(line: _Line, upload: Upload) -> str:
    if line.gate is not None:
        return line.gate.waits(upload) or f"{_what(upload)} takes over."
    missing = line.missing(upload)
    where = listed(missing) if missing else "other providers"
    if line.image.promote == "all":
        until = f"it is ready in {where} too"
    else:
        until = f"{line.image.promote} providers have it; {where} {_do(missing)} not yet"
    return f"{_what(upload)} takes over once {until} (`promote: {line.image.promote}`)."


def _do(names: tuple[str, ...]) -> str:
    return "does" if len(names) == 1 else "do"

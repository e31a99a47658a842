"""Sorts the images that clouds have for what is lost: which upload each is evidence of, if of any.

Several providers may look into the same project and region, and then each sees the images of all of
them; an image belongs to the provider that its properties name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from builder.cloudimage import INSTALLATION, CloudImage
from builder.config.model import Config, Provider
from builder.model import Snapshot, Upload
from builder.planning.recovery.evidence import Evidence, quoted, read, why_unusable
from builder.planning.words import short

#: The diskimage and the id of a build.
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image that is evidence, and the provider its upload went to, with the cloud where it is."""

    evidence: Evidence
    provider: Provider
    parts: tuple[
        Evidence, ...
    ] = ()  #: images of the same upload that this one needs, or that are all there is
    #: Whether it is hidden where images are not: so is what was to go while it was in use.
    hidden: bool = False
    #: Whether it is hidden as what does not serve may be (`hide-old`).
    old: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether nothing is there but parts of it."""
        return self.evidence.is_part

    @property
    def all(self) -> tuple[Evidence, ...]:
        """What its image and its parts tell."""
        return (self.evidence, *self.parts)


@dataclass(frozen=True, kw_only=True)
class Other:
    """An image that is no evidence of anything lost, a provider that sees it, and why it is none."""

    image: CloudImage
    provider: str
    reason: str
    known: bool = False  #: a record has it


@dataclass(frozen=True, kw_only=True)
class Haul:
    """The images by their builds, those of one build by age; and the others."""

    found: Mapping[Key, tuple[Found, ...]]
    others: tuple[Other, ...]


@dataclass(frozen=True, kw_only=True)
class Trove:
    """What images are sorted by; `named` has the diskimages of builds that this machine's disk knows."""

    config: Config
    snapshot: Snapshot
    installation_id: str
    builds_gone: Mapping[str, datetime]
    unasked: frozenset[str]
    highest_upload_id: int
    named: Mapping[str, str]
    now: datetime

    def sort(self, images: Mapping[str, Sequence[CloudImage]]) -> Haul:
        """Sort what the providers see, by their names; what is not of our installation is none of it."""
        found: list[Found] = []
        others: list[Other] = []
        for image, seen_by in self._ours(images):
            told = self._judge(image, [self.config.providers[name] for name in seen_by])
            if isinstance(told, Found):
                found.append(told)
            else:
                others.append(told)
        for sift in (_without_doubles, self._without_misnamed, _with_parts):
            found, more = sift(found)
            others += more
        grouped: dict[Key, list[Found]] = defaultdict(list)
        for each in sorted(found, key=lambda each: (each.evidence.started, each.evidence.image.id)):
            grouped[each.evidence.build].append(each)
        return Haul(found={key: tuple(each) for key, each in grouped.items()}, others=tuple(others))

    def _ours(self, images: Mapping[str, Sequence[CloudImage]]) -> Iterator[tuple[CloudImage, list[str]]]:
        """Each image of our installation, and the providers that see it."""
        seen: dict[str, list[str]] = defaultdict(list)
        ours: dict[str, CloudImage] = {}
        for provider, listed in images.items():
            for image in listed:
                if image.properties.get(INSTALLATION) == self.installation_id and not image.status.is_going:
                    ours.setdefault(image.id, image)
                    seen[image.id].append(provider)
        return ((image, seen[image_id]) for image_id, image in ours.items())

    def _judge(self, image: CloudImage, seen_by: Sequence[Provider]) -> Found | Other:
        where = seen_by[0].name
        if record := self._record_of(image):
            return Other(
                image=image, provider=where, reason=f"It is the upload {record.name} on record.", known=True
            )
        evidence = read(image, self.now)
        owner = evidence if isinstance(evidence, str) else self._owner(evidence, seen_by)
        if isinstance(evidence, str) or isinstance(owner, str):
            return _nothing(image, where, str(owner))
        if problem := self._why_not(evidence):
            return _nothing(image, owner.name, problem)
        hidden, hides = self._is_hidden(evidence), self._hides_old(evidence)
        return Found(evidence=evidence, provider=owner, hidden=hidden and not hides, old=hidden and hides)

    def _record_of(self, image: CloudImage) -> Upload | None:
        return next((u for u in self.snapshot.uploads() if image.id in u.external_ids), None)

    def _why_not(self, evidence: Evidence) -> str | None:
        """Why there is no record to be made of an upload."""
        if evidence.build_id in self.builds_gone:
            return f"its build {short(evidence.build_id)} was removed, so it is a leak"
        if int(evidence.upload_id) > self.highest_upload_id:
            return f"{evidence.upload_id} is higher than any upload's id"
        if taken := self._same_name(evidence):
            return f"the upload {taken.name} on record, which is {taken.state}, has another image or none yet"
        return None

    def _owner(self, evidence: Evidence, seen_by: Sequence[Provider]) -> Provider | str:
        """The provider that an image's properties name, with the cloud and region where the image is."""
        named = self.config.providers.get(evidence.provider)
        if named is None:
            return replace(seen_by[0], name=evidence.provider)
        place = (named.cloud, named.region)
        if any(each.name == named.name or (each.cloud, each.region) == place for each in seen_by):
            return named
        if named.name in self.unasked:
            return f"its provider {named.name} could not be asked"
        return f"its provider {named.name} looks elsewhere by now; {seen_by[0].name} sees it"

    def _same_name(self, evidence: Evidence) -> Upload | None:
        uploads = self.snapshot.image(evidence.diskimage).uploads_of(evidence.build_id, evidence.provider)
        return next((u for u in uploads if u.id == evidence.upload_id), None)

    def _is_hidden(self, evidence: Evidence) -> bool:
        provider = self.config.providers.get(evidence.provider)
        listed = provider.images.get(evidence.diskimage) if provider is not None else None
        return evidence.image.hidden and listed is not None and not listed.sharing.hidden

    def _hides_old(self, evidence: Evidence) -> bool:
        recipe = self.config.diskimages.get(evidence.diskimage)
        return recipe is not None and recipe.hide_old

    def _without_misnamed(self, found: Sequence[Found]) -> tuple[list[Found], list[Other]]:
        """A build is of one diskimage; who says another one is not believed."""
        said: dict[str, set[str]] = defaultdict(set)
        for each in found:
            said[each.evidence.build_id].add(each.evidence.diskimage)
        known = {**self.named, **{build.id: build.image for build in self.snapshot.builds()}}
        good: list[Found] = []
        bad: list[Other] = []
        for each in found:
            name, build_id = each.evidence.build
            names = {known[build_id]} if build_id in known else said[build_id]
            if names == {name}:
                good.append(each)
            else:
                every = " and of ".join(quoted(name) for name in sorted(names | {name}))
                problem = f"its build {short(build_id)} is said to be of {every}"
                bad.append(_nothing(each.evidence.image, each.provider.name, problem))
        return good, bad


def _without_doubles(found: Sequence[Found]) -> tuple[list[Found], list[Other]]:
    """Of several images of one upload the one that is surest to be it, and the others."""
    best: dict[tuple[str, ...], Found] = {}
    doubles: list[Other] = []
    for each in sorted(found, key=_doubt):
        key = (*_upload_of(each), str(each.evidence.format) if each.evidence.is_part else "")
        if best.setdefault(key, each) is not each:
            problem = f"image {best[key].evidence.image.id} is of the same upload"
            doubles.append(_nothing(each.evidence.image, each.provider.name, problem))
    return list(best.values()), doubles


def _with_parts(found: Sequence[Found]) -> tuple[list[Found], list[Other]]:
    """What boots with its parts together with them; of an upload that has only parts, one of them."""
    uploads: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    for each in sorted(found, key=lambda each: (each.is_lost, str(each.evidence.format))):
        uploads[_upload_of(each)].append(each)
    whole: list[Found] = []
    parts: list[Other] = []
    for first, *rest in uploads.values():
        whole.append(replace(first, parts=tuple(each.evidence for each in rest)))
        for each in rest:
            reason = f"It goes with image {first.evidence.image.id}, of the same upload."
            parts.append(
                Other(image=each.evidence.image, provider=each.provider.name, reason=reason, known=True)
            )
    return whole, parts


def _upload_of(found: Found) -> tuple[str, ...]:
    return (*found.evidence.build, found.provider.name, found.evidence.upload_id)


def _nothing(image: CloudImage, provider: str, problem: str) -> Other:
    return Other(image=image, provider=provider, reason=f"Nothing is made of it: {problem}.")


def _doubt(found: Found) -> tuple[bool, bool, bool, str, str]:
    evidence = found.evidence
    whole = not evidence.half and why_unusable(evidence) is None
    # A copy is made after what it is a copy of.
    created = evidence.image.created.isoformat() if evidence.image.created else "~"
    return not whole, found.hidden, not evidence.serving, created, evidence.image.id

"""Sorts the images that clouds have for what is lost: which upload each is evidence of, if of any.

Several providers may look into the same project and region, and then each sees the images of all of
them; an image belongs to the provider that its properties name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from builder.cloudimage import INSTALLATION, CloudImage, GlanceStatus
from builder.config.model import Config, Provider
from builder.model import Snapshot, Upload
from builder.planning.recovery.evidence import Evidence, quoted, read, why_unusable
from builder.planning.words import short

_GOING: Final = (GlanceStatus.DELETED, GlanceStatus.PENDING_DELETE)

#: The diskimage and the id of a build.
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image that is evidence, and the provider its upload went to, with the cloud where it is."""

    evidence: Evidence
    provider: Provider


@dataclass(frozen=True, kw_only=True)
class Haul:
    """The images by their builds; and those that are no evidence of anything lost.

    `left` has the image, a provider that sees it, why nothing is to be done, and whether that is because
    a record has it.
    """

    found: Mapping[Key, tuple[Found, ...]]
    left: tuple[tuple[CloudImage, str, str, bool], ...]


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
        seen: dict[str, list[str]] = defaultdict(list)
        ours: dict[str, CloudImage] = {}
        for provider, listed in images.items():
            for image in listed:
                if image.properties.get(INSTALLATION) == self.installation_id and image.status not in _GOING:
                    ours.setdefault(image.id, image)
                    seen[image.id].append(provider)
        left: list[tuple[CloudImage, str, str, bool]] = []
        found: list[Found] = []
        for image_id, image in ours.items():
            if record := self._record_of(image):
                left.append((image, seen[image_id][0], f"It is the upload {record.name} on record.", True))
                continue
            told = self._judge(image, [self.config.providers[name] for name in seen[image_id]])
            if isinstance(told, str):
                left.append((image, seen[image_id][0], f"Nothing is made of it: {told}.", False))
            else:
                found.append(told)
        kept, doubles = _without_doubles(found)
        kept, misnamed = self._without_misnamed(kept)
        for each, reason in (*doubles, *misnamed):
            left.append((each.evidence.image, each.provider.name, f"Nothing is made of it: {reason}.", False))
        grouped: dict[Key, list[Found]] = defaultdict(list)
        for each in sorted(kept, key=lambda each: (each.evidence.started, each.evidence.image.id)):
            grouped[each.evidence.build].append(each)
        return Haul(found={key: tuple(each) for key, each in grouped.items()}, left=tuple(left))

    def _record_of(self, image: CloudImage) -> Upload | None:
        return next((u for u in self.snapshot.uploads() if u.external_id == image.id), None)

    def _judge(self, image: CloudImage, seen_by: Sequence[Provider]) -> Found | str:
        evidence = read(image, self.now)
        if isinstance(evidence, str):
            return evidence
        if evidence.build_id in self.builds_gone:
            return f"its build {short(evidence.build_id)} was removed, so it is a leak"
        if int(evidence.upload_id) > self.highest_upload_id:
            return f"{evidence.upload_id} is higher than any upload's id"
        owner = self._owner(evidence, seen_by)
        if isinstance(owner, str):
            return owner
        if taken := self._same_name(evidence):
            return f"the upload {taken.name} on record, which is {taken.state}, has another image or none yet"
        return self._why_hidden(evidence) or Found(evidence=evidence, provider=owner)

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

    def _why_hidden(self, evidence: Evidence) -> str | None:
        """Why a hidden image is not taken for a good one: what is to go and in use is hidden."""
        provider = self.config.providers.get(evidence.provider)
        listed = provider.images.get(evidence.diskimage) if provider is not None else None
        wanted = listed is None or listed.sharing.hidden
        if wanted or evidence.half or not evidence.image.hidden:
            return None
        return "it is hidden, as what was to go while it was in use, or somebody hid it"

    def _without_misnamed(self, found: Sequence[Found]) -> tuple[list[Found], list[tuple[Found, str]]]:
        """A build is of one diskimage; who says another one is not believed."""
        said: dict[str, set[str]] = defaultdict(set)
        for each in found:
            said[each.evidence.build_id].add(each.evidence.diskimage)
        known = {**self.named, **{build.id: build.image for build in self.snapshot.builds()}}
        good: list[Found] = []
        bad: list[tuple[Found, str]] = []
        for each in found:
            name, build_id = each.evidence.build
            names = {known[build_id]} if build_id in known else said[build_id]
            if names == {name}:
                good.append(each)
            else:
                bad.append((each, f"its build {short(build_id)} is said to be of {_all(names | {name})}"))
        return good, bad


def _without_doubles(found: Sequence[Found]) -> tuple[list[Found], list[tuple[Found, str]]]:
    """Of several images of one upload the one that is surest to be it, and the others."""
    best: dict[tuple[str, str, str, str], Found] = {}
    doubles = []
    for each in sorted(found, key=_doubt):
        key = (*each.evidence.build, each.provider.name, each.evidence.upload_id)
        if best.setdefault(key, each) is not each:
            doubles.append((each, f"image {best[key].evidence.image.id} is of the same upload"))
    return list(best.values()), doubles


def _doubt(found: Found) -> tuple[bool, bool, str, str]:
    evidence = found.evidence
    whole = not evidence.half and why_unusable(evidence) is None
    # A copy is made after what it is a copy of.
    created = evidence.image.created.isoformat() if evidence.image.created else "~"
    return not whole, not evidence.serving, created, evidence.image.id


def _all(names: set[str]) -> str:
    return " and of ".join(quoted(name) for name in sorted(names))

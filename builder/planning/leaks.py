"""Judge the images in a cloud that carry our marks: whose they are, and whether they may go.

An image goes by itself only when all of this is true:
- its properties name this very installation, and nothing marks it as something made of ours;
- no record of an upload has its id, and none whose image may still be unknown is the one it names;
- it was seen so before, long enough ago that whatever made it has written its record since;
- its build's record is known to have been removed. That it is merely not there proves nothing: an
  empty ZooKeeper, or a wrong one, has no records either;
- it can't be the last good one there: it is not active, or an upload of its diskimage is ready there.
Everything else is listed with the reason, and deleted by a person or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from builder.cloudimage import (
    BUILD_ID,
    IMAGE,
    INSTALLATION,
    NODEPOOL_BUILD_ID,
    CloudImage,
    GlanceStatus,
    Sighting,
)
from builder.model import Pause, Snapshot, Upload, UploadState
from builder.planning.actions import Leak, Verdict
from builder.planning.words import at, frozen, line, short

_BY_HAND = "`imagepool leak delete` deletes it when somebody says so."


def judge_leaks(
    provider: str,
    images: Iterable[CloudImage],
    snapshot: Snapshot,
    *,
    installation_id: str,
    sightings: Iterable[Sighting],
    builds_gone: Mapping[str, datetime],
    now: datetime,
    sweep: timedelta,
    adopt_nodepool: bool,
) -> tuple[Leak, ...]:
    """The images without an owner among those that the provider's cloud has at `now`, in their order, but
    what another image boots with after all that nothing does.

    `images` that are owned, somebody else's or made of ours are not in the answer. Of the others NOW
    may be deleted; LATER may be at `due`, if they are seen unowned again; NO only by a person.
    `sightings`: what was seen unowned before, this look not included. `sweep`: how long must lie
    between two looks. While everything is frozen, what could go by itself is NO, too.
    """
    owners = _Owners.of(snapshot)
    seen = {sighting.external_id: sighting for sighting in sightings if sighting.provider == provider}
    case = _Case(provider=provider, snapshot=snapshot, builds_gone=builds_gone, now=now, sweep=sweep)
    images, leaks = tuple(images), []
    needed = {part: image for image in images if not image.status.is_going for part in image.parts_named}
    for image in images:
        if _is_none_of_ours(image) or owners.own(image):
            continue
        if image.properties.get(INSTALLATION) == installation_id:
            leak = _unless_needed(case, _judge(case, image, seen.get(image.id)), needed.get(image.id))
            leaks.append(_unless_frozen(leak, snapshot.frozen))
        elif (
            adopt_nodepool and INSTALLATION not in image.properties and NODEPOOL_BUILD_ID in image.properties
        ):
            leaks.append(_of_nodepool(case, image, seen.get(image.id)))
    return tuple(sorted(leaks, key=lambda leak: leak.image.id in needed))


def _unless_needed(case: _Case, leak: Leak, needing: CloudImage | None) -> Leak:
    """Later, as long as another image there boots with it: that one has to go first."""
    if needing is None or leak.verdict is Verdict.NO:
        return leak
    reason = f"{leak.reason} Image {needing.id} ({_quoted(needing.name)}) boots with it and goes first."
    return replace(leak, verdict=Verdict.LATER, due=case.now + case.sweep, reason=reason)


def _unless_frozen(leak: Leak, freeze: Pause | None) -> Leak:
    if freeze is None or leak.verdict is Verdict.NO:
        return leak
    return replace(leak, verdict=Verdict.NO, due=None, reason=f"{leak.reason} {frozen(freeze)}")


@dataclass(frozen=True, kw_only=True)
class _Owners:
    """What the records of all images own: ids, and uploads that may have an image whose id is unknown."""

    ids: frozenset[str]
    pending: frozenset[tuple[str | None, str | None, str | None]]

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Owners:
        """What is owned by the records of a snapshot."""
        uploads = tuple(snapshot.uploads())
        return cls(
            ids=frozenset(image_id for u in uploads for image_id in u.external_ids),
            pending=frozenset((u.build_id, u.provider, u.id) for u in uploads if _may_have_one(u)),
        )

    def own(self, image: CloudImage) -> bool:
        """Whether a record has the image, or may have it."""
        return image.id in self.ids or any(named in self.pending for named in image.uploads_named)


def _may_have_one(upload: Upload) -> bool:
    """Whether an upload may have an image that its record does not know: the janitor sees to those."""
    if upload.may_linger or upload.state is UploadState.UPLOADING:
        return True
    return upload.state is UploadState.DELETING and not upload.names_all_images


def _is_none_of_ours(image: CloudImage) -> bool:
    # Nova and Cinder copy our properties to what they make of servers and volumes.
    return image.status.is_going or image.snapshot_mark is not None


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What all images of one look are judged by."""

    provider: str
    snapshot: Snapshot
    builds_gone: Mapping[str, datetime]
    now: datetime
    sweep: timedelta

    def leak(
        self,
        image: CloudImage,
        sighting: Sighting | None,
        verdict: Verdict,
        reason: str,
        due: datetime | None = None,
    ) -> Leak:
        """The judgement on an image."""
        first = sighting.first if sighting is not None else self.now
        return Leak(
            provider=self.provider, image=image, verdict=verdict, reason=reason, first_seen=first, due=due
        )


def _judge(case: _Case, image: CloudImage, sighting: Sighting | None) -> Leak:
    build_id = image.properties.get(BUILD_ID, "")
    if problem := _why_unproven(case, image, build_id):
        return case.leak(image, sighting, Verdict.NO, f"{problem} {_BY_HAND}")
    gone = f"The record of its build {short(build_id)} was removed at {at(case.builds_gone[build_id])}"
    if sighting is None:
        due = case.now + case.sweep
        return case.leak(
            image,
            sighting,
            Verdict.LATER,
            f"{gone}, and no upload has it; that is seen for the first time,"
            f" and it goes when it still is so at {at(due)}.",
            due,
        )
    since = f"{gone}, and no upload has it since {at(sighting.first)} at least"
    due = sighting.first + case.sweep
    if due > case.now:
        return case.leak(
            image, sighting, Verdict.LATER, f"{since}; it goes when that still is so at {at(due)}.", due
        )
    return case.leak(image, sighting, Verdict.NOW, f"{since}.")


def _why_unproven(case: _Case, image: CloudImage, build_id: str) -> str | None:
    """What keeps an unowned image from being removed by itself, as a sentence; None when nothing does."""
    if not build_id:
        return f"It has our installation's mark, but no property {BUILD_ID}."
    if not image.original_name:
        return "It does not say what it was called when it was made, so it may be a copy of ours."
    if image.name != image.original_name:
        return (
            f"It may be a copy of ours, or had a stable name: it is called {_quoted(image.name)},"
            f" and was {_quoted(image.original_name)} when it was made."
        )
    if any(build.id == build_id for build in case.snapshot.builds()):
        return f"No upload has it, but its build {short(build_id)} is still on record."
    if build_id not in case.builds_gone:
        return (
            f"Nothing is known of its build {short(build_id)}, which an empty or a wrong ZooKeeper"
            " would look like, too."
        )
    if image.status is GlanceStatus.ACTIVE and not _has_good_one(case, image):
        return "It may be the last good one of its diskimage there: no upload on record is ready."
    return None


def _has_good_one(case: _Case, image: CloudImage) -> bool:
    uploads = case.snapshot.image(image.properties.get(IMAGE, "")).uploads_to(case.provider)
    return any(upload.state is UploadState.READY for upload in uploads)


def _of_nodepool(case: _Case, image: CloudImage, sighting: Sighting | None) -> Leak:
    build = line(image.properties[NODEPOOL_BUILD_ID]) or "of no name"
    return case.leak(
        image,
        sighting,
        Verdict.NO,
        f"It was made by nodepool-builder of its build {short(build)}, and no upload has it."
        f" Whose nodepool that was can't be told. {_BY_HAND}",
    )


def _quoted(name: str) -> str:
    return f'"{line(name)}"'

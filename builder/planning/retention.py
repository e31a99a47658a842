"""Decide which builds and uploads are superseded and may go, so that the last good one never does.

What is withheld makes nothing superfluous, so that there is something to go back to; it goes itself as any
other does, once enough good ones are newer; what is held or was rejected, once enough others like it are.
Which is newer the builds tell: `state_time` is renewed on what serves (`Upload.since`).

Only images and providers of the configuration are judged: that one was taken out of it is no
reason to delete anything (departed.py does that, when a person says so).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TypeVar

from builder.config.model import Config, DiskImage, ProviderImage
from builder.model import Build, BuildState, ImageRecords, Upload, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.canary import ByHand, gate_of
from builder.planning.records import (
    by_age,
    may_go_out,
    may_serve,
    newest_first,
    newest_good,
    newest_ready,
    ready_builds,
    ready_uploads,
    turned_away,
)
from builder.planning.words import at, counted, listed, short

Kept = TypeVar("Kept", Build, Upload)


def kept(image: DiskImage | ProviderImage) -> int:
    """How many ready builds, or ready uploads in a provider, stay at least: never fewer than one."""
    return max(1, image.keep)


def lasting_uploads(records: ImageRecords, provider: str) -> tuple[Upload, ...]:
    """The uploads to a provider that nobody asked to go, newest first.

    An upload whose build is to go goes with it, so it must not make another one look superseded.
    """
    doomed = {b.id for b in records.builds if b.state is BuildState.DELETING}
    return newest_first(u for u in records.uploads_to(provider) if u.build_id not in doomed)


def _lasting(records: ImageRecords) -> Mapping[str, tuple[Upload, ...]]:
    """The same for all providers that have any, by one look at the records."""
    doomed = {b.id for b in records.builds if b.state is BuildState.DELETING}
    there: defaultdict[str, list[Upload]] = defaultdict(list)
    for upload in records.uploads:
        if upload.build_id not in doomed:
            there[upload.provider].append(upload)
    return {provider: newest_first(uploads) for provider, uploads in there.items()}


def superseded_uploads(config: Config, records: ImageRecords, now: datetime) -> Iterator[CleanupAction]:
    """Ready uploads beyond those that are kept, and failed ones that nobody needs to see any more."""
    image = config.diskimages.get(records.name)
    if image is None:
        return
    failures = _Failures(config, records, now)
    gate = gate_of(image, records, config.providers_of(image.name))
    known = gate or ByHand(records)
    for provider in config.providers_of(image.name):
        uploads = failures.lasting.get(provider.name, ())
        keep = provider.images[image.name]
        ready = by_age(records, ready_uploads(uploads))
        # By another machine's clock it may look old; but the newest build would be uploaded again.
        newest = newest_good(records, provider.name)
        current = next((u for u in ready if newest is not None and u.build_id == newest.id), None)
        is_good = _good_uploads(records, provider.name)
        beyond = tuple(_beyond(ready, kept(keep), is_good))
        # What waits for its turn may be many: what served is there to go back to all the same.
        served = known.served_last(filter(is_good, ready))[: kept(keep)] if beyond else ()
        for upload in beyond:
            # What soaks in the canaries, or came out of them, is to serve, however many are newer by then.
            awaited = gate is not None and gate.is_awaited(upload)
            if upload is not current and not awaited and (upload not in served or upload.serving is not None):
                yield _old_upload(image, records, upload, keep, now)
        for upload in uploads:
            until = failures.seen_until(upload)
            if until is not None:
                yield _failed_upload(records, upload, until, failures)


def superseded_builds(config: Config, records: ImageRecords, now: datetime) -> Iterator[CleanupAction]:
    """Ready builds beyond those that are kept, once no cloud has them, and failed ones as above."""
    image = config.diskimages.get(records.name)
    if image is None:
        return
    ready = ready_builds(records)
    failures = _Failures(config, records, now)
    for build in _superseded(image, records):
        yield _old_build(image, records, build, failures)
    for build in records.builds:
        if build.state is not BuildState.FAILED or _in_a_cloud(records, build):
            continue
        if any(r.began > build.began for r in ready):
            yield _failed_build(build, failures)


def kept_for_the_record(config: Config, records: ImageRecords, now: datetime) -> frozenset[str]:
    """The ids of ready builds that would go, if it weren't for failed uploads of them that may be looked at.

    Nobody needs their files any more: a provider that takes nothing for weeks must not fill the disk.
    """
    image = config.diskimages.get(records.name)
    if image is None:
        return frozenset()
    failures = _Failures(config, records, now)
    return frozenset(
        build.id
        for build in _superseded(image, records)
        if not (image.keep_for is not None and build.state_time + image.keep_for > now)
        and not _in_a_cloud(records, build)
        and failures.of(build)
    )


def _superseded(image: DiskImage, records: ImageRecords) -> Iterator[Build]:
    """The ready builds of which enough good ones are newer; of those turned away also when enough of these
    are: when nobody releases one for weeks, each night's build must not stay."""
    ready, keep = ready_builds(records), kept(image)
    away = [build for build in ready if turned_away(build)]
    gone = {build.id for build in _beyond(ready, keep, lambda build: may_go_out(build, None))}
    gone |= {build.id for build in _beyond(away, keep, lambda build: True)}
    return (build for build in ready if build.id in gone)


def _good_uploads(records: ImageRecords, provider: str) -> Callable[[Upload], bool]:
    withheld = {build.id for build in records.builds if not may_go_out(build, provider)}
    return lambda upload: upload.build_id not in withheld


def _beyond(ready: Iterable[Kept], keep: int, is_good: Callable[[Kept], bool]) -> Iterator[Kept]:
    """Of what is ready, newest first, that which has so many good ones before it."""
    newer = 0
    for each in ready:
        if newer >= keep:
            yield each
        newer += is_good(each)


# -- uploads --------------------------------------------------------------------------------------


def _old_upload(
    image: DiskImage, records: ImageRecords, upload: Upload, keep: ProviderImage, now: datetime
) -> CleanupAction:
    newer = f"{counted(kept(keep), 'newer upload')} of {upload.image} {_are(kept(keep))} ready there"
    superseded = f"The upload of build {short(upload.build_id)} to {upload.provider} is superseded: {newer}"
    until = upload.since + keep.keep_for if keep.keep_for is not None else now
    verdict, due = Verdict.NOW, None
    if awaits_successor(image, records, upload):
        verdict = Verdict.NO
        superseded += f"; it stays until one of those {_serves(image)}"
    elif until > now:
        verdict, due = Verdict.LATER, until
        superseded += f"; it is kept until {at(until)}"
    return CleanupAction(
        kind=CleanupKind.RETIRE_UPLOAD,
        build=records.build(upload.build_id),
        upload=upload,
        verdict=verdict,
        due=due,
        reason=f"{superseded}.",
    )


def awaits_successor(image: DiskImage | None, records: ImageRecords, upload: Upload) -> bool:
    """Whether an upload serves, and another one there is ready to take over from it.

    It must not go before: who looks for the image by its stable name or tag would find none for a while.
    """
    if image is None:
        return False
    # Where there are none, nodepool's launcher goes on by itself, and need not wait for what is not known.
    if not (may_serve(upload) if marks_of(image) else upload.serving is not None):
        return False
    others = [u for u in ready_uploads(lasting_uploads(records, upload.provider)) if u != upload]
    return bool(others) and all(other.serving is None for other in others)


def _serves(image: DiskImage) -> str:
    return f"has the {marks_of(image)}" if marks_of(image) else "is in service"


def marks_of(owner: DiskImage | Upload) -> str:
    """What moves from image to image in a provider, in words; "" when nothing does.

    Of an upload: what it has of it, as far as its record says.
    """
    marks = [
        mark
        for mark in (
            f"stable name {owner.stable_name}" if owner.stable_name else "",
            f"stable tag {owner.stable_tag}" if owner.stable_tag else "",
        )
        if mark
    ]
    return listed(marks) if marks else ""


def _failed_upload(
    records: ImageRecords, upload: Upload, until: datetime, failures: _Failures
) -> CleanupAction:
    since = "has a ready successor" if failures.has_successor(upload) else "was not the last try of it there"
    what = f"The failed upload of build {short(upload.build_id)} to {upload.provider}"
    return CleanupAction(
        kind=CleanupKind.RETIRE_UPLOAD,
        build=records.build(upload.build_id),
        upload=upload,
        verdict=Verdict.NOW if until <= failures.now else Verdict.LATER,
        due=until,
        reason=f"{what} {since} and is kept until {at(until)} to be looked at.",
    )


class _Failures:
    """Until when the failed uploads of an image may be looked at."""

    def __init__(self, config: Config, records: ImageRecords, now: datetime) -> None:
        self.retention = config.failed_retention
        self.now = now
        self._records = records
        self._keep = {p.name: kept(p.images[records.name]) for p in config.providers_of(records.name)}
        self.lasting = _lasting(records)

    def seen_until(self, upload: Upload) -> datetime | None:
        """The end of that time; None as long as no later upload there is ready, or when it did not fail.
        Of a superseded build that holds for the last try in each provider alone.

        The time counts from the first that was ready after it. When all that are kept are later, the first
        may be gone already, and counted from the one after it, the time would begin anew with every upload.
        So twice the time after the failure is the end: for all that failed within that time before the
        first success, it is no sooner than the other.
        """
        if upload.state is not UploadState.FAILED:
            return None
        later = self._later(upload)
        if not later:
            # A provider may stay dead for months: of each build there, the last failure tells enough.
            return None if self._is_last(upload) else upload.state_time + self.retention
        until = min(later) + self.retention
        if len(later) < self._keep[upload.provider]:
            return until
        return min(until, upload.state_time + 2 * self.retention)

    def has_successor(self, upload: Upload) -> bool:
        """Whether a later upload there is ready."""
        return bool(self._later(upload))

    def _later(self, upload: Upload) -> list[datetime]:
        ready = ready_uploads(self.lasting.get(upload.provider, ()))
        return [u.since for u in ready if u.since > upload.state_time]

    def _is_last(self, upload: Upload) -> bool:
        """Whether no later try of that build there failed as well, or it is the newest build's."""
        newest = newest_ready(self._records)
        if newest is not None and upload.build_id == newest.id:
            return True
        tries = self._records.uploads_of(upload.build_id, upload.provider)
        return newest_first(u for u in tries if u.state is UploadState.FAILED)[0] == upload

    def of(self, build: Build) -> tuple[Upload, ...]:
        """The failed uploads of a build that may still be looked at, without which its record can't go."""
        failed = (u for u in self._records.uploads_of(build.id) if u.state is UploadState.FAILED)
        return tuple(u for u in failed if u.provider in self._keep and self._is_seen(u))

    def _is_seen(self, upload: Upload) -> bool:
        until = self.seen_until(upload)
        return until is None or until > self.now


# -- builds ---------------------------------------------------------------------------------------


def _old_build(image: DiskImage, records: ImageRecords, build: Build, failures: _Failures) -> CleanupAction:
    keep = kept(image)
    superseded = f"Build {short(build.id)} is superseded: {counted(keep, 'newer build')} {_are(keep)} ready"
    until = build.state_time + image.keep_for if image.keep_for is not None else failures.now
    # A record with uploads below it can't go, and one that is ready may be a provider's last good image.
    pins = [u for u in records.uploads_of(build.id) if u.state in (UploadState.READY, UploadState.UPLOADING)]
    seen = failures.of(build)
    verdict, due = Verdict.NOW, None
    if pins:
        where = listed(sorted({f"{u.state} in {u.provider}" for u in pins}))
        verdict = Verdict.NO
        superseded += f"; it stays as long as it is {where}"
    elif seen:
        verdict = Verdict.NO
        superseded += f"; its record stays as long as {_looked_at(seen)}"
    elif until > failures.now:
        verdict, due = Verdict.LATER, until
        superseded += f"; it is kept until {at(until)}"
    return CleanupAction(
        kind=CleanupKind.RETIRE_BUILD, build=build, verdict=verdict, due=due, reason=f"{superseded}."
    )


def _failed_build(build: Build, failures: _Failures) -> CleanupAction:
    due = build.state_time + failures.retention
    seen = failures.of(build)
    failed = f"The failed build {short(build.id)}"
    reason = f"{failed} has a ready successor and is kept until {at(due)} to be looked at"
    if due <= failures.now and seen:
        return CleanupAction(
            kind=CleanupKind.RETIRE_BUILD,
            build=build,
            verdict=Verdict.NO,
            reason=f"{reason}, and as long as {_looked_at(seen)}.",
        )
    return CleanupAction(
        kind=CleanupKind.RETIRE_BUILD,
        build=build,
        verdict=Verdict.NOW if due <= failures.now else Verdict.LATER,
        due=due,
        reason=f"{reason}.",
    )


def _in_a_cloud(records: ImageRecords, build: Build) -> bool:
    """Whether an upload of it is ready or under way: whatever its own record says, it stays."""
    alive = (UploadState.READY, UploadState.UPLOADING)
    return any(upload.state in alive for upload in records.uploads_of(build.id))


def _looked_at(uploads: tuple[Upload, ...]) -> str:
    where = listed(sorted({u.provider for u in uploads}))
    return f"what failed of it in {where} may be looked at"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"

"""Say whether a provider takes uploads at all just now, from what became of the last ones there.

What counts are failures that trying again does not mend soon, whatever image it was: we may not
log in, there is no room, nobody answers, clouds.yaml can't be read. They make a row, newest first,
which these end:
- an upload that became ready: the provider does take uploads;
- one that failed for another reason after its bytes had moved, such as a wrong hash: the provider
  let us in and had room, so what broke the others is over, and that image's own retries will do;
- somebody's wish for an upload there: they have mended it, or want it tried at any rate.
What was interrupted or cancelled, what broke before it reached the provider, and a connection that
broke or stalled in the middle say nothing either way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from builder.config.model import BreakerPolicy, Config
from builder.model import FailureClass, ImageRecords, Snapshot, Upload, UploadPhase, UploadState
from builder.planning.actions import Breaker, BreakerState
from builder.planning.records import NEVER, moving
from builder.planning.retry import backoff, failure_class
from builder.planning.words import at, counted, failure, short

#: CONFIG: what clouds.yaml says is configuration too, and may be unreadable for a moment.
_ALWAYS: Final = frozenset({FailureClass.AUTH, FailureClass.QUOTA, FailureClass.CONFIG})
_UNREACHABLE: Final = frozenset({FailureClass.NETWORK, FailureClass.TIMEOUT})
_SILENT: Final = frozenset({FailureClass.INTERRUPTED, FailureClass.CANCELLED})
_BEFORE_A_BYTE: Final = frozenset({UploadPhase.PREFLIGHT, UploadPhase.CREATE})


@dataclass(frozen=True, kw_only=True)
class Testimony:
    """What the records of one image say of one provider."""

    uploads: tuple[Upload, ...] = ()
    running: tuple[Upload, ...] = ()
    wished: datetime = NEVER  #: when somebody last wished an upload there


def breakers(config: Config, snapshot: Snapshot, now: datetime) -> Mapping[str, Breaker]:
    """The breaker of each configured provider, by its name; one look at the records for all of them."""
    heard: defaultdict[str, list[Testimony]] = defaultdict(list)
    for records in snapshot.images.values():
        for provider, testimony in testimonies(records).items():
            heard[provider].append(testimony)
    return {name: judge(name, heard[name], config.upload_breaker, now) for name in config.providers}


def testimonies(records: ImageRecords) -> dict[str, Testimony]:
    """What the records of an image say of providers, by their names."""
    uploads: defaultdict[str, list[Upload]] = defaultdict(list)
    running: defaultdict[str, list[Upload]] = defaultdict(list)
    wished: dict[str, datetime] = {}
    for upload in records.uploads:
        uploads[upload.provider].append(upload)
    for upload in moving(records):
        running[upload.provider].append(upload)
    for wish in (wish for build in records.builds for wish in build.wishes if wish.wanted):
        wished[wish.provider] = max(wish.time, wished.get(wish.provider, NEVER))
    return {
        name: Testimony(
            uploads=tuple(uploads[name]), running=tuple(running[name]), wished=wished.get(name, NEVER)
        )
        for name in sorted(uploads.keys() | wished.keys())
    }


def judge(provider: str, heard: Iterable[Testimony], policy: BreakerPolicy, now: datetime) -> Breaker:
    """The breaker of a provider that follows from what the records of all images say of it."""
    heard = tuple(heard)
    uploads = (upload for testimony in heard for upload in testimony.uploads)
    row = tuple(_row(uploads, max((each.wished for each in heard), default=NEVER)))
    if len(row) < policy.failures:
        return Breaker(
            provider=provider,
            state=BreakerState.CLOSED,
            reason=_closed(provider, row, policy.failures),
            failures=len(row),
        )
    last, opened = row[0], row[len(row) - policy.failures]
    tries = 1 + sum(_tried(upload, opened.since, policy) for upload in row)
    until = last.since + backoff(policy.first, policy.longest, tries, last.name)
    running = (upload for testimony in heard for upload in testimony.running)
    probe = next(iter(_probes(running)), None)
    half_open = until <= now
    return Breaker(
        provider=provider,
        state=BreakerState.HALF_OPEN if half_open else BreakerState.OPEN,
        reason=_half_open(row, until, probe) if half_open else _open(row, until),
        failures=len(row),
        since=opened.since,
        until=until,
        probe=probe if half_open else None,
    )


def trips(upload: Upload) -> bool:
    """Whether an upload failed of what trying again does not mend soon, for any image there."""
    if upload.state is not UploadState.FAILED:
        return False
    kind = failure_class(upload)
    return kind in _ALWAYS or (kind in _UNREACHABLE and _phase(upload) in _BEFORE_A_BYTE)


def _row(uploads: Iterable[Upload], wished: datetime) -> Iterator[Upload]:
    """The failures in a row that count, newest first."""
    for upload in sorted(uploads, key=lambda u: (u.since, u.name), reverse=True):
        if _lets_us_in(upload):
            return
        if trips(upload):
            if upload.since <= wished:
                return
            yield upload


def _tried(upload: Upload, opened: datetime, policy: BreakerPolicy) -> bool:
    """Whether an upload was a try of a provider whose breaker had opened by then. Those that were under way
    when it did, or began before the word was out, fail of the same trouble and tell nothing new of it."""
    return (upload.started or upload.state_time) >= opened + policy.first


def _lets_us_in(upload: Upload) -> bool:
    """Whether what became of an upload shows that the provider takes some."""
    if upload.state is UploadState.READY:
        return True
    if upload.state is UploadState.DELETING:
        # It was ready before, or had failed, which leaves the phase on record.
        return upload.external_id is not None and upload.ended is not None and upload.phase is None
    if upload.state is not UploadState.FAILED or trips(upload):
        return False
    told = upload.reason is not None and failure_class(upload) not in _SILENT | _UNREACHABLE
    phase = _phase(upload)
    return told and phase in list(UploadPhase) and phase not in _BEFORE_A_BYTE


def _phase(upload: Upload) -> str | None:
    """In which phase an upload failed, None when nobody knows."""
    return (upload.reason and upload.reason.phase) or upload.phase


def _probes(running: Iterable[Upload]) -> Iterator[Upload]:
    """The uploads by which a provider is tried, the one begun first at the head.

    One that only waits for its build has been through, and is no reason to hold back others.
    """
    trying = [upload for upload in running if upload.phase != UploadPhase.HOLD]
    yield from sorted(trying, key=lambda u: (u.started or u.state_time, u.name))


# -- in words -------------------------------------------------------------------------------------


def _in_a_row(row: tuple[Upload, ...]) -> str:
    last = f"last: {failure(row[0])}"
    if len(row) == 1:
        return f"The last upload to {row[0].provider} failed, {failure(row[0])}"
    return f"{counted(len(row), 'upload')} in a row to {row[0].provider} failed, {last}"


def _closed(provider: str, row: tuple[Upload, ...], limit: int) -> str:
    if not row:
        return f"Uploads go to {provider}."
    return f"{_in_a_row(row)}. After {limit} in a row none would be begun for a while."


def _open(row: tuple[Upload, ...], until: datetime) -> str:
    return f"{_in_a_row(row)}. Nothing is sent there before {at(until)}, and then a single upload."


def _half_open(row: tuple[Upload, ...], until: datetime, probe: Upload | None) -> str:
    trying = f" Now {probe.image} of build {short(probe.build_id)} is." if probe else ""
    return f"{_in_a_row(row)}. Since {at(until)} one at a time is tried.{trying}"

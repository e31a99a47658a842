"""Follow one request through its build to the end of the uploads; pure: snapshots in, lines out.

A request is answered by the build that carries it. The build is done when it is ready and every
provider that takes the image has it. It has failed when the build failed and its request is gone
(an interrupted build keeps its request, and is begun again), or when an upload failed and nothing
else of the build is running or due now: what is left then is a retry later on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

from builder.cli import text, waiting, withheld
from builder.cli.motion import motion, told
from builder.cli.waiting import Waiting
from builder.config.model import Config, Provider
from builder.model import Build, BuildState, ImageRecords, Request, Snapshot, Upload, UploadPhase, UploadState
from builder.planning import words
from builder.planning.actions import UploadDecision, Verdict
from builder.planning.estimate import estimate
from builder.planning.records import newest_good, unwanted
from builder.planning.retry import counts
from builder.planning.uploads import decide_uploads

#: How long nobody needs to take a request before it is worth a word, and how long a request may be
#: gone without a build before that is taken for an answer.
PATIENCE: Final = timedelta(seconds=10)
#: Sent bytes are reported in steps of so many percent.
STEP: Final = 10


@dataclass(frozen=True)
class Scene:
    """What there is to see at one moment, for all that is followed."""

    config: Config
    snapshot: Snapshot
    now: datetime

    @cached_property
    def uploads(self) -> tuple[UploadDecision, ...]:
        """What is decided on every upload; worked out when somebody looks, once."""
        return decide_uploads(self.config, self.snapshot, self.now)

    @cached_property
    def waiting(self) -> Mapping[str, Waiting]:
        """The open requests and what they wait for, by image; worked out when somebody looks, once."""
        return {each.request.image: each for each in waiting.of_all(self.config, self.snapshot, self.now)}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended; `reason` is None when all is well, `lines` are the last ones that matter, `hint`
    says where there is more."""

    reason: str | None = None
    hint: str = ""
    lines: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  #: providers that don't take it now, although all is well


@dataclass(frozen=True, kw_only=True)
class News:
    """What is new in one snapshot: lines to print, and the outcome once there is one."""

    lines: tuple[str, ...]
    outcome: Outcome | None = None


@dataclass
class Follower:
    """Compares each snapshot with what it said before, so that every change is one line."""

    request: Request
    known: frozenset[str]  #: ids of the builds there were before the request
    since: datetime
    _said: dict[str, str] = field(default_factory=dict)  #: the last line on each subject, times left out

    def look(self, scene: Scene) -> News:
        """What is new at this moment."""
        records, now = scene.snapshot.image(self.request.image), scene.now
        build = self._build(records)
        if build is None:
            return self._not_begun(records, scene)
        said = dict(_build_lines(build, records))
        outcome: Outcome | None = None
        if build.state is BuildState.FAILED:
            outcome = self._build_failed(records, build)
            if outcome is None and not counts(build):
                said[f"build {build.id}"] = f"build {build.id}: interrupted; it is begun again"
        elif build.state is BuildState.DELETING:
            outcome = Outcome(reason=f"build {build.id} is being deleted")
        elif build.state is BuildState.READY:
            uploads = _Uploads.of(scene, build)
            said.update(uploads.lines())
            outcome = uploads.outcome()
        elif build.state is BuildState.BUILDING:
            # Uploads begin as soon as the file they need is made.
            said.update(_begun(records, build))
        return News(lines=self._new(said, _rest(build, records, now)), outcome=outcome)

    def _build(self, records: ImageRecords) -> Build | None:
        """The newest build for our request; nodepool's carry none, so any new one will do then."""
        ours = [b for b in records.builds if b.request == self.request]
        new = [b for b in records.builds if b.id not in self.known]
        return next(iter(ours or new), None)

    def _not_begun(self, records: ImageRecords, scene: Scene) -> News:
        waited = scene.now - self.since
        if records.request is None and waited >= PATIENCE:
            return News(lines=(), outcome=Outcome(reason="the request was withdrawn before a build began"))
        said = {"request": f"waiting for a builder to take the request for {self.request.image}"}
        if waited >= PATIENCE:
            busy = " (another build of this image is running)" if records.build_claimed else ""
            waits = scene.waiting.get(self.request.image)
            why = f". {waits.reason}" if waits is not None and (waits.stuck or waits.held) else ""
            said["daemon"] = (
                f"no builder has taken the request yet{busy}; it stays open until a daemon"
                f" with the role builder does ('imagepool run'){why}"
            )
        return News(lines=self._new(said))

    def _build_failed(self, records: ImageRecords, build: Build) -> Outcome | None:
        if records.request == self.request:
            return None
        why = text.summary(build.reason) or "its record doesn't say why"
        if build.next_try is not None:
            why += f"; the next try is at {text.moment(build.next_try)}"
        return Outcome(
            reason=f"build {build.id} failed: {why}",
            hint=f"See 'imagepool build show {build.id}'.",
            lines=build.reason.lines if build.reason is not None else (),
        )

    def _new(self, said: dict[str, str], rest: dict[str, str] | None = None) -> tuple[str, ...]:
        """The lines that were not said before; `rest` is what changes all the time and is told along."""
        further = rest or {}
        new = [f"{line}{further.get(key, '')}" for key, line in said.items() if self._said.get(key) != line]
        self._said.update(said)
        return tuple(new)


def _build_lines(build: Build, records: ImageRecords) -> Iterator[tuple[str, str]]:
    """What there is to say of a build, by subject."""
    name = f"build {build.id}"
    if build.state is BuildState.BUILDING:
        yield name, f"{name} on {build.builder}: {build.phase or build.state}{_bytes(build)}"
        wish = records.cancellation
        if wish is not None and wish.build_id == build.id:
            yield "cancellation", f"{name} was {words.cancelled(wish)}"
    elif build.state is BuildState.READY:
        took = f" after {text.duration(build.duration)}" if build.duration is not None else ""
        yield name, f"{name}: ready{took}"
    else:
        yield name, f"{name}: {build.state}"
    if build.changes:
        yield "changes", f"changed since the build before: {words.changed(build)}"


def _bytes(build: Build) -> str:
    """The bytes that are done, in steps."""
    if build.bytes_total <= 0:
        return ""
    percent = min(100, max(0, build.bytes_done) * 100 // build.bytes_total) // STEP * STEP
    return f" {percent} % of {text.size(build.bytes_total)}"


def _begun(records: ImageRecords, build: Build) -> dict[str, str]:
    """A line for each provider to which a build is being uploaded while it still runs, by subject."""
    return {
        upload.provider: f"upload to {upload.provider}: {progress(upload)}"
        for upload in _tries(records, build)
    }


def _tries(records: ImageRecords, build: Build) -> list[Upload]:
    """The uploads of a build, in each provider the last try last (of ready ones `state_time` can't tell)."""
    return sorted(records.uploads_of(build.id), key=lambda upload: upload.id)


def last_try(records: ImageRecords, build_id: str, provider: str) -> Upload | None:
    """The newest upload of a build to a provider, None without any."""
    return max(records.uploads_of(build_id, provider), key=lambda upload: upload.id, default=None)


def _rest(build: Build, records: ImageRecords, now: datetime) -> dict[str, str]:
    """How long a build that runs still takes, and how fast its uploads move, by subject."""
    rest = {upload.provider: told(motion(upload, records, now)) for upload in _tries(records, build)}
    expected = estimate(build, records, now) if build.state is BuildState.BUILDING else None
    if expected is not None:
        rest[f"build {build.id}"] = f", {text.rest(expected.left, expected.over)}"
    return rest


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """One provider that takes the image: the newest upload of the build there, and what comes."""

    provider: Provider
    newest: Upload | None
    decision: UploadDecision
    held: bool  #: it would be uploaded now if not everything were frozen

    @property
    def moving(self) -> bool:
        return (
            self.held
            or self.decision.verdict in (Verdict.RUNNING, Verdict.NOW)
            or (self.newest is not None and self.newest.state is UploadState.UPLOADING)
        )

    @property
    def failed(self) -> bool:
        return self.newest is not None and self.newest.state is UploadState.FAILED

    @property
    def there(self) -> bool:
        return self.newest is not None and self.newest.state is UploadState.READY

    @property
    def line(self) -> str:
        if self.newest is None:
            return f"upload to {self.provider.name}: {self.decision.reason}"
        return f"upload to {self.provider.name}: {progress(self.newest)}"


@dataclass(frozen=True, kw_only=True)
class _Uploads:
    """The uploads of one ready build."""

    build: Build
    superseded: bool
    each: tuple[_Upload, ...]

    @classmethod
    def of(cls, scene: Scene, build: Build) -> _Uploads:
        records = scene.snapshot.image(build.image)
        newest = newest_good(records)
        each = [
            _Upload(
                provider=scene.config.providers[decision.provider],
                newest=last_try(records, build.id, decision.provider),
                decision=decision,
                held=_held(scene, build, decision.provider),
            )
            for decision in scene.uploads
            if decision.image == build.image
        ]
        return cls(build=build, superseded=newest is not None and newest.id != build.id, each=tuple(each))

    def lines(self) -> dict[str, str]:
        return {upload.provider.name: upload.line for upload in self.each}

    def outcome(self) -> Outcome | None:
        """None as long as something of the build moves or is about to."""
        if self.build.hold is not None:
            return Outcome(reason=withheld.waits(self.build))
        if self.build.quarantine is not None:
            return Outcome(reason=f"build {self.build.id} was {withheld.told(self.build.quarantine)}")
        if self.superseded:
            return Outcome(reason=f"build {self.build.id} was followed by a newer one")
        if any(upload.moving for upload in self.each):
            return None
        failed = [f"{u.provider.name}: {_why(u)}" for u in self.each if u.failed]
        if failed:
            return Outcome(reason=f"uploads of build {self.build.id} failed: {'; '.join(failed)}")
        return Outcome(without=tuple(upload.provider.name for upload in self.each if not upload.there))


def _held(scene: Scene, build: Build, provider: str) -> bool:
    """Whether nothing but a freeze keeps a build from being uploaded to a provider for the first time."""
    records, listing = scene.snapshot.image(build.image), scene.config.providers[provider].images[build.image]
    return (
        scene.snapshot.frozen is not None
        and not records.uploads_of(build.id, provider)
        and not listing.pause
        and provider not in scene.snapshot.paused_providers
        and unwanted(records, build, provider) is None
    )


def progress(upload: Upload) -> str:
    """How far an upload is, in steps that are worth a line each."""
    if upload.state is UploadState.UPLOADING and upload.phase == UploadPhase.SEND and upload.size:
        percent = min(100, upload.sent * 100 // upload.size) // STEP * STEP
        return f"{upload.phase} ({percent} % of {text.size(upload.size)})"
    if upload.state is UploadState.UPLOADING and upload.phase == UploadPhase.HOLD:
        return "it is there, and waits for the build to be ready"
    if upload.state is UploadState.UPLOADING:
        return upload.phase or upload.state
    if upload.state is UploadState.READY and upload.duration is not None:
        return f"ready after {text.duration(upload.duration)}"
    return str(upload.state)


def _why(upload: _Upload) -> str:
    record = upload.newest
    reason = (text.summary(record.reason) if record is not None else None) or "no reason on record"
    if upload.decision.due is not None:
        return f"{reason}; the next try is at {text.moment(upload.decision.due)}"
    return reason

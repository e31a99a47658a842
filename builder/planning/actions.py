"""What a plan is made of: frozen decisions, each with the reason a person can read.

The daemon acts on them, `imagepool image explain` prints them; both see the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from builder.cloudimage import CloudImage
from builder.model import (
    NO_TICKS,
    Build,
    Cancellation,
    Clearance,
    ImageFormat,
    Upload,
    UploadCancellation,
    Withholding,
)

#: Who is on record for what nobody said, but follows from the configuration.
IMAGEPOOL: Final = "imagepool"


class Verdict(StrEnum):
    """What a decision comes to."""

    NOW = "now"  #: it is due and nothing stands in the way
    LATER = "later"  #: it will be due at `due` if nothing changes
    RUNNING = "running"  #: it is being done
    NO = "no"  #: it won't happen by itself; the reason says what would change that


class Trigger(StrEnum):
    """What makes a build due."""

    MANUAL = "manual"  #: somebody asked
    MISSING = "missing"  #: there is no ready build
    FORMAT = "format"  #: the newest ready build lacks a format that is needed now
    SCHEDULE = "schedule"  #: a tick of the schedule passed since the last build began
    AGE = "age"  #: the newest ready build is older than rebuild-age or max-age allows


@dataclass(frozen=True, kw_only=True)
class BuildDecision:
    """Whether and when a diskimage is built, and why. `due` is set for NOW (since when) and LATER.

    `skippable`: it is due by the clock alone, and its diskimage says `if-unchanged: skip`. Whoever
    builds it compares first what would go in with `Build.inputs` of the newest ready build.
    `ticks`: the times of the schedule, by entry, for which a build is to be asked for the first time, also
    if a request is open; `tick` is the time of the schedule that a request has to carry, first or not.
    `held`: a pause or a freeze keeps it from what is due or was asked for, so an open request stays.
    `valid_until`: when the same records come to another decision by the clock alone, or may; None: never.
    """

    image: str
    verdict: Verdict
    reason: str
    trigger: Trigger | None = None
    due: datetime | None = None
    skippable: bool = False
    ticks: Mapping[str, datetime] = field(default_factory=lambda: NO_TICKS)
    tick: datetime | None = None
    held: bool = False
    valid_until: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class UploadDecision:
    """Whether and when a diskimage's newest build goes to a provider, and why."""

    image: str
    provider: str
    verdict: Verdict
    reason: str
    build: Build | None = None  #: what is or would be uploaded; None when there is none with a file
    due: datetime | None = None
    #: It would be the single try that an open breaker lets through.
    probe: bool = False
    in_service: datetime | None = None  #: since when the newest upload there is ready; None: there is none
    tried: datetime | None = None  #: when an upload of the image there failed last, of whatever build


class BreakerState(StrEnum):
    """Whether uploads go to a provider."""

    CLOSED = "closed"  #: they do
    OPEN = "open"  #: they don't, until `until`
    HALF_OPEN = "half-open"  #: one is tried


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """What failures in a row, of whatever image, mean for a provider; follows from the records alone."""

    provider: str
    state: BreakerState
    reason: str
    failures: int = 0  #: in a row
    since: datetime | None = None  #: when it opened
    until: datetime | None = None  #: when a single upload is tried; of a half-open one: since when
    probe: Upload | None = None  #: of a half-open one: the upload by which it is tried now


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """That an upload begins to serve a provider instead of those that did, or why nothing changes.

    What serves has the diskimage's stable name and tag, if it has any, and of all ready ones the newest
    `state_time`, for nodepool's launcher takes that.
    """

    image: str
    provider: str
    verdict: Verdict
    reason: str
    #: Which should serve; None when nothing there is ready, or has to wait for other providers.
    upload: Upload | None = None
    #: Which serve by their records, or may have what tells so, and no longer shall.
    predecessors: tuple[Upload, ...] = ()
    #: The earliest `state_time` with which nodepool's launcher takes `upload` (`Upload.renewed`); None when
    #: it takes it already. Whoever writes it takes the time that it is, if that is later.
    renewed: datetime | None = None
    hide: tuple[Upload, ...] = ()  #: ready ones that are to be hidden (`hide-old`) once `upload` serves
    show: bool = False  #: `upload` is hidden, and no longer shall be
    #: Somebody's word that what serves is withheld, from which this follows; None when nobody's does.
    word: Withholding | None = None
    #: What the newest that is good there waits for, where that is somebody's word or the canaries.
    waits: str | None = None
    #: The word that `upload` may serve, by which it takes over; None when it needs none.
    cleared: Clearance | None = None
    due: datetime | None = None  #: of LATER

    @property
    def by(self) -> str:
        """Who is on record for it."""
        word = self.word or self.cleared
        return IMAGEPOOL if word is None else word.by


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A cloud image with our marks and without a record: whether it may go, or why not."""

    provider: str
    image: CloudImage
    verdict: Verdict
    reason: str
    first_seen: datetime | None = None
    due: datetime | None = None


class CleanupKind(StrEnum):
    """What the janitor can do; each is safe to repeat."""

    FAIL_BUILD = "fail-build"  #: `building`, but its builder is gone: record the failure
    FAIL_UPLOAD = "fail-upload"  #: `uploading`, but its uploader is gone: delete what it left, record it
    REMOVE_LEFTOVER = "remove-leftover"  #: a failed upload left an image: delete it, keep the record
    WITHDRAW_CANCELLATION = "withdraw-cancellation"  #: its build or upload has ended: take the wish away
    PRUNE_BUILD = "prune-build"  #: every provider has a format of it: delete that file, record it
    RETIRE_BUILD = "retire-build"  #: superseded: write `deleting`
    RETIRE_UPLOAD = "retire-upload"  #: superseded: write `deleting`
    REMOVE_UPLOAD = "remove-upload"  #: `deleting`: delete the cloud image, then the record
    REMOVE_BUILD = "remove-build"  #: `deleting` and no uploads left: delete the files, then the record


@dataclass(frozen=True, kw_only=True)
class CleanupAction:
    """One thing to clean up, or (verdict NO or LATER) one that has to wait, and why."""

    kind: CleanupKind
    build: Build | None = None  #: the build concerned; None when its record is gone
    upload: Upload | None = None
    cancellation: Cancellation | UploadCancellation | None = None  #: the wish to withdraw
    formats: tuple[ImageFormat, ...] = ()  #: of the files to prune
    verdict: Verdict
    reason: str
    due: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One line of `imagepool image explain`: what is decided on, what it comes to, when, and why."""

    what: str
    verdict: Verdict
    reason: str
    due: datetime | None = None

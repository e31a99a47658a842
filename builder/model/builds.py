"""One run of a diskimage, and the files that it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from builder.model.boots import BootResult
from builder.model.budgets import BudgetAction, BudgetCheck
from builder.model.failures import Failure, FailureClass
from builder.model.names import empty
from builder.model.states import BUILD_TRANSITIONS, BuildState, ImageFormat
from builder.model.wishes import Clearance, Release, Request, UploadWish, Withholding


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of a build in one format; `size` bytes long on disk as a cloud will receive it."""

    format: ImageFormat
    size: int
    virtual_size: int  #: bytes a guest sees
    md5: str
    sha256: str
    sha512: str
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)

    def digest(self, algorithm: str) -> str | None:
        """The hex digest on record for Glance's name of an algorithm, None if we have none."""
        return {"md5": self.md5, "sha256": self.sha256, "sha512": self.sha512}.get(algorithm)


@dataclass(frozen=True, kw_only=True)
class Build:
    """One run of a diskimage. Fields up to `shell_type` are nodepool's, the rest is ours."""

    id: str
    image: str
    state: BuildState
    state_time: datetime
    builder: str | None = None  #: host name of the machine that builds and holds the files
    builder_id: str | None = None  #: that installation's id; its files belong to it alone
    formats: tuple[str, ...] = ()
    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None

    phase: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    #: Seconds for each phase that ended; besides, "convert qcow2" and the like for each format. Those
    #: overlap: formats are made at the same time.
    timings: Mapping[str, float] = field(default_factory=empty)
    bytes_done: int = 0  #: of the phase that runs, where it can be counted; else 0
    bytes_total: int = 0
    artifacts: tuple[Artifact, ...] = ()
    elements: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=empty)  #: version of each tool that took part
    log: str | None = None  #: path of the log on the builder
    reason: Failure | None = None
    next_try: datetime | None = None  #: of a failed build: when another one is due, as planned when it failed
    request: Request | None = None
    work_bytes: int | None = None  #: disk its work directory took at most
    #: Formats whose files were deleted since every provider that takes them had them; `artifacts` and
    #: `formats` still say what was made.
    pruned: tuple[str, ...] = ()
    #: What went in, as digests by kind: "environment", "elements", "packages", "git <name>"...
    inputs: Mapping[str, str] = field(default_factory=empty)
    checked: datetime | None = None  #: when it was last found that a new build would be the same
    changes: tuple[str, ...] = ()  #: what had changed since the build before, when this one was begun
    #: Of the disk a guest sees, whatever the format: what a compute node that has converted a file to raw
    #: can be checked against.
    raw_sha256: str | None = None
    raw_size: int | None = None  #: bytes
    wishes: tuple[UploadWish, ...] = ()  #: at most one for each provider
    withheld: tuple[Withholding, ...] = ()  #: at most one for each provider, and one for everywhere
    cleared: tuple[Clearance, ...] = ()  #: at most one for each provider, and one for everywhere
    release: Release | None = None  #: whose word it was that ended its hold
    test: BootResult | None = None  #: what came of booting it; None when nobody did, or it is not done
    #: What was measured of it and is nowhere else on record, by `Measure`.
    measures: Mapping[str, float] = field(default_factory=empty)
    budgets: tuple[BudgetCheck, ...] = ()  #: what came of each of its budgets
    #: Of a build that failed over budget: the directory, on its builder, beside which its files stay to be
    #: looked at.
    kept: str | None = None

    extra: Mapping[str, Any] = field(
        default_factory=empty
    )  #: fields of the record that we don't know; written back whole
    version: int = field(default=-1, compare=False)  #: znode version this was read at

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, None while it runs or when nodepool made it."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()

    @property
    def fresh(self) -> datetime:
        """When it was last known to be what a new build would be: when it began, or was checked."""
        return max(self.began, self.checked) if self.checked else self.began

    @property
    def began(self) -> datetime:
        """When it started; for nodepool's records, which don't say, the last change of state."""
        return self.started or self.state_time

    def wish(self, provider: str) -> UploadWish | None:
        """What somebody wants of this build in a provider, None when nobody said."""
        return next((w for w in self.wishes if w.provider == provider), None)

    def withheld_from(self, provider: str) -> Withholding | None:
        """The word that it is not to serve in a provider, that for everywhere before that for this one; None
        when nobody said so."""
        here = next((each for each in self.withheld if each.provider == provider), None)
        return self.quarantine or here

    def withhold(self, word: Withholding) -> Build:
        """The build with that word, in the place of an earlier one for that provider, or for everywhere."""
        others = (other for other in self.withheld if other.provider != word.provider)
        return replace(self, withheld=(*others, word))

    def released(self, provider: str | None) -> Build:
        """The build without the word that it is withheld from a provider, or with None without any."""
        kept = (word for word in self.withheld if provider is not None and word.provider != provider)
        return replace(self, withheld=tuple(kept))

    def clearance(self, provider: str) -> Clearance | None:
        """The word that it may serve in a provider, whoever gave it, that for this one before that for
        everywhere; None when nobody did."""
        here = next((each for each in self.cleared if each.provider == provider), None)
        return here or next((each for each in self.cleared if each.provider is None), None)

    def clear(self, word: Clearance) -> Build:
        """The build with that word, in the place of an earlier one for that provider, or for everywhere."""
        others = (other for other in self.cleared if other.provider != word.provider)
        return replace(self, cleared=(*others, word))

    @property
    def quarantine(self) -> Withholding | None:
        """The word that it is to serve nowhere, None when nobody said so."""
        return next((each for each in self.withheld if each.provider is None), None)

    @property
    def hold(self) -> Withholding | None:
        """The word that it waits for somebody to release or reject it, None when it does not: on one that was
        cut off after it was judged, or is to go, there is nothing to decide."""
        word = self.quarantine
        waits = self.state in (BuildState.BUILDING, BuildState.READY)
        return word if word is not None and word.held and waits else None

    def without_hold(self) -> Build:
        """The build without the word that holds it; who else withholds it from where stays."""
        return replace(self, withheld=tuple(word for word in self.withheld if not word.held))

    def let_go(self, release: Release) -> Build:
        """The build without its hold, and with the word that ended it; the same when it is not held."""
        return self if self.hold is None else replace(self.without_hold(), release=release)

    def over_budget(self, action: BudgetAction) -> tuple[BudgetCheck, ...]:
        """The checks of its budgets from which that follows."""
        return tuple(check for check in self.budgets if check.over is action)

    def artifact(self, image_format: str) -> Artifact | None:
        """The file in that format, None if this build has none, or none yet."""
        return next((a for a in self.artifacts if a.format == image_format), None)

    def files(self, image_format: ImageFormat) -> tuple[Artifact, ...]:
        """What an upload in that format takes: its file first, then the parts of that; none as long as one
        of them is missing."""
        wanted = (image_format, *image_format.parts)
        found = tuple(file for each in wanted if (file := self.artifact(each)) is not None)
        return found if len(found) == len(wanted) else ()

    @property
    def interrupted(self) -> bool:
        """Whether it failed because its builder went away, or somebody took it for gone."""
        reason = self.reason
        gone = reason is not None and reason.failure_class is FailureClass.INTERRUPTED
        return self.state is BuildState.FAILED and gone

    def become(self, state: BuildState, now: datetime, **changes: Any) -> Build:
        """The record in a new state; raises ValueError when the change is not allowed."""
        if state not in BUILD_TRANSITIONS[self.state]:
            raise ValueError(f"build {self.id} can't go from {self.state} to {state}")
        return replace(self, state=state, state_time=now, **changes)

    def adopted(self, ready: Build) -> Build:
        """This record, which was failed as interrupted although its own daemon had it done, as `ready`,
        that daemon's last word on it. The one way back from `failed`; ValueError for any other."""
        if not self.interrupted or ready.state is not BuildState.READY or ready.id != self.id:
            raise ValueError(f"build {self.id} can't be taken back: it is {self.state}")
        return ready.over(self)

    def over(self, known: Build) -> Build:
        """This record, to be written over `known`: what people and other versions put on that stays. A hold
        is its own, and gives way to their quarantine."""
        said = tuple(word for word in known.withheld if not word.held)
        decided = known.release is not None or any(word.provider is None for word in said)
        held = (word for word in self.withheld if word.held and not decided)
        return replace(
            self,
            wishes=known.wishes,
            withheld=(*said, *held),
            cleared=known.cleared,
            release=known.release,
            extra=known.extra,
            version=known.version,
        )

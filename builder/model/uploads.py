"""One artifact in one provider, and the time in which it serves there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from builder.model.failures import Failure
from builder.model.names import empty
from builder.model.states import UPLOAD_TRANSITIONS, UploadPhase, UploadState, parts_of
from builder.model.wishes import Deletion


class CheckVerdict(StrEnum):
    """What a check said of an image in a provider."""

    RUNNING = "running"  #: it has been begun; if nobody claims the upload's pair, it was cut off
    GOOD = "good"
    REFUSED = "refused"
    UNKNOWN = "unknown"  #: it could not tell, and is asked again


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How far the check of an upload's image is."""

    verdict: CheckVerdict
    time: datetime  #: when it was begun, or came to its verdict
    why: str = ""  #: the last words it said, or why it could not be asked
    tries: int = 0  #: how often it could not tell so far
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One artifact in one provider. Fields up to `shell_type` are nodepool's, the rest is ours."""

    id: str  #: ten digits, unique only within (build, provider)
    build_id: str
    image: str
    provider: str
    state: UploadState
    state_time: datetime
    external_id: str | None = None  #: the cloud's own id
    external_name: str | None = None
    format: str | None = None
    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None

    #: The cloud's ids of the images of its format's parts, by format; complete once `external_id` is known.
    parts: Mapping[str, str] = field(default_factory=empty)
    region: str | None = None
    uploader: str | None = None  #: host name of the machine that sends
    uploader_id: str | None = None
    phase: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    size: int | None = None  #: bytes to send
    sent: int = 0  #: bytes that left so far
    timings: Mapping[str, float] = field(default_factory=empty)
    reason: Failure | None = None
    cloud: str | None = None  #: the cloud's name in clouds.yaml, to reach it when the provider is gone
    way: str | None = None  #: how the bytes get there; a `ways.Way`
    fallbacks: tuple[str, ...] = ()  #: "<way>: <why it failed>" for each way tried before
    task: str | None = None  #: Glance's import task, by which an image is found that has no properties yet
    hook_output: tuple[str, ...] = ()  #: the last lines of the post-upload-hook
    #: Since when it is what the provider serves: it has the stable name and tag, if its diskimage has any,
    #: and nodepool's launcher takes it.
    serving: datetime | None = None
    #: Which those are; both are None on records that don't say, and on what does not serve or has none. They
    #: are on record before its image has them: what does not serve has some only if that was broken off.
    stable_name: str | None = None
    stable_tag: str | None = None
    #: Its image was hidden: another one serves (`hide-old`), or it is to go and in use.
    hidden: bool = False
    withheld: datetime | None = None  #: time of the withholding that its image in the cloud tells, or may
    checked: Checked | None = None  #: what the check of the canaries said of its image; None: not asked yet
    deletion: Deletion | None = None  #: who wanted it to go; None when nodepool's plain write did

    extra: Mapping[str, Any] = field(default_factory=empty)
    version: int = field(default=-1, compare=False)

    @property
    def since(self) -> datetime:
        """When it came to its end. Of a ready one `state_time` may be later: of several, nodepool's launcher
        takes that with the newest, so it is renewed on the one that is to serve."""
        return self.ended or self.state_time

    def renewed(self, time: datetime) -> Upload:
        """This ready one with another time of its state, by which nodepool's launcher picks; when it became
        ready stays on record."""
        return replace(self, state_time=time, ended=self.since)

    @property
    def rate(self) -> float | None:
        """Bytes per second while they moved, None before that is known."""
        seconds = self.timings.get(UploadPhase.SEND)
        return self.sent / seconds if seconds and self.sent else None

    @property
    def name(self) -> str:
        """What the CLI calls it: "<build id>/<provider>/<upload id>", unique everywhere."""
        return f"{self.build_id}/{self.provider}/{self.id}"

    @property
    def external_ids(self) -> tuple[str, ...]:
        """The ids of all images it has in the cloud, as far as it says, in the order in which they go."""
        return (*((self.external_id,) if self.external_id is not None else ()), *self.parts.values())

    @property
    def names_all_images(self) -> bool:
        """Whether its record has an id for each image that it must have; nodepool's commands, which write a
        plain `deleting`, keep but one."""
        return self.external_id is not None and self.parts.keys() >= {*parts_of(self.format)}

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, None while it runs or when nodepool made it."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()

    @property
    def may_linger(self) -> bool:
        """Whether it failed and could not delete what it had made: the record then keeps the cloud
        image's name, and its id as far as it is known, until the janitor has seen to it."""
        return self.state is UploadState.FAILED and self.external_name is not None

    def become(self, state: UploadState, now: datetime, **changes: Any) -> Upload:
        """The record in a new state; raises ValueError when the change is not allowed."""
        if state not in UPLOAD_TRANSITIONS[self.state]:
            raise ValueError(f"upload {self.name} can't go from {self.state} to {state}")
        return replace(self, state=state, state_time=now, **changes)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The time in which the image of one build served a provider."""

    build_id: str
    upload: str  #: `Upload.name`
    since: datetime
    until: datetime | None = None  #: None: it still serves
    by: str  #: whose word it was; "imagepool" for its own decisions
    why: str = ""
    ended_why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)

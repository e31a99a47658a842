"""The words of imagepool as types: builds, artifacts, uploads, requests, and the Snapshot of all of them.

Everything here is frozen: a changed record is a new record (`dataclasses.replace`). Times are
aware UTC datetimes, sizes are bytes, durations are seconds. State names are nodepool 11's and
must never grow: its readers raise TypeError on a fifth one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

NAME_LIMIT: Final = 128
#: Clocks of machines differ, but by less than this. A time on record that is further ahead is of a broken
#: clock, and counts for nothing: otherwise what it stands for would stand still until then.
CLOCKS_DIFFER: Final = timedelta(days=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_BUILD_ID = re.compile(r"[0-9a-f]{32}\Z|[0-9]{10}\Z")
_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
#: No times of the schedule.
NO_TICKS: Final[Mapping[str, datetime]] = _EMPTY


def _empty() -> Mapping[str, Any]:
    # dataclasses take no unhashable default, which a mappingproxy is before Python 3.12.
    return _EMPTY


def name_problem(name: str) -> str | None:
    """Why `name` can't name an image, platform or provider; None when it can.

    Names become znodes, file names and parts of cloud image names, so only letters, digits,
    ".", "_", "+" and "-" are taken, starting with a letter or digit, at most NAME_LIMIT long.
    """
    if not name:
        return "a name must not be empty"
    if len(name) > NAME_LIMIT:
        return f"a name has at most {NAME_LIMIT} characters, this one has {len(name)}"
    if not _NAME.match(name):
        return (
            f"{name!r} is no valid name: use letters, digits, '.', '_', '+' and '-',"
            " and start with a letter or digit"
        )
    return None


def is_build_id(text: str) -> bool:
    """Whether `text` has the form of a build id: 32 hex digits, or nodepool 8's 10 digits."""
    return bool(_BUILD_ID.match(text))


class BuildState(StrEnum):
    """What a build is for machines; `phase` is what it is for people."""

    BUILDING = "building"  #: claimed and running, or abandoned by a builder that died
    READY = "ready"  #: its files exist with the sizes and hashes on record
    DELETING = "deleting"  #: somebody asked for it to go; the janitor does it
    FAILED = "failed"  #: it ended without an image; `reason` says why


class UploadState(StrEnum):
    """What an upload is for machines."""

    UPLOADING = "uploading"  #: bytes move or Glance works, or its uploader died
    READY = "ready"  #: Glance says active, and size, hash and properties are ours
    DELETING = "deleting"  #: somebody asked for it to go; the janitor does it
    FAILED = "failed"  #: it ended without a usable image; `reason` says why


#: The only changes of state anybody may write.
BUILD_TRANSITIONS: Final[Mapping[BuildState, frozenset[BuildState]]] = {
    BuildState.BUILDING: frozenset({BuildState.READY, BuildState.FAILED}),
    BuildState.READY: frozenset({BuildState.DELETING}),
    BuildState.FAILED: frozenset({BuildState.DELETING}),
    BuildState.DELETING: frozenset(),
}
UPLOAD_TRANSITIONS: Final[Mapping[UploadState, frozenset[UploadState]]] = {
    UploadState.UPLOADING: frozenset({UploadState.READY, UploadState.FAILED}),
    UploadState.READY: frozenset({UploadState.DELETING}),
    UploadState.FAILED: frozenset({UploadState.DELETING}),
    UploadState.DELETING: frozenset(),
}


class BuildPhase(StrEnum):
    """What a build is doing now, in order; each is timed on the record."""

    RENDER = "render"  #: the work directory, the command and its environment are made
    PREFLIGHT = "preflight"  #: tools, directories, free disk and mirrors are checked
    BOOTSTRAP = "bootstrap"  #: dib makes the base system (root.d)
    PACKAGES = "packages"  #: dib installs into the chroot (extra-data.d to post-root.d)
    IMAGE = "image"  #: dib makes partitions and file systems, and copies the tree in
    FINALISE = "finalise"  #: dib runs finalise.d, the boot loader, cleanup.d, and unmounts
    CONVERT = "convert"  #: qemu-img makes the formats from raw
    HASH = "hash"  #: what is not hashed yet is
    MANIFEST = "manifest"  #: what went in and what came out is written down
    TEST = "test"  #: all else is done, and the finished image still has to prove itself in an emulator
    PUBLISH = "publish"  #: the files move to the images directory


class UploadPhase(StrEnum):
    """What an upload is doing now, in order."""

    PREFLIGHT = "preflight"  #: the file, and what the provider has and can do, are looked at
    CREATE = "create"  #: the image record is made in Glance, with all properties
    SEND = "send"  #: bytes move; `sent` counts them
    WAIT = "wait"  #: Glance has all bytes and works
    VERIFY = "verify"  #: what Glance says is compared with what we sent
    HOLD = "hold"  #: all is well there, but the build itself is not ready yet
    HOOK = "hook"  #: the provider's post-upload-hook runs


class ImageFormat(StrEnum):
    """A disk format we can make and Glance can take; the value is the file's suffix."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VHD = "vhd"
    VHDX = "vhdx"
    VMDK = "vmdk"
    AMI = "ami"  #: a root file system without partitions, which boots with its parts
    AKI = "aki"  #: its kernel
    ARI = "ari"  #: its ramdisk

    @property
    def parts(self) -> tuple[ImageFormat, ...]:
        """What a file in this format can't be booted without. Each is a file of its own, and in a cloud an
        image of its own, which is there before the one that needs it and goes after it."""
        return (ImageFormat.AKI, ImageFormat.ARI) if self is ImageFormat.AMI else ()

    @property
    def is_part(self) -> bool:
        """Whether it only comes along with another format."""
        return self in (ImageFormat.AKI, ImageFormat.ARI)

    @property
    def is_verbatim(self) -> bool:
        """Whether its file is what diskimage-builder made, byte for byte."""
        return self in (ImageFormat.RAW, ImageFormat.AMI)


def parts_of(image_format: str | None) -> tuple[ImageFormat, ...]:
    """`ImageFormat.parts` of a format on record, which may be one of which nobody here has heard."""
    return ImageFormat(image_format).parts if image_format in tuple(ImageFormat) else ()


def layouts_conflict(formats: Iterable[ImageFormat]) -> bool:
    """Whether no single build can be made in all these formats: it is either a disk or a root file system."""
    return len({each is ImageFormat.AMI for each in formats}) > 1


class FailureClass(StrEnum):
    """Whose trouble a failure is; decides whether a retry can help."""

    MIRROR = "mirror"  #: a package mirror does not answer or lacks a file
    PACKAGE = "package"  #: packages can't be installed together, or don't exist
    DISK = "disk"  #: no space left on a disk of ours
    TIMEOUT = "timeout"  #: it took longer than allowed
    BOOTLOADER = "bootloader"  #: the boot loader or the partitions could not be made
    ELEMENT = "element"  #: a script of an element failed
    TOOL = "tool"  #: a program is missing or broken
    CONFIG = "config"  #: the configuration asks for the impossible
    INTERRUPTED = "interrupted"  #: the daemon died or lost its claim meanwhile
    CANCELLED = "cancelled"  #: somebody stopped it
    AUTH = "auth"  #: the cloud refuses who we are or what we may do
    QUOTA = "quota"  #: the cloud has no room left for us
    NETWORK = "network"  #: the connection failed or broke off
    CLOUD = "cloud"  #: the cloud failed, or stored something else than we sent
    HOOK = "hook"  #: the provider's post-upload-hook refused the image
    TEST = "test"  #: the finished image does not do what it must
    UNKNOWN = "unknown"  #: nothing we recognise


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why something failed, as data; stored as `reason` on the record and never swept early."""

    failure_class: FailureClass
    message: str  #: one sentence for people
    phase: str | None = None
    step: str | None = None  #: the element and script, such as "dpkg/pre-install.d/99-x"
    exit_code: int | None = None
    lines: tuple[str, ...] = ()  #: the last lines that matter, oldest first
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)

    @property
    def summary(self) -> str:
        """One line: "mirror: <message> (phase packages, step x, exit code 100)"."""
        details = [
            text
            for text in (
                f"phase {self.phase}" if self.phase else "",
                f"step {self.step}" if self.step else "",
                f"exit code {self.exit_code}" if self.exit_code is not None else "",
            )
            if text
        ]
        # "cancelled by whom" says the class by itself.
        said = self.message.startswith(f"{self.failure_class} ")
        text = self.message if said else f"{self.failure_class}: {self.message}"
        return text + (f" ({', '.join(details)})" if details else "")


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
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)

    def digest(self, algorithm: str) -> str | None:
        """The hex digest on record for Glance's name of an algorithm, None if we have none."""
        return {"md5": self.md5, "sha256": self.sha256, "sha512": self.sha512}.get(algorithm)


class BootVerdict(StrEnum):
    """What came of the boot test of a build."""

    PASSED = "passed"  #: the image does all that it must
    FAILED = "failed"  #: it does not; `BootResult.failed` says what
    BROKEN = "broken"  #: the test itself came to nothing, which says nothing of the image


@dataclass(frozen=True, kw_only=True)
class BootResult:
    """What came of booting a build's image, in short; all of it is in test.json beside the build's files."""

    verdict: BootVerdict
    failed: tuple[str, ...] = ()  #: names of the proofs that failed, in the order in which they are asked for
    seconds: float = 0.0  #: of the whole test
    accelerator: str | None = None  #: "kvm" or "tcg": how fast the machine was that was booted
    #: What was measured, by name, such as "ssh_seconds" or "disk_claimed".
    measures: Mapping[str, float] = field(default_factory=_empty)
    ports: tuple[str, ...] = ()  #: that others can reach, as "tcp/22"
    setuid: tuple[str, ...] = ()  #: paths of files with the setuid or setgid bit
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The wish for a build of an image: who or what wished it, when, and why.

    nodepool's own request node is empty: `by` and `why` then say so. `stamp` tells two requests
    for the same image apart (the id of the transaction that wrote the znode); 0 when not stored yet.
    Two requests are the same when who, why and when are; how it is to be served may be changed meanwhile.
    """

    image: str
    by: str
    why: str
    time: datetime
    manual: bool = True  #: a person asked, against the scheduler by itself
    force: bool = field(default=False, compare=False)  #: build although the configuration or a freeze says no
    urgent: bool = field(default=False, compare=False)  #: before all others that wait
    #: The time of the schedule that it is for, which is not when it was filed; None: not by schedule.
    tick: datetime | None = field(default=None, compare=False)
    stamp: int = field(default=0, compare=False)
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Somebody's word that something stands still (a pause, a freeze) or is gone for good (a forgotten
    builder), until it is taken back: whose, when, and why if they said so."""

    by: str
    time: datetime
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A daemon that is alive, as it shows itself in ZooKeeper for as long as its session lasts."""

    hostname: str
    roles: tuple[str, ...]
    version: str
    started: datetime
    builder_id: str | None = None  #: whose files it holds; None on records of earlier versions
    labels: frozenset[str] = frozenset()  #: what diskimages may require: its architecture, and its own
    build_workers: int = 1
    unfit: str | None = None  #: why it takes no builds now: a tool is missing, a disk is full
    draining: bool = False  #: it stops: what runs may end, nothing new begins


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """The wish that a running build ends: whose, when, and why if they said so."""

    image: str
    build_id: str
    by: str
    time: datetime
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class UploadCancellation:
    """The wish that a running upload ends: whose, when, and why if they said so."""

    upload: str  #: `Upload.name`
    image: str
    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class UploadWish:
    """What somebody wants of a build in one provider, against what would happen by itself.

    Not `wanted`: it stays away from there; whoever deletes an upload wishes that. `wanted`: it goes
    there, and failures before `time` don't count any more. The latest wish for a provider holds.
    """

    provider: str
    wanted: bool
    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Who wanted a record to go, when and why; `by` is "imagepool" for retention's own decisions."""

    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=_empty, compare=False, repr=False)


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
    timings: Mapping[str, float] = field(default_factory=_empty)
    bytes_done: int = 0  #: of the phase that runs, where it can be counted; else 0
    bytes_total: int = 0
    artifacts: tuple[Artifact, ...] = ()
    elements: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=_empty)  #: version of each tool that took part
    log: str | None = None  #: path of the log on the builder
    reason: Failure | None = None
    next_try: datetime | None = None  #: of a failed build: when another one is due, as planned when it failed
    request: Request | None = None
    work_bytes: int | None = None  #: disk its work directory took at most
    #: Formats whose files were deleted since every provider that takes them had them; `artifacts` and
    #: `formats` still say what was made.
    pruned: tuple[str, ...] = ()
    #: What went in, as digests by kind: "environment", "elements", "packages", "git <name>"...
    inputs: Mapping[str, str] = field(default_factory=_empty)
    checked: datetime | None = None  #: when it was last found that a new build would be the same
    changes: tuple[str, ...] = ()  #: what had changed since the build before, when this one was begun
    #: Of the disk a guest sees, whatever the format: what a compute node that has converted a file to raw
    #: can be checked against.
    raw_sha256: str | None = None
    raw_size: int | None = None  #: bytes
    wishes: tuple[UploadWish, ...] = ()  #: at most one for each provider
    test: BootResult | None = None  #: what came of booting it; None when nobody did, or it is not done

    extra: Mapping[str, Any] = field(
        default_factory=_empty
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
        return replace(ready, wishes=self.wishes, extra=self.extra, version=self.version)


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
    parts: Mapping[str, str] = field(default_factory=_empty)
    region: str | None = None
    uploader: str | None = None  #: host name of the machine that sends
    uploader_id: str | None = None
    phase: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    size: int | None = None  #: bytes to send
    sent: int = 0  #: bytes that left so far
    timings: Mapping[str, float] = field(default_factory=_empty)
    reason: Failure | None = None
    cloud: str | None = None  #: the cloud's name in clouds.yaml, to reach it when the provider is gone
    way: str | None = None  #: how the bytes get there; a `ways.Way`
    fallbacks: tuple[str, ...] = ()  #: "<way>: <why it failed>" for each way tried before
    task: str | None = None  #: Glance's import task, by which an image is found that has no properties yet
    hook_output: tuple[str, ...] = ()  #: the last lines of the post-upload-hook
    serving: datetime | None = None  #: since when it has the stable name and tag there
    #: Which those are; both are None on records that don't say, and on what does not serve.
    stable_name: str | None = None
    stable_tag: str | None = None
    hidden: bool = False  #: it is to go and in use, so it was hidden meanwhile
    deletion: Deletion | None = None  #: who wanted it to go; None when nodepool's plain write did

    extra: Mapping[str, Any] = field(default_factory=_empty)
    version: int = field(default=-1, compare=False)

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
class ImageRecords:
    """All the store knows of one image at one moment. Builds and uploads are newest first."""

    name: str
    pause: Pause | None = None  #: by hand, against the configuration's
    request: Request | None = None
    #: The last time for which a build was asked for, by the entry of the schedule (`ScheduleEntry.text`).
    ticks: Mapping[str, datetime] = field(default_factory=_empty)
    cancellation: Cancellation | None = None
    upload_cancellations: tuple[UploadCancellation, ...] = ()
    builds: tuple[Build, ...] = ()
    uploads: tuple[Upload, ...] = ()
    build_claimed: bool = False  #: somebody holds builds/lock, so a `building` build may be alive
    uploads_claimed: frozenset[tuple[str, str]] = frozenset()  #: (build id, provider) whose lock is held

    @property
    def paused(self) -> bool:
        """Whether somebody paused it by hand."""
        return self.pause is not None

    def build(self, build_id: str) -> Build | None:
        """The build of that full id, None if there is none."""
        return next((b for b in self.builds if b.id == build_id), None)

    @property
    def ready_builds(self) -> tuple[Build, ...]:
        """Ready builds, newest first."""
        return tuple(b for b in self.builds if b.state is BuildState.READY)

    def uploads_of(self, build_id: str, provider: str | None = None) -> tuple[Upload, ...]:
        """Uploads of a build, newest first, to one provider or to all."""
        return tuple(
            u for u in self.uploads if u.build_id == build_id and (provider is None or u.provider == provider)
        )

    def uploads_to(self, provider: str) -> tuple[Upload, ...]:
        """Uploads of this image to a provider, newest first, of whatever build."""
        return tuple(u for u in self.uploads if u.provider == provider)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The whole tree at one moment, immutable: one pass of a worker decides on one Snapshot."""

    images: Mapping[str, ImageRecords] = field(default_factory=_empty)
    frozen: Pause | None = None  #: nothing begins by itself, anywhere
    paused_providers: Mapping[str, Pause] = field(default_factory=_empty)  #: which get no uploads, by hand
    daemons: tuple[Daemon, ...] = ()  #: that are alive, by host name
    leader: str | None = None  #: host name of the daemon whose scheduler files requests; None: nobody's does
    #: Id of the installation whose tree this is; "" when the tree has none; None when nobody looked.
    installation: str | None = None
    forgotten: Mapping[str, Pause] = field(default_factory=_empty)  #: builder ids that won't come back

    def image(self, name: str) -> ImageRecords:
        """The records of an image; empty ones when the store has never heard of it."""
        return self.images.get(name) or ImageRecords(name=name)

    def with_image(self, records: ImageRecords) -> Snapshot:
        """The same, but for the records of one image, of which somebody knows more."""
        return replace(self, images=MappingProxyType({**self.images, records.name: records}))

    def builds(self) -> Iterator[Build]:
        """Every build of every image, by image name, newest first."""
        for name in sorted(self.images):
            yield from self.images[name].builds

    def uploads(self) -> Iterator[Upload]:
        """Every upload of every image, by image name, newest first."""
        for name in sorted(self.images):
            yield from self.images[name].uploads

"""The configuration in force, as frozen objects: what the loader hands out and everybody reads.

Nothing here knows of YAML, templates or inheritance: by the time a DiskImage exists, its parent
is merged, its platform rendered and every name checked. Durations are timedeltas, rates are
seconds between calls, paths are absolute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from builder.model import BudgetAction, ImageFormat, Measure
from builder.ways import AUTO

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


def _empty() -> Mapping[str, Any]:
    # dataclasses take no unhashable default, which a mappingproxy is before Python 3.12.
    return _EMPTY


MASK: Final = "********"
_USERINFO = re.compile(r"(?<=://)[^/?#\s'\"]+(?=@)")


def credentials_in(text: str) -> tuple[str, ...]:
    """What stands before the "@" of each URL in a text: a user's name, a password, a token."""
    return tuple(_USERINFO.findall(text))


def masked_credentials(text: str) -> str:
    """The text with what stands before the "@" of each URL masked."""
    return _USERINFO.sub(MASK, text)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A distribution, a release, an architecture, and the variables that go with them.

    `mirror`, `security_mirror` and `updates_mirror` are None (diskimage-builder's own default), "host"
    (whatever the builder's package manager uses for that distribution) or a URL.
    """

    name: str
    distribution: str
    release: str
    architecture: str = "amd64"
    mirror: str | None = None
    security_mirror: str | None = None
    updates_mirror: str | None = None
    keep_mirrors: bool = False  #: whether the finished image goes on using them
    properties: Mapping[str, str] = field(default_factory=_empty)  #: of every image made on it
    variables: Mapping[str, Any] = field(default_factory=_empty)


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """How files of a format are made; None is that format's own default (see dib/output/convert.py)."""

    compression: str | None = None  #: "zstd", "zlib" or "none"
    compat: str | None = None  #: "1.1" or "0.10", of qcow2 alone


@dataclass(frozen=True, kw_only=True)
class BuildLimits:
    """What one build may take of its machine, as far as the machine can hold it to that."""

    cpus: float | None = None  #: processors' worth of time; None: all
    memory: int | None = None  #: bytes; None: all
    nice: int = 10  #: 0 (as urgent as all else) to 19
    io: str = "idle"  #: "idle", "best-effort" (the lowest of it) or "none" (as all else)


@dataclass(frozen=True, kw_only=True)
class BootTest:
    """Whether and how the finished image of each build is booted before the build counts as ready."""

    mode: Literal["off", "report-only", "on"] = "off"  #: with "report-only" a test that fails ends no build
    timeout: timedelta = timedelta(minutes=15)  #: for all of it; three boots take a minute each in emulation
    memory: int = 1 << 30  #: bytes that the machine has
    cpus: int = 2
    firmware: Literal["bios", "uefi"] | None = None  #: None: what the image is made for
    user: str | None = None  #: who must be able to log in and have root by sudo; None: the image's username
    allowed_failed_units: tuple[str, ...] = ()  #: patterns of systemd units that may fail
    #: Directories of scripts to run in the guest; None: boot-test.d beside the configuration if there is one.
    checks: tuple[Path, ...] | None = None
    uploads_meanwhile: bool = False  #: whether files are sent to clouds while they are tested

    @property
    def is_done(self) -> bool:
        """Whether images are booted at all."""
        return self.mode != "off"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one measure of a build may come to, in bytes, seconds or how many, and what follows when it is
    more. What has `most` and `grows` has to keep to both."""

    measure: Measure
    most: float | None = None
    grows: float | None = None  #: by how much it may be more than that of the last good build
    relative: bool = False  #: `grows` is percents of that build's
    over: BudgetAction = BudgetAction.HOLD


#: What a builder must be able to do that is to take builds whose images are booted; shown as a label.
BOOT_TEST_LABEL: Final = "boot-test"


@dataclass(frozen=True, kw_only=True)
class Canary:
    """In which providers new builds serve first, and what they have to stand there before others serve
    them."""

    providers: tuple[str, ...]  #: the canaries, by name
    soak: timedelta = timedelta(hours=1)  #: for so long all of them must have served it
    check: tuple[str, ...] = ()  #: program and arguments that judge an image in a provider; () for none
    check_timeout: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who finds an image in its cloud, and by what."""

    visibility: str = "private"  #: Glance's word
    members: tuple[str, ...] = ()  #: ids of projects that a shared image is offered to
    tags: tuple[str, ...] = ()
    hidden: bool = False  #: not in Glance's default lists


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry:
    """One entry of a schedule: a cron expression on the clocks of a time zone, or the image it follows."""

    text: str  #: as written, with single spaces: tells entries apart, in ZooKeeper too
    cron: str | None = None  #: five fields
    zone: str = "UTC"  #: IANA's name of the time zone whose clocks `cron` is read on
    after: str | None = None  #: the diskimage whose builds it follows, when there is no `cron`


#: 14:14 UTC: people are awake to see what a new image breaks.
DEFAULT_SCHEDULE: Final = (ScheduleEntry(text="14 14 * * *", cron="14 14 * * *"),)


@dataclass(frozen=True, kw_only=True)
class DiskImage:
    """The recipe of one image, rendered from its platform and merged with its parents."""

    name: str
    platform: Platform | None = None
    elements: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=_empty)
    secret_names: frozenset[str] = frozenset()  #: names in `environment` whose values are never shown
    formats: tuple[ImageFormat, ...] = ()  #: its own and those its providers need, sorted
    schedule: tuple[ScheduleEntry, ...] = DEFAULT_SCHEDULE  #: () when it is never built by the clock
    catch_up: timedelta = timedelta(hours=12)  #: a time of the schedule that is missed by more is left out
    requires: frozenset[str] = frozenset()  #: labels that a builder needs to take it
    rebuild_age: timedelta | None = None
    build_timeout: timedelta = timedelta(hours=8)
    pause: bool = False
    keep: int = 2  #: ready builds that retention leaves
    keep_for: timedelta | None = None  #: what is younger stays as well, however many there are
    dib_cmd: tuple[str, ...] = ("disk-image-create",)
    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None
    #: Glance properties for every provider: what the platform comes to, its own, and the diskimage's.
    metadata: Mapping[str, str] = field(default_factory=_empty)
    sharing: Sharing = Sharing()  #: where a provider says nothing else
    #: What the newest ready image is called in each provider, and only that; {} has its own names.
    stable_name: str | None = None
    stable_tag: str | None = None  #: a tag that only the newest ready image in each provider has
    #: When a new build's images begin to serve: with "each", as soon as a provider has it; with "all", once
    #: every provider has it; with a number, once so many have; with "manual", when somebody says so.
    promote: Literal["each", "all", "manual"] | int | Canary = "each"
    hide_old: bool = False  #: images are hidden from lists in their clouds once newer ones serve
    format_options: Mapping[str, FormatOptions] = field(default_factory=_empty)  #: by ImageFormat
    #: Once every provider has it, a build's files go, but for those of `keep_formats`.
    delete_after_upload: bool = False
    keep_formats: tuple[ImageFormat, ...] = ()
    skip_unchanged: bool = False  #: a due build is left out when nothing that goes into it has changed
    max_age: timedelta | None = None  #: however unchanged, a build older than that is made anew
    boot_test: BootTest = BootTest()
    budgets: tuple[Budget, ...] = ()  #: at most one for each measure

    #: The names of those who are told how its builds end, of Config.notify; None: all of them.
    notify: tuple[str, ...] | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The labels of a builder that can make it: those it requires, and that of the boot test."""
        return self.requires | ({BOOT_TEST_LABEL} if self.boot_test.is_done else set())

    @property
    def is_judged(self) -> bool:
        """Whether a budget decides if a build goes out, so that nothing of it may before that is known."""
        return any(budget.over is not BudgetAction.WARN for budget in self.budgets)

    @property
    def shown_environment(self) -> Mapping[str, str]:
        """The environment with secret values masked, fit for screens, logs and records."""
        return {k: MASK if k in self.secret_names else v for k, v in self.environment.items()}


@dataclass(frozen=True, kw_only=True)
class ProviderImage:
    """That a provider gets a diskimage, and all that holds for it there, wherever it was said."""

    diskimage: str
    pause: bool = False
    keep: int = 2  #: ready uploads that retention leaves there
    keep_for: timedelta | None = None  #: what is younger stays as well, however many there are
    sharing: Sharing = Sharing()
    metadata: Mapping[str, str] = field(
        default_factory=_empty
    )  #: nodepool's `meta`; wins over the diskimage's


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One cloud region that images go to; `cloud` and `region` name it in clouds.yaml."""

    name: str
    cloud: str
    region: str | None = None
    image_format: ImageFormat = ImageFormat.QCOW2
    image_name_format: str = "{image_name}-{timestamp}"
    upload_timeout: timedelta = timedelta(hours=1)
    upload_method: str = AUTO  #: or a `ways.Way`, and then no other is tried
    download_url: str | None = None  #: prefix below which this cloud can fetch our artifacts; ends in "/"
    max_uploads: int = 1  #: at the same time, from all daemons together
    bandwidth: int | None = None  #: bytes per second for all uploads there from one daemon; None: no limit
    rate: float = 0.0  #: seconds between the beginnings of two requests
    post_upload_hook: Path | None = None
    hook_timeout: timedelta = timedelta(minutes=10)
    images: Mapping[str, ProviderImage] = field(default_factory=_empty)  #: by diskimage name


@dataclass(frozen=True, kw_only=True)
class ZooKeeperTls:
    """PEM files for TLS to ZooKeeper."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, kw_only=True)
class ZooKeeper:
    """Where the ZooKeeper servers are. `hosts` is "host:port,host:port", `chroot` "" or "/path"."""

    hosts: str
    chroot: str = ""
    tls: ZooKeeperTls | None = None
    timeout: float = 10.0  #: session timeout, seconds
    username: str | None = None  #: digest authentication; records then get an ACL for it alone
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how fast a failed build or upload is tried again.

    The n-th failure in a row is followed by `first * 2**(n-1)`, at most `longest`, and after
    `limit` failures nothing happens before the next schedule or a human.
    """

    first: timedelta
    longest: timedelta
    limit: int


@dataclass(frozen=True, kw_only=True)
class BreakerPolicy:
    """When uploads to a provider stop because it can't take any, and when one tries again.

    After `failures` in a row that trying again does not mend soon, of whatever image, a single upload goes
    there after `first`; as long as that fails, the wait doubles, at most to `longest`.
    """

    failures: int = 3
    first: timedelta = timedelta(minutes=5)
    longest: timedelta = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class ArtifactServer:
    """The server from which clouds can fetch artifacts: where it listens, and the URL they reach it by."""

    host: str
    port: int  #: 0: any free one
    url: str  #: prefix, ends in "/"


@dataclass(frozen=True, kw_only=True)
class NotifyTarget:
    """Who is told how builds end: a program, or a web server that takes a POST."""

    name: str
    command: tuple[str, ...] = ()  #: program and arguments; () where there is a `webhook`
    webhook: str | None = field(default=None, repr=False)  #: a URL, which may be a secret by itself
    webhook_is_secret: bool = False  #: it is never shown
    secret: str | None = field(default=None, repr=False)  #: what messages to the webhook are signed with
    secret_file: Path | None = None  #: what holds that, where there is no `secret`
    events: frozenset[str] = frozenset({"ready", "failed"})  #: the states of ended builds it wants to know of
    timeout: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the configuration says, once per load, never changed afterwards."""

    path: Path
    state_dir: Path
    images_dir: Path
    work_dir: Path
    cache_dir: Path
    log_dir: Path
    elements_dirs: tuple[Path, ...] = ()  #: searched before diskimage-builder's own elements
    log_retention: int = 7  #: build logs kept per image, at least one; -1 keeps all
    zookeeper: ZooKeeper | None = None  #: None: a private server of our own
    #: Whether anybody on this machine may reach the private ZooKeeper server; by default only who may
    #: read its password file.
    embedded_open: bool = False
    platforms: Mapping[str, Platform] = field(default_factory=_empty)
    diskimages: Mapping[str, DiskImage] = field(default_factory=_empty)
    abstract: frozenset[str] = frozenset()  #: names of diskimages that are only parents of others
    providers: Mapping[str, Provider] = field(default_factory=_empty)
    build_workers: int = 1
    upload_workers: int = 4
    #: What a diskimage may require of this machine's builder, besides its architecture.
    builder_labels: frozenset[str] = frozenset()
    #: Over how long the builds that one entry of the schedule makes due are spread.
    spread: timedelta = timedelta(0)
    shutdown_grace: timedelta = timedelta(seconds=30)  #: for work that is nearly done when the daemon stops
    failed_retention: timedelta = timedelta(days=7)
    build_retry: RetryPolicy = RetryPolicy(first=timedelta(minutes=1), longest=timedelta(hours=1), limit=5)
    upload_retry: RetryPolicy = RetryPolicy(first=timedelta(seconds=30), longest=timedelta(hours=1), limit=10)
    upload_breaker: BreakerPolicy = BreakerPolicy()
    upload_bandwidth: int | None = None  #: bytes per second for all uploads of one daemon; None: no limit
    artifact_server: ArtifactServer | None = None
    leak_sweep: timedelta = timedelta(hours=1)  #: between two looks for leaked images in a provider
    #: Whether nodepool's properties mark an image as this installation's, too.
    adopt_nodepool: bool = False
    build_limits: BuildLimits = BuildLimits()
    log_limit: int = 200 << 20  #: bytes that the logs of one image's builds may take; the newest stays
    cache_limit: int = 20 << 30  #: bytes that the cache directory may take
    disk_reserve: int = 2 << 30  #: bytes that a build must leave free on each disk it writes to
    stall_timeout: timedelta = timedelta(seconds=120)  #: an upload that moves no byte for so long is cut
    notify: Mapping[str, NotifyTarget] = field(default_factory=_empty)  #: by name
    notes: tuple[str, ...] = ()  #: keys accepted without effect, each as "file:line: key: why"
    #: Tells its text from that of others (`config.text.fingerprint`); "" when it was not loaded from one.
    fingerprint: str = field(default="", repr=False, compare=False)

    def told_of(self, image: str, event: str) -> tuple[NotifyTarget, ...]:
        """Who is told that a build of an image, which may be configured no more, has come to that state."""
        known = self.diskimages.get(image)
        names = self.notify if known is None or known.notify is None else known.notify
        return tuple(t for name, t in self.notify.items() if name in names and event in t.events)

    def providers_of(self, image: str) -> tuple[Provider, ...]:
        """Every provider that lists the diskimage, in the order of the file."""
        return tuple(p for p in self.providers.values() if image in p.images)

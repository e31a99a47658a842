"""What a configuration file may say: its keys and their types, before anything is inherited or rendered.

Every key of nodepool 11's configuration is here. Keys that only a launcher needs have the type
`Ignored`.
A key that is left out, or left empty, is None; defaults are those of `model`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from builder.config.problems import shown
from builder.config.values import MAX_SECONDS

#: Builds that one entry of a schedule makes due are done before it comes true again, which is once a day.
MAX_SPREAD: Final = 86_400
#: An hour, in which anybody can be told anything.
MAX_TELLING: Final = 3_600

#: The mirror that the machine's own package manager uses.
HOST_MIRROR: Final = "host"

OPENSTACK_TAG: Final = "<openstack>"
FOREIGN_TAG: Final = "<other driver>"


def _whole_number_as_text(value: object) -> object:
    """A number that stands where text does; 22.10 would lose its zero, so fractions must be text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _scalar_as_text(value: object) -> object:
    """Clouds keep every property as text; a size is a small language of its own."""
    return str(value) if isinstance(value, bool | int | float) else value


def _texts(value: object) -> object:
    """One text where several may stand."""
    if not isinstance(value, str | list):
        raise PydanticCustomError(
            "texts", "must be text, or a list of texts, not {value}", {"value": shown(value)}
        )
    return [value] if isinstance(value, str) else value


Ignored = Any  #: only a launcher needs it
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Days = Annotated[float, Field(gt=0, le=MAX_SECONDS / 86_400)]
Count = Annotated[int, Field(ge=1, le=100_000)]
#: Bytes, or a number with K, M, G or T; read by `values.size`.
Size = Annotated[str, BeforeValidator(_scalar_as_text)]
#: One text, or several; an entry of a schedule is read by `schedules.entry`.
Texts = Annotated[list[str], BeforeValidator(_texts)]
Release = Annotated[str, BeforeValidator(_whole_number_as_text)]
Property = Annotated[str, BeforeValidator(_scalar_as_text)]
#: Seconds, or a number with s, m, h or d; read by `values.duration`.
Duration = Annotated[str, BeforeValidator(_scalar_as_text)]
#: Who may see an image in its cloud; the words are Glance's.
Visibility = Literal["private", "shared", "community", "public"]


class Entry(BaseModel):
    """Base of all: unknown keys are refused, types are taken at their word, keys are kebab-case."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class ServerEntry(Entry):
    """`zookeeper-servers[]`."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    chroot: str | None = None


class TlsEntry(Entry):
    """`zookeeper-tls`."""

    cert: str
    key: str
    ca: str


class AuthEntry(Entry):
    """`zookeeper-auth`."""

    username: str
    password: str


class RetryEntry(Entry):
    """`build-retries` and `upload-retries`."""

    first: Seconds | None = None
    longest: Seconds | None = None
    limit: Annotated[int, Field(ge=0, le=100_000)] | None = None


class BreakerEntry(Entry):
    """`upload-breaker`."""

    failures: Count | None = None
    first: Seconds | None = None
    longest: Seconds | None = None


class ArtifactServerEntry(Entry):
    """`artifact-server`."""

    listen: str | None = None
    url: str


class NotifyEntry(Entry):
    """`notify[]`."""

    name: str
    command: list[str] | None = None
    webhook: str | None = None
    secret_file: str | None = None
    events: list[Literal["ready", "failed"]] | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TELLING)] | None = None


class LimitsEntry(Entry):
    """`build-limits`."""

    cpus: Annotated[float, Field(gt=0, le=10_000)] | None = None
    memory: Size | None = None
    nice: Annotated[int, Field(ge=0, le=19)] | None = None
    io: Literal["idle", "best-effort", "none"] | None = None


class FormatEntry(Entry):
    """How files of one format are made: an entry of `format-options`."""

    compression: Literal["zstd", "zlib", "none"] | None = None
    compat: Literal["1.1", "0.10"] | None = None


#: How each option of a format may be given, for messages.
_FORMAT_OPTIONS: Final = {"compression": "zstd", "compat": "'0.10'"}


def _options_below_formats(value: object) -> object:
    """Options that stand where formats do are told what they miss."""
    for option, example in _FORMAT_OPTIONS.items():
        if isinstance(value, dict) and option in value:
            raise PydanticCustomError(
                "option_without_format",
                "`{option}` is no format; options stand below one, as in qcow2: {example}",
                {"option": option, "example": f"{{{option}: {example}}}"},
            )
    return value


#: YAML reads `on` and `off` as truth values.
_MODES: Final = {True: "on", False: "off"}


class BootTestEntry(Entry):
    """`diskimages[].boot-test`."""

    mode: Literal["off", "report-only", "on"] | None = None
    timeout: Seconds | None = None
    memory: Size | None = None
    cpus: Annotated[int, Field(ge=1, le=255)] | None = None
    firmware: Literal["bios", "uefi"] | None = None
    user: str | None = None
    allowed_failed_units: Texts | None = None
    checks: Texts | None = None
    uploads: Literal["after", "meanwhile"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_word(cls, value: object) -> object:
        """A word alone is the mode."""
        if isinstance(value, dict):
            mode = value.get("mode")
            return {**value, "mode": _MODES[mode]} if isinstance(mode, bool) else value
        word = _MODES[value] if isinstance(value, bool) else value
        if word in ("off", "report-only", "on"):
            return {"mode": word}
        raise PydanticCustomError(
            "boot_test",
            "must be 'on', 'off', 'report-only' or a mapping, not {value}",
            {"value": shown(value)},
        )


class PromoteEntry(Entry):
    """`diskimages[].promote`."""

    policy: Release | None = None
    canary: Texts | None = None
    soak: Duration | None = None
    check: Texts | None = None
    check_timeout: Duration | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_word(cls, value: object) -> object:
        """A word or a number alone is the policy."""
        if isinstance(value, dict) and value:
            return value
        if isinstance(value, str | int) and not isinstance(value, bool):
            return {"policy": value}
        raise PydanticCustomError(
            "promote",
            "must be 'each', 'all', 'manual', a number of providers or a mapping, not {value}",
            {"value": shown(value)},
        )


class BudgetEntry(Entry):
    """`diskimages[].budgets`, for one measure; the numbers are read by `budgets`."""

    most: Property | None = None
    grows: Property | None = None
    over: Literal["fail", "hold", "warn"] | None = None


class MatrixRow(Entry):
    """`platforms[].matrix[]`: what is laid over the platform's own keys."""

    release: Release
    architectures: list[str] | None = None
    properties: dict[str, Property] | None = None
    variables: dict[str, Any] | None = None


class PlatformEntry(Entry):
    """`platforms[]`; what every platform needs may stand in its matrix, or in an included file."""

    name: str
    distribution: str | None = None
    release: Release | None = None
    architecture: str | None = None
    matrix: list[MatrixRow] | None = None
    mirror: str | None = None
    security_mirror: str | None = None
    updates_mirror: str | None = None
    keep_mirrors: bool | None = None
    properties: dict[str, Property] | None = None
    variables: dict[str, Any] | None = None


class DistributionEntry(Entry):
    """`mirrors`, for one distribution."""

    main: str | None = None
    security: str | None = None
    updates: str | None = None
    keep: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_text(cls, value: object) -> object:
        """A text alone is the main mirror, and `host` that of security updates as well."""
        if isinstance(value, str):
            return {"main": value, **({"security": value} if value == HOST_MIRROR else {})}
        if isinstance(value, dict):
            return value
        raise PydanticCustomError(
            "mirrors",
            "must be a URL, '{host}' or a mapping of main, security, updates and keep, not {value}",
            {"host": HOST_MIRROR, "value": shown(value)},
        )


class DiskImageEntry(Entry):
    """`diskimages[]`, as written, merged with its parents, or rendered: the keys are the same."""

    name: str
    abstract: bool | None = None
    parent: str | None = None
    platform: str | None = None
    platforms: Texts | None = None
    elements: list[str] | None = None
    env_vars: dict[str, str] | None = None
    formats: list[str] | None = None
    schedule: Texts | None = None
    catch_up: Seconds | None = None
    rebuild_age: Seconds | None = None
    build_timeout: Seconds | None = None
    keep: Count | None = None
    keep_days: Days | None = None
    pause: bool | None = None
    release: Release | None = None
    username: str | None = None
    python_path: str | None = None
    shell_type: str | None = None
    dib_cmd: str | None = None
    metadata: dict[str, Property] | None = None
    visibility: Visibility | None = None
    members: list[str] | None = None
    tags: list[str] | None = None
    hidden: bool | None = None
    stable_name: str | None = None
    stable_tag: str | None = None
    promote: PromoteEntry | None = None
    hide_old: bool | None = None
    keep_formats: list[str] | None = None
    delete_after_upload: bool | None = None
    format_options: Annotated[dict[str, FormatEntry] | None, BeforeValidator(_options_below_formats)] = None
    if_unchanged: Literal["skip", "build"] | None = None
    max_age: Seconds | None = None
    boot_test: BootTestEntry | None = None
    budgets: dict[str, BudgetEntry | None] | None = None
    requires: Texts | None = None
    notify: list[str] | None = None


class ProviderImageEntry(Entry):
    """`providers[].diskimages[]`."""

    name: str
    pause: bool | None = None
    meta: dict[str, Property] | None = None
    keep: Count | None = None
    keep_days: Days | None = None
    visibility: Visibility | None = None
    members: list[str] | None = None
    tags: list[str] | None = None
    hidden: bool | None = None
    config_drive: Ignored = None
    connection_type: Ignored = None
    connection_port: Ignored = None


class ProviderEntry(Entry):
    """`providers[]` whose driver is openstack."""

    name: str
    driver: str | None = None
    cloud: str
    region_name: str | None = None
    image_format: str | None = None
    image_name_format: str | None = None
    image_upload_timeout: Seconds | None = None
    diskimages: list[ProviderImageEntry] | None = None
    rate: Annotated[float, Field(ge=0)] | None = None
    post_upload_hook: str | None = None
    post_upload_hook_timeout: Seconds | None = None
    max_uploads: Count | None = None
    bandwidth: Size | None = None
    upload_method: str | None = None
    download_url: str | None = None
    keep: Count | None = None
    keep_days: Days | None = None
    boot_timeout: Ignored = None
    launch_timeout: Ignored = None
    launch_retries: Ignored = None
    clean_floating_ips: Ignored = None
    port_cleanup_interval: Ignored = None
    max_concurrency: Ignored = None
    priority: Ignored = None
    nodepool_id: Ignored = None
    cloud_images: Ignored = None
    pools: Ignored = None


class ForeignProviderEntry(BaseModel):
    """`providers[]` of another driver: a launcher's business, unless it wants images."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    name: str
    driver: str
    diskimages: list[Any] | None = None


def _kind_of_provider(value: object) -> str:
    driver = value.get("driver") if isinstance(value, dict) else None
    return FOREIGN_TAG if isinstance(driver, str) and driver != "openstack" else OPENSTACK_TAG


AnyProviderEntry = Annotated[
    Annotated[ProviderEntry, Tag(OPENSTACK_TAG)] | Annotated[ForeignProviderEntry, Tag(FOREIGN_TAG)],
    Discriminator(_kind_of_provider),
]


class Library(Entry):
    """What may stand in an included file."""

    platforms: list[PlatformEntry] | None = None
    diskimages: list[DiskImageEntry] | None = None


class ConfigFile(Library):
    """The whole file."""

    include: Texts | None = None
    state_dir: str | None = None
    images_dir: str | None = None
    work_dir: str | None = None
    cache_dir: str | None = None
    build_log_dir: str | None = None
    elements_dir: str | None = None
    build_log_retention: Annotated[int, Field(ge=-1, le=100_000)] | None = None
    zookeeper_servers: list[ServerEntry] | None = None
    zookeeper_tls: TlsEntry | None = None
    zookeeper_auth: AuthEntry | None = None
    zookeeper_timeout: Seconds | None = None
    embedded_zookeeper: Literal["protected", "open"] | None = None
    schedule: Texts | None = None
    catch_up: Seconds | None = None
    rebuild_age: Seconds | None = None
    keep: Count | None = None
    keep_days: Days | None = None
    failed_retention: Seconds | None = None
    spread: Annotated[float, Field(ge=0, le=MAX_SPREAD)] | None = None
    build_workers: Count | None = None
    builder_labels: Texts | None = None
    shutdown_grace: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None
    upload_workers: Count | None = None
    build_retries: RetryEntry | None = None
    upload_retries: RetryEntry | None = None
    upload_breaker: BreakerEntry | None = None
    upload_bandwidth: Size | None = None
    stall_timeout: Seconds | None = None
    artifact_server: ArtifactServerEntry | None = None
    leak_sweep: Seconds | None = None
    adopt_nodepool: bool | None = None
    build_limits: LimitsEntry | None = None
    build_log_limit: Size | None = None
    cache_limit: Size | None = None
    disk_reserve: Size | None = None
    mirrors: dict[str, DistributionEntry | None] | None = None
    notify: list[NotifyEntry] | None = None
    providers: list[AnyProviderEntry] | None = None
    labels: Ignored = None
    webapp: Ignored = None
    max_hold_age: Ignored = None
    tenant_resource_limits: Ignored = None


class SecureImageEntry(Entry):
    """`diskimages[]` of the secure file."""

    name: str
    env_vars: dict[str, str] | None = None


class SecureNotifyEntry(Entry):
    """`notify[]` of the secure file."""

    name: str
    webhook: str | None = None
    secret: str | None = None


class SecureFile(Entry):
    """The secure file: what not everybody who may read the configuration may read."""

    zookeeper_servers: list[ServerEntry] | None = None
    zookeeper_tls: TlsEntry | None = None
    zookeeper_auth: AuthEntry | None = None
    zookeeper_timeout: Seconds | None = None
    diskimages: list[SecureImageEntry] | None = None
    notify: list[SecureNotifyEntry] | None = None

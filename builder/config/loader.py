"""Loads the configuration: from files to one frozen Config, or every problem at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builder.config.budget import AbandonedError, budget
from builder.config.checking import Checked, check
from builder.config.directories import build_directories
from builder.config.diskimages import build_defaults, build_diskimages, with_formats, with_secrets
from builder.config.document import Document, read_document
from builder.config.model import (
    BOOT_TEST_LABEL,
    ArtifactServer,
    BreakerPolicy,
    BuildLimits,
    Config,
    RetryPolicy,
)
from builder.config.notes import notes_of
from builder.config.notifying import build_targets
from builder.config.platforms import build_platforms
from builder.config.problems import Problems
from builder.config.providers import ImageFormatOf, bandwidth, build_providers, wanted_formats
from builder.config.schema import BreakerEntry, ConfigFile, LimitsEntry, RetryEntry, SecureFile
from builder.config.servers import build_zookeeper
from builder.config.sources import read_sources
from builder.config.text import fingerprint
from builder.config.values import BadValueError, label_problem, listening, seconds, size, url_prefix

#: Bytes without which not even the first programs of a build start.
_LEAST_MEMORY: Final = 64 << 20


def load(
    path: Path, *, image_format_of: ImageFormatOf, environ: Mapping[str, str], secure: Path | None = None
) -> Config:
    """The configuration that `path`, and `secure` on top of it, describe.

    `image_format_of` tells the format a (cloud, region) wants and raises ConfigError for a cloud it
    doesn't know; `environ` is what %(NODEPOOL_X) and %(IMAGEPOOL_X) are taken from.
    Raises ConfigError with every problem found, each as "file:line: key: what is wrong".
    """
    problems = Problems()
    try:
        with budget():
            return _load(path, image_format_of, environ, secure, problems)
    except AbandonedError:
        problems.raise_any()
        raise


def _load(
    path: Path,
    image_format_of: ImageFormatOf,
    environ: Mapping[str, str],
    secure: Path | None,
    problems: Problems,
) -> Config:
    document, secrets = read_document(path, environ, problems), _read_secure(secure, path, environ, problems)
    file = check(document, ConfigFile, problems, secret=False)
    secret = check(secrets, SecureFile, problems, secret=True)
    sources = read_sources(file, environ, problems)

    directories = build_directories(file, problems)
    zookeeper = build_zookeeper(file, secret, problems)
    platforms = build_platforms(sources, problems)
    defaults = build_defaults(file, problems)
    diskimages = build_diskimages(sources, platforms, defaults, problems)
    images = with_secrets(diskimages, secret, problems)
    providers = build_providers(file, diskimages, image_format_of, problems)
    build_retry = _retry(file, "build-retries", file.content.build_retries, Config.build_retry, problems)
    upload_retry = _retry(file, "upload-retries", file.content.upload_retries, Config.upload_retry, problems)
    limits = _limits(file, problems)
    breaker = _breaker(file, problems)
    server = _artifact_server(file, problems)
    labels = _labels(file, problems)
    targets = build_targets(file, secret, problems)
    content = file.content
    upload_bandwidth = bandwidth(file, content.upload_bandwidth, problems, "upload-bandwidth")
    sizes = {
        "build-log-limit": _size(
            file, content.build_log_limit, Config.log_limit, problems, "build-log-limit"
        ),
        "cache-limit": _size(file, content.cache_limit, Config.cache_limit, problems, "cache-limit"),
        "disk-reserve": _size(file, content.disk_reserve, Config.disk_reserve, problems, "disk-reserve"),
    }
    problems.raise_any()

    return Config(
        path=path.absolute(),
        state_dir=directories.state,
        images_dir=directories.images,
        work_dir=directories.work,
        cache_dir=directories.cache,
        log_dir=directories.logs,
        elements_dirs=directories.elements,
        log_retention=_number(content.build_log_retention, Config.log_retention),
        zookeeper=zookeeper,
        embedded_open=content.embedded_zookeeper == "open",
        platforms=platforms.platforms,
        diskimages=with_formats(images, wanted_formats(providers)),
        abstract=diskimages.abstract,
        providers=providers,
        build_workers=_number(content.build_workers, Config.build_workers),
        upload_workers=_number(content.upload_workers, Config.upload_workers),
        builder_labels=labels,
        spread=Config.spread if content.spread is None else seconds(content.spread),
        shutdown_grace=Config.shutdown_grace
        if content.shutdown_grace is None
        else seconds(content.shutdown_grace),
        failed_retention=seconds(content.failed_retention or Config.failed_retention.total_seconds()),
        build_retry=build_retry,
        upload_retry=upload_retry,
        upload_breaker=breaker,
        upload_bandwidth=upload_bandwidth,
        artifact_server=server,
        leak_sweep=seconds(content.leak_sweep or Config.leak_sweep.total_seconds()),
        adopt_nodepool=bool(content.adopt_nodepool),
        build_limits=limits,
        log_limit=sizes["build-log-limit"],
        cache_limit=sizes["cache-limit"],
        disk_reserve=sizes["disk-reserve"],
        stall_timeout=seconds(content.stall_timeout or Config.stall_timeout.total_seconds()),
        notify=targets,
        notes=notes_of(sources, images),
        fingerprint=fingerprint(
            document.text, secrets.text, [each.document.text for each in sources.included]
        ),
    )


def _read_secure(secure: Path | None, main: Path, environ: Mapping[str, str], problems: Problems) -> Document:
    """The secure file, or an empty one where there is none."""
    return Document(file=main) if secure is None else read_document(secure, environ, problems, secret=True)


def _limits(file: Checked[ConfigFile], problems: Problems) -> BuildLimits:
    entry, default = file.content.build_limits or LimitsEntry(), BuildLimits()
    return BuildLimits(
        cpus=entry.cpus,
        memory=_memory(file, entry.memory, problems),
        nice=_number(entry.nice, default.nice),
        io=entry.io or default.io,
    )


def _labels(file: Checked[ConfigFile], problems: Problems) -> frozenset[str]:
    labels = file.content.builder_labels or []
    for position, label in enumerate(labels):
        if problem := label_problem(label):
            problems.add(file.place("builder-labels", position), problem)
        elif label == BOOT_TEST_LABEL:
            text = f"{label!r} is a label that builders get by themselves, where images can be booted"
            problems.add(file.place("builder-labels", position), text)
    return frozenset(labels)


def _breaker(file: Checked[ConfigFile], problems: Problems) -> BreakerPolicy:
    entry, default = file.content.upload_breaker or BreakerEntry(), BreakerPolicy()
    first = default.first if entry.first is None else seconds(entry.first)
    longest = default.longest if entry.longest is None else seconds(entry.longest)
    if longest < first:
        if entry.longest is not None:
            problems.add(
                file.place("upload-breaker", "longest"),
                f"must not be less than `first`, {first.total_seconds():g} s",
            )
        longest = first
    return BreakerPolicy(failures=entry.failures or default.failures, first=first, longest=longest)


def _artifact_server(file: Checked[ConfigFile], problems: Problems) -> ArtifactServer | None:
    entry = file.content.artifact_server
    if entry is None:
        return None
    host, port, url = "127.0.0.1", 0, entry.url
    try:
        if entry.listen is not None:
            host, port = listening(entry.listen)
    except BadValueError as problem:
        problems.add(file.place("artifact-server", "listen"), str(problem))
    try:
        url = url_prefix(entry.url)
    except BadValueError as problem:
        problems.add(file.place("artifact-server", "url"), str(problem))
    return ArtifactServer(host=host, port=port, url=url)


def _memory(file: Checked[ConfigFile], value: str | None, problems: Problems) -> int | None:
    if value is None:
        return None
    memory = _size(file, value, _LEAST_MEMORY, problems, "build-limits", "memory")
    if memory < _LEAST_MEMORY:
        place = file.place("build-limits", "memory")
        problems.add(
            place, f"must be at least {_LEAST_MEMORY >> 20}M, without which no build begins, not {value}"
        )
    return memory


def _size(file: Checked[ConfigFile], value: str | None, default: int, problems: Problems, *path: str) -> int:
    if value is None:
        return default
    try:
        return size(value)
    except BadValueError as problem:
        problems.add(file.place(*path), str(problem))
        return default


def _number(value: int | None, default: int) -> int:
    return default if value is None else value


def _retry(
    file: Checked[ConfigFile], key: str, entry: RetryEntry | None, default: RetryPolicy, problems: Problems
) -> RetryPolicy:
    if entry is None:
        return default
    policy = RetryPolicy(
        first=default.first if entry.first is None else seconds(entry.first),
        longest=default.longest if entry.longest is None else seconds(entry.longest),
        limit=default.limit if entry.limit is None else entry.limit,
    )
    if policy.longest < policy.first:
        problems.add(
            file.place(key),
            f"'first' ({policy.first.total_seconds():g}) must not be more than"
            f" 'longest' ({policy.longest.total_seconds():g})",
        )
    return policy

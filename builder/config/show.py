"""Turns a Config back into plain data with the keys of the file, for people to look at."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from builder.config import boottests, budgets, promotions
from builder.config.model import (
    MASK,
    BreakerPolicy,
    BuildLimits,
    Config,
    DiskImage,
    FormatOptions,
    NotifyTarget,
    Platform,
    Provider,
    ProviderImage,
    RetryPolicy,
    Sharing,
    ZooKeeper,
    masked_credentials,
)
from builder.config.problems import looks_secret, secret_texts
from builder.config.schedules import NEVER


def as_data(config: Config) -> dict[str, Any]:
    """The configuration in force, as rendered: text, numbers, lists and mappings only.

    Keys are those of the file, durations are seconds, secrets are masked. Loaded again it means the
    same, apart from secrets, and from texts that rendered to something with template marks in it.
    """
    data = {
        "state-dir": str(config.state_dir),
        "images-dir": str(config.images_dir),
        "work-dir": str(config.work_dir),
        "cache-dir": str(config.cache_dir),
        "build-log-dir": str(config.log_dir),
        **_given("elements-dir", ":".join(map(str, config.elements_dirs))),
        "build-log-retention": config.log_retention,
        **(_zookeeper(config.zookeeper) if config.zookeeper else {}),
        "embedded-zookeeper": "open" if config.embedded_open else "protected",
        "failed-retention": _seconds(config.failed_retention),
        **_given("spread", _seconds(config.spread)),
        "build-workers": config.build_workers,
        **_given("builder-labels", sorted(config.builder_labels)),
        "shutdown-grace": _seconds(config.shutdown_grace),
        "upload-workers": config.upload_workers,
        "build-retries": _retry(config.build_retry),
        "upload-retries": _retry(config.upload_retry),
        "upload-breaker": _breaker(config.upload_breaker),
        **_given("upload-bandwidth", config.upload_bandwidth),
        **_given("artifact-server", _artifact_server(config)),
        "leak-sweep": _seconds(config.leak_sweep),
        "adopt-nodepool": config.adopt_nodepool,
        "build-limits": _limits(config.build_limits),
        "build-log-limit": config.log_limit,
        "cache-limit": config.cache_limit,
        "disk-reserve": config.disk_reserve,
        "stall-timeout": _seconds(config.stall_timeout),
        **_given("notify", [_target(target) for target in config.notify.values()]),
        "platforms": [_platform(platform) for platform in config.platforms.values()],
        "diskimages": [_diskimage(image) for image in config.diskimages.values()],
        "providers": [_provider(provider) for provider in config.providers.values()],
    }
    return {key: _without_credentials(value) for key, value in data.items()}


def platform_data(platform: Platform) -> dict[str, Any]:
    """A platform with the keys of the file, as in `as_data`."""
    return {key: _without_credentials(value) for key, value in _platform(platform).items()}


def diskimage_data(image: DiskImage) -> dict[str, Any]:
    """A diskimage with the keys of the file, as in `as_data`."""
    return {key: _without_credentials(value) for key, value in _diskimage(image).items()}


def _without_credentials(value: Any) -> Any:
    """The value with the credentials masked that are in URLs, wherever they may be."""
    if isinstance(value, str):
        return masked_credentials(value)
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    return value


def _zookeeper(zookeeper: ZooKeeper) -> dict[str, Any]:
    data: dict[str, Any] = {
        "zookeeper-servers": [_server(host, zookeeper.chroot) for host in zookeeper.hosts.split(",")],
        "zookeeper-timeout": zookeeper.timeout,
    }
    if zookeeper.tls:
        tls = zookeeper.tls
        data["zookeeper-tls"] = {"cert": str(tls.cert), "key": str(tls.key), "ca": str(tls.ca)}
    if zookeeper.username is not None:
        data["zookeeper-auth"] = {"username": zookeeper.username, "password": MASK}
    return data


def _server(host_and_port: str, chroot: str) -> dict[str, Any]:
    host, _colon, port = host_and_port.rpartition(":")
    return {"host": host.strip("[]"), "port": int(port), **_given("chroot", chroot)}


def _platform(platform: Platform) -> dict[str, Any]:
    secrets = secret_texts(platform.variables)
    return {
        "name": platform.name,
        "distribution": platform.distribution,
        "release": platform.release,
        "architecture": platform.architecture,
        **_given("mirror", platform.mirror),
        **_given("security-mirror", platform.security_mirror),
        **_given("updates-mirror", platform.updates_mirror),
        **_given("keep-mirrors", platform.keep_mirrors),
        **_given("properties", _masked(platform.properties, secrets)),
        **_given("variables", _masked(platform.variables, secrets)),
    }


def _diskimage(image: DiskImage) -> dict[str, Any]:
    secrets = secret_texts(image.platform.variables) if image.platform else frozenset[str]()
    return {
        "name": image.name,
        **_given("platform", image.platform.name if image.platform else None),
        "elements": list(image.elements),
        "env-vars": dict(image.shown_environment),
        "formats": [str(image_format) for image_format in image.formats],
        "schedule": _one_or_all([entry.text for entry in image.schedule]) or NEVER,
        "catch-up": _seconds(image.catch_up),
        **_given("rebuild-age", _seconds(image.rebuild_age) if image.rebuild_age else None),
        "build-timeout": _seconds(image.build_timeout),
        "pause": image.pause,
        "keep": image.keep,
        **_given("keep-days", _days(image.keep_for)),
        "dib-cmd": shlex.join([_masked_in(word, secrets) for word in image.dib_cmd]),
        "username": image.username,
        "python-path": image.python_path,
        **_given("shell-type", image.shell_type),
        "metadata": _masked(image.metadata, secrets),
        **_sharing(image.sharing),
        **_given("stable-name", image.stable_name),
        **_given("stable-tag", image.stable_tag),
        "promote": promotions.as_data(image.promote),
        "hide-old": image.hide_old,
        **_given("format-options", {str(f): _options(o) for f, o in image.format_options.items()}),
        "delete-after-upload": image.delete_after_upload,
        **_given("keep-formats", [str(image_format) for image_format in image.keep_formats]),
        "if-unchanged": "skip" if image.skip_unchanged else "build",
        **_given("max-age", _seconds(image.max_age) if image.max_age else None),
        **_given("boot-test", boottests.as_data(image.boot_test)),
        **_given("budgets", budgets.as_data(image.budgets)),
        "requires": sorted(image.requires),
        **({} if image.notify is None else {"notify": list(image.notify)}),
    }


def _one_or_all(texts: list[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else texts


def _options(options: FormatOptions) -> dict[str, Any]:
    return {**_given("compression", options.compression), **_given("compat", options.compat)}


def _limits(limits: BuildLimits) -> dict[str, Any]:
    return {
        **_given("cpus", limits.cpus),
        **_given("memory", limits.memory),
        "nice": limits.nice,
        "io": limits.io,
    }


def _provider(provider: Provider) -> dict[str, Any]:
    return {
        "name": provider.name,
        "cloud": provider.cloud,
        **_given("region-name", provider.region),
        "image-format": str(provider.image_format),
        "image-name-format": provider.image_name_format,
        "image-upload-timeout": _seconds(provider.upload_timeout),
        "upload-method": provider.upload_method,
        **_given("download-url", provider.download_url),
        "max-uploads": provider.max_uploads,
        **_given("bandwidth", provider.bandwidth),
        "rate": provider.rate,
        **_given("post-upload-hook", str(provider.post_upload_hook or "")),
        "post-upload-hook-timeout": _seconds(provider.hook_timeout),
        "diskimages": [_provider_image(image) for image in provider.images.values()],
    }


def _provider_image(image: ProviderImage) -> dict[str, Any]:
    return {
        "name": image.diskimage,
        "pause": image.pause,
        "keep": image.keep,
        **_given("keep-days", _days(image.keep_for)),
        **_sharing(image.sharing),
        "meta": _masked(image.metadata),
    }


def _sharing(sharing: Sharing) -> dict[str, Any]:
    return {
        "visibility": sharing.visibility,
        "members": list(sharing.members),
        "tags": list(sharing.tags),
        "hidden": sharing.hidden,
    }


def _breaker(policy: BreakerPolicy) -> dict[str, Any]:
    return {
        "failures": policy.failures,
        "first": _seconds(policy.first),
        "longest": _seconds(policy.longest),
    }


def _artifact_server(config: Config) -> dict[str, Any] | None:
    server = config.artifact_server
    if server is None:
        return None
    host = f"[{server.host}]" if ":" in server.host else server.host
    return {"listen": f"{host}:{server.port}", "url": server.url}


def _target(target: NotifyTarget) -> dict[str, Any]:
    webhook = target.webhook
    if webhook is not None and target.webhook_is_secret:
        # What is shown can be loaded again, and so it is a URL.
        webhook = f"{urlsplit(webhook).scheme}://{MASK}"
    return {
        "name": target.name,
        **_given("command", list(target.command)),
        **_given("webhook", webhook),
        **_given("secret-file", str(target.secret_file or "")),
        "events": sorted(target.events),
        "timeout": _seconds(target.timeout),
    }


def _days(duration: timedelta | None) -> float | None:
    return duration / timedelta(days=1) if duration else None


def _retry(policy: RetryPolicy) -> dict[str, Any]:
    return {
        "first": _seconds(policy.first),
        "longest": _seconds(policy.longest),
        "limit": policy.limit,
    }


def _given(key: str, value: Any) -> dict[str, Any]:
    """The key, unless there is nothing to say."""
    return {key: value} if value else {}


def _masked(values: Mapping[str, Any], secrets: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The values with those masked whose names look secret, at any depth, and those with a secret in them."""
    return {
        name: MASK if looks_secret(str(name)) else _masked_in(value, secrets)
        for name, value in values.items()
    }


def _masked_in(value: Any, secrets: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_masked_in(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, MASK)
        return value
    if str(value) in secrets:
        return MASK
    return _masked(value, secrets) if isinstance(value, dict) else value


def _seconds(duration: timedelta) -> float:
    """Whole seconds without a fraction, as people write them."""
    total = duration.total_seconds()
    return int(total) if total.is_integer() else total

"""Turn providers, what their clouds can do and their breakers into rows of cells; pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from builder.cli import standstill, text
from builder.cli.cells import (
    PARAGRAPH_WIDTH,
    Cell,
    Flag,
    Lines,
    Moment,
    Paragraph,
    Rate,
    Reason,
    Seconds,
    Words,
)
from builder.cli.render import Row
from builder.config.model import Config, Provider, masked_credentials
from builder.model import Pause, Snapshot, Upload, UploadState
from builder.planning.actions import Breaker, UploadDecision
from builder.planning.breakers import breakers
from builder.planning.records import is_there, moving, newest_first, newest_good
from builder.ways import SIZE_TOTAL, STAGE_TOTAL, Capabilities, Choice, Quota

PROVIDER_COLUMNS: Final = (
    "provider", "cloud", "region", "configured", "breaker", "since", "next_probe", "failures",
    "uploads_running", "uploads_max", "images_ready", "images_wanted", "failed_at", "last_failure",
    "paused", "pause",
)  # fmt: skip
PLAN_COLUMNS: Final = ("provider", "decision", "due", "reason", "ways", "capabilities", "trouble")


@dataclass(frozen=True, kw_only=True)
class ProviderStatus:
    """One provider at one moment; `provider` is None when only records still name it."""

    name: str
    provider: Provider | None
    breaker: Breaker | None
    running: int  #: uploads that somebody works on
    ready: int  #: images whose newest ready build is ready there
    last_failed: Upload | None
    pause: Pause | None = None  #: by hand: nothing is uploaded there


def of_all(config: Config, snapshot: Snapshot, now: datetime) -> tuple[ProviderStatus, ...]:
    """Every provider of the configuration, in its order, then those that only records still name."""
    named = {*(u.provider for u in snapshot.uploads()), *snapshot.paused_providers}
    gone = sorted(named - set(config.providers))
    known = breakers(config, snapshot, now)
    return tuple(_status(config, snapshot, known.get(name), name) for name in (*config.providers, *gone))


def of_provider(config: Config, snapshot: Snapshot, now: datetime, name: str) -> ProviderStatus:
    """One provider, by its full name."""
    return _status(config, snapshot, breakers(config, snapshot, now).get(name), name)


def _status(config: Config, snapshot: Snapshot, breaker: Breaker | None, name: str) -> ProviderStatus:
    provider = config.providers.get(name)
    uploads = [u for u in snapshot.uploads() if u.provider == name]
    failed = newest_first(u for u in uploads if u.state is UploadState.FAILED)
    return ProviderStatus(
        name=name,
        provider=provider,
        breaker=breaker,
        running=sum(u.provider == name for records in snapshot.images.values() for u in moving(records)),
        ready=0 if provider is None else sum(_is_current(snapshot, provider, i) for i in provider.images),
        last_failed=next(iter(failed), None),
        pause=snapshot.paused_providers.get(name),
    )


def _is_current(snapshot: Snapshot, provider: Provider, image: str) -> bool:
    records = snapshot.image(image)
    build = newest_good(records, provider.name)
    return build is not None and is_there(records, build, provider.name)


def provider_row(status: ProviderStatus) -> Row:
    """What `provider list` shows."""
    provider, breaker, failed = status.provider, status.breaker, status.last_failed
    return {
        "provider": Cell(status.name),
        "cloud": Cell(provider.cloud if provider else None),
        "region": Cell(provider.region if provider else None),
        "configured": Flag(provider is not None),
        "breaker": Cell(breaker.state if breaker else None),
        "since": Moment(breaker.since if breaker else None),
        "next_probe": Moment(breaker.until if breaker else None),
        "failures": Cell(breaker.failures if breaker else None),
        "uploads_running": Cell(status.running),
        "uploads_max": Cell(provider.max_uploads if provider else None),
        "images_ready": Cell(status.ready),
        "images_wanted": Cell(len(provider.images) if provider else 0),
        "failed_at": Moment(failed.state_time if failed else None),
        "last_failure": Reason(_last_failure(failed)),
        "paused": Flag(status.pause is not None),
        "pause": Reason(standstill.told(status.pause) if status.pause is not None else None),
    }


def provider_details(
    status: ProviderStatus,
    capabilities: Capabilities | None,
    quotas: Mapping[str, Quota] | None,
    trouble: str | None,
) -> Row:
    """What `provider show` shows: the row, why the breaker is as it is, what its cloud says of itself, and
    its settings."""
    provider, breaker = status.provider, status.breaker
    return {
        **provider_row(status),
        "last_failure": Cell(_last_failure(status.last_failed)),
        "pause": standstill.pause_cell(status.pause),
        "breaker_reason": Paragraph(breaker.reason if breaker else None),
        "capabilities": capabilities_cell(capabilities),
        "quotas": _quotas(quotas),
        "trouble": Paragraph(trouble),
        **(_settings(provider) if provider else {}),
    }


def _settings(provider: Provider) -> Row:
    return {
        "image_format": Cell(provider.image_format),
        "image_name_format": Cell(provider.image_name_format),
        "upload_method": Cell(provider.upload_method),
        "download_url": Cell(masked_credentials(provider.download_url or "") or None),
        "bandwidth": Rate(provider.bandwidth),
        "upload_timeout": Seconds(provider.upload_timeout.total_seconds()),
        "rate": Cell(provider.rate),
        "post_upload_hook": Cell(str(provider.post_upload_hook) if provider.post_upload_hook else None),
        "hook_timeout": Seconds(provider.hook_timeout.total_seconds()),
        "images": Words(tuple(provider.images)),
    }


def plan_row(
    provider: Provider,
    decision: UploadDecision,
    capabilities: Capabilities | None,
    choices: Sequence[Choice],
    trouble: str | None,
) -> Row:
    """What `upload plan` shows of a provider."""
    return {
        "provider": Cell(provider.name),
        "decision": Cell(decision.verdict),
        "due": Moment(decision.due),
        "reason": Paragraph(decision.reason),
        "ways": Lines(
            [{"way": str(c.way), "usable": c.usable, "reason": c.reason} for c in choices],
            [line for number, choice in enumerate(choices, 1) for line in _choice(number, choice)],
        ),
        "capabilities": capabilities_cell(capabilities),
        "trouble": Paragraph(trouble),
    }


def _choice(number: int, choice: Choice) -> list[str]:
    # Those that are tried come first; the others have no place in the order.
    said = f"{number}. {choice.way}: " if choice.usable else f"no {choice.way}: "
    return textwrap.wrap(f"{said}{choice.reason}", PARAGRAPH_WIDTH, subsequent_indent="   ")


def capabilities_cell(capabilities: Capabilities | None) -> Lines:
    """What a provider's image service said it can do."""
    if capabilities is None:
        return Lines(None, ())
    data: dict[str, Any] = {
        "checked": text.iso(capabilities.checked),
        "disk_formats": sorted(capabilities.disk_formats),
        "import_methods": sorted(capabilities.import_methods),
        "stores": list(capabilities.stores),
        "tasks": capabilities.tasks,
    }
    lines = [
        f"formats: {_listed(data['disk_formats'], 'it does not say')}",
        f"imports: {_listed(data['import_methods'], 'none')}",
        f"stores: {_listed(data['stores'], 'it does not say')}",
        f"tasks: {'yes' if capabilities.tasks else 'no'}",
    ]
    wrapped = [
        part for line in lines for part in textwrap.wrap(line, PARAGRAPH_WIDTH, subsequent_indent="  ")
    ]
    return Lines(data, wrapped)


def _quotas(quotas: Mapping[str, Quota] | None) -> Lines:
    if quotas is None:
        return Lines(None, ())
    data = {name: {"limit": quota.limit, "used": quota.used} for name, quota in quotas.items()}
    lines = [f"{name}: {_quota(name, quota)}" for name, quota in quotas.items()]
    return Lines(data, lines or ["it does not say"])


def _quota(name: str, quota: Quota) -> str:
    def amount(number: int) -> str:
        return text.size(number) if name in (SIZE_TOTAL, STAGE_TOTAL) else str(number)

    limit = "no limit" if quota.limit < 0 else f"of {amount(quota.limit)}"
    return f"{amount(quota.used)} taken, {limit}"


def _last_failure(failed: Upload | None) -> str | None:
    if failed is None:
        return None
    return f"{failed.image}: {text.summary(failed.reason) or 'no reason on record'}"


def _listed(words: Sequence[str], otherwise: str) -> str:
    return ", ".join(words) or otherwise

"""Say by which provider the cloud of an upload is reached, also when the configuration has it no more."""

from __future__ import annotations

from dataclasses import replace

from builder.config.model import Config, Provider
from builder.model import Upload


def provider_of(config: Config, upload: Upload) -> Provider | None:
    """The provider to ask for an upload's image; None when nothing says which cloud that is.

    Where the record names the cloud and region it went to, those hold: a provider of that name may
    have moved to another cloud since, and what can't be found there would be taken to be gone.
    """
    configured = config.providers.get(upload.provider)
    if upload.cloud is None:
        return configured
    return replace(
        configured or Provider(name=upload.provider, cloud=upload.cloud),
        cloud=upload.cloud,
        region=upload.region,
    )


def whereabouts(upload: Upload) -> str:
    """The cloud and region of an upload as its record has them, in words."""
    if upload.cloud is None:
        return "a cloud that is not on record"
    return f"the cloud {upload.cloud}" + (f", region {upload.region}" if upload.region else "")

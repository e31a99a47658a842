"""Looks at a provider: whether its cloud lets us in, and its image service answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from builder.cloud.base import Cloud
from builder.cloudimage import BUILD_ID
from builder.config.model import Provider
from builder.errors import CloudError, CloudUnavailableError
from builder.findings import Finding, fine, problem
from builder.model import FailureClass

#: No build has it, so the list that is asked for is empty, whatever the cloud holds.
_NO_BUILD: Final = {BUILD_ID: "none"}


def look(provider: Provider, make: Callable[[Provider], Cloud]) -> Iterator[Finding]:
    """Log in to a provider's cloud, list images, ask which formats it takes. Nothing is made there."""
    name = f"provider {provider.name}"
    began = time.monotonic()
    try:
        cloud = make(provider)
        list(cloud.find(_NO_BUILD))
        formats = cloud.capabilities().disk_formats
    except (CloudError, CloudUnavailableError) as error:
        text = error.message.removeprefix(f"{name}: ")
        hint = error.hint or "Check the network, and that the cloud's services run; other providers go on."
        yield problem(name, f"{error.failure_class}: {text}", hint=hint, failure_class=error.failure_class)
        return
    where = f"cloud {provider.cloud}" + (f", region {provider.region}" if provider.region else "")
    took = time.monotonic() - began
    if formats and provider.image_format not in formats:
        yield problem(
            name,
            f"{where}: the image service takes no {provider.image_format}, only {', '.join(sorted(formats))}",
            hint="Name one of them with image_format of the cloud in clouds.yaml.",
            failure_class=FailureClass.CONFIG,
        )
        return
    yield fine(name, f"{where}: logged in and listed images in {took:.1f} s; gets {provider.image_format}")

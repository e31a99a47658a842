"""One Cloud per provider: made when first needed, made anew when the provider's settings changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from builder.cloud.base import Cloud
from builder.config.model import Provider
from builder.ways import Capabilities

#: Seconds that what a cloud said it can do is believed.
CAPABILITIES_LIFE: Final = 3600.0


@dataclass
class _Member:
    """A provider's cloud, and what it said it can do, until when (on the pool's clock)."""

    provider: Provider
    cloud: Cloud
    capabilities: Capabilities | None = None
    believed_until: float = 0.0


class CloudPool:
    """Hands out the same Cloud for the same provider, to any thread."""

    def __init__(
        self, make: Callable[[Provider], Cloud], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`make` builds a Cloud for a provider; it must not talk to the network yet. `clock`: seconds."""
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        #: By name, cloud and region: a provider that moved still has images where it was.
        self._members: dict[tuple[str, str, str | None], _Member] = {}

    def get(self, provider: Provider) -> Cloud:
        """The Cloud of that provider, with its current settings."""
        return self._member(provider).cloud

    def capabilities(self, provider: Provider) -> Capabilities:
        """What the provider's image service can do, as it said within the last hour.

        Raises what the cloud raises when it has to be asked and does not answer; nothing of that is
        kept. Only who asks waits.
        """
        member = self._member(provider)
        with self._lock:
            if member.capabilities is not None and self._clock() < member.believed_until:
                return member.capabilities
        told = member.cloud.capabilities()
        with self._lock:
            member.capabilities = told
            member.believed_until = self._clock() + CAPABILITIES_LIFE
        return told

    def forget(self) -> None:
        """Make all of them anew at the next use: credentials may have changed."""
        with self._lock:
            self._members.clear()

    def _member(self, provider: Provider) -> _Member:
        with self._lock:
            place = (provider.name, provider.cloud, provider.region)
            known = self._members.get(place)
            if known is None or known.provider != provider:
                known = self._members[place] = _Member(provider, self._make(provider))
            return known

"""One Cloud per provider: made when first needed, made anew when the provider's settings changed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from builder.cloud.base import Cloud
from builder.config.model import Provider


class CloudPool:
    """Hands out the same Cloud for the same provider, to any thread."""

    def __init__(self, make: Callable[[Provider], Cloud]) -> None:
        """`make` builds a Cloud for a provider; it must not talk to the network yet."""
        self._make = make
        self._lock = threading.Lock()
        self._clouds: dict[str, tuple[Provider, Cloud]] = {}

    def get(self, provider: Provider) -> Cloud:
        """The Cloud of that provider, with its current settings."""
        with self._lock:
            known = self._clouds.get(provider.name)
            if known is None or known[0] != provider:
                known = (provider, self._make(provider))
                self._clouds[provider.name] = known
            return known[1]

    def forget(self) -> None:
        """Make all of them anew at the next use: credentials may have changed."""
        with self._lock:
            self._clouds.clear()

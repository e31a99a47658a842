"""One Cloud per provider: made when first needed, made anew when the provider's settings changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from builder.cloud.base import Cloud
from builder.config.model import Provider
from builder.ways import Capabilities

#: Seconds that what an image service said it can do is believed.
CAPABILITIES_LIFE: Final = 3600.0

#: An image service: the cloud and the region of clouds.yaml where it is.
_Service = tuple[str, str | None]


@dataclass(frozen=True)
class _Told:
    """What an image service says it can do, once it answers; believed so long, by the pool's clock."""

    answer: Future[Capabilities]
    until: float


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
        self._clouds: dict[tuple[str, str, str | None], tuple[Provider, Cloud]] = {}
        self._told: dict[_Service, _Told] = {}

    def get(self, provider: Provider) -> Cloud:
        """The Cloud of that provider, with its current settings."""
        place = (provider.name, provider.cloud, provider.region)
        with self._lock:
            known, cloud = self._clouds.get(place, (None, None))
            if cloud is None or known != provider:
                cloud = self._make(provider)
                self._clouds[place] = (provider, cloud)
            return cloud

    def capabilities(self, provider: Provider) -> Capabilities:
        """What the provider's image service can do, as it said within the last hour.

        Providers of one region are the same service, so that one of them asks for all, and those who
        want to know meanwhile share the answer. Raises what the cloud raises when it has to be asked
        and does not answer; nothing of that is kept. Nobody else waits.
        """
        service = (provider.cloud, provider.region)
        with self._lock:
            told, now = self._told.get(service), self._clock()
            asks = told is None or now >= told.until
            if told is None or asks:
                told = self._told[service] = _Told(Future(), now + CAPABILITIES_LIFE)
        if asks:
            self._ask(provider, service, told)
        return told.answer.result()

    def known(self, providers: Iterable[Provider]) -> Mapping[str, Capabilities]:
        """What is known by now of what these providers can do, by their names; nobody is asked."""
        with self._lock:
            now = self._clock()
            told = {
                provider.name: self._told.get((provider.cloud, provider.region)) for provider in providers
            }
        return {
            name: each.answer.result()
            for name, each in told.items()
            if each is not None and now < each.until and each.answer.done() and not each.answer.exception()
        }

    def forget(self) -> None:
        """Make all of them anew at the next use: credentials may have changed."""
        with self._lock:
            self._clouds.clear()
            self._told.clear()

    def _ask(self, provider: Provider, service: _Service, told: _Told) -> None:
        try:
            told.answer.set_result(self.get(provider).capabilities())
        except BaseException as error:  # noqa: BLE001 - handed to all who wait for the answer
            with self._lock:
                if self._told.get(service) is told:
                    del self._told[service]
            told.answer.set_exception(error)

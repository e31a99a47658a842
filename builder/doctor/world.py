"""What the checks look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from builder.cloud.base import Cloud
from builder.config.model import Config, DiskImage, Provider
from builder.model import Snapshot


@dataclass(frozen=True, kw_only=True)
class World:
    """One installation as this machine sees it."""

    config: Config
    environ: Mapping[str, str]
    now: datetime
    cloud: Callable[[Provider], Cloud]
    images: tuple[DiskImage, ...]  #: those to look at
    snapshot: Snapshot | None = None  #: None where the records can't be read

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The providers that take any of the images."""
        names = {image.name for image in self.images}
        return tuple(p for p in self.config.providers.values() if names & set(p.images))

"""All the store knows of one image, and of everything, at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from builder.model.builds import Build
from builder.model.names import empty
from builder.model.states import BuildState
from builder.model.uploads import Upload
from builder.model.wishes import Cancellation, Daemon, Pause, Request, UploadCancellation


@dataclass(frozen=True, kw_only=True)
class ImageRecords:
    """All the store knows of one image at one moment. Builds and uploads are newest first."""

    name: str
    pause: Pause | None = None  #: by hand, against the configuration's
    request: Request | None = None
    #: The last time for which a build was asked for, by the entry of the schedule (`ScheduleEntry.text`).
    ticks: Mapping[str, datetime] = field(default_factory=empty)
    cancellation: Cancellation | None = None
    upload_cancellations: tuple[UploadCancellation, ...] = ()
    builds: tuple[Build, ...] = ()
    uploads: tuple[Upload, ...] = ()
    build_claimed: bool = False  #: somebody holds builds/lock, so a `building` build may be alive
    uploads_claimed: frozenset[tuple[str, str]] = frozenset()  #: (build id, provider) whose lock is held

    @property
    def paused(self) -> bool:
        """Whether somebody paused it by hand."""
        return self.pause is not None

    def build(self, build_id: str) -> Build | None:
        """The build of that full id, None if there is none."""
        return next((b for b in self.builds if b.id == build_id), None)

    @property
    def ready_builds(self) -> tuple[Build, ...]:
        """Ready builds, newest first."""
        return tuple(b for b in self.builds if b.state is BuildState.READY)

    def uploads_of(self, build_id: str, provider: str | None = None) -> tuple[Upload, ...]:
        """Uploads of a build, newest first, to one provider or to all."""
        return tuple(
            u for u in self.uploads if u.build_id == build_id and (provider is None or u.provider == provider)
        )

    def uploads_to(self, provider: str) -> tuple[Upload, ...]:
        """Uploads of this image to a provider, newest first, of whatever build."""
        return tuple(u for u in self.uploads if u.provider == provider)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The whole tree at one moment, immutable: one pass of a worker decides on one Snapshot."""

    images: Mapping[str, ImageRecords] = field(default_factory=empty)
    frozen: Pause | None = None  #: nothing begins by itself, anywhere
    paused_providers: Mapping[str, Pause] = field(default_factory=empty)  #: which get no uploads, by hand
    daemons: tuple[Daemon, ...] = ()  #: that are alive, by host name
    leader: str | None = None  #: host name of the daemon whose scheduler files requests; None: nobody's does
    #: Id of the installation whose tree this is; "" when the tree has none; None when nobody looked.
    installation: str | None = None
    forgotten: Mapping[str, Pause] = field(default_factory=empty)  #: builder ids that won't come back

    def image(self, name: str) -> ImageRecords:
        """The records of an image; empty ones when the store has never heard of it."""
        return self.images.get(name) or ImageRecords(name=name)

    def with_image(self, records: ImageRecords) -> Snapshot:
        """The same, but for the records of one image, of which somebody knows more."""
        return replace(self, images=MappingProxyType({**self.images, records.name: records}))

    def builds(self) -> Iterator[Build]:
        """Every build of every image, by image name, newest first."""
        for name in sorted(self.images):
            yield from self.images[name].builds

    def uploads(self) -> Iterator[Upload]:
        """Every upload of every image, by image name, newest first."""
        for name in sorted(self.images):
            yield from self.images[name].uploads

"""The meter tells statsd what this daemon does, under the names that nodepool's documentation gives.

What is told follows from the records: each change of the tree is compared with what was before. Builds
and uploads are told by the daemon that did them, requests by every one. The names and their meaning are
in https://zuul-ci.org/docs/nodepool/latest/operation.html#builder-monitoring-metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Config, Provider
from builder.dib.output import artifacts
from builder.metrics.base import Kind, Metric, Sink
from builder.model import Build, BuildState, ImageRecords, Pause, Snapshot, Upload, UploadState
from builder.planning.records import moving, runs
from builder.workers.base import Pass, Worker, World

#: How often every gauge is told again: a server that was started anew knows none.
AGAIN: Final = timedelta(minutes=5)
#: Values of the state gauges.
IDLE, BUILDING, UPLOADING, PAUSED = 0, 1, 2, 3
#: The exit code of a failure that has none.
_FAILED: Final = 1
#: Bytes of a block, as stat(2) counts them.
_BLOCK: Final = 512


@dataclass(frozen=True, kw_only=True)
class _Image:
    """What is told of one image, and all it follows from."""

    gauges: Mapping[str, int]
    uploads: int  #: that run here
    building: bool  #: here
    requested: bool
    config: Config
    name: str
    records: ImageRecords | None  #: None: nothing is on record
    stands: tuple[Pause | None, Mapping[str, Pause]]

    def holds(self, config: Config, snapshot: Snapshot) -> bool:
        """Whether nothing has changed that it follows from."""
        return (
            self.config is config
            and self.records is snapshot.images.get(self.name)
            and self.stands == (snapshot.frozen, snapshot.paused_providers)
        )


class Meter(Worker):
    """Sends gauges when they change, and what builds and uploads came to when they end."""

    def __init__(self, world: World, name: str, sink: Sink) -> None:
        super().__init__(world, name)
        self._sink = sink
        self._host = f"nodepool.builder.{world.identity.hostname}"
        self._since = world.clock()
        self._before: Snapshot | None = None
        self._images: dict[str, _Image] = {}
        self._told: Mapping[str, int] = {}
        self._again = self._since

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Tell what is new."""
        gauges = self._gauges(config, snapshot)
        new = dict(gauges.items() - self._told.items())
        if now >= self._again:
            new, self._again = gauges, now + AGAIN
        events = [] if self._before is None else list(self._events(config, self._before, snapshot))
        metrics = [Metric(name=name, kind=Kind.GAUGE, value=value) for name, value in new.items()]
        if metrics or events:
            self._sink.send([*metrics, *events])
        self._before, self._told = snapshot, gauges
        return Pass(due=self._again)

    # -- gauges -------------------------------------------------------------------------------

    def _gauges(self, config: Config, snapshot: Snapshot) -> dict[str, int]:
        names = config.diskimages.keys() | snapshot.images.keys()
        images = [self._image(config, snapshot, name) for name in sorted(names)]
        gauges = {
            "nodepool.image_build_requests": sum(image.requested for image in images),
            f"{self._host}.build_workers": config.build_workers,
            f"{self._host}.upload_workers": config.upload_workers,
            f"{self._host}.current_builds": sum(image.building for image in images),
            f"{self._host}.current_uploads": sum(image.uploads for image in images),
        }
        for image in images:
            gauges.update(image.gauges)
        return gauges

    def _image(self, config: Config, snapshot: Snapshot, name: str) -> _Image:
        """What is told of an image; found out anew only when something changed."""
        known = self._images.get(name)
        if known is None or not known.holds(config, snapshot):
            known = self._images[name] = self._look_at(config, snapshot, name)
        return known

    def _look_at(self, config: Config, snapshot: Snapshot, name: str) -> _Image:
        records = snapshot.image(name)
        sending = [upload for upload in moving(records) if self._sends(upload)]
        building = any(runs(build, records) for build in records.builds if self._made(build))
        gauges: dict[str, int] = {}
        if name in config.diskimages:
            paused = config.diskimages[name].pause or records.paused or snapshot.frozen is not None
            state = BUILDING if building else PAUSED if paused else IDLE
            gauges[f"nodepool.image.{name}.image_build_requests"] = int(records.request is not None)
            gauges[f"{self._host}.image.{name}.build.state"] = state
        for provider in config.providers_of(name):
            state = UPLOADING if any(upload.provider == provider.name for upload in sending) else IDLE
            if state is IDLE and _gets_nothing(provider, name, snapshot):
                state = PAUSED
            gauges[f"{self._host}.image.{name}.provider.{provider.name}.upload.state"] = state
        return _Image(
            gauges=gauges,
            uploads=len(sending),
            building=building,
            requested=records.request is not None,
            config=config,
            name=name,
            records=snapshot.images.get(name),
            stands=(snapshot.frozen, snapshot.paused_providers),
        )

    def _made(self, build: Build) -> bool:
        return build.builder_id == self.world.identity.builder_id

    def _sends(self, upload: Upload) -> bool:
        return upload.uploader_id == self.world.identity.builder_id

    # -- what ended ---------------------------------------------------------------------------

    def _events(self, config: Config, before: Snapshot, after: Snapshot) -> Iterator[Metric]:
        for name, records in after.images.items():
            known = before.image(name)
            if known is records:
                continue
            for build in records.builds:
                if build.builder_id == self.world.identity.builder_id and self._ended(
                    known.build(build.id), build
                ):
                    yield from _build_metrics(config, build)
            earlier = {upload.name: upload for upload in known.uploads}
            for upload in records.uploads:
                if self._sends(upload) and self._arrived(earlier.get(upload.name), upload):
                    yield from _upload_metrics(upload)

    def _ended(self, before: Build | None, now: Build) -> bool:
        """Whether a build has ended since the look before; one that was not there then, since the start."""
        if now.ended is None or now.state not in (BuildState.READY, BuildState.FAILED):
            return False
        return now.ended >= self._since if before is None else before.state is not now.state

    def _arrived(self, before: Upload | None, now: Upload) -> bool:
        """The same for an upload that became ready."""
        if now.ended is None or now.state is not UploadState.READY:
            return False
        return now.ended >= self._since if before is None else before.state is not now.state


def _gets_nothing(provider: Provider, image: str, snapshot: Snapshot) -> bool:
    by_hand = snapshot.frozen is not None or provider.name in snapshot.paused_providers
    return by_hand or provider.images[image].pause


def _build_metrics(config: Config, build: Build) -> Iterator[Metric]:
    base = f"nodepool.dib_image_build.{build.image}"
    code = 0 if build.state is BuildState.READY else (build.reason and build.reason.exit_code) or _FAILED
    yield Metric(name=f"{base}.status.rc", kind=Kind.GAUGE, value=code)
    if build.ended is not None and build.duration is not None:
        yield Metric(name=f"{base}.status.duration", kind=Kind.TIMING, value=round(build.duration * 1000))
        yield Metric(name=f"{base}.status.last_build", kind=Kind.GAUGE, value=int(build.ended.timestamp()))
    for artifact in build.artifacts:
        file = artifacts.path(config.images_dir, build.image, build.id, artifact.format)
        try:
            allocated = file.stat().st_blocks * _BLOCK
        except OSError:
            continue  # gone already, after its uploads
        yield Metric(name=f"{base}.{artifact.format}.size", kind=Kind.GAUGE, value=allocated)


def _upload_metrics(upload: Upload) -> Iterator[Metric]:
    name = f"nodepool.image_update.{upload.image}.{upload.provider}"
    if upload.duration is not None:
        yield Metric(name=name, kind=Kind.TIMING, value=round(upload.duration * 1000))
    yield Metric(name=name, kind=Kind.COUNT, value=1)

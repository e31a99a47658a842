"""The meter tells statsd what this daemon does, under the names that nodepool's documentation gives.

What is told follows from the records: each change of the tree is compared with what was before. Builds
and uploads are told by the daemon that did them, requests by every one. The names and their meaning are
in https://zuul-ci.org/docs/nodepool/latest/operation.html#builder-monitoring-metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from builder.config.model import Config, Provider
from builder.dib.output import artifacts
from builder.metrics.base import Kind, Metric, Sink
from builder.model import Build, BuildState, ImageRecords, Pause, Snapshot, Upload, UploadState
from builder.planning.records import moving, runs
from builder.workers.base import Pass, Worker, World

#: How often every gauge is told again: a server that was started anew knows none.
AGAIN: Final = timedelta(minutes=5)
Record = TypeVar("Record", Build, Upload)

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
        self._totals: Mapping[str, int] = {}
        self._again = self._since

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Tell what is new."""
        new = self._look(config, snapshot)
        if now >= self._again:
            new, self._again = self._all(), now + AGAIN
        events = [] if self._before is None else list(self._events(config, self._before, snapshot))
        metrics = [Metric(name=name, kind=Kind.GAUGE, value=value) for name, value in new.items()]
        if metrics or events:
            self._sink.send([*metrics, *events])
        self._before = snapshot
        return Pass(due=self._again)

    # -- gauges -------------------------------------------------------------------------------

    def _look(self, config: Config, snapshot: Snapshot) -> dict[str, int]:
        """The gauges that have changed; an image costs something only when it has."""
        names = config.diskimages.keys() | snapshot.images.keys()
        new: dict[str, int] = {}
        for gone in self._images.keys() - names:
            del self._images[gone]
        for name in sorted(names):
            known = self._images.get(name)
            if known is None or not known.holds(config, snapshot):
                found = self._images[name] = self._look_at(config, snapshot, name)
                new.update(_changed(found.gauges, {} if known is None else known.gauges))
        totals = self._sums(config)
        new.update(_changed(totals, self._totals))
        self._totals = totals
        return new

    def _sums(self, config: Config) -> Mapping[str, int]:
        images = self._images.values()
        return {
            "nodepool.image_build_requests": sum(image.requested for image in images),
            f"{self._host}.build_workers": config.build_workers,
            f"{self._host}.upload_workers": config.upload_workers,
            f"{self._host}.current_builds": sum(image.building for image in images),
            f"{self._host}.current_uploads": sum(image.uploads for image in images),
        }

    def _all(self) -> dict[str, int]:
        gauges = dict(self._totals)
        for image in self._images.values():
            gauges.update(image.gauges)
        return gauges

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
                over = build.state in (BuildState.READY, BuildState.FAILED)
                if over and self._made(build) and self._is_news(known.build(build.id), build):
                    yield from _build_metrics(config, build)
            earlier = {upload.name: upload for upload in known.uploads}
            for upload in records.uploads:
                there = upload.state is UploadState.READY
                if there and self._sends(upload) and self._is_news(earlier.get(upload.name), upload):
                    yield from _upload_metrics(upload)

    def _is_news(self, before: Record | None, now: Record) -> bool:
        """Whether it has ended since the look before; what was not there then, since the start."""
        if now.ended is None:
            return False
        return now.ended >= self._since if before is None else before.state is not now.state


def _changed(gauges: Mapping[str, int], told: Mapping[str, int]) -> dict[str, int]:
    return dict(gauges.items() - told.items())


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

"""One upload with everything around it, for the tests of builder/cloud."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.cloud import transfer
from builder.cloud.base import Cloud, NewImage
from builder.cloudimage import CloudImage
from builder.config.model import DiskImage, Provider, ProviderImage, Sharing
from builder.model import (
    Artifact,
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Upload,
    UploadPhase,
    UploadState,
)
from builder.ways import Choice, Way
from tests.fakes.bodies import artifact_of, write_artifact

NOW = datetime(2026, 11, 20, 14, 14, tzinfo=UTC)
INSTALLATION = "1" * 32
BUILD = "b" * 32
URL = "https://files.example/noble.qcow2"


def content(size: int) -> bytes:
    """Bytes that look like an image, the same each time."""
    return random.Random(size).randbytes(size)


#: The content of the files of an upload in three parts. A kernel has a boot sector's mark, as real ones do.
PARTS = {
    ImageFormat.AMI: content(200_000),
    ImageFormat.AKI: bytes(510) + b"\x55\xaa" + content(29_489),
    ImageFormat.ARI: content(50_001),
}


def provider(name: str = "north", region: str = "RegionOne", **changes: Any) -> Provider:
    """A provider that gets the image "noble"."""
    sharing = changes.pop("sharing", Sharing())
    meta = changes.pop("meta", {"hw_disk_bus": "scsi"})
    listed = {"noble": ProviderImage(diskimage="noble", metadata=meta, sharing=sharing)}
    return Provider(name=name, cloud="fake", region=region, images=listed, **changes)


def record(**changes: Any) -> Upload:
    """The record of the first upload of a build of "noble" to the provider "north"."""
    upload = Upload(
        id="0000000001",
        build_id=BUILD,
        image="noble",
        provider="north",
        state=UploadState.UPLOADING,
        state_time=NOW,
        started=NOW,
    )
    return replace(upload, **changes)


def build(**changes: Any) -> Build:
    """A ready build of "noble"."""
    ready = Build(
        id=BUILD,
        image="noble",
        state=BuildState.READY,
        state_time=NOW,
        started=NOW - timedelta(minutes=5),
        ended=NOW - timedelta(minutes=1),
        raw_sha256="ab" * 32,
        raw_size=3 * 1024**3 + 1,
    )
    return replace(ready, **changes)


@dataclass
class Attempt:
    """An upload to be tried: `run` does it, and the rest tells what it reported."""

    cloud: Cloud
    path: Path
    content: bytes
    timeout: float = 60.0
    stall_timeout: float = 30.0
    provider: Provider = field(default_factory=provider)
    build_id: str = BUILD
    metadata: dict[str, str] = field(default_factory=lambda: {"os_distro": "ubuntu", "hw_disk_bus": "virtio"})
    ways: tuple[Way, ...] = (Way.PUT,)
    url: str | None = URL
    owned: frozenset[str] = frozenset()
    limiter: transfer.Limiter = field(default_factory=lambda: transfer.Limiter(None))

    cancelled: threading.Event = field(default_factory=threading.Event)
    created: list[CloudImage] = field(default_factory=list)
    parts: dict[ImageFormat, CloudImage] = field(default_factory=dict)  #: those that are there
    phases: list[UploadPhase] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    tried: list[tuple[Way, tuple[str, ...]]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.artifact: Artifact = write_artifact(self.path, self.content)

    @property
    def record(self) -> Upload:
        """Its record, as it is when the transfer begins."""
        return record(
            provider=self.provider.name, build_id=self.build_id, external_name=f"noble-{int(NOW.timestamp())}"
        )

    @property
    def image(self) -> NewImage:
        """What it creates."""
        return transfer.new_image(
            DiskImage(name="noble", metadata=self.metadata),
            self.provider,
            self.record,
            self.artifact,
            build=build(id=self.build_id),
            installation_id=INSTALLATION,
            now=NOW,
        )

    @property
    def order(self) -> transfer.Order:
        """What is to be done."""
        return transfer.Order(
            image=self.image,
            path=self.path,
            artifact=self.artifact,
            upload=self.record,
            installation_id=INSTALLATION,
            choices=tuple(Choice(way=way, usable=True, reason="the test says so") for way in self.ways),
            url=self.url,
            members=self.provider.images["noble"].sharing.members,
            owned=self.owned,
            timeout=self.timeout,
            stall_timeout=self.stall_timeout,
            limiter=self.limiter.of(self.provider),
        )

    def stop(self) -> Failure | None:
        """Why it shall stop."""
        if not self.cancelled.is_set():
            return None
        return Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ada")

    def run(
        self,
        *,
        order: transfer.Order | None = None,
        on_phase: Callable[[UploadPhase], object] | None = None,
        on_created: Callable[[CloudImage], object] | None = None,
        on_progress: Callable[[int], object] | None = None,
        on_way: Callable[[Way], object] | None = None,
        on_task: Callable[[str], object] | None = None,
        **more: Any,
    ) -> CloudImage:
        """Do it; the callbacks are called when it tells of something. `more`: `clock` and `sleep`."""
        listener = _Listener(self, on_phase, on_created, on_progress, on_way, on_task)
        return transfer.upload(self.cloud, order or self.order, listener, self.stop, **more)


@dataclass
class ThreeParts(Attempt):
    """An upload of a root, a kernel and a ramdisk."""

    def __post_init__(self) -> None:
        for each, data in PARTS.items():
            self.path.with_suffix(f".{each}").write_bytes(data)
        self.artifact = artifact_of(self.content, ImageFormat.AMI)

    @property
    def record(self) -> Upload:
        return replace(super().record, format="ami")

    @property
    def order(self) -> transfer.Order:
        return replace(super().order, parts=tuple(map(self.part, ImageFormat.AMI.parts)))

    def part(self, each: ImageFormat) -> transfer.Part:
        artifact = artifact_of(PARTS[each], each)
        image = transfer.new_part(
            self.image, artifact, self.record, build=build(), installation_id=INSTALLATION
        )
        url = f"https://files.example/noble.{each}"
        return transfer.Part(image=image, path=self.path.with_suffix(f".{each}"), artifact=artifact, url=url)


@dataclass
class _Listener:
    """Notes what it is told, and tells it on."""

    attempt: Attempt
    on_phase: Callable[[UploadPhase], object] | None
    on_created: Callable[[CloudImage], object] | None
    on_progress: Callable[[int], object] | None
    on_way: Callable[[Way], object] | None
    on_task: Callable[[str], object] | None

    def phase(self, phase: UploadPhase) -> None:
        self.attempt.phases.append(phase)
        if self.on_phase:
            self.on_phase(phase)

    def created(self, image: CloudImage) -> None:
        self.attempt.created.append(image)
        if self.on_created:
            self.on_created(image)

    def part(self, image_format: ImageFormat, image: CloudImage) -> None:
        self.attempt.parts[image_format] = image

    def sent(self, count: int) -> None:
        self.attempt.progress.append(count)
        if self.on_progress:
            self.on_progress(count)

    def way(self, way: Way, fallbacks: tuple[str, ...]) -> None:
        self.attempt.tried.append((way, fallbacks))
        if self.on_way:
            self.on_way(way)

    def task(self, task_id: str) -> None:
        self.attempt.tasks.append(task_id)
        if self.on_task:
            self.on_task(task_id)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.then: list[Callable[[float], object]] = []  #: called after every sleep, with the time

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for each in self.then:
            each(self.now)

    def after(self, moment: float, do: Callable[[], object]) -> None:
        """Do something after every sleep that ends later than that."""
        self.then.append(lambda now: do() if now > moment else None)

    @property
    def knobs(self) -> dict[str, Any]:
        """What `Attempt.run` takes."""
        return {"clock": self.clock, "sleep": self.sleep}


def failed(upload: Attempt, **more: Any) -> Failure:
    """Why the upload fails."""
    with pytest.raises(transfer.TransferError) as caught:
        upload.run(**more)
    return caught.value.cause


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once it is true; AssertionError when it is not in time."""
    pause, until = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        pause.wait(0.01)

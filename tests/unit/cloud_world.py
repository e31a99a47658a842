"""One upload with everything around it, for the tests of builder/cloud."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from builder.cloud import transfer
from builder.cloud.base import Cloud, CloudImage, NewImage
from builder.config.model import DiskImage, Provider, ProviderImage
from builder.model import Artifact, Upload, UploadPhase, UploadState
from tests.fakes.bodies import write_artifact

NOW = datetime(2026, 11, 20, 14, 14, tzinfo=UTC)
INSTALLATION = "1" * 32
BUILD = "b" * 32


def provider(name: str = "north", region: str = "RegionOne", **changes: object) -> Provider:
    """A provider that gets the image "noble"."""
    listed = {"noble": ProviderImage(diskimage="noble", metadata={"hw_disk_bus": "scsi"})}
    return Provider(name=name, cloud="fake", region=region, images=listed, **changes)  # type: ignore[arg-type]


def record(**changes: object) -> Upload:
    """The record of the first upload of a build of "noble" to the provider "north"."""
    values: dict[str, object] = {
        "id": "0000000001",
        "build_id": BUILD,
        "image": "noble",
        "provider": "north",
        "state": UploadState.UPLOADING,
        "state_time": NOW,
        **changes,
    }
    return Upload(**values)  # type: ignore[arg-type]


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
    cancelled: threading.Event = field(default_factory=threading.Event)
    created: list[CloudImage] = field(default_factory=list)
    phases: list[UploadPhase] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.artifact: Artifact = write_artifact(self.path, self.content)
        self.image: NewImage = transfer.new_image(
            DiskImage(name="noble", metadata={"os_distro": "ubuntu", "hw_disk_bus": "virtio"}),
            self.provider,
            record(provider=self.provider.name, build_id=self.build_id),
            self.artifact,
            installation_id=INSTALLATION,
            now=NOW,
        )

    def run(self, **changes: object) -> CloudImage:
        """Do it."""
        callbacks: dict[str, Callable[..., object]] = {
            "on_created": self.created.append,
            "on_phase": self.phases.append,
            "on_progress": self.progress.append,
        }
        return transfer.upload(
            self.cloud,
            self.image,
            self.path,
            self.artifact,
            **{  # type: ignore[arg-type]
                **callbacks,
                "timeout": self.timeout,
                "stall_timeout": self.stall_timeout,
                "cancelled": self.cancelled,
                **changes,
            },
        )


def content(size: int) -> bytes:
    """Bytes that look like an image, the same each time."""
    return random.Random(size).randbytes(size)

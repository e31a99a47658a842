"""A World for one worker on fakes: store and clouds in memory, a clock that stands still, real files."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from builder.config.model import Config, DiskImage, Provider, ProviderImage
from builder.model import Build, BuildState, ImageFormat, Upload, UploadState
from builder.workers.base import Active, Identity, World
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HERE = Identity(hostname="here.test", builder_id="here", installation_id="")


def build(number: int, state: BuildState = BuildState.READY, **more: object) -> Build:
    """A build of `img`, the later the higher its number."""
    time = NOW - timedelta(hours=100 - number)
    facts: dict[str, object] = {
        "id": f"{number:032x}",
        "image": "img",
        "state": state,
        "state_time": time,
        "started": time,
        "builder": HERE.hostname,
        "builder_id": HERE.builder_id,
    }
    return Build(**{**facts, **more})  # type: ignore[arg-type]


def upload(
    of: Build, state: UploadState = UploadState.READY, provider: str = "one", **more: object
) -> Upload:
    """An upload of a build, as new as the build."""
    facts: dict[str, object] = {
        "id": "0000000001",
        "build_id": of.id,
        "image": of.image,
        "provider": provider,
        "state": state,
        "state_time": of.state_time,
        "format": "qcow2",
    }
    return Upload(**{**facts, **more})  # type: ignore[arg-type]


@dataclass
class Stage:
    """What a test of a worker holds in its hands."""

    root: Path
    store: FakeStore = field(default_factory=FakeStore)
    clouds: dict[str, FakeCloud] = field(default_factory=lambda: {"one": FakeCloud(), "two": FakeCloud()})
    now: datetime = NOW

    def __post_init__(self) -> None:
        image = DiskImage(name="img", elements=("fake",), formats=(ImageFormat.QCOW2,), schedule=None)
        self.config = Config(
            path=self.root / "imagepool.yaml",
            state_dir=self.root,
            images_dir=self.root / "images",
            work_dir=self.root / "work",
            cache_dir=self.root / "cache",
            log_dir=self.root / "logs",
            diskimages={"img": image},
            providers={
                name: Provider(
                    name=name, cloud="fake", region=name, images={"img": ProviderImage(diskimage="img")}
                )
                for name in self.clouds
            },
        )
        self.config.images_dir.mkdir(parents=True, exist_ok=True)
        self.world = World(
            store=self.store,
            identity=Identity(
                hostname=HERE.hostname,
                builder_id=HERE.builder_id,
                installation_id=self.store.installation_id(),
            ),
            config=lambda: self.config,
            cloud=lambda provider: self.clouds[provider.name],
            clock=lambda: self.now,
            active=Active(),
            stopping=threading.Event(),
        )

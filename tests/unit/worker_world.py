"""A World for one worker on fakes: store and clouds in memory, a clock that stands still, real files."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from builder.cloud.transfer import Limiter
from builder.config.model import Config, DiskImage, Provider, ProviderImage
from builder.dib.job import Job
from builder.dib.limits import Limits, Stop
from builder.dib.output import artifacts, withheld
from builder.dib.output.hashing import Disk
from builder.dib.product import Finished, Judgement, Product
from builder.errors import ActionFailedError
from builder.model import (
    Artifact,
    BootResult,
    Build,
    BuildPhase,
    BuildState,
    Daemon,
    ImageFormat,
    Upload,
    UploadState,
)
from builder.ways import Capabilities
from builder.workers.base import Active, Identity, World
from builder.workers.presence import Presence
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore

#: Seconds a condition may take on a busy machine; nothing waits so long when all is well.
DEADLINE = 30.0
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HERE = Identity(hostname="here.test", builder_id="here", installation_id="")


def daemon_of(hostname: str, builder_id: str, **more: object) -> Daemon:
    """What a daemon with all roles shows of itself."""
    facts: dict[str, object] = {
        "hostname": hostname,
        "builder_id": builder_id,
        "roles": ("scheduler", "builder", "uploader", "janitor"),
        "version": "1",
        "started": NOW,
    }
    return Daemon(**{**facts, **more})  # type: ignore[arg-type]


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


def make_image(
    job: Job,
    *,
    on_phase: Callable[[BuildPhase], None],
    on_bytes: Callable[[int, int], None],
    on_disk: Callable[[Disk], None],
    on_artifact: Callable[[Artifact], None],
    on_test: Callable[[BootResult], None],
    judge: Callable[[Finished], Judgement],
    stop: Stop,
) -> Product:
    """What the engine does, in no time: publishes a build, raw or in three parts, with its proof."""
    on_phase(BuildPhase.PACKAGES)
    now = datetime.now(UTC)
    proof = artifacts.Proof(
        installation_id=job.installation_id,
        image=job.image.name,
        build_id=job.build_id,
        created=now,
        environment={},
        tools={"dib": "1"},
    )
    publication = artifacts.Publication(job.images_dir, proof)
    publication.begin()
    content = job.build_id.encode() * 128
    job.work_dir.mkdir(exist_ok=True)
    wanted = ImageFormat.AMI if ImageFormat.AMI in job.image.formats else ImageFormat.RAW
    on_phase(BuildPhase.CONVERT)
    made = []
    for each, data in contents(content, wanted).items():
        file = job.work_dir / f"image.{each}"
        file.write_bytes(data)
        publication.add(file, each, Limits())
        made.append(raw_artifact(data, each))
        if not job.image.is_judged:
            on_artifact(made[-1])
    judged(job, publication, judge(Finished(artifacts=tuple(made), measures={"packages": 300.0})))
    for artifact in made if job.image.is_judged else ():
        on_artifact(artifact)
    publication.finish(job.work_dir / "none", None, tuple(made), now)
    return Product(
        artifacts=tuple(made), tools={"dib": "1"}, timings={}, inputs={}, work_bytes=4096, disk=None
    )


def judged(job: Job, publication: artifacts.Publication, judgement: Judgement) -> None:
    """What the engine does with a judgement; raises what ends the build."""
    if judgement.withheld:
        withheld.write(job.images_dir, job.image.name, job.build_id, judgement.withheld)
    if judgement.failure is not None:
        publication.fail(job.work_dir / "none", datetime.now(UTC))
        raise ActionFailedError(judgement.failure.summary, judgement.failure)


def contents(content: bytes, image_format: ImageFormat) -> dict[ImageFormat, bytes]:
    """What is in the files of a build in that format, of which the first has `content`."""
    return {
        image_format: content,
        **{part: f"{part} of ".encode() + content[:1024] for part in image_format.parts},
    }


def raw_artifact(content: bytes, image_format: ImageFormat = ImageFormat.RAW) -> Artifact:
    """A file of that content, as a record has it; raw, or in another format that is nothing else."""
    return Artifact(
        format=image_format,
        size=len(content),
        virtual_size=len(content),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        sha512=hashlib.sha512(content).hexdigest(),
    )


@dataclass
class Stage:
    """What a test of a worker holds in its hands."""

    root: Path
    store: FakeStore = field(default_factory=FakeStore)
    clouds: dict[str, FakeCloud] = field(default_factory=lambda: {"one": FakeCloud(), "two": FakeCloud()})
    now: datetime = NOW
    told: dict[str, Capabilities] = field(default_factory=dict)  #: what clouds said they can do

    def __post_init__(self) -> None:
        image = DiskImage(name="img", elements=("fake",), formats=(ImageFormat.QCOW2,), schedule=())
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
            capabilities=self._capabilities,
            known_capabilities=lambda _: dict(self.told),
            limiter=Limiter(None),
            clock=lambda: self.now,
            active=Active(),
            presence=Presence(self.store, daemon_of(HERE.hostname, HERE.builder_id)),
            stopping=threading.Event(),
        )
        self.world.presence.show()

    def _capabilities(self, provider: Provider) -> Capabilities:
        self.told[provider.name] = self.clouds[provider.name].capabilities()
        return self.told[provider.name]

    def provider(self, name: str = "one", **changes: object) -> Provider:
        """Change the settings of a provider."""
        changed = replace(self.config.providers[name], **changes)  # type: ignore[arg-type]
        self.config = replace(self.config, providers={**self.config.providers, name: changed})
        return changed

    def image(self, name: str = "img", **changes: object) -> DiskImage:
        """Change the settings of a diskimage, or add one that every provider gets."""
        known = self.config.diskimages.get(name) or replace(self.config.diskimages["img"], name=name)
        changed = replace(known, **changes)  # type: ignore[arg-type]
        self.config = replace(self.config, diskimages={**self.config.diskimages, name: changed})
        for provider in self.config.providers.values():
            listed = {name: ProviderImage(diskimage=name), **provider.images}
            self.provider(provider.name, images=listed)
        return changed

    def published(
        self,
        number: int,
        state: BuildState = BuildState.READY,
        image_format: ImageFormat = ImageFormat.RAW,
        **more: object,
    ) -> Build:
        """A build with a file that every provider takes, and its parts, in the store and on disk."""
        for provider in self.config.providers:
            self.provider(provider, image_format=image_format)
        files = contents(bytes([number]) * 4096, image_format)
        made = tuple(raw_artifact(content, each) for each, content in files.items())
        formats = tuple(sorted(map(str, files)))
        record = build(number, state, **{"artifacts": made, "formats": formats, **more})
        for each, content in files.items():
            artifacts.path(self.config.images_dir, record.image, record.id, each).write_bytes(content)
        self.store.put(record)
        return record

    def next_life(self) -> Stage:
        """The daemon dies and starts anew, on the same disk and the same tree."""
        self.store.lose_session()
        later = Stage(self.root, store=self.store.another_daemon(), clouds=self.clouds, now=self.now)
        later.config = self.config
        self.store.close()
        return later

    def files(self) -> set[str]:
        """What is in the images directory, by name."""
        return {each.name for each in self.config.images_dir.iterdir()}

    def until(self, ask: Callable[[], object]) -> None:
        """Wait for what other threads bring about."""
        deadline = time.monotonic() + DEADLINE
        while not ask():
            assert time.monotonic() < deadline, f"it did not happen within {DEADLINE:.0f} s"
            time.sleep(0.01)

    def uploads(self, provider: str = "one", image: str = "img") -> tuple[Upload, ...]:
        """The uploads of an image to a provider, newest first."""
        return self.store.snapshot().image(image).uploads_to(provider)

    def phase(self, provider: str = "one") -> str | None:
        """The phase of the newest upload to a provider; None before there is one."""
        uploads = self.uploads(provider)
        return uploads[0].phase if uploads else None

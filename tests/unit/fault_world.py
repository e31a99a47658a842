"""A new build on its way to a provider that has a good image already, and all that may become of it.

The workers and the door are the real ones; the tree is in memory, and the cloud is whatever
clouds.yaml names: a scripted one, or a real one behind a proxy that breaks things.

    bench = Bench(tmp_path, clouds_yaml)
    bench.settle()                      yesterday's build is brought there, and ready
    ... something is made to go wrong ...
    outcome = bench.upload()            what became of today's
    assert outcome.is_safe()

With the environment variable FAULT_MATRIX set to a file, every outcome that a test tells of by
`Outcome.tell` is appended to it as a line of a Markdown table.
"""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from builder.cloud import ownership, transfer
from builder.cloud.base import Cloud
from builder.cloud.openstack import OpenStackCloud
from builder.cloud.pool import CloudPool
from builder.cloud.transfer import Limiter
from builder.cloudimage import BUILD_ID, INSTALLATION, CloudImage, GlanceStatus
from builder.config.model import Config, DiskImage, Provider, ProviderImage, Sharing
from builder.dib.output import artifacts
from builder.model import (
    Artifact,
    Build,
    BuildState,
    Deletion,
    FailureClass,
    ImageFormat,
    Upload,
    UploadCancellation,
    UploadPhase,
    UploadState,
)
from builder.ways import Way
from builder.workers.base import Active, Identity, Offers, World
from builder.workers.janitor import Janitor
from builder.workers.presence import Presence
from builder.workers.uploader import Uploader
from tests.fakes.bodies import BytesBody, artifact_of
from tests.fakes.store import FakeStore
from tests.unit.worker_world import daemon_of

IMAGE = "noble"
YESTERDAY, TODAY = "a" * 32, "b" * 32
#: What the diskimage and the provider say of the image, as an operator would.
METADATA = {"os_distro": "ubuntu", "os_version": "24.04", "architecture": "x86_64", "os_type": "linux"}
META = {"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi", "replicas": "007", "fast": "True"}


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that look like a disk, the same each time."""
    return random.Random(size + seed).randbytes(size)


#: Whole sectors, as disks have them.
YESTERDAYS = content(100 * 512, 1)
TODAYS = content(600 * 512)


#: What is another one each time, in reasons: ids, hashes, ports and times.
_CHANCE = re.compile(
    r"(?<=[0-9a-f]{6})[0-9a-f]{26,}"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?<=:)\d{5}\b"
    r"|\b\d{10}\b"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an upload, in its record and in the cloud."""

    record: Upload
    left: int  #: images of this installation without a ready record, right after the upload ended
    left_later: int  #: the same, after the janitor has passed
    good_is_there: bool  #: yesterday's image is active, and its record ready
    false_ready: str  #: how a record that says `ready` is wrong; "" when none is

    @property
    def failure_class(self) -> FailureClass | None:
        """Of a failed upload."""
        return self.record.reason.failure_class if self.record.reason else None

    @property
    def phase(self) -> str | None:
        """Where it failed."""
        return self.record.reason.phase if self.record.reason else None

    @property
    def reason(self) -> str:
        """What the record says went wrong, and which ways were tried before."""
        said = self.record.reason.message if self.record.reason else ""
        return "; ".join([*self.record.fallbacks, said] if said else self.record.fallbacks)

    def is_safe(self) -> bool:
        """Nothing false, nothing leaked, nothing good lost."""
        return not self.false_ready and self.left_later == 0 and self.good_is_there

    def tell(self, fault: str, where: str) -> None:
        """Append it to the table of the file that FAULT_MATRIX names."""
        path = os.environ.get("FAULT_MATRIX")
        if not path:
            return
        end = str(self.record.state) + (f": {self.failure_class}" if self.failure_class else "")
        left = str(self.left) if self.left == self.left_later else f"{self.left}, later {self.left_later}"
        good = "there, active" if self.good_is_there else "LOST"
        reason = _CHANCE.sub("…", self.reason).replace("|", "\\|")
        cells = (fault, where, end, self.phase or "", reason or f"by {self.record.way}", left, good)
        with Path(path).open("a") as file:
            file.write(f"| {' | '.join(cells)} |\n")


@dataclass
class Bench:
    """One diskimage, one provider, two builds of it; see the module."""

    root: Path
    cloud: str = "fake"
    region: str = "RegionOne"
    method: str = "auto"
    image_format: ImageFormat = ImageFormat.RAW
    yesterday: bytes = field(default=YESTERDAYS, repr=False)
    today: bytes = field(default=TODAYS, repr=False)
    virtual_size: int | None = None  #: bytes; None: what the file has
    timeout: float = 20.0
    stall_timeout: float = 10.0
    answer_timeout: float = 5.0
    name_format: str = "{image_name}-{timestamp}"
    download_url: str | None = None
    offers: Offers | None = None
    door: Cloud | None = None  #: to the provider; None: one of its own
    straight: Cloud | None = None  #: past whatever breaks things; None: the same
    tags: tuple[str, ...] = ()
    write_before_upload: bytes | None = None  #: what is in the file in truth
    store: FakeStore = field(default_factory=FakeStore)

    def __post_init__(self) -> None:
        listed = ProviderImage(diskimage=IMAGE, metadata=META, sharing=Sharing(tags=self.tags))
        self.provider = Provider(
            name="north",
            cloud=self.cloud,
            region=self.region,
            image_format=self.image_format,
            image_name_format=self.name_format,
            upload_timeout=timedelta(seconds=self.timeout),
            upload_method=self.method,
            download_url=self.download_url,
            images={IMAGE: listed},
        )
        diskimage = DiskImage(
            name=IMAGE, elements=("fake",), formats=(self.image_format,), schedule=(), metadata=METADATA
        )
        self.config = Config(
            path=self.root / "imagepool.yaml",
            state_dir=self.root,
            images_dir=self.root / "images",
            work_dir=self.root / "work",
            cache_dir=self.root / "cache",
            log_dir=self.root / "logs",
            diskimages={IMAGE: diskimage},
            providers={"north": self.provider},
            stall_timeout=timedelta(seconds=self.stall_timeout),
        )
        self.config.images_dir.mkdir(parents=True)
        self.pool = CloudPool(self._open_door)
        self.ahead = timedelta()
        self.world = World(
            store=self.store,
            identity=Identity(
                hostname="here.test", builder_id="here", installation_id=self.store.installation_id()
            ),
            config=lambda: self.config,
            cloud=self.pool.get,
            capabilities=self.pool.capabilities,
            known_capabilities=self.pool.known,
            limiter=Limiter(None),
            offers=self.offers,
            clock=lambda: datetime.now(UTC) + self.ahead,
            active=Active(),
            presence=Presence(self.store, daemon_of("here.test", "here")),
            stopping=threading.Event(),
        )
        self.uploader = Uploader(self.world, "uploader")
        self.janitor = Janitor(self.world, "janitor")

    def _open_door(self, provider: Provider) -> Cloud:
        return self.door or OpenStackCloud(provider, answer_timeout=self.answer_timeout)

    # -- what happens -------------------------------------------------------------------------

    def settle(self) -> Self:
        """Yesterday's build is made, and brought there."""
        upload = self._bring(YESTERDAY, self.yesterday, age=timedelta(days=1))
        if upload.state is not UploadState.READY:
            raise AssertionError(f"the good upload failed: {upload.reason}")
        return self

    def inherit(self, good: Upload) -> Self:
        """Yesterday's build was made and brought there by another bench of the same installation."""
        self.put_build(YESTERDAY, self.yesterday, age=timedelta(days=1))
        self.store.put(good)
        return self

    @property
    def good(self) -> Upload:
        """The record of yesterday's upload."""
        return self._newest(YESTERDAY)

    @property
    def latest(self) -> Upload:
        """The record of today's last upload."""
        return self._newest(TODAY)

    def upload(self, *, then: Callable[[], object] = lambda: None) -> Outcome:
        """Today's build is made and brought there; `then` is called, and the janitor cleans up."""
        record = self._bring(TODAY, self.today, age=timedelta(hours=1))
        then()
        return self.outcome(record)

    def later(self, **much: float) -> None:
        """Time passes."""
        self.ahead += timedelta(**much)

    def delete_yesterday(self) -> None:
        """Somebody wishes yesterday's image away."""
        upload, now = self.good, self.world.clock()
        by_hand = Deletion(by="ada", time=now, why="a test")
        self.store.update_upload(upload.become(UploadState.DELETING, now, deletion=by_hand))

    def try_again(self) -> Outcome:
        """The next try, after the pause that is due."""
        self.ahead += timedelta(hours=2)
        self._step_uploader()
        return self.outcome(self._newest(TODAY))

    def die_after_create(self) -> Upload:
        """An uploader of this machine was killed between the cloud's answer to `create` and the next word on
        its record."""
        record = self._dead_record()
        self.create_image(record)
        return record

    def die_with_a_task(self) -> Upload:
        """An uploader of this machine was killed while the cloud was at its import task."""
        record, door = self._dead_record(), self.pool.get(self.provider)
        name = ownership.task_name(record, self.world.identity.installation_id)
        door.put_object(name, BytesBody(self.today), timeout=self.timeout)
        task = door.start_import_task(name, name)
        return self.store.update_upload(
            replace(record, way=Way.TASKS, task=task.id, external_name="noble-of-a-task")
        )

    def _dead_record(self) -> Upload:
        build, now = self.put_build(TODAY, self.today, age=timedelta(hours=1)), self.world.clock()
        record = Upload(
            id="",
            build_id=build.id,
            image=IMAGE,
            provider="north",
            state=UploadState.UPLOADING,
            state_time=now,
            format=str(self.image_format),
            cloud=self.cloud,
            region=self.region,
            uploader="here.test",
            uploader_id="here",
            started=now,
        )
        return self.store.create_upload(record)

    def create_image(self, record: Upload) -> None:
        """The cloud makes the empty image of an upload of today's build."""
        (build,) = [b for b in self.store.snapshot().builds() if b.id == TODAY]
        image = transfer.new_image(
            self.config.diskimages[IMAGE],
            self.provider,
            record,
            self.artifact_of_today,
            build=build,
            installation_id=self.world.identity.installation_id,
            now=record.started or self.world.clock(),
        )
        self.pool.get(self.provider).create(image)

    def cancel_when_sending(self) -> None:
        """Somebody will cancel today's upload as soon as bytes move."""

        def watch() -> None:
            seen = -1
            while not self.world.stopping.is_set():
                uploads = self.store.snapshot().image(IMAGE).uploads_of(TODAY)
                if uploads and uploads[0].phase == UploadPhase.SEND:
                    wish = UploadCancellation(
                        upload=uploads[0].name, image=IMAGE, by="a test", time=self.world.clock()
                    )
                    self.store.cancel_upload(wish)
                    return
                seen = self.store.wait(seen, 1.0)

        threading.Thread(target=watch, daemon=True).start()

    def outcome(self, record: Upload) -> Outcome:
        """What there is now, and after the janitor."""
        left = len(self.leaked())
        self.clean()
        images = self.images()
        return Outcome(
            record=self._newest(record.build_id),
            left=left,
            left_later=len(self._without_owner(images)),
            good_is_there=self._good_is_there(images),
            false_ready=self._false_ready(images),
        )

    def clean(self) -> None:
        """The janitor passes until it finds nothing more to do now."""
        self.ahead += timedelta(minutes=10)
        self.janitor.step()
        while self.janitor.drain():
            self.janitor.step()

    # -- what there is ------------------------------------------------------------------------

    def images(self) -> list[CloudImage]:
        """The images of this installation in the cloud, hidden ones included."""
        door = self.straight or self.pool.get(self.provider)
        return list(door.find({INSTALLATION: self.world.identity.installation_id}))

    def leaked(self) -> list[CloudImage]:
        """Those of them that no ready record owns."""
        return self._without_owner(self.images())

    def _without_owner(self, images: list[CloudImage]) -> list[CloudImage]:
        owned = {u.external_id for u in self.store.snapshot().uploads() if u.state is UploadState.READY}
        return [image for image in images if image.id not in owned]

    def write_file(self, build_id: str, data: bytes) -> Path:
        """The file of a build, whatever is in it."""
        path = artifacts.path(self.config.images_dir, IMAGE, build_id, self.image_format)
        path.write_bytes(data)
        return path

    def put_build(self, build_id: str, data: bytes, age: timedelta) -> Build:
        """A ready build of that age, on record and on disk."""
        self.write_file(build_id, data)
        time = datetime.now(UTC) - age
        artifact = self._artifact(data)
        build = Build(
            id=build_id,
            image=IMAGE,
            state=BuildState.READY,
            state_time=time,
            started=time,
            builder="here.test",
            builder_id="here",
            formats=(str(self.image_format),),
            artifacts=(artifact,),
            raw_sha256=artifact.sha256,
            raw_size=artifact.virtual_size,
        )
        self.store.put(build)
        return build

    @property
    def artifact_of_today(self) -> Artifact:
        """What is on record of today's file."""
        return self._artifact(self.today)

    def _artifact(self, data: bytes) -> Artifact:
        size = len(data) if self.virtual_size is None else self.virtual_size
        return replace(artifact_of(data, self.image_format), virtual_size=size)

    def _bring(self, build_id: str, data: bytes, age: timedelta) -> Upload:
        self.put_build(build_id, data, age)
        if self.write_before_upload is not None:
            self.write_file(build_id, self.write_before_upload)
        self._step_uploader()
        return self._newest(build_id)

    def _step_uploader(self) -> None:
        self.uploader.step()
        self.uploader.drain()

    def _newest(self, build_id: str) -> Upload:
        return self.store.snapshot().image(IMAGE).uploads_of(build_id)[0]

    def _good_is_there(self, images: list[CloudImage]) -> bool:
        ready = [u for u in self._ready() if u.build_id == YESTERDAY]
        active = {image.id for image in images if image.status is GlanceStatus.ACTIVE}
        return any(upload.external_id in active for upload in ready)

    def _ready(self) -> list[Upload]:
        return [u for u in self.store.snapshot().uploads() if u.state is UploadState.READY]

    def _false_ready(self, there: list[CloudImage]) -> str:
        images = {image.id: image for image in there}
        wanted = {YESTERDAY: self._artifact(self.yesterday), TODAY: self._artifact(self.today)}
        for upload in self._ready():
            image, artifact = images.get(upload.external_id or ""), wanted[upload.build_id]
            if image is None or image.status is not GlanceStatus.ACTIVE:
                return f"{upload.name} has no active image"
            if (image.size, image.hash_value) != (artifact.size, artifact.sha512):
                return f"{upload.name} has other bytes: {image.size}, {image.hash_value}"
            if image.properties.get(BUILD_ID) != upload.build_id:
                return f"{upload.name} has the image of another build"
        return ""

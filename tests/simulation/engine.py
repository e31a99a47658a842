"""The build engine in simulated time, at the contract of `builder.dib.engine`: real files, no dib."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.dib.contents.unchanged import Comparison
from builder.dib.job import Job
from builder.dib.limits import Limits, Stop
from builder.dib.output import artifacts, withheld
from builder.dib.output.artifacts import Proof, Publication
from builder.dib.output.hashing import Disk
from builder.dib.product import Finished, Judgement, Product
from builder.errors import ActionFailedError
from builder.model import Artifact, BootResult, Build, BuildPhase, Failure, FailureClass, ImageFormat
from tests.simulation.kernel import Crash, Kernel

if TYPE_CHECKING:
    from tests.simulation.daemon import Life

_PHASES = (
    BuildPhase.PREFLIGHT,
    BuildPhase.BOOTSTRAP,
    BuildPhase.PACKAGES,
    BuildPhase.IMAGE,
    BuildPhase.FINALISE,
    BuildPhase.CONVERT,
)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A build under way, and the sessions its daemon had lost when it began."""

    image: str
    build_id: str
    life: Life
    sessions: int

    @property
    def rightful(self) -> bool:
        """Whether its claim is still its own."""
        return self.life.alive and self.life.store.sessions == self.sessions


class SimEngine:
    """`run` and `compare`, for all daemons."""

    Product = Product

    def __init__(self, kernel: Kernel) -> None:
        self.seconds = 600.0  #: of a build
        self.fails: Callable[[str], float] = lambda image: 0.0  #: how likely
        self.packages: Callable[[], float] = lambda: 300.0  #: how many an image has
        self.unchanged = 0.0  #: how likely a build would come out the same
        self.held: set[str] = set()  #: ids of the builds that were over budget
        self.running: list[Running] = []
        self.made = 0
        self.on_begin: Callable[[Running], None] = lambda running: None
        self._kernel = kernel

    def run(
        self,
        job: Job,
        *,
        on_phase: Callable[[BuildPhase], None],
        on_bytes: Callable[[int, int], None] = lambda done, total: None,
        on_disk: Callable[[Disk], None] = lambda disk: None,
        on_artifact: Callable[[Artifact], None] = lambda artifact: None,
        on_test: Callable[[BootResult], None] = lambda result: None,
        judge: Callable[[Finished], Judgement],
        stop: Stop,
    ) -> Product:
        """Build; as `builder.dib.engine.run`."""
        life: Life = self._kernel.owner  # type: ignore[assignment]
        running = Running(
            image=job.image.name, build_id=job.build_id, life=life, sessions=life.store.sessions
        )
        self.running.append(running)
        self.on_begin(running)
        try:
            self._phases(job, on_phase, stop)
            return self._publish(job, on_disk, on_artifact, judge)
        except Crash:
            raise  # what there is stays
        except BaseException:
            artifacts.delete(job.images_dir, job.image.name, job.build_id, job.installation_id)
            raise
        finally:
            self.running.remove(running)

    def _judge(self, job: Job, judgement: Judgement) -> None:
        if judgement.withheld:
            self.held.add(job.build_id)
            withheld.write(job.images_dir, job.image.name, job.build_id, judgement.withheld)
        if judgement.failure is not None:
            raise ActionFailedError(judgement.failure.message, judgement.failure)

    def compare(self, job: Job, last: Build, *, here: bool, stop: Stop) -> Comparison:
        """Compare; as `builder.dib.engine.compare`."""
        if self._kernel.random.random() < self.unchanged:
            return Comparison(same=True)
        return Comparison(same=False, changes=("packages: a 1 -> 2",))

    def _phases(self, job: Job, on_phase: Callable[[BuildPhase], None], stop: Stop) -> None:
        broken = None
        if self._kernel.random.random() < self.fails(job.image.name):
            broken = self._kernel.random.choice(_PHASES)
        for phase in _PHASES:
            on_phase(phase)
            self._kernel.sleep(self.seconds / len(_PHASES))
            if failure := stop():
                raise ActionFailedError(failure.message, failure)
            if phase is broken:
                failure = Failure(
                    failure_class=FailureClass.MIRROR, message="404 Not Found", phase=phase, step="dpkg"
                )
                raise ActionFailedError(failure.message, failure)

    def _publish(
        self,
        job: Job,
        on_disk: Callable[[Disk], None],
        on_artifact: Callable[[Artifact], None],
        judge: Callable[[Finished], Judgement],
    ) -> Product:
        self.made += 1
        life: Life = self._kernel.owner  # type: ignore[assignment]
        content = f"{job.image.name} {job.build_id}".encode().ljust(64, b".")
        disk = Disk(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        on_disk(disk)
        proof = Proof(
            installation_id=job.installation_id,
            image=job.image.name,
            build_id=job.build_id,
            created=life.clock(),
            started=life.clock(),
            environment={},
            tools={},
        )
        publication = Publication(job.images_dir, proof)
        publication.begin()
        life.moment("publish")
        made = []
        for image_format in job.image.formats:
            draft = job.work_dir / f"{job.build_id}.{image_format}"
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            publication.add(draft, image_format, Limits(stop=lambda: None))
            made.append(_artifact(image_format, content))
            if not job.image.is_judged:
                on_artifact(made[-1])
            life.moment("publish")
        self._judge(job, judge(Finished(artifacts=tuple(made), measures={"packages": self.packages()})))
        life.moment("publish")
        publication.finish(job.work_dir / "none", disk, tuple(made), life.clock())
        life.moment("publish")
        return Product(
            artifacts=tuple(made),
            tools={"dib": "1"},
            timings={},
            inputs={"packages": str(self.made)},
            work_bytes=4096,
            disk=disk,
        )


def _artifact(image_format: ImageFormat, content: bytes) -> Artifact:
    return Artifact(
        format=image_format,
        size=len(content),
        virtual_size=len(content),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        sha512=hashlib.sha512(content).hexdigest(),
    )

"""Makes of a raw image what a build is for: files in all formats, described and published, or none at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from builder.dib.boot.testing import BootTesting
from builder.dib.contents import manifest
from builder.dib.differences import contents, record
from builder.dib.failures import failure_of
from builder.dib.isolation import sandbox
from builder.dib.job import Job
from builder.dib.limits import Limits
from builder.dib.logs.log import LogFile
from builder.dib.logs.masking import mask_files
from builder.dib.output import artifacts, convert, withheld
from builder.dib.output.artifacts import Publication
from builder.dib.output.hashing import Disk
from builder.dib.product import Finished, Judgement, Product, Work
from builder.errors import ActionFailedError, ImagepoolError, RefusedError
from builder.model import Artifact, BootResult, BuildPhase, Failure, Measure

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """Who is told what; see `engine.run`."""

    on_phase: Callable[[BuildPhase], None]
    on_bytes: Callable[[int, int], None]
    on_disk: Callable[[Disk], None]
    on_artifact: Callable[[Artifact], None]
    on_test: Callable[[BootResult], None]
    judge: Callable[[Finished], Judgement]


class Finishing:
    """The second half of one build, from the raw image on."""

    def __init__(
        self, job: Job, work: Work, told: Told, limits: Limits, log: LogFile, *, started: datetime
    ) -> None:
        self._job = job
        self._work = work
        self._told = told
        self._limits = limits
        self._log = log
        self._started = started
        self._testing = BootTesting(job, work, log, limits, on_result=told.on_test)
        self._held: list[Artifact] = []  #: files that are told of when the image has proven itself
        self._judged: Failure | None = None  #: why a finished build fails, whose files stay

    def run(self) -> Product:
        """Convert, describe and publish. Raises as `engine.run`; nothing is published then."""
        publication = artifacts.Publication(self._job.images_dir, self._proof())
        try:
            with _publishing():
                publication.begin()
            with self._testing:
                return self._publish(publication)
        except BaseException:
            if self._judged is None:
                self._unpublish()
            raise

    def _publish(self, publication: Publication) -> Product:
        work = self._work
        raw_bytes = _allocated(work.raw)
        self._told.on_phase(BuildPhase.CONVERT)
        made = self._convert(publication)
        files = tuple(made.artifacts.values())
        self._told.on_phase(BuildPhase.MANIFEST)
        written = self._describe(files, made.disk)
        for problem in written.problems:
            self._log.write(f"imagepool: {problem}")
        self._log.write(f"imagepool: {self._changes(files)}")
        self._test()
        measures = {str(Measure.ALLOCATED_SIZE): float(raw_bytes), **_counted(written)}
        self._judge(publication, Finished(artifacts=files, measures=measures))
        self._told.on_phase(BuildPhase.PUBLISH)
        publication.finish(work.manifests, made.disk, files, datetime.now(UTC))
        # The tree and the raw image are there at the same time, and later the raw image and all files.
        others = sum(_allocated(self._published(each)) for each in files if not each.format.is_verbatim)
        return Product(
            artifacts=files,
            tools=work.versions,
            timings={**made.timings, **self._testing.timings},
            inputs=written.inputs.digests,
            work_bytes=raw_bytes + max(raw_bytes, others),
            disk=made.disk,
        )

    def _test(self) -> None:
        """Wait until the image has proven itself."""
        if not self._testing.wanted:
            return
        self._told.on_phase(BuildPhase.TEST)
        self._testing.finish()
        self._testing.keep(self._work.manifests)

    def _judge(self, publication: Publication, finished: Finished) -> None:
        """Ask what becomes of what was made, and let its files go if it may."""
        job, judgement = self._job, self._told.judge(finished)
        for word in judgement.withheld:
            self._log.write(f"imagepool: {word.why}")
        with _publishing():
            # First of all: whoever finds the files after a crash must not take them for a good build's.
            if judgement.withheld:
                withheld.write(job.images_dir, job.image.name, job.build_id, judgement.withheld)
            if judgement.failure is not None:
                publication.fail(self._work.manifests, datetime.now(UTC))
        if judgement.failure is not None:
            self._judged = judgement.failure
            raise ActionFailedError(judgement.failure.summary, judgement.failure)
        for artifact in self._held:
            self._told.on_artifact(artifact)

    def _on_artifact(self, artifact: Artifact) -> None:
        self._testing.published(artifact)
        if self._testing.holds_uploads or self._job.image.is_judged:
            self._held.append(artifact)
        else:
            self._told.on_artifact(artifact)

    def _published(self, artifact: Artifact) -> Path:
        job = self._job
        return artifacts.path(job.images_dir, job.image.name, job.build_id, artifact.format)

    def _convert(self, publication: Publication) -> convert.Made:
        work, job = self._work, self._job

        def keep(file: Path, artifact: Artifact, limits: Limits) -> None:
            with _publishing():
                publication.add(file, artifact.format, limits, stays=file == work.raw)

        return convert.make(
            work.raw,
            job.image.formats,
            options=job.image.format_options,
            limits=replace(self._limits, stop=self._testing.why_stop),
            listener=convert.Listener(
                on_phase=self._told.on_phase,
                on_bytes=self._told.on_bytes,
                on_disk=self._told.on_disk,
                on_artifact=self._on_artifact,
                keep=keep,
            ),
            prefix=sandbox.ionice(job.limits.io),
            nice=job.limits.nice,
        )

    def _describe(self, files: tuple[Artifact, ...], disk: Disk | None) -> manifest.Written:
        work = self._work
        manifest.sanitise(work.manifests)
        # Only what diskimage-builder wrote may have secrets in it: its environment, for one.
        mask_files(work.manifests, work.mask)
        return manifest.write(
            work.manifests,
            image=self._job.image.name,
            build_id=self._job.build_id,
            started=self._started,
            rendered=work.rendered,
            known=work.known,
            tools=work.versions,
            artifacts=files,
            disk=disk,
        )

    def _changes(self, files: tuple[Artifact, ...]) -> str:
        job = self._job
        name = contents.Name(image=job.image.name, build_id=job.build_id, started=self._started.isoformat())
        return record.write(
            self._work.manifests,
            name,
            artifacts={each.format: each.size for each in files},
            tools=self._work.versions,
            earlier=(artifacts.directory(job.images_dir, each.image, each.id) for each in job.earlier),
        )

    def _proof(self) -> artifacts.Proof:
        return artifacts.Proof(
            installation_id=self._job.installation_id,
            image=self._job.image.name,
            build_id=self._job.build_id,
            created=datetime.now(UTC),
            started=self._started,
            command=self._work.shown_argv,
            environment=self._work.rendered.shown_environment,
            tools=self._work.versions,
        )

    def _unpublish(self) -> None:
        job = self._job
        try:
            artifacts.delete(job.images_dir, job.image.name, job.build_id, job.installation_id)
        except (ImagepoolError, OSError) as error:
            # The next start deletes them; what ended the build is what the record has to say.
            LOG.warning("files of the failed build %s stay for now: %s", job.build_id, error)


@contextmanager
def _publishing() -> Iterator[None]:
    """Say of what fails in the block that it was the publishing, whatever else goes on meanwhile."""
    try:
        yield
    except (RefusedError, OSError) as error:
        failure = replace(failure_of(error), phase=BuildPhase.PUBLISH)
        raise ActionFailedError(failure.summary, failure) from error


def _counted(written: manifest.Written) -> dict[str, float]:
    """How many packages there are; nothing where no package database was found."""
    return {str(Measure.PACKAGES): float(written.packages)} if written.packages else {}


def _allocated(file: Path) -> int:
    return file.stat().st_blocks * 512

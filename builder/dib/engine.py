"""Run one build from the diskimage to published artifacts, and leave nothing else behind."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.dib import cache, command, tools
from builder.dib.checks import preflight, space
from builder.dib.contents import inputs, manifest, unchanged
from builder.dib.contents.inputs import Inputs
from builder.dib.contents.unchanged import Comparison
from builder.dib.differences import contents, record
from builder.dib.failures import failure_of, usable
from builder.dib.isolation import cgroups, sandbox, workspace
from builder.dib.isolation.workspace import Workspace
from builder.dib.job import Job, render
from builder.dib.limits import Limits, Stop
from builder.dib.logs.log import LogFile, Output
from builder.dib.logs.masking import Masker, mask_files, masked
from builder.dib.logs.reasons import Reader
from builder.dib.output import artifacts, convert
from builder.dib.output.artifacts import Publication
from builder.dib.output.hashing import Disk
from builder.errors import ActionFailedError, ImagepoolError, RefusedError
from builder.model import Artifact, Build, BuildPhase, Failure, FailureClass, ImageFormat

LOG = logging.getLogger(__name__)

#: Seconds that disk-image-create gets to clean up after TERM. What it does not, we do.
GRACE: Final = 8.0
_IN_DIB: Final = frozenset({BuildPhase.BOOTSTRAP, BuildPhase.PACKAGES, BuildPhase.IMAGE, BuildPhase.FINALISE})


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a build made: its files, what took part and what went in."""

    artifacts: tuple[Artifact, ...]
    tools: Mapping[str, str]
    timings: Mapping[str, float]  #: seconds by "convert qcow2" and the like; phases are not in it
    inputs: Mapping[str, str]  #: see Build.inputs
    work_bytes: int  #: disk the work directory took at most
    disk: Disk | None  #: what is in all its files; None when it has none


def run(
    job: Job,
    *,
    on_phase: Callable[[BuildPhase], None],
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    on_disk: Callable[[Disk], None] = lambda disk: None,
    on_artifact: Callable[[Artifact], None] = lambda artifact: None,
    stop: Stop,
) -> Product:
    """Build, convert, hash, describe and publish.

    `on_phase` is told each phase as it begins, `on_bytes` how much of it is done where bytes can be
    counted, `on_disk` what all files will have in them, and after it `on_artifact` each file as soon as it
    is in the images directory, while others are still made: all on this thread. `stop` is asked from any
    thread whether to go on.

    Call it on a thread that outlives it: disk-image-create dies with the thread. Raises
    ActionFailedError, with the Failure, for whatever ends the build: a failing step, a full disk,
    a missing tool, the diskimage's build-timeout, `stop`. What the callbacks raise passes through. In
    every case the build's work directory, devices and processes are gone by then, and only a build
    that succeeded still has files in the images directory.
    """
    return _Run(job, _Told(on_phase, on_bytes, on_disk, on_artifact), stop).run()


def compare(job: Job, last: Build, *, here: bool, stop: Stop) -> Comparison:
    """Whether the build of `job` would come out as `last` did; see `unchanged.compare`.

    `here`: the files of `last` are this machine's. What keeps a build from being rendered is in `unknown`
    as well: the build itself will fail with it.
    """
    records = artifacts.directory(job.images_dir, last.image, last.id) if here else None
    nowhere = job.work_dir / last.id
    try:
        wanted = unchanged.CompareJob(
            image=job.image,
            rendered=render(job, output=nowhere, work_dir=nowhere),
            key=_secret_key(job),
            last=last,
            records=records,
            cache_dir=job.cache_dir,
        )
    except (ImagepoolError, OSError) as error:
        return Comparison(same=False, unknown=failure_of(error).message)
    return unchanged.compare(wanted, stop)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a build has in hand once it is rendered."""

    space: Workspace
    rendered: command.Command
    mask: Masker
    known: Inputs
    versions: Mapping[str, str]

    @property
    def raw(self) -> Path:
        """What disk-image-create makes."""
        return self.space.output.with_name(f"{self.space.output.name}.{ImageFormat.RAW}")

    @property
    def manifests(self) -> Path:
        """What describes the build, to be published beside its files."""
        return self.space.output.with_name(f"{self.space.output.name}.d")

    @property
    def shown_argv(self) -> tuple[str, ...]:
        """The command without secrets, fit for the record; where it writes to has none, and is looked for."""
        output = str(self.space.output)
        return tuple(word if word == output else masked(word, self.mask) for word in self.rendered.argv)


@dataclass(frozen=True)
class _Told:
    """Who is told what; see `run`."""

    on_phase: Callable[[BuildPhase], None]
    on_bytes: Callable[[int, int], None]
    on_disk: Callable[[Disk], None]
    on_artifact: Callable[[Artifact], None]


class _Run:
    def __init__(self, job: Job, told: _Told, stop: Stop) -> None:
        self._job = job
        self._told = told
        self._limits = Limits(stop=stop, allowed=job.image.build_timeout.total_seconds())
        self._reader = Reader()
        self._phase: BuildPhase | None = None
        self._started = datetime.now(UTC)
        self._began = time.monotonic()

    def run(self) -> Product:
        ending = "imagepool: the build was broken off"
        log = self._open_log()
        try:
            product = self._build(log)
            ending = f"imagepool: the build is done after {time.monotonic() - self._began:.0f} s"
            return product
        except (ImagepoolError, OSError) as error:
            failure = self._located(failure_of(error))
            for line in failure.lines:
                LOG.debug("build %s: %s", self._job.build_id, line)
            ending = f"imagepool: the build failed: {failure.summary}"
            raise ActionFailedError(failure.summary, failure) from error
        finally:
            log.close(ending)
            if log.broken is not None:
                LOG.warning("the log of build %s is not whole: %s", self._job.build_id, log.broken)

    def _open_log(self) -> LogFile:
        try:
            with usable("build-log-dir", self._job.log_path.parent):
                return LogFile(self._job.log_path)
        except (ImagepoolError, OSError) as error:
            failure = self._located(failure_of(error))
            raise ActionFailedError(failure.summary, failure) from error

    def _build(self, log: LogFile) -> Product:
        self._enter(BuildPhase.RENDER)
        # Before anything is made that only they could take away again.
        tools.require()
        with _workspace(self._job) as place:
            work = self._prepare(place)
            _introduce(log, self._job, work)
            self._enter(BuildPhase.PREFLIGHT)
            self._check(work)
            with _caches(self._job, work.rendered, self._limits):
                self._create(work, log)
            return self._finish(work, log)

    # -- steps --------------------------------------------------------------------------------

    def _prepare(self, place: Workspace) -> _Work:
        job = self._job
        rendered = render(job, output=place.output, work_dir=place.directory)
        return _Work(
            space=place,
            rendered=rendered,
            mask=Masker(rendered.secrets),
            known=inputs.collect(job.image, rendered, key=_secret_key(job)),
            versions=tools.versions(),
        )

    def _check(self, work: _Work) -> None:
        job = self._job
        taken = space.on_disk(job.images_dir, job.earlier)
        preflight.check_build(
            preflight.Preflight(
                image=job.image,
                environment=work.rendered.environment,
                work_dir=job.work_dir,
                images_dir=job.images_dir,
                cache_dir=job.cache_dir,
                log_dir=job.log_path.parent,
                needs=space.needs(job.image.formats, job.earlier, taken),
                reserve=job.disk_reserve,
                promised=job.promised,
            ),
            self._limits,
        )

    def _create(self, work: _Work, log: LogFile) -> None:
        child = sandbox.start(
            work.rendered.argv,
            env=work.rendered.environment,
            workspace=work.space,
            on_line=Output(self._reader, log, work.mask).take,
            limits=self._job.limits,
        )
        code = self._limits.watch(child, grace=GRACE, on_look=self._follow)
        self._follow()
        if code != 0:
            failure = self._reader.diagnose(code, oom_killed=cgroups.ran_out_of_memory(work.space))
            raise ActionFailedError(failure.summary, failure)
        if not work.raw.is_file():
            message = "disk-image-create reported success but made no image"
            raise ActionFailedError(
                message,
                Failure(failure_class=FailureClass.UNKNOWN, message=message, lines=self._reader.tail),
            )

    def _finish(self, work: _Work, log: LogFile) -> Product:
        publication = artifacts.Publication(self._job.images_dir, self._proof(work))
        try:
            with _publishing():
                publication.begin()
            return self._publish(work, publication, log)
        except BaseException:
            self._unpublish()
            raise

    def _publish(self, work: _Work, publication: Publication, log: LogFile) -> Product:
        raw_bytes = _allocated(work.raw)
        self._enter(BuildPhase.CONVERT)
        made = self._convert(work, publication)
        files = tuple(made.artifacts.values())
        self._enter(BuildPhase.MANIFEST)
        written = self._describe(work, files, made.disk)
        for problem in written.problems:
            log.write(f"imagepool: {problem}")
        log.write(f"imagepool: {self._changes(work, files)}")
        self._enter(BuildPhase.PUBLISH)
        publication.finish(work.manifests, made.disk, files, datetime.now(UTC))
        # The tree and the raw image are there at the same time, and later the raw image and all files.
        others = sum(_allocated(self._published(each)) for each in files if not each.format.is_verbatim)
        return Product(
            artifacts=files,
            tools=work.versions,
            timings=made.timings,
            inputs=written.inputs.digests,
            work_bytes=raw_bytes + max(raw_bytes, others),
            disk=made.disk,
        )

    def _published(self, artifact: Artifact) -> Path:
        job = self._job
        return artifacts.path(job.images_dir, job.image.name, job.build_id, artifact.format)

    def _convert(self, work: _Work, publication: Publication) -> convert.Made:
        def keep(file: Path, artifact: Artifact, limits: Limits) -> None:
            with _publishing():
                publication.add(file, artifact.format, limits, stays=file == work.raw)

        return convert.make(
            work.raw,
            self._job.image.formats,
            options=self._job.image.format_options,
            limits=self._limits,
            listener=convert.Listener(
                on_phase=self._enter,
                on_bytes=self._told.on_bytes,
                on_disk=self._told.on_disk,
                on_artifact=self._told.on_artifact,
                keep=keep,
            ),
            prefix=sandbox.ionice(self._job.limits.io),
            nice=self._job.limits.nice,
        )

    def _describe(self, work: _Work, files: tuple[Artifact, ...], disk: Disk | None) -> manifest.Written:
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

    def _changes(self, work: _Work, files: tuple[Artifact, ...]) -> str:
        job = self._job
        name = contents.Name(image=job.image.name, build_id=job.build_id, started=self._started.isoformat())
        return record.write(
            work.manifests,
            name,
            artifacts={each.format: each.size for each in files},
            tools=work.versions,
            earlier=(artifacts.directory(job.images_dir, each.image, each.id) for each in job.earlier),
        )

    def _proof(self, work: _Work) -> artifacts.Proof:
        return artifacts.Proof(
            installation_id=self._job.installation_id,
            image=self._job.image.name,
            build_id=self._job.build_id,
            created=datetime.now(UTC),
            started=self._started,
            command=work.shown_argv,
            environment=work.rendered.shown_environment,
            tools=work.versions,
        )

    def _unpublish(self) -> None:
        job = self._job
        try:
            artifacts.delete(job.images_dir, job.image.name, job.build_id, job.installation_id)
        except (ImagepoolError, OSError) as error:
            # The next start deletes them; what ended the build is what the record has to say.
            LOG.warning("files of the failed build %s stay for now: %s", job.build_id, error)

    # -- phases -------------------------------------------------------------------------------

    def _follow(self) -> None:
        # Lines are read on another thread; the phase is told on ours, where it may raise.
        if self._reader.phase is not None:
            self._enter(self._reader.phase)

    def _enter(self, phase: BuildPhase) -> None:
        if phase is not self._phase:
            self._phase = phase
            self._told.on_phase(phase)

    def _located(self, failure: Failure) -> Failure:
        """The failure with where the build was, as far as it does not say so itself."""
        in_dib = self._phase in _IN_DIB
        return replace(
            failure,
            phase=failure.phase or self._phase,
            step=failure.step or (self._reader.step if in_dib else None),
            lines=failure.lines or (self._reader.tail if in_dib else ()),
        )


@contextmanager
def _publishing() -> Iterator[None]:
    """Say of what fails in the block that it was the publishing, whatever else goes on meanwhile."""
    try:
        yield
    except (RefusedError, OSError) as error:
        failure = replace(failure_of(error), phase=BuildPhase.PUBLISH)
        raise ActionFailedError(failure.summary, failure) from error


@contextmanager
def _workspace(job: Job) -> Iterator[Workspace]:
    with usable("work-dir", job.work_dir):
        space = workspace.create(
            job.work_dir,
            image=job.image.name,
            build_id=job.build_id,
            installation_id=job.installation_id,
            now=datetime.now(UTC),
        )
    try:
        yield space
    finally:
        workspace.release(space)


@contextmanager
def _caches(job: Job, rendered: command.Command, limits: Limits) -> Iterator[None]:
    """The image's caches, in use while the block runs."""
    own = Path(rendered.environment["DIB_IMAGE_CACHE"])
    with usable("cache-dir", job.cache_dir):
        # Whoever can open a directory can lock it, and so keep every build waiting.
        job.cache_dir.mkdir(parents=True, exist_ok=True)
        job.cache_dir.chmod(0o700)
        for directory in (own, Path(rendered.environment["DIB_LOCKFILES"])):
            directory.mkdir(parents=True, exist_ok=True)
    with cache.in_use(own, limits):
        yield


def _secret_key(job: Job) -> bytes:
    with usable("state-dir", job.state_dir):
        return inputs.secret_key(job.state_dir)


def _allocated(file: Path) -> int:
    return file.stat().st_blocks * 512


def _introduce(log: LogFile, job: Job, work: _Work) -> None:
    """The first lines of the log: what is built, with what, by which command."""
    lines = [f"build {job.build_id} of {job.image.name}"]
    lines.append(", ".join(f"{name} {version}" for name, version in work.versions.items()))
    for name, value in sorted(work.rendered.shown_environment.items()):
        lines.append(f"{name}={shlex.quote(value)}")
    lines.append(shlex.join(work.rendered.argv))
    for line in lines:
        log.write(f"imagepool: {masked(line, work.mask)}")

"""Run one build from the diskimage to published artifacts, and leave nothing else behind."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from builder.config.model import DiskImage
from builder.dib import artifacts, command, convert, mirrors, sandbox, tools, workspace
from builder.dib.limits import Limits
from builder.dib.log import LogFile, Masker, Reader
from builder.dib.workspace import Workspace
from builder.errors import ActionFailedError, ImagepoolError, RefusedError, UnavailableError
from builder.model import Artifact, BuildPhase, Failure, FailureClass, ImageFormat

LOG = logging.getLogger(__name__)

#: Seconds that disk-image-create gets to clean up after TERM. What it does not, we do.
GRACE: Final = 10.0
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to build, and where things are."""

    image: DiskImage
    build_id: str
    installation_id: str
    images_dir: Path
    work_dir: Path  #: a directory for this build is made in it, and removed
    cache_dir: Path  #: shared by all builds, below it one for each image; kept
    log_path: Path
    elements_dirs: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a build made: its files, and the versions of what took part."""

    artifacts: tuple[Artifact, ...]
    tools: Mapping[str, str]


def run(job: Job, *, on_phase: Callable[[BuildPhase], None], cancelled: threading.Event) -> Product:
    """Build, convert, hash and publish; `on_phase` is told each phase as it begins, on this thread.

    Call it on a thread that outlives it: disk-image-create dies with the thread. Raises
    ActionFailedError, with the Failure, for whatever ends the build: a failing step, a full disk,
    a missing tool, the diskimage's build-timeout, `cancelled`. What `on_phase` raises passes
    through. In every case the build's work directory, devices and processes are gone by then, and
    only a build that succeeded has files in the images directory.
    """
    return _Run(job, on_phase, cancelled).run()


class _Run:
    def __init__(self, job: Job, on_phase: Callable[[BuildPhase], None], cancelled: threading.Event) -> None:
        self._job = job
        self._on_phase = on_phase
        self._limits = Limits(cancelled=cancelled, allowed=job.image.build_timeout.total_seconds())
        self._reader = Reader()
        self._phase: BuildPhase | None = None
        self._began = time.monotonic()

    def run(self) -> Product:
        ending = "imagepool: the build was broken off"
        log = self._open_log()
        try:
            product = self._build(log)
            ending = f"imagepool: the build is done after {time.monotonic() - self._began:.0f} s"
            return product
        except (ImagepoolError, OSError) as error:
            failure = self._located(_failure(error))
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
            with _usable("build-log-dir", self._job.log_path.parent):
                return LogFile(self._job.log_path)
        except (ImagepoolError, OSError) as error:
            failure = self._located(_failure(error))
            raise ActionFailedError(failure.summary, failure) from error

    def _build(self, log: LogFile) -> Product:
        job = self._job
        self._enter(BuildPhase.PREPARE)
        tools.require()
        versions = tools.versions()
        _check_images_dir(job.images_dir)
        with _workspace(job) as space:
            rendered = self._render(space)
            mask = Masker(rendered.secrets)
            _introduce(log, job, rendered, versions)
            self._create(rendered, space, log, mask)
            self._enter(BuildPhase.CONVERT)
            raw = space.output.with_name(f"{space.output.name}.{ImageFormat.RAW}")
            files = convert.make(raw, job.image.formats, self._limits)
            self._enter(BuildPhase.PUBLISH)
            self._publish(space, rendered, files, versions, mask)
        return Product(artifacts=tuple(files.values()), tools=versions)

    # -- steps --------------------------------------------------------------------------------

    def _render(self, space: Workspace) -> command.Command:
        job, platform = self._job, self._job.image.platform
        rendered = command.render(
            job.image,
            build_id=job.build_id,
            output=space.output,
            work_dir=space.directory,
            cache_dir=job.cache_dir,
            elements_dirs=job.elements_dirs,
            mirrors={} if platform is None else mirrors.mirror_environment(platform),
            proxies=command.proxies(os.environ),
            programs=tools.programs(job.image.dib_cmd[0]),
        )
        with _usable("cache-dir", job.cache_dir):
            for name in ("DIB_IMAGE_CACHE", "DIB_LOCKFILES"):
                Path(rendered.environment[name]).mkdir(parents=True, exist_ok=True)
        return rendered

    def _create(self, rendered: command.Command, space: Workspace, log: LogFile, mask: Masker) -> None:
        def take(line: str) -> None:
            text = self._reader.bare(mask(line))
            self._reader.feed(text)
            log.write(text)

        child = sandbox.start(rendered.argv, env=rendered.environment, workspace=space, on_line=take)
        code = self._limits.watch(child, grace=GRACE, on_look=self._follow)
        self._follow()
        if code != 0:
            failure = self._reader.diagnose(code)
            raise ActionFailedError(failure.summary, failure)
        if not space.output.with_name(f"{space.output.name}.{ImageFormat.RAW}").is_file():
            message = "disk-image-create reported success but made no image"
            raise ActionFailedError(
                message,
                Failure(failure_class=FailureClass.UNKNOWN, message=message, lines=self._reader.tail),
            )

    def _publish(
        self,
        space: Workspace,
        rendered: command.Command,
        files: Mapping[Path, Artifact],
        versions: Mapping[str, str],
        mask: Masker,
    ) -> None:
        job = self._job
        manifests = space.output.with_name(f"{space.output.name}.d")
        _mask_files(manifests, mask)
        proof = artifacts.Proof(
            installation_id=job.installation_id,
            image=job.image.name,
            build_id=job.build_id,
            created=datetime.now(UTC),
            command=rendered.argv,
            environment=rendered.shown_environment,
            tools=versions,
        )
        try:
            artifacts.publish(
                job.images_dir,
                proof,
                [(file, artifact.format) for file, artifact in files.items()],
                manifests=manifests,
                limits=self._limits,
            )
        except BaseException:
            artifacts.delete(job.images_dir, job.image.name, job.build_id, job.installation_id)
            raise

    # -- phases -------------------------------------------------------------------------------

    def _follow(self) -> None:
        # Lines are read on another thread; the phase is told on ours, where it may raise.
        if self._reader.phase is not BuildPhase.PREPARE:
            self._enter(self._reader.phase)

    def _enter(self, phase: BuildPhase) -> None:
        if phase is not self._phase:
            self._phase = phase
            self._on_phase(phase)

    def _located(self, failure: Failure) -> Failure:
        """The failure with where the build was, as far as it does not say so itself."""
        in_dib = self._phase in (BuildPhase.BOOTSTRAP, BuildPhase.PACKAGES, BuildPhase.FINALISE)
        return replace(
            failure,
            phase=failure.phase or self._phase,
            step=failure.step or (self._reader.step if in_dib else None),
            lines=failure.lines or (self._reader.tail if in_dib else ()),
        )


@contextmanager
def _workspace(job: Job) -> Iterator[Workspace]:
    with _usable("work-dir", job.work_dir):
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
def _usable(key: str, directory: Path) -> Iterator[None]:
    """Blame the setting `key` for what the block can't do in its directory, but for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
        where = f" ({error.filename})" if error.filename not in (None, str(directory)) else ""
        raise RefusedError(
            f"the {key} {directory} can't be used: {error.strerror}{where}",
            hint=f"Name a directory with {key} that can be made and written.",
        ) from error


def _check_images_dir(images_dir: Path) -> None:
    # Needed last, and an hour of building would be lost.
    with _usable("images-dir", images_dir):
        images_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=images_dir):
            pass


def _introduce(log: LogFile, job: Job, rendered: command.Command, versions: Mapping[str, str]) -> None:
    """The first lines of the log: what is built, with what, by which command."""
    log.write(f"imagepool: build {job.build_id} of {job.image.name}")
    log.write(f"imagepool: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    for name, value in sorted(rendered.shown_environment.items()):
        log.write(f"imagepool: {name}={shlex.quote(value)}")
    log.write(f"imagepool: {shlex.join(rendered.argv)}")


def _mask_files(tree: Path, mask: Masker) -> None:
    """Take secrets out of dib's manifests: one of them is the environment of the build."""
    for file in sorted(tree.rglob("*")):
        if file.is_file() and not file.is_symlink():
            text = file.read_text(encoding="utf-8", errors="surrogateescape")
            masked = mask(text)
            if masked != text:
                file.write_text(masked, encoding="utf-8", errors="surrogateescape")


def _failure(error: ImagepoolError | OSError) -> Failure:
    """What an error that ended the build means to the one who reads the record."""
    if isinstance(error, ActionFailedError) and error.failure is not None:
        return error.failure
    if isinstance(error, ImagepoolError):
        message = f"{error.message}. {error.hint}".strip() if error.hint else error.message
        return Failure(failure_class=_class_of(error), message=message)
    if error.errno in _FULL:
        where = f" ({error.filename})" if error.filename else ""
        return Failure(failure_class=FailureClass.DISK, message=f"no space left on the disk{where}")
    return Failure(failure_class=FailureClass.UNKNOWN, message=f"{type(error).__name__}: {error}")


def _class_of(error: ImagepoolError) -> FailureClass:
    if isinstance(error, UnavailableError):
        return FailureClass.TOOL
    return FailureClass.CONFIG if isinstance(error, RefusedError) else FailureClass.UNKNOWN

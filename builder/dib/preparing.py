"""Makes a build ready to run: its work directory, its command, its caches, and a look at what it needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from builder.dib import cache, command, tools
from builder.dib.checks import preflight, space
from builder.dib.contents import inputs
from builder.dib.failures import usable
from builder.dib.isolation import workspace
from builder.dib.isolation.workspace import Workspace
from builder.dib.job import Job, render
from builder.dib.limits import Limits
from builder.dib.logs.log import LogFile
from builder.dib.logs.masking import Masker, masked
from builder.dib.product import Work


@contextmanager
def work_directory(job: Job) -> Iterator[Workspace]:
    """The build's work directory while the block runs; all in it is released afterwards.

    Raises RefusedError when it can't be made, OSError for a full disk.
    """
    with usable("work-dir", job.work_dir):
        place = workspace.create(
            job.work_dir,
            image=job.image.name,
            build_id=job.build_id,
            installation_id=job.installation_id,
            now=datetime.now(UTC),
        )
    try:
        yield place
    finally:
        workspace.release(place)


def prepare(job: Job, place: Workspace) -> Work:
    """Render the build's command for its work directory; raises ImagepoolError and OSError."""
    rendered = render(job, output=place.output, work_dir=place.directory)
    return Work(
        space=place,
        rendered=rendered,
        mask=Masker(rendered.secrets),
        known=inputs.collect(job.image, rendered, key=secret_key(job)),
        versions=tools.versions(),
    )


def check(job: Job, work: Work, limits: Limits) -> None:
    """Return when nothing speaks against the build; raises as `preflight.check_build`."""
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
            limits=job.limits,
        ),
        limits,
    )


@contextmanager
def caches(job: Job, rendered: command.Command, limits: Limits) -> Iterator[None]:
    """The image's caches, in use while the block runs; raises RefusedError when they can't be made."""
    own = Path(rendered.environment["DIB_IMAGE_CACHE"])
    with usable("cache-dir", job.cache_dir):
        # Whoever can open a directory can lock it, and so keep every build waiting.
        job.cache_dir.mkdir(parents=True, exist_ok=True)
        job.cache_dir.chmod(0o700)
        for directory in (own, Path(rendered.environment["DIB_LOCKFILES"])):
            directory.mkdir(parents=True, exist_ok=True)
    with cache.in_use(own, limits):
        yield


def secret_key(job: Job) -> bytes:
    """The key for digests of secrets; raises RefusedError when the state directory can't be used."""
    with usable("state-dir", job.state_dir):
        return inputs.secret_key(job.state_dir)


def introduce(log: LogFile, job: Job, work: Work) -> None:
    """Write the first lines of the log: what is built, with what, by which command."""
    lines = [f"build {job.build_id} of {job.image.name}"]
    lines.append(", ".join(f"{name} {version}" for name, version in work.versions.items()))
    for name, value in sorted(work.rendered.shown_environment.items()):
        lines.append(f"{name}={shlex.quote(value)}")
    lines.append(shlex.join(work.rendered.argv))
    for line in lines:
        log.write(f"imagepool: {masked(line, work.mask)}")

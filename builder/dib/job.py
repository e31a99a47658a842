"""What one build is to make, where things are, and the command that comes of it on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.config.model import BuildLimits, DiskImage
from builder.dib import command, mirrors, tools
from builder.model import Build


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to build, and where things are."""

    image: DiskImage
    build_id: str
    installation_id: str
    state_dir: Path  #: has the key for digests of secrets
    images_dir: Path
    work_dir: Path  #: a directory for this build is made in it, and removed
    cache_dir: Path  #: shared by all builds, below it one for each image; kept
    log_path: Path
    elements_dirs: tuple[Path, ...] = ()
    limits: BuildLimits = field(default_factory=BuildLimits)
    disk_reserve: int = 0  #: bytes to leave free on each disk
    promised: int = 0  #: bytes that this machine's other running builds may still take in `work_dir`
    config_dir: Path | None = None  #: where the configuration is: own checks of the boot test may be there
    earlier: tuple[Build, ...] = ()  #: the image's ready builds, newest first: what this one will need


def render(job: Job, *, output: Path, work_dir: Path) -> command.Command:
    """The command that makes `output` + ".raw" in this build's own `work_dir`."""
    return render_here(
        job.image,
        build_id=job.build_id,
        output=output,
        work_dir=work_dir,
        cache_dir=job.cache_dir,
        elements_dirs=job.elements_dirs,
        environ=os.environ,
    )


def render_here(
    image: DiskImage,
    *,
    build_id: str,
    output: Path,
    work_dir: Path,
    cache_dir: Path,
    elements_dirs: Sequence[Path],
    environ: Mapping[str, str],
) -> command.Command:
    """`command.render` with what this machine adds to it: mirrors, where programs are, and the proxies
    that the environment `environ` names."""
    platform = image.platform
    return command.render(
        image,
        build_id=build_id,
        output=output,
        work_dir=work_dir,
        cache_dir=cache_dir,
        elements_dirs=elements_dirs,
        mirrors={} if platform is None else mirrors.mirror_environment(platform, given=image.environment),
        proxies=command.proxies(environ),
        programs=tools.programs(image.dib_cmd[0]),
    )

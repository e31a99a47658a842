"""Find out what would make a build fail, before it is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from builder.bounded import at_once
from builder.config.model import BuildLimits, DiskImage
from builder.dib import tools
from builder.dib.boot import ordering
from builder.dib.boot import program as booting
from builder.dib.checks import reachable, space
from builder.dib.failures import failure_of, usable
from builder.dib.isolation import sandbox, sudo
from builder.dib.limits import Limits
from builder.dib.mirrors import unused
from builder.errors import ActionFailedError, ImagepoolError
from builder.findings import Finding, Level, fine, problem, warning
from builder.model import Failure, FailureClass
from builder.process.child import find_tool, run

LOG: Final = logging.getLogger(__name__)
#: Seconds for all mirrors together, which are asked at the same time.
MIRRORS_TIMEOUT: Final = 12.0
#: Seconds for a program that has nothing to do.
_TOOL_TIMEOUT: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a build is about to use; `environment` is that of its command."""

    image: DiskImage
    environment: Mapping[str, str]
    work_dir: Path
    images_dir: Path
    cache_dir: Path
    log_dir: Path
    needs: space.Needs
    reserve: int  #: bytes to leave free on each disk
    promised: int = 0  #: bytes in `work_dir` that builds under way will still take
    limits: BuildLimits = field(default_factory=BuildLimits)

    @property
    def directories(self) -> Mapping[str, Path]:
        """Each directory that is written to, by the setting that names it."""
        return {
            "work-dir": self.work_dir,
            "images-dir": self.images_dir,
            "cache-dir": self.cache_dir,
            "build-log-dir": self.log_dir,
        }


def check_build(preflight: Preflight, limits: Limits | None = None) -> None:
    """Return when nothing speaks against the build; missing directories are made.

    Raises ActionFailedError for what does: the Failure is the first problem's, in the order tools,
    namespaces, boot test, directories, disk, mirrors, and its lines tell the others. Also raises what
    `limits` do while mirrors are asked, which takes MIRRORS_TIMEOUT seconds at most.
    """
    found = [*program(preflight), namespaces(), *boot_test(preflight)]
    found += [*directories(preflight.directories, make=True)]
    if not _problems(found):
        found += disks(preflight)
    found += mirrors(preflight.image, preflight.environment, limits or Limits())
    for each in found:
        if each.level is Level.WARNING:
            LOG.warning("%s: %s", preflight.image.name, each.text)
    problems = _problems(found)
    if problems:
        first, *others = (failure(each) for each in problems)
        raise ActionFailedError(
            first.message,
            Failure(
                failure_class=first.failure_class,
                message=first.message,
                lines=tuple(other.summary for other in others),
            ),
        )


def failure(finding: Finding) -> Failure:
    """What a build that runs into this problem fails with."""
    message = f"{finding.text}. {finding.hint}" if finding.hint else finding.text
    return Failure(failure_class=finding.failure_class, message=message)


def program(preflight: Preflight) -> tuple[Finding, ...]:
    """Whether this machine can build at all, and has the program that builds this image."""
    try:
        tools.require()
        tools.require_for(preflight.image.elements, preflight.environment)
        found = find_tool(
            preflight.image.dib_cmd[0],
            package="diskimage-builder of Python",
            path=preflight.environment.get("PATH"),
        )
    except ImagepoolError as error:
        hint = error.hint
        return (problem("tools", error.message, hint=hint, failure_class=failure_of(error).failure_class),)
    return (fine("tools", f"all are installed; {found} builds"),)


def boot_test(preflight: Preflight) -> tuple[Finding, ...]:
    """Whether the finished image can be booted here, where it is to be."""
    name, image = "boot test", preflight.image
    if not image.boot_test.is_done:
        return ()
    architecture, firmware = ordering.machine_of(image, preflight.environment)
    try:
        ordering.check(image, preflight.limits)
        booting.require(architecture, firmware)
    except ImagepoolError as error:
        return (_told(name, error),)
    return (fine(name, f"its machine ({architecture}, {firmware}) can be booted here"),)


def namespaces() -> Finding:
    """Whether the sandbox's namespaces can be made: root makes them and lets them go."""
    name = "namespaces"
    if sudo.needed():
        return fine(name, "not tried: only root can; run this as root to have it tried")
    try:
        answer = run([find_tool(sandbox.UNSHARE[0]), *sandbox.UNSHARE[1:], "true"], timeout=_TOOL_TIMEOUT)
    except ImagepoolError as error:
        return _told(name, error)
    except TimeoutError as error:
        return problem(name, str(error), failure_class=FailureClass.TOOL)
    if answer.code == 0:
        return fine(name, "mount, pid and host name namespaces can be made")
    return problem(
        name,
        f"the namespaces of a build can't be made: {sudo.first_line(answer)}",
        hint="In a container, give it the capability SYS_ADMIN and a seccomp profile that allows unshare.",
        failure_class=FailureClass.TOOL,
    )


def directories(named: Mapping[str, Path], *, make: bool) -> tuple[Finding, ...]:
    """Whether each directory, by the setting that names it, can be written, and the work directory
    hold a whole system. With `make`, one that is missing is made; without, nothing changes."""
    return tuple(directory(key, path, make=make) for key, path in named.items())


def directory(key: str, path: Path, *, make: bool) -> Finding:
    """Whether the directory that the setting `key` names can be written."""
    try:
        with usable(key, path):
            if make:
                path.mkdir(parents=True, exist_ok=True)
            there = path if make else space.existing(path)
            with TemporaryFile(dir=there):
                pass
            flags = os.statvfs(there).f_flag
    except ImagepoolError as error:
        return _told(key, error)
    except OSError as error:
        reason = failure_of(error)
        return problem(key, f"{key}: {reason.message}", failure_class=reason.failure_class)
    mounted = _mounted(path, flags) if key == "work-dir" else None
    if mounted is not None:
        return mounted
    missing = "" if path.is_dir() else f", to be made in {there}"
    return fine(key, f"the {key} {path} can be written{missing}")


def _mounted(path: Path, flags: int) -> Finding | None:
    """What is to be said of how the work directory is mounted; None when all is well."""
    hint = "Mount it without, or name another directory with work-dir."
    if flags & os.ST_NOEXEC:
        text = (
            f"the work-dir {path} is mounted noexec, and programs of the system installed there have to run"
        )
        return problem("work-dir", text, hint=hint, failure_class=FailureClass.CONFIG)
    if flags & os.ST_NODEV:
        # mmdebstrap does without device nodes of its own, and dib binds the host's /dev.
        text = f"the work-dir {path} is mounted nodev, where debootstrap, unlike mmdebstrap, installs nothing"
        return warning("work-dir", text, hint=f"{hint} Or install mmdebstrap.")
    return None


def disks(preflight: Preflight) -> tuple[Finding, ...]:
    """Whether each disk has room for the build, and for what else was promised on it."""
    wanted = space.uses(
        preflight.needs,
        work=preflight.work_dir,
        images=preflight.images_dir,
        cache=preflight.cache_dir,
        logs=preflight.log_dir,
        promised=preflight.promised,
    )
    try:
        return space.check(wanted, reserve=preflight.reserve, basis=preflight.needs.basis)
    except OSError as error:
        text = f"can't be looked at: {error.strerror} ({error.filename})"
        return (problem(space.NAME, text, failure_class=FailureClass.CONFIG),)


def mirrors(image: DiskImage, environment: Mapping[str, str], limits: Limits) -> tuple[Finding, ...]:
    """Whether each mirror that a build of the image names answers; all are asked at the same time. Before
    that, what the image can't do with those of its platform.

    Takes MIRRORS_TIMEOUT seconds at most. Raises ActionFailedError when the limits are reached.
    """
    named = reachable.mirrors_of(image, environment)
    answers = at_once(
        [partial(reachable.ask, mirror, environment) for mirror in named],
        seconds=MIRRORS_TIMEOUT,
        on_look=limits.check,
    )
    found = tuple(
        answer or reachable.silent(mirror, MIRRORS_TIMEOUT)
        for mirror, answer in zip(named, answers, strict=True)
    )
    return (*(warning(reachable.NAME, text) for text in unused(image)), *found)


def _told(name: str, error: ImagepoolError) -> Finding:
    return problem(name, error.message, hint=error.hint, failure_class=failure_of(error).failure_class)


def _problems(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.level is Level.PROBLEM]

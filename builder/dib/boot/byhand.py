"""Boots the image of a finished build once more, because somebody wants to: to test it, or to look around."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.bootorder import LOGIN, Answer, Order
from builder.dib import preparing, tools
from builder.dib.boot import ordering, program
from builder.dib.isolation.workspace import Workspace
from builder.dib.job import Job, render
from builder.dib.limits import LOOK, Limits
from builder.dib.logs.masking import Masker
from builder.dib.output import artifacts
from builder.errors import ActionFailedError, NotFoundError
from builder.model import Artifact, BootVerdict, Build, Failure, FailureClass, ImageFormat
from builder.process.child import Child, attached, find_tool, wait_for

#: Seconds that the machine gets to end.
_GRACE: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """A test that runs, in a sandbox and a workspace that go with it."""

    order: Order
    space: Workspace
    child: Child
    told: program.Told


def test(job: Job, build: Build, *, say: Callable[[str], None]) -> Answer:
    """Test the files of `build`, which are on this machine; `say` is told how it goes.

    `job` says how the image is configured, and names a workspace by an id of its own. Raises NotFoundError
    when files are missing, UnavailableError when nothing can be booted here, RefusedError and OSError when
    the workspace or the checks can't be used. Nothing is left, however it ends; after kill -9 the next start
    of the daemon takes the workspace away.
    """
    with _session(job, build, say=say, hold=False) as session:
        try:
            code = Limits(stop=program.overdue(session.order)).watch(session.child, grace=_GRACE)
        except ActionFailedError as error:
            return Answer(verdict=BootVerdict.BROKEN, problem=error.message, lines=session.told.lines)
        return program.answer(session.order, session.space, code, session.told)


def look_around(job: Job, build: Build, *, say: Callable[[str], None]) -> int:
    """Boot the image of `build` and open a shell in it, at this terminal, for as long as somebody wants; the
    shell's exit code. Raises as `test`, and ActionFailedError when nobody gets in."""
    with _session(job, build, say=say, hold=True) as session:
        login = Path(session.order.place, LOGIN)
        wait_for(lambda: login.exists() or not session.child.running, timeout=float("inf"), interval=LOOK)
        if not login.exists():
            session.child.wait()
            raise _nobody_gets_in(session.told.lines)
        say("the machine ends with this shell, and so does all that was written in it")
        return attached(_ssh(json.loads(login.read_text())))


@contextmanager
def _session(job: Job, build: Build, *, say: Callable[[str], None], hold: bool) -> Iterator[Session]:
    wanted, files, first = _files(job, build)
    tools.require()
    with preparing.work_directory(job) as space:
        rendered = render(job, output=space.output, work_dir=space.directory)
        ordering.check(job.image, job.limits)
        program.require(*ordering.machine_of(job.image, rendered.environment))
        checks = ordering.own_checks(job.image, rendered, job.config_dir)
        place = space.directory / "boot-test"
        place.mkdir(mode=0o700)
        order = ordering.order(
            job.image,
            rendered.environment,
            {each: files[each] for each in wanted},
            first,
            checks,
            place=place,
            hold=hold,
        )
        told = program.Told(say, Masker(rendered.secrets))
        child = program.start(order, space, job.limits, on_line=told.take)
        try:
            yield Session(order=order, space=space, child=child, told=told)
        finally:
            child.stop(_GRACE)


def _files(job: Job, build: Build) -> tuple[tuple[ImageFormat, ...], Mapping[ImageFormat, Path], Artifact]:
    """The formats to boot, where the files are, and the first of them; NotFoundError when one is missing."""
    there = {artifact.format: artifact for artifact in build.artifacts if artifact.format not in build.pruned}
    if all(each.is_part for each in there):
        raise NotFoundError(f"build {build.id} of {build.image} has no files that can be booted")
    wanted = ordering.to_boot(there)
    files = {each: artifacts.path(job.images_dir, build.image, build.id, each) for each in wanted}
    for each in wanted:
        problem = "is not on record" if each not in there else artifacts.check(files[each], there[each])
        if problem is not None:
            raise NotFoundError(f"build {build.id} can't be booted: {problem}")
    return wanted, files, there[wanted[0]]


def _ssh(login: Mapping[str, object]) -> list[str]:
    return [
        find_tool("ssh", package="openssh-client"),
        *("-F", "none", "-i", str(login["key"]), "-p", str(login["port"]), "-l", str(login["user"])),
        *("-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
        # The machine was made a moment ago and is reached by loopback.
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
        str(login["host"]),
    ]


def _nobody_gets_in(lines: tuple[str, ...]) -> ActionFailedError:
    message = "the image did not come so far that somebody could log in"
    failure = Failure(failure_class=FailureClass.TEST, message=message, lines=lines)
    return ActionFailedError("\n".join((message, *lines)), failure)

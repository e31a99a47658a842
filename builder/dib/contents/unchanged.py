"""Find out whether a new build of an image would only repeat its last one, and if not, what changed.

Compared are: how disk-image-create is called, the environment, the content of the elements, the versions of
tools, of each installed package the version that its mirrors offer now, and of each cloned repository
the commit that it would be now. What can't be compared makes an image count as changed: a build
too many costs minutes, one too few leaves a hole open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from diskimage_builder import paths  # type: ignore[import-untyped]

from builder.config.model import DiskImage
from builder.dib import tools
from builder.dib.command import Command
from builder.dib.contents import apt_sources, indexes, inputs, packages, repositories, unforeseen
from builder.dib.contents.deadline import CannotTellError, Deadline, together
from builder.dib.contents.download import Downloader
from builder.dib.contents.inputs import Inputs
from builder.dib.contents.packages import Package
from builder.dib.limits import Stop
from builder.errors import ImagepoolError
from builder.model import Build

LOG = logging.getLogger(__name__)

#: Where indexes are kept, below the cache directory.
CACHE: Final = "indexes"
_PROGRAM: Final = "disk-image-create"
#: Changes that are told one by one.
_TOLD: Final = 20
_SHORT: Final = 12
#: Tools whose version says nothing about what they make: the kernel of the machine.
_NO_MATTER: Final = frozenset({"kernel"})

_Answer = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CompareJob:
    """Which build to compare with, and what a new one would be."""

    image: DiskImage
    rendered: Command  #: as `command.render` makes it for a build now; of its paths none is used
    key: bytes  #: `inputs.secret_key`
    last: Build  #: the newest ready build
    records: Path | None  #: its directory "<image>-<build>.d", None when it isn't on this machine
    cache_dir: Path
    seconds: float = 30.0  #: how long to ask mirrors and servers, in all
    keyrings: Path = apt_sources.KEYRINGS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether the last build is what a new one would be."""

    same: bool
    changes: tuple[str, ...] = ()  #: one line each, for people; the longest lists are cut
    unknown: str = ""  #: why something can't be judged; then it isn't the same


def compare(job: CompareJob, stop: Stop) -> Comparison:
    """What would differ from the last build, if a new one were made now.

    Takes a few seconds at most, `job.seconds` when mirrors don't answer; `stop` is asked meanwhile whether
    to end early. What can't be found out or read is in `unknown` and no error; only a bug raises.
    """
    began = time.monotonic()
    try:
        found = _compare(job, Deadline(seconds=job.seconds, stop=stop))
    except ImagepoolError as error:
        found = Comparison(same=False, unknown=error.message)
    except (CannotTellError, OSError) as error:
        found = Comparison(same=False, unknown=str(error))
    LOG.info(
        "build %s of %s: %s, found out in %.1f s",
        job.last.id,
        job.image.name,
        "unchanged"
        if found.same
        else f"changed or unknown ({len(found.changes)}; {found.unknown or 'all known'})",
        time.monotonic() - began,
    )
    return found


def _compare(job: CompareJob, deadline: Deadline) -> Comparison:
    if job.records is None:
        raise CannotTellError(f"its package list is on builder {job.last.builder or 'unknown'}")
    before = inputs.read(job.records)
    installed = packages.load(job.records)
    if before is None or not installed:
        raise CannotTellError(f"there is no list of what went into it in {job.records}")
    now = inputs.collect(job.image, job.rendered, key=job.key)
    changes = [*_input_changes(before, now), *_tool_changes(job.last.tools, tools.versions())]
    unknown = [*before.unknown.values(), *now.unknown.values()]
    if not unknown:
        for answer in together(_questions(job, before, installed, deadline), deadline):
            if isinstance(answer, CannotTellError):
                unknown.append(str(answer))
            else:
                changes += answer
    return Comparison(
        same=not changes and not unknown, changes=_cut(changes), unknown="; ".join(dict.fromkeys(unknown))
    )


# -- what we know by ourselves -----------------------------------------------------------------------


def _input_changes(before: Inputs, now: Inputs) -> Iterator[str]:
    if before.command != now.command:
        yield f"the command: {_words(before.command, now.command)}"
    yield from _differing("element", before.elements, now.elements)
    environment = {
        *_differing("environment variable", before.environment, now.environment),
        *_differing("environment variable", before.secrets, now.secrets),
    }
    yield from sorted(environment)
    yield from _differing("a file named by variable", before.files, now.files)
    for kind, name in (("dib", "diskimage-builder"), ("formats", "formats")):
        if (old := before.digests.get(kind)) != (new := now.digests.get(kind)):
            yield f"{name} {old or 'unknown'} -> {new or 'unknown'}"


def _differing(kind: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield f"{kind} {name} gone"
        elif name not in before:
            yield f"{kind} {name} new"
        elif before[name] != now[name]:
            yield f"{kind} {name}"


def _words(before: Sequence[str], now: Sequence[str]) -> str:
    gone = [f"without {word}" for word in before if word not in now]
    new = [f"with {word}" for word in now if word not in before]
    return ", ".join([*gone, *new]) or "another order"


def _tool_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    # diskimage-builder's version is among the inputs.
    for name in sorted((before.keys() | now.keys()) - _NO_MATTER - {"diskimage-builder"}):
        if before.get(name) != now.get(name):
            yield f"tool {name} {before.get(name, 'none')} -> {now.get(name, 'none')}"


# -- what others know ----------------------------------------------------------------------------------


def _questions(
    job: CompareJob, before: Inputs, installed: Sequence[Package], deadline: Deadline
) -> list[Callable[[], _Answer]]:
    """What to ask, all at the same time."""
    argv, environment = job.rendered.argv, job.rendered.environment
    if _PROGRAM not in (Path(word).name for word in argv):
        raise CannotTellError(f"what {Path(argv[0]).name} does can't be known before")
    elements = inputs.resolve(argv, environment)
    dib = Path(paths.get_path("elements"))
    if surprises := unforeseen.reasons(elements, dib=dib):
        raise CannotTellError("; ".join(surprises))
    questions: list[Callable[[], _Answer]] = [
        partial(_package_changes, job, elements, installed, deadline),
    ]
    for repository in repositories.named(elements, environment):
        recorded = before.digests.get(f"git {repository.name}")
        questions.append(partial(_head_change, repository, recorded, environment, deadline))
    return questions


def _package_changes(
    job: CompareJob, elements: Mapping[str, Path], installed: Sequence[Package], deadline: Deadline
) -> _Answer:
    environment = job.rendered.environment
    architectures = sorted({each.architecture for each in installed} - {"all"})
    if len(architectures) != 1:
        raise CannotTellError(f"packages of architectures {', '.join(architectures)} can't be compared")
    sources = apt_sources.sources_of(
        unforeseen.family(elements), elements, environment, deadline, keyrings=job.keyrings
    )
    offered = indexes.candidates(
        sources,
        architecture=architectures[0],
        names={each.name for each in installed},
        mirrors=indexes.Mirrors(
            downloader=Downloader(deadline=deadline, environment=environment), cache=job.cache_dir / CACHE
        ),
    )
    return tuple(
        f"package {each.name} {each.version} -> {offered.get(each.name, 'gone from the mirrors')}"
        for each in installed
        if offered.get(each.name) != each.version
    )


def _head_change(
    repository: repositories.Repository,
    recorded: str | None,
    environment: Mapping[str, str],
    deadline: Deadline,
) -> _Answer:
    head = repositories.head(repository, recorded=recorded, environment=environment, deadline=deadline)
    if head == recorded:
        return ()
    return (f"repository {repository.name} {recorded[:_SHORT] if recorded else 'none'} -> {head[:_SHORT]}",)


def _cut(changes: Sequence[str]) -> tuple[str, ...]:
    if len(changes) <= _TOLD:
        return tuple(changes)
    return (*changes[:_TOLD], f"and {len(changes) - _TOLD} more")

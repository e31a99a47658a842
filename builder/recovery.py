"""Makes lost records again: looks into the clouds and at this machine's disk, plans, and writes.

What was found is planning's to judge. Nothing in a cloud or on disk is ever changed here, and each
record is written only where there is none, so that this may be broken off at any moment and repeated:
what was written is on record then.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from builder.bounded import at_once
from builder.cloud.base import Cloud
from builder.cloudimage import INSTALLATION, CloudImage
from builder.config.model import Config, Provider
from builder.dib.logs import logfiles
from builder.dib.output import artifacts, kept
from builder.errors import (
    ActionFailedError,
    CloudError,
    CloudUnavailableError,
    ConfigError,
    ConflictError,
    NotFoundError,
    RefusedError,
)
from builder.model import Artifact, Build, BuildState, ImageFormat, Snapshot
from builder.planning.recovery import Fate, KeptBuild, KeptFile, Step, plan_recovery, wants_files
from builder.store.base import HIGHEST_UPLOAD_ID, Store

LOG = logging.getLogger(__name__)

#: Seconds for the lists of all clouds together; each request has a timeout of its own.
PATIENCE: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Who recovers: the machine that holds the files."""

    hostname: str
    builder_id: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the clouds said, by provider; and why the others said nothing, as a sentence."""

    images: Mapping[str, tuple[CloudImage, ...]]
    unasked: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What there is of one installation."""

    images: int  #: in the clouds that were asked
    builds: int  #: on this machine's disk


# -- looking --------------------------------------------------------------------------------------


def ask_clouds(
    config: Config,
    cloud: Callable[[Provider], Cloud],
    installation_id: str | None,
    *,
    seconds: float = PATIENCE,
) -> Seen:
    """The images of an installation, or with None those of every one, in all providers, asked at the
    same time and for no longer than `seconds`."""
    wanted = {} if installation_id is None else {INSTALLATION: installation_id}
    providers = tuple(config.providers.values())
    answers = at_once([partial(_ask, cloud, each, wanted) for each in providers], seconds=seconds)
    images: dict[str, tuple[CloudImage, ...]] = {}
    unasked: dict[str, str] = {}
    for provider, answer in zip(providers, answers, strict=True):
        if answer is None:
            unasked[provider.name] = f"There was no answer within {seconds:g} s."
        elif isinstance(answer, str):
            unasked[provider.name] = answer
        else:
            images[provider.name] = answer
    return Seen(images=images, unasked=unasked)


def _ask(
    cloud: Callable[[Provider], Cloud], provider: Provider, wanted: Mapping[str, str]
) -> tuple[CloudImage, ...] | str:
    try:
        return tuple(image for image in cloud(provider).find(wanted) if INSTALLATION in image.properties)
    except (CloudError, CloudUnavailableError, ConfigError) as error:
        return f"{error.message.removeprefix(f'provider {provider.name}: ')}. {error.hint}".strip()


def installations(config: Config, seen: Seen) -> Mapping[str, Trace]:
    """Every installation of which there is anything; OSError when the disk can't be read."""
    in_clouds: Counter[str] = Counter()
    # Several providers may see the same image.
    for image in {image.id: image for listed in seen.images.values() for image in listed}.values():
        in_clouds[image.properties[INSTALLATION]] += 1
    on_disk = Counter(build.installation_id for build in kept.find(config.images_dir))
    return {each: Trace(images=in_clouds[each], builds=on_disk[each]) for each in sorted(in_clouds | on_disk)}


def check_tree(store: Store, snapshot: Snapshot, installation_id: str) -> None:
    """RefusedError when the records there are belong to another installation."""
    if not any(snapshot.builds()):
        return
    theirs = store.installation_id()
    if theirs != installation_id:
        raise RefusedError(
            f"ZooKeeper has the records of the installation {theirs}, not of {installation_id}",
            hint="Nothing was changed. Mend zookeeper-servers, or use another chroot for one of the two.",
        )


def find_steps(
    config: Config,
    store: Store,
    seen: Seen,
    *,
    installation_id: str,
    machine: Machine,
    now: datetime,
    on_file: Callable[[str], None],
) -> tuple[Step, ...]:
    """What to write, and what is left, each with its reason; RefusedError for another one's records.

    Files whose records are missing are read whole, each after `on_file` was told its name. OSError when
    the disk can't be read, and ToolMissingError without qemu-img.
    """
    # After the clouds: what was uploaded before they were asked has its record by now.
    snapshot = store.snapshot()
    check_tree(store, snapshot, installation_id)
    gone = store.builds_gone()
    return plan_recovery(
        config,
        snapshot,
        seen.images,
        tuple(_kept(config, snapshot, installation_id, machine, frozenset(gone), now, on_file)),
        installation_id=installation_id,
        builder_id=machine.builder_id,
        builds_gone=gone,
        unasked=seen.unasked,
        highest_upload_id=HIGHEST_UPLOAD_ID,
        now=now,
    )


def _kept(
    config: Config,
    snapshot: Snapshot,
    installation_id: str,
    machine: Machine,
    gone: frozenset[str],
    now: datetime,
    on_file: Callable[[str], None],
) -> Iterator[KeptBuild]:
    for found in kept.find(config.images_dir):
        if found.installation_id != installation_id:
            continue
        wanted = wants_files(snapshot, found.image, found.build_id, machine.builder_id)
        goes = found.build_id in gone or found.failed is not None
        formats = found.formats if wanted and not goes else ()
        yield KeptBuild(
            build=_told(config, found, machine, now),
            finished=found.finished,
            failed=found.failed,
            described=found.described,
            recorded=found.artifacts,
            files=tuple(_measured(config, found, each, on_file) for each in formats),
        )


def _told(config: Config, found: kept.Found, machine: Machine, now: datetime) -> Build:
    """What a proof tells, as a record."""
    log = logfiles.path(config.log_dir, found.image, found.build_id)
    there = log.exists() or logfiles.compressed(log).exists()
    return Build(
        id=found.build_id,
        image=found.image,
        state=BuildState.READY,
        state_time=min(found.finished or found.failed or found.created or now, now),
        builder=machine.hostname,
        builder_id=machine.builder_id,
        started=min(found.started or found.created or now, now),
        tools=found.tools,
        log=str(log) if there else None,
        raw_sha256=found.raw_sha256,
        raw_size=found.raw_size,
        withheld=found.withheld,
    )


def _measured(
    config: Config, found: kept.Found, image_format: ImageFormat, on_file: Callable[[str], None]
) -> KeptFile:
    file = artifacts.path(config.images_dir, found.image, found.build_id, image_format)
    on_file(str(file))
    try:
        artifact: Artifact | None = kept.measure(config.images_dir, found, image_format)
        problem = ""
    except (ActionFailedError, OSError) as error:
        artifact, problem = None, kept.trouble_with(error)
    return KeptFile(format=image_format, artifact=artifact, problem=problem)


# -- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a step that was to be written."""

    done: bool
    text: str


def write(store: Store, step: Step) -> Outcome:
    """Write the record of a step; what somebody else wrote meanwhile is left. StoreUnavailableError."""
    try:
        if step.upload is not None:
            store.restore_upload(step.upload)
        elif step.build is not None and step.fate is Fate.COMPLETE:
            store.update_build(step.build)  # over the version that was planned with, or not at all
        elif step.build is not None:
            store.restore_build(step.build)
    except (ConflictError, NotFoundError, RefusedError) as error:
        LOG.debug("%s %s is not restored: %s", step.thing, step.name, error.message)
        return Outcome(done=False, text=f"left: {error.message}")
    return Outcome(done=True, text="completed" if step.fate is Fate.COMPLETE else "restored")

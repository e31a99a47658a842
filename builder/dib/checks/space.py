"""Work out how much disk a build will need, and whether each file system it writes to has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.dib.output import artifacts, parts
from builder.errors import RefusedError
from builder.findings import Finding, fine, problem
from builder.model import Build, FailureClass, ImageFormat

NAME: Final = "disk"

#: What a first build is taken to need: little, for who is refused here never gets to know better,
#: and who is not fails with a reason. A minimal Debian takes about 2.5 GB, its tree and its raw image.
DEFAULT_WORK: Final = 3 << 30
#: Compressed, such an image has about 350 MB; what is not compressed takes what the tree does.
DEFAULT_COMPRESSED: Final = 512 << 20
DEFAULT_ARTIFACT: Final = 1 << 30
#: A kernel or a ramdisk; the largest have drivers and firmware for whatever there is.
DEFAULT_PART: Final = 128 << 20
#: Images grow from build to build, a little.
GROWTH: Final = 1.1
#: Files and directories of the tree and what the build needs beside them: Debian's minimal image has
#: 30 000, others three times as many.
INODES: Final = 100_000

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes that a build will take, at most."""

    work: int  #: in the work directory, finished files included
    artifacts: int  #: in the images directory
    basis: str  #: where these numbers come from: "from build 1a2b3c4d", "assumed for a first build"


def needs(
    formats: Sequence[ImageFormat], earlier: Sequence[Build], taken: Mapping[str, int] = _NOTHING
) -> Needs:
    """What a build that makes these formats will need, judged by the image's ready builds.

    `earlier` is newest first; the newest that says what it took counts. `taken` has the bytes that
    its files take on disk, by format, as far as they are there (`on_disk`): a raw file is as long
    as the virtual disk and mostly holes.
    """
    formats = parts.all_files(formats)
    last = next((build for build in earlier if build.artifacts), None)
    if last is None:
        assumed = sum(_default(each) for each in formats)
        return Needs(work=DEFAULT_WORK, artifacts=assumed, basis="assumed for a first build")
    work = last.work_bytes
    files = sum(_size(each, last, taken) for each in formats)
    return Needs(
        work=DEFAULT_WORK if work is None else int(work * GROWTH),
        artifacts=int(files * GROWTH),
        basis=f"from build {last.id[:8]}",
    )


def _size(wanted: ImageFormat, build: Build, taken: Mapping[str, int]) -> int:
    artifact = build.artifact(wanted)
    if wanted in taken:
        return taken[wanted]
    if artifact is None:
        return _default(wanted)
    # A file may be mostly holes, and was in the work directory before; then it can't be larger.
    return min(artifact.size, build.work_bytes or artifact.size)


def _default(wanted: ImageFormat) -> int:
    if wanted.is_part:
        return DEFAULT_PART
    return DEFAULT_COMPRESSED if wanted is ImageFormat.QCOW2 else DEFAULT_ARTIFACT


def on_disk(images_dir: Path, earlier: Sequence[Build]) -> Mapping[str, int]:
    """Bytes that the files of the newest build with any take on this disk, by format."""
    last = next((build for build in earlier if build.artifacts), None)
    return {} if last is None else dict(_taken(images_dir, last))


def _taken(images_dir: Path, build: Build) -> Iterator[tuple[str, int]]:
    for artifact in build.artifacts:
        # Those of another machine are not here, and neither is what was deleted after its upload.
        with contextlib.suppress(OSError, RefusedError):
            file = artifacts.path(images_dir, build.image, build.id, artifact.format)
            yield artifact.format, file.stat().st_blocks * 512


@dataclass(frozen=True, kw_only=True)
class Use:
    """A directory that a build writes to, and what it will put there."""

    key: str  #: the setting that names it
    path: Path
    parts: Mapping[str, int] = field(default_factory=lambda: _NOTHING)  #: bytes by what they are for
    inodes: int = 0
    #: The setting of the directory that it all comes from: on one file system it is only renamed, and is
    #: among what is needed there.
    moved_from: str = ""


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """A mounted file system and what it has left."""

    mount: Path
    free: int  #: bytes
    free_inodes: int | None  #: None where it makes them as it needs them


def uses(
    needed: Needs, *, work: Path, images: Path, cache: Path, logs: Path, promised: int = 0
) -> tuple[Use, ...]:
    """What a build will put where. `promised`: bytes that running builds will still take in `work`."""
    parts = {"work": needed.work} | ({"builds that run": promised} if promised else {})
    return (
        Use(key="work-dir", path=work, parts=parts, inodes=INODES),
        Use(key="images-dir", path=images, parts={"artifacts": needed.artifacts}, moved_from="work-dir"),
        Use(key="cache-dir", path=cache),
        Use(key="build-log-dir", path=logs),
    )


def check(wanted: Iterable[Use], *, reserve: int, basis: str) -> tuple[Finding, ...]:
    """A finding for each file system: whether it has what all directories on it need, and `reserve`.

    Raises OSError for a directory that can't be looked at.
    """
    shared: dict[int, list[Use]] = {}
    for use in wanted:
        shared.setdefault(existing(use.path).stat().st_dev, []).append(use)
    return tuple(
        judge(file_system(group[0].path), group, reserve=reserve, basis=basis) for group in shared.values()
    )


def judge(place: FileSystem, group: Sequence[Use], *, reserve: int, basis: str) -> Finding:
    """Whether a file system has what these directories on it need, and `reserve` bytes beyond."""
    parts: dict[str, int] = {}
    named = [use.key for use in group]
    for use in group:
        for name, count in use.parts.items():
            if use.moved_from not in named:
                parts[name] = parts.get(name, 0) + count
    keys = ", ".join(named)
    total = sum(parts.values()) + reserve
    terms = [f"{name} {human(count)}" for name, count in parts.items()]
    because = f" ({basis})" if terms else ""
    sums = f"{' + '.join([*terms, f'reserve {human(reserve)}'])}{because}"
    text = f"{human(place.free)} free on {place.mount} ({keys}), {human(total)} needed: {sums}"
    if place.free < total:
        return problem(
            NAME,
            text,
            hint=f"Free some, name a directory on another disk ({keys}), or lower disk-reserve.",
            failure_class=FailureClass.DISK,
        )
    inodes = sum(use.inodes for use in group)
    if place.free_inodes is not None and place.free_inodes < inodes:
        return problem(
            NAME,
            f"{place.free_inodes} inodes free on {place.mount} ({keys}), about {inodes} needed",
            hint="Remove small files there, or make the file system anew with more inodes.",
            failure_class=FailureClass.DISK,
        )
    return fine(NAME, text)


def file_system(path: Path) -> FileSystem:
    """The file system that a path, which need not exist yet, is or will be on; OSError."""
    place = existing(path)
    status = os.statvfs(place)
    device = place.stat().st_dev
    mount = place.resolve()
    while mount.parent != mount and mount.parent.stat().st_dev == device:
        mount = mount.parent
    return FileSystem(
        mount=mount,
        # What only root may still take is left alone: a disk full to the last byte breaks more than us.
        free=status.f_bavail * status.f_frsize,
        free_inodes=status.f_favail if status.f_files else None,
    )


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists; OSError when it may not be looked at."""
    while not path.exists() and path.parent != path:
        path = path.parent
    return path


def human(count: int) -> str:
    """Bytes in binary units with one digit, as the configuration means them: "3.1 GiB"; rounded down."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count * 10 // factor / 10:.1f} {unit}"
    return f"{count} B"

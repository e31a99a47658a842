"""The files of finished builds: where they are, how they get there, and how they may go.

    <images_dir>/<image>-<build_id>.<format>        an artifact
    <images_dir>/<image>-<build_id>.d/build.json    proof whose it is, and how it was made
    <images_dir>/<image>-<build_id>.d/...           dib's manifests

The proof comes first and goes last, so no file of ours is ever without it; and a file whose proof
is not there is not ours to delete. An artifact appears under its name only when all of it is on
disk. Whatever is under way has a name that begins with a dot and ends in ".partial".
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from builder.dib.limits import Limits
from builder.dib.output import hashing, sparse
from builder.errors import RefusedError
from builder.model import Artifact, ImageFormat, is_build_id, name_problem

PROOF: Final = "build.json"
_COPY: Final = 8 << 20
#: An image holds what its elements put in, passwords included: it is not for everybody to read.
_FILE_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What build.json says: whose build it is and how it was made; nothing secret."""

    installation_id: str
    image: str
    build_id: str
    created: datetime
    command: tuple[str, ...] = ()
    environment: Mapping[str, str]
    tools: Mapping[str, str]


def path(images_dir: Path, image: str, build_id: str, image_format: ImageFormat) -> Path:
    """Where an artifact is. Raises RefusedError for names that can't be file names of ours."""
    return images_dir / f"{_base(image, build_id)}.{image_format}"


def directory(images_dir: Path, image: str, build_id: str) -> Path:
    """Where the proof and the manifests of a build are; RefusedError as for `path`."""
    return images_dir / f"{_base(image, build_id)}.d"


def _base(image: str, build_id: str) -> str:
    if name_problem(image) or not is_build_id(build_id):
        raise RefusedError(f"{image!r} and {build_id!r} can't name files of a build; nothing is touched")
    return f"{image}-{build_id}"


# -- coming ------------------------------------------------------------------------------------


def publish(
    images_dir: Path,
    proof: Proof,
    files: Iterable[tuple[Path, ImageFormat]],
    *,
    manifests: Path | None = None,
    limits: Limits | None = None,
) -> None:
    """Move the files of a build to the images directory: proof and manifests first, then artifacts.

    On the same file system artifacts are renamed, else copied beside their final name and renamed;
    all is on disk before it appears, for owner and group to read. Raises OSError,
    RefusedError as `path`, and ActionFailedError when the limits end it; what is there by then is
    for `delete`.
    """
    images_dir.mkdir(parents=True, exist_ok=True)
    home = directory(images_dir, proof.image, proof.build_id)
    draft = _partial(home)
    draft.mkdir(mode=0o700)
    draft.chmod(_DIRECTORY_MODE)
    _write_proof(draft, proof)
    if manifests is not None and manifests.is_dir():
        # copytree takes the mode along.
        manifests.chmod(_DIRECTORY_MODE)
        shutil.copytree(manifests, draft, symlinks=True, dirs_exist_ok=True)
    _sync_tree(draft)
    draft.rename(home)
    _sync(images_dir)
    for file, image_format in files:
        final = path(images_dir, proof.image, proof.build_id, image_format)
        file.chmod(_FILE_MODE)
        _sync(file)
        _move(file, final, limits or Limits())
    _sync(images_dir)


def _write_proof(home: Path, proof: Proof) -> None:
    record = {
        "installation_id": proof.installation_id,
        "image": proof.image,
        "build_id": proof.build_id,
        "created": proof.created.isoformat(),
        "command": list(proof.command),
        "environment": dict(proof.environment),
        "tools": dict(proof.tools),
    }
    with (home / PROOF).open("w") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)
        stream.write("\n")


def _move(file: Path, final: Path, limits: Limits) -> None:
    try:
        file.rename(final)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    draft = _partial(final)
    _copy(file, draft, limits)
    draft.rename(final)
    file.unlink()


def _copy(source: Path, target: Path, limits: Limits) -> None:
    """Copy a file with its holes, and have it on disk."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as writing, source.open("rb") as reading:
        os.fchmod(descriptor, _FILE_MODE)  # whatever the umask
        size = os.fstat(reading.fileno()).st_size
        for begin, end in sparse.extents(reading.fileno(), size):
            _copy_range(reading.fileno(), writing.fileno(), begin, end, limits)
        writing.truncate(size)
        os.fsync(writing.fileno())


def _copy_range(source: int, target: int, begin: int, end: int, limits: Limits) -> None:
    while begin < end:
        limits.check()
        chunk = os.pread(source, min(_COPY, end - begin), begin)
        if not chunk:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        begin += os.pwrite(target, chunk, begin)


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _sync_tree(tree: Path) -> None:
    for parent, _, names in os.walk(tree, topdown=False):
        for file in (Path(parent, name) for name in names):
            if not file.is_symlink():  # a link is on disk with its directory
                _sync(file)
        _sync(Path(parent))


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- staying -----------------------------------------------------------------------------------


def check(file: Path, artifact: Artifact, *, hashes: bool = False) -> str | None:
    """What is wrong with an artifact's file, None if nothing; with `hashes`, all of it is read."""
    try:
        size = file.stat().st_size
        if size != artifact.size:
            return f"{file} has {size} bytes, {artifact.size} are on record"
        if hashes and hashing.hash_file(file).sha512 != artifact.sha512:
            return f"{file} does not have the sha512 on record"
    except OSError as error:
        return f"{file}: {error.strerror}"
    return None


# -- going -------------------------------------------------------------------------------------


def delete(images_dir: Path, image: str, build_id: str, installation_id: str) -> None:
    """Delete all files of one build, artifacts first, the proof last; fine when all are gone.

    Raises RefusedError, and touches nothing, unless build.json proves that this installation made
    this build; OSError when the disk won't.
    """
    home = directory(images_dir, image, build_id)
    files = [path(images_dir, image, build_id, each) for each in ImageFormat]
    present = [file for file in files if os.path.lexists(file)]
    if os.path.lexists(home):
        _demand_proof(home, image, build_id, installation_id)
    elif present:
        raise RefusedError(
            f"{present[0]} has no {home.name}/{PROOF} beside it that proves whose it is",
            hint="Remove it by hand if it is not needed.",
        )
    # A crash while publishing leaves drafts; a draft of the proof is there before anything else is.
    for file in [*files, *map(_partial, files)]:
        file.unlink(missing_ok=True)
    for tree in (_partial(home), home):
        _delete_tree(tree)


def delete_artifact(
    images_dir: Path, image: str, build_id: str, image_format: ImageFormat, installation_id: str
) -> None:
    """Delete one file of a build, and leave all else of it; fine when it is gone already.

    Raises RefusedError, and touches nothing, as `delete` does; OSError when the disk won't.
    """
    file = path(images_dir, image, build_id, image_format)
    if os.path.lexists(file):
        _demand_proof(directory(images_dir, image, build_id), image, build_id, installation_id)
        file.unlink(missing_ok=True)


def _demand_proof(home: Path, image: str, build_id: str, installation_id: str) -> None:
    record = _read_proof(home / PROOF)
    wanted = {"installation_id": installation_id, "image": image, "build_id": build_id}
    if record is None:
        raise RefusedError(
            f"{home} has no readable {PROOF} that proves whose it is",
            hint="Remove it and its image files by hand if they are not needed.",
        )
    for key, value in wanted.items():
        if record.get(key) != value:
            raise RefusedError(
                f"{home / PROOF} says {key} {record.get(key)!r}, not {value!r}",
                hint="These are somebody else's files; nothing was deleted.",
            )


def _read_proof(file: Path) -> Mapping[str, Any] | None:
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _delete_tree(tree: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for each in tree.iterdir():
            if each.name == PROOF:
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink(missing_ok=True)
        (tree / PROOF).unlink(missing_ok=True)
        tree.rmdir()
